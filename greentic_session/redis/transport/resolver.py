"""Name lookups that use one thread per name, and TCP connections to the addresses.

``loop.getaddrinfo`` runs in the loop's default executor. If a name server hangs, each attempt to
connect blocks one thread there. With all threads blocked, ``asyncio.to_thread`` of the application
blocks as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import suppress
from inspect import isfunction
from typing import Any, Final, final

__all__ = ["Endpoint", "is_literal", "open_socket", "resolve"]

_NEXT_ADDRESS_SECS: Final = 0.25
"""Delay before the next address is tried in parallel (RFC 8305, "Connection Attempt Delay")."""

Endpoint = tuple[int, tuple[Any, ...]]  # Any: host, port, and for IPv6 two more numbers
"""Address family and socket address."""


@final
class _Lookup:
    """A running lookup, and the futures of its callers, which may belong to several loops.

    :param name: host and port.
    """

    def __init__(self, name: tuple[str, int]) -> None:
        self._name: Final = name
        self._waiters: Final[set[asyncio.Future[list[Endpoint]]]] = set()

    def add(self, waiter: asyncio.Future[list[Endpoint]]) -> None:
        """Add a future that gets the result. The caller holds the lock."""
        self._waiters.add(waiter)

    def remove(self, waiter: asyncio.Future[list[Endpoint]]) -> None:
        """Remove a future, because its caller has the result or was cancelled."""
        with _LOOKUPS.lock:
            self._waiters.discard(waiter)

    def start(self) -> None:
        """Look the name up in a daemon thread.

        :raises OSError: no thread can be started. The other callers get the error as well.
        """
        thread = threading.Thread(target=self._run, name="greentic_session resolver", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._end([], OSError("no thread for a name lookup"))
            raise OSError("no thread for a name lookup") from error

    def _run(self) -> None:
        host, port = self._name
        found: list[Endpoint] = []
        failure: Exception | None = None
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [(family, address) for family, _, _, _, address in infos]
        except UnicodeError as error:
            failure = OSError("the host name cannot be encoded")
            failure.__cause__ = error
        except Exception as error:  # noqa: BLE001 - callers raise it, a programming error too
            failure = error
        self._end(found, failure)

    def _end(self, found: list[Endpoint], failure: Exception | None) -> None:
        with _LOOKUPS.lock:
            _LOOKUPS.running.pop(self._name, None)
            waiters = [*self._waiters]
        for waiter in waiters:
            with suppress(RuntimeError):  # the loop was closed
                waiter.get_loop().call_soon_threadsafe(_settle, waiter, found, failure)


@final
class _Lookups:
    """The running lookups of this process, by host and port.

    :ivar lock: guards the lookups and their waiters.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: Final[dict[tuple[str, int], _Lookup]] = {}

    def forget(self) -> None:
        """Start without lookups after a fork. It copies held locks, but not the threads."""
        self.lock = threading.Lock()
        self.running.clear()


_LOOKUPS: Final = _Lookups()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LOOKUPS.forget)


def _settle(
    waiter: asyncio.Future[list[Endpoint]], found: list[Endpoint], failure: Exception | None
) -> None:
    if waiter.done():
        return
    if failure is None:
        waiter.set_result(found)
    else:
        waiter.set_exception(failure)


def is_literal(host: str) -> bool:
    """Return whether a host is an IP address and needs no lookup."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return True
    return False


async def resolve(host: str, port: int) -> list[Endpoint]:
    """Return the addresses of a name, in the order of preference.

    All threads and loops of the process share a running lookup of the same host and port. It runs
    in a daemon thread. So neither a caller's cancellation nor the end of the process waits for it.
    If the application gave the loop another resolver, that one is used.

    :raises OSError: the name has no address.
    """
    loop = asyncio.get_running_loop()
    if _has_own_resolver(loop):
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in infos]
    waiter: asyncio.Future[list[Endpoint]] = loop.create_future()
    name = (host, port)
    with _LOOKUPS.lock:
        lookup = _LOOKUPS.running.get(name)
        is_new = lookup is None
        if lookup is None:
            lookup = _LOOKUPS.running[name] = _Lookup(name)
        lookup.add(waiter)
    try:
        if is_new:
            lookup.start()
        return await waiter
    finally:
        lookup.remove(waiter)


def _has_own_resolver(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether an application has given a loop another resolver.

    A compiled loop, such as that of uvloop, counts as one without another resolver.
    """
    if "getaddrinfo" in getattr(loop, "__dict__", {}):
        return True
    used: object = getattr(type(loop), "getaddrinfo", None)
    return isfunction(used) and used is not asyncio.BaseEventLoop.getaddrinfo


async def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to the first address of a name that answers.

    The address families alternate. If an address does not answer, the next one is tried in parallel
    after a quarter of a second (RFC 8305, "Happy Eyeballs").

    :raises OSError: the name has no address, or none of them answers.
    """
    endpoints = _alternating(await resolve(host, port))
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[socket.socket]] = set()
    failure: OSError | None = None
    try:
        while endpoints or running:
            if endpoints:
                running.add(loop.create_task(_connect(endpoints.pop(0))))
            await asyncio.wait(
                running,
                timeout=_NEXT_ADDRESS_SECS if endpoints else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in [one for one in running if one.done()]:
                running.remove(task)
                try:
                    return task.result()
                except OSError as error:
                    failure = failure or error
    finally:
        for task in running:
            task.add_done_callback(_close_unused)
            task.cancel()
    raise failure or OSError("the name has no address")


def _close_unused(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(endpoint: Endpoint) -> socket.socket:
    family, address = endpoint
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened


def _alternating(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Return the endpoints with alternating families, starting with that of the first one."""
    first = [one for one in endpoints if one[0] == endpoints[0][0]]
    others = [one for one in endpoints if one[0] != endpoints[0][0]]
    both = zip(first, others, strict=False)
    rest = first[len(others) :] + others[len(first) :]
    return [one for pair in both for one in pair] + rest
