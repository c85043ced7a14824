"""The conditions of a run: machine, versions, load."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, final

import redis

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greentic_session.testing.servers import LocalServer

    from .contenders import Contender
    from .measuring import Plan

__all__ = ["Recorder", "cores", "installed", "progress"]

_ALWAYS = ("greentic_session", "redis", "hiredis", "msgspec")


def progress(text: str) -> None:
    """Print the progress."""
    print(f"  {text}", file=sys.stderr, flush=True)


def cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed(name: str) -> str | None:
    """Return the version of a distribution, or ``None``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@final
class Recorder:
    """Records the conditions of one subject's run, from its start."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._versions = {name: installed(name) or "?" for name in _ALWAYS}
        self._engines: list[str] = []

    def versions(self, contenders: Iterable[Contender]) -> None:
        """Record the versions of the contenders' distributions."""
        self.packages(each.version_of for each in contenders)

    def packages(self, names: Iterable[str]) -> None:
        """Record the versions of distributions."""
        for name in names:
            self._versions[name] = installed(name) or "?"

    def note(self, name: str, version: str) -> None:
        """Record the version of a program."""
        self._versions[name] = version

    def engine(self, server: LocalServer) -> None:
        """Record the server and its version."""
        with redis.Redis(port=server.port) as client:
            told = client.info("server")
        name = str(told.get("server_name", "redis")).capitalize()
        engine = f"{name} {told.get(f'{name.lower()}_version', told['redis_version'])}"
        if engine not in self._engines:
            self._engines.append(engine)

    def is_busy(self) -> bool:
        """Return whether other work loaded the machine before or after the run."""
        # The run itself keeps a client and a server busy.
        return self._load > cores() + 1 or os.getloadavg()[0] > cores() + 2

    def conditions(self, plan: Plan) -> dict[str, str]:
        """Return the conditions at the end of the run."""
        return {
            "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
            "rounds": f"{plan.rounds} of {plan.operations} operations",
            "cores": f"{cores()} ({platform.machine()}, {platform.system()})",
            "load before and after": f"{self._load:.1f}, {os.getloadavg()[0]:.1f}",
            "Python": platform.python_version(),
            **({"engine": ", ".join(self._engines)} if self._engines else {}),
            **self._versions,
        }
