"""Removes a run's containers when the process that started them ends, however it ends.

A process of its own, started by :mod:`~greentic_session.testing.containers`, with the label of the
containers as its argument. It waits on its standard input, which the system closes when the one at
the other end is gone, by SIGKILL too. Told ``done``, it has nothing to do.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any


def main(label: str) -> None:
    """Wait for the end, then remove what carries the label."""
    if sys.stdin.readline() == "done\n":
        return
    # Only now: as a rule, nothing of this is needed.
    import docker
    from docker.errors import DockerException

    client: Any = docker.from_env(timeout=20)  # Any: as in `engine`
    for found in client.api.containers(all=True, filters={"label": label}):
        # Somebody else may be removing it already.
        with contextlib.suppress(DockerException):
            client.api.remove_container(found["Id"], v=True, force=True)


if __name__ == "__main__":
    main(sys.argv[1])
