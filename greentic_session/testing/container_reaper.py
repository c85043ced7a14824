"""Removes a run's containers when the process that started them ends, for any reason.

:mod:`~greentic_session.testing.containers` starts it as a process of its own, with the label of the
containers as its argument. It waits on its standard input. The system closes that when the starting
process ends, even after SIGKILL. If the input is ``done``, there is nothing to remove.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any


def main(label: str) -> None:
    """Wait for the end of the input, then remove the containers with the label."""
    if sys.stdin.readline() == "done\n":
        return
    # Imported late, because it is rarely needed.
    import docker
    from docker.errors import DockerException

    client: Any = docker.from_env(timeout=20)  # Any: as in `engine`
    for found in client.api.containers(all=True, filters={"label": label}):
        # Another process may remove it at the same time.
        with contextlib.suppress(DockerException):
            client.api.remove_container(found["Id"], v=True, force=True)


if __name__ == "__main__":
    main(sys.argv[1])
