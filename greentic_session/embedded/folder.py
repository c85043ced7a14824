"""The folder of an embedded server: the check that it may be used, and its lock files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from contextlib import suppress
from typing import Final, final

__all__ = [
    "SERVER",
    "SUPERVISOR",
    "USERS",
    "Folder",
    "FolderError",
    "locked",
    "short_link",
    "socket_path",
]

USERS: Final = "users.lock"
SUPERVISOR: Final = "keeper.lock"
SERVER: Final = "server.lock"
SOCKET: Final = "server.sock"

_MARKER: Final = "greentic-session"
_FORMAT: Final = b"greentic_session embedded 1\n"
_LONGEST_SOCKET: Final = 100
"""Limit in bytes. A socket's address has 104 bytes on macOS, 108 on Linux, with a final NUL."""
_LINKS: Final = "/tmp/greentic-session"  # noqa: S108 - prefix of a folder that only this user can access
_REASONS: Final = {
    errno.ENOENT: "is in a folder that does not exist: create that one first",
    errno.ENOTDIR: "is no folder: give the path of a folder",
    errno.EACCES: "may not be entered or written by this user: change its owner or its mode",
    errno.EPERM: "may not be entered or written by this user: change its owner or its mode",
    errno.EROFS: "is on a file system that is read-only: give another path",
    errno.ENOSPC: "is on a file system that is full: free space on it",
    errno.ENAMETOOLONG: "has too long a name: give a shorter path",
    errno.ELOOP: "is a loop of links: give the path of the folder itself",
}


class FolderError(Exception):
    """The folder cannot be used.

    :ivar reason: the cause, and the remedy. It follows the folder's path.
    """

    def __init__(self, reason: str) -> None:
        self.reason: str = reason
        super().__init__(reason)

    def of(self, path: str) -> str:
        """Return the message for users.

        :param path: of the folder. It is no secret: the user has configured it.
        """
        return f"the embedded store's folder {path!r} {self.reason}"


def socket_path(path: str) -> str:
    """Return a path of the server's socket that fits into a socket's address. No I/O.

    :param path: absolute path of the folder.
    """
    direct = f"{path.rstrip('/')}/{SOCKET}"
    if len(os.fsencode(direct)) <= _LONGEST_SOCKET:
        return direct
    return f"{short_link(path)}/{SOCKET}"


def locked(fd: int, how: int) -> bool:
    """Try to lock an open file, and return whether it is locked now.

    :param how: ``fcntl.LOCK_SH`` or ``fcntl.LOCK_EX``.
    :raises FolderError: the file system does not support locks.
    """
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise FolderError("is on a file system without locks: give another path") from None
    return True


@final
class Folder:
    """An open folder that passed the check. The caller closes it.

    A missing folder is created. An empty one is marked as a folder of this library. Any other
    folder without the mark is refused before anything is changed.

    :param path: absolute path.
    :ivar fd: descriptor of the open folder.
    :raises FolderError: the folder cannot be used.
    """

    def __init__(self, path: str) -> None:
        # A slash at the end would follow a link.
        path = path.rstrip("/")
        try:
            _check_parent(os.stat(os.path.dirname(path) or "/"))
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd: Final = _open_folder(path, flags)
        except OSError as error:
            raise _refused(error) from None
        try:
            self._check()
            _reach(path)
        except OSError as error:
            self.close()
            raise _refused(error) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the folder."""
        os.close(self.fd)

    def open(self, name: str) -> int:
        """Open a lock file, and create it if it is missing.

        :raises FolderError: the file cannot be opened.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(name, flags, 0o600, dir_fd=self.fd)
        except OSError as error:
            raise _refused(error) from None

    def _check(self) -> None:
        # Check again on the open folder, because the path may lead to another folder now.
        _check_parent(os.stat("..", dir_fd=self.fd))
        found = os.fstat(self.fd)
        if found.st_uid != os.geteuid():
            raise FolderError("belongs to another user: give a folder of this user")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise FolderError("may be written by other users: take that right away")
        if not os.access(".", os.R_OK | os.W_OK | os.X_OK, dir_fd=self.fd):
            raise OSError(errno.EACCES, "")
        probe = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            locked(probe, fcntl.LOCK_SH)
        finally:
            os.close(probe)
        if self._marked():
            return
        # Check the mark again, because another process may have marked and used the folder since.
        if os.listdir(self.fd) and not self._marked():
            raise FolderError("is not empty and holds other files: give an empty or a missing one")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with suppress(FileExistsError):
            marker = os.open(_MARKER, flags, 0o600, dir_fd=self.fd)
            try:
                os.write(marker, _FORMAT)
            finally:
                os.close(marker)

    def _marked(self) -> bool:
        try:
            marker = os.open(_MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        try:
            text = os.read(marker, 2 * len(_FORMAT))
        finally:
            os.close(marker)
        # A prefix is enough, because the process that makes the mark may still write or was killed.
        if not _FORMAT.startswith(text):
            raise FolderError("was made by another version of this library: use that version")
        return True


def _open_folder(path: str, flags: int) -> int:
    try:
        return os.open(path, flags)
    except OSError as error:
        # For a link, Linux returns ENOTDIR, and other systems ELOOP or EMLINK.
        if os.path.islink(path):
            raise FolderError("is a symbolic link: give the path of the folder itself") from None
        raise error from None


def _check_parent(parent: os.stat_result) -> None:
    """Check that no other user can replace a folder in ``parent`` by another folder.

    With the sticky bit, as in ``/tmp``, only the owner of a folder may rename or remove it (POSIX,
    ``rename``).

    :raises FolderError: if another user can.
    """
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        raise FolderError("is in a folder where any user may write: take that right away")


def _refused(error: OSError) -> FolderError:
    text = os.strerror(error.errno or errno.EIO)
    return FolderError(_REASONS.get(error.errno or 0, f"cannot be used: {text}"))


def short_link(path: str) -> str:
    """Return a short path that may lead to a folder. No I/O."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return f"{_LINKS}-{os.geteuid()}/{digest}"


def _reach(path: str) -> None:
    """Create the short link to a folder whose path is too long for a socket's address."""
    link = short_link(path)
    links = os.path.dirname(link)
    if not socket_path(path).startswith(f"{links}/"):
        return
    with suppress(FileExistsError):
        os.mkdir(links, 0o700)
    found = os.lstat(links)
    # Any user can create this name in /tmp, and let it lead to another folder.
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or stat.S_IMODE(found.st_mode) & 0o077:
        raise FolderError(f"has a long path, and {links!r} is not this user's alone: remove that")
    with suppress(FileNotFoundError):
        if os.readlink(link) == path:
            return
    made = f"{link}.{os.getpid()}"
    with suppress(FileNotFoundError):
        os.unlink(made)
    os.symlink(path, made)
    os.replace(made, link)
