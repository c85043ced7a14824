"""The supervisor process of an embedded server: starts it, restarts it, and stops it at the end.

It runs by path, isolated, and imports only the standard library. So it starts in about 30 ms:

.. code-block:: text

    python -I -S supervisor.py FOLDER_FD KEEPER_FD LINK SERVER [OPTION…]

``FOLDER_FD`` is the open folder, ``KEEPER_FD`` the open and locked ``keeper.lock``. ``LINK`` is a
short path to the folder that is removed at the end, or empty.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_NO_USERS: Final = signal.SIGUSR1
_EVENTS: Final = frozenset((signal.SIGCHLD, signal.SIGTERM, _NO_USERS))
_MOST_FAILURES: Final = 3
"""Limit on consecutive failures of the server. After that it is not restarted."""
_FIRST_PAUSE_SECS: Final = 0.02
_LAST_PAUSE_SECS: Final = 1.0
_RAN_SECS: Final = 5.0
"""A server that ran for longer than this counts as started."""
_STOP_SECS: Final = 20.0
_PREDECESSOR_SECS: Final = 30.0
_LOG: Final = "server.log"
_MOST_LOG_BYTES: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1


def main(arguments: list[str]) -> int:
    """Run the server until the last user has ended.

    :return: 0 on success.
    """
    folder, lock, link, *command = int(arguments[0]), int(arguments[1]), *arguments[2:]
    os.set_inheritable(lock, False)
    os.fchdir(folder)
    os.close(folder)
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_BLOCK, _EVENTS)
    for ignored in (signal.SIGHUP, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)
    server = os.open("server.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    users = os.open("users.lock", os.O_RDWR | os.O_NOFOLLOW)
    if not _alone(server):
        return 1
    with suppress(FileNotFoundError):
        if os.stat(_LOG).st_size > _MOST_LOG_BYTES:
            os.replace(_LOG, f"{_LOG}.1")
    os.set_inheritable(server, True)
    threading.Thread(target=_await_last_user, args=(users,), daemon=True).start()
    went_well = _keep(command)
    for name in ("server.sock", *([link] if link else [])):
        with suppress(OSError):
            os.unlink(name)
    # Release the users' lock last, because the next process that gets it must find no server.
    for fd in (server, lock, users):
        os.close(fd)
    return 0 if went_well else 1


def _alone(server: int) -> bool:
    """Wait until no server of an earlier supervisor writes to the folder."""
    ends_at = time.monotonic() + _PREDECESSOR_SECS
    while time.monotonic() < ends_at:
        try:
            fcntl.flock(server, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Its supervisor was killed, and this kernel does not signal the server.
            with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1.0)
                client.connect("server.sock")
                client.sendall(b"SHUTDOWN\r\n")
            time.sleep(0.02)  # a lock that another process holds can only be polled, within a limit
        else:
            return True
    return False


def _await_last_user(users: int) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX)
    finally:  # without the lock, nothing else would end the server
        os.kill(os.getpid(), _NO_USERS)


def _keep(command: list[str]) -> bool:
    prepare = _tied_to_parent()
    failures = crashes = 0
    while True:
        pid = _spawn(command, prepare)
        started_at = time.monotonic()
        status = _until_ended(pid)
        if status is None:
            _stop(pid)
            return True
        if time.monotonic() - started_at > _RAN_SECS:
            failures = crashes = 0
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            failures += 1
            if failures == _MOST_FAILURES:
                return False
        crashes += 1
        # Restart immediately after the first crash, because clients are waiting.
        pause = 0.0 if crashes == 1 else min(_LAST_PAUSE_SECS, _FIRST_PAUSE_SECS * 2**crashes)
        event = signal.sigtimedwait(_EVENTS - {signal.SIGCHLD}, pause)
        if event is not None:
            return True


def _tied_to_parent() -> Callable[[], None]:
    """Return the function by which a child asks the kernel to end it with its parent (Linux)."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    import ctypes  # noqa: PLC0415 - slow to import, and used only here

    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before the call took effect
            os._exit(1)

    return tie


def _spawn(command: list[str], prepare: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        prepare()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execv(command[0], command)  # noqa: S606 - our own command, without a shell
    finally:
        os._exit(127)


def _until_ended(pid: int) -> int | None:
    """Return the status of a server that ended by itself, ``None`` if it has to be stopped."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if signal.sigwait(_EVENTS) != signal.SIGCHLD:
            return None


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    ends_at = time.monotonic() + _STOP_SECS
    while not os.waitpid(pid, os.WNOHANG)[0]:
        left = ends_at - time.monotonic()
        if left <= 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        signal.sigtimedwait({signal.SIGCHLD}, left)


if __name__ == "__main__":
    if os.fork():
        # The process that started this one waits for it, and must not keep a long-lived child.
        os._exit(0)
    os._exit(main(sys.argv[1:]))
