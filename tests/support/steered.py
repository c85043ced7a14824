"""Servers with a clock that the test sets, by libfaketime."""

from __future__ import annotations

import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, final

from greentic_session.testing.servers import LocalServer, valkey_binary

from .redis import control, until_async

if TYPE_CHECKING:
    from types import TracebackType

_CLOSE_SECS: Final = 1.9
_PLACES: Final = (
    "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)


def faketime_library() -> Path | None:
    """Return the library of the Debian package ``libfaketime``. ``None`` if it is missing."""
    found = (path for place in _PLACES for path in Path("/").glob(place.removeprefix("/")))
    return next(found, None)


@final
class SteeredServer:
    """A Valkey server with a wall clock of its own. Its monotonic clock is the machine's.

    :param secs: initial offset of its clock in seconds.
    :ivar server: the server.
    """

    def __init__(self, secs: int = 0) -> None:
        self._folder: Final = tempfile.TemporaryDirectory(prefix="gclock-")
        self._offset: Final = Path(self._folder.name) / "offset"
        binary = Path(self._folder.name) / "server"
        settings = {
            "LD_PRELOAD": str(faketime_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
        binary.write_text(f'#!/bin/sh\nexec env {words} {shlex.quote(str(valkey_binary()))} "$@"\n')
        binary.chmod(0o700)
        self._write(secs)
        self.server: Final = LocalServer(binary, tcp=True)

    async def set_ahead(self, secs: int) -> None:
        """Set the clock to the machine's time plus an offset in seconds, which may be negative.

        Returns when the server reports that time.
        """
        self._write(secs)
        async with control(self.server) as client:

            async def follows() -> bool:
                told = int((await client.read("TIME"))[0])
                return abs(told - time.time() - secs) < _CLOSE_SECS

            await until_async(follows)

    def _write(self, secs: int) -> None:
        changed = self._offset.with_suffix(".new")
        changed.write_text(f"{secs:+d}\n")
        changed.replace(self._offset)  # the server reads it whenever it reads its clock

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.server.stop()
        self._folder.cleanup()
