"""Leases as their holders see them, and their auto-renewal while a block runs."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, NoReturn, final

import anyio

from .._validation import duration_to_ms
from ..errors import DurabilityError, LeaseLostError, SessionError
from .tasks import run_to_completion, start_background
from .times import datetime_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime, timedelta
    from typing import Self

__all__ = ["RELEASE_SECS", "LeaseEnd", "LeaseHandle", "LeaseRenewer"]

RELEASE_SECS: Final = 5.0
"""Timeout for the release of a lease. After it, the lease ends when it expires."""
_RELEASE: Final = "release() or the end of its block"
_LOGGER: Final = logging.getLogger(__name__)


@final
class LeaseRenewer:
    """Renews a lease while a block runs, and tracks when the lease ends.

    A lease counts from its request, so the time until the reply is part of it.

    :param lease_secs: length of the lease at each renewal, in seconds.
    :param ends_at: when the lease ends, on the event loop's clock.
    :ivar ends_at: when the lease ends according to the last reply, on the event loop's clock.
    :ivar ended: whether the holder has ended the lease.
    :ivar ended_by: the call that ended it, for people.
    :ivar lost: whether the holder has lost the lease.
    """

    __slots__ = ("_endings", "_lease_secs", "ended", "ended_by", "ends_at", "lost")

    def __init__(self, lease_secs: float, ends_at: float) -> None:
        self._lease_secs: Final = lease_secs
        self._endings: Final[set[anyio.Event]] = set()
        self.ends_at = ends_at
        self.ended = False
        self.ended_by = ""
        self.lost = False

    def end(self, by: str) -> None:
        """Note that the holder has ended the lease.

        :param by: the call that did.
        """
        self.ended = True
        self.ended_by = by

    @property
    def is_over(self) -> bool:
        """Whether the lease was ended or lost."""
        return self.ended or self.lost

    def require_held(self, what: str) -> None:
        """Check that the lease may still be held.

        :param what: name of the lease, for people.
        :raises LeaseLostError: the lease was ended or lost.
        """
        if self.ended:
            raise LeaseLostError(f"{what} was already ended by {self.ended_by}: no lease was lost")
        if self.lost:
            raise LeaseLostError

    @property
    def _renew_at(self) -> float:
        return self.ends_at - self._lease_secs * 2 / 3

    @contextmanager
    def ending(self, by: str | None) -> Generator[None]:
        """Mark an ending as in progress. The renewal waits for its reply before it reports a loss.

        :param by: the call, if it ends the lease. Then the lease counts as ended even after a
            :class:`DurabilityError`.
        """
        ending = anyio.Event()
        self._endings.add(ending)
        try:
            yield
        except DurabilityError:
            if by is not None:
                self.end(by)
            raise
        finally:
            self._endings.discard(ending)
            ending.set()

    @asynccontextmanager
    async def renewing(
        self,
        renew: Callable[[], Awaitable[object]],
        release: Callable[[], Awaitable[object]],
        *,
        name: str,
    ) -> AsyncGenerator[None]:
        """Renew the lease after each third of it while the block runs, and release it at the end.

        The lease is lost if the backend reports that, or if it ends before the backend replies.
        Then a cancel scope cancels the block (anyio docs, "Cancellation and timeouts"):

        * Calls that the block awaits end immediately, unless they are shielded.
        * The block is left in the task that entered it, inner blocks before outer ones.

        :param renew: the function that renews the lease and sets :attr:`ends_at`. Its
            :class:`LeaseLostError` ends the block. Any other error is retried while time is left,
            and logged if it is not an error of this library.
        :param release: the function that releases the lease. It runs for at most
            :data:`RELEASE_SECS`, however the block ends, even if its task is cancelled.
        :param name: name of the lease, for people.
        :raises LeaseLostError: on leaving, if the lease was lost and the block raised nothing else.
        """
        block = anyio.CancelScope()
        renewer = start_background(
            partial(self._renew_until_over, block, renew, name),
            f"greentic_session {name}",
            at=self._renew_at,
        )

        async def end() -> None:
            await renewer.stop()
            try:
                await release()
            except SessionError as error:
                # The caller needs the outcome of the block. The lease ends when it expires.
                _LOGGER.warning("could not release a %s: %s", name, error.code)

        try:
            with block:
                yield
        finally:
            await run_to_completion(end, f"greentic_session end of {name}", RELEASE_SECS)
        if self.lost and not self.ended:
            raise LeaseLostError

    async def _renew_until_over(
        self, block: anyio.CancelScope, renew: Callable[[], Awaitable[object]], name: str
    ) -> None:
        lease_secs = self._lease_secs
        renew_at = self._renew_at
        late_secs = lease_secs / 3  # an event loop that was blocked wakes late, and may still renew
        while not self.is_over:
            await anyio.sleep_until(renew_at)
            timeout_secs = max(self.ends_at - anyio.current_time(), late_secs)
            if timeout_secs <= 0:
                break
            try:
                with anyio.fail_after(timeout_secs):
                    await renew()
                renew_at = self._renew_at
                late_secs = lease_secs / 3
            except LeaseLostError:
                break
            except Exception as error:  # after any error, the block must end with its lease
                if not isinstance(error, (SessionError, TimeoutError)):
                    _LOGGER.exception("could not renew a %s", name)
                renew_at = min(anyio.current_time() + lease_secs / 10, self.ends_at)
                late_secs = 0.0  # after a failed attempt, grant no extra time
        while self._endings:  # their replies tell whether the lease was lost
            await next(iter(self._endings)).wait()
        if not self.ended:
            self.lost = True
            block.cancel()


class LeaseEnd(NamedTuple):
    """The end of a lease.

    :ivar at_ms: the end, in milliseconds since the epoch by the store's clock.
    :ivar left_ms: milliseconds of the lease that were left when the store granted it.
    """

    at_ms: int
    left_ms: int


class LeaseHandle(ABC):
    """A lease that a worker holds.

    :param check_open: the function that raises :class:`StoreUnavailableError` if the store was
        closed.
    :param lease_ms: length of the lease, in milliseconds.
    :param end: the end of the lease.
    :param sent_at: when the lease was requested, on the event loop's clock.
    """

    __slots__ = ("_check_open", "_ends_ms", "_lease_ms", "_renewer")

    _KIND: ClassVar[str]
    """Name of the lease in logs and tasks."""
    _SUBJECT: ClassVar[str]
    """Name of the lease in errors."""

    def __init__(
        self, check_open: Callable[[], None], lease_ms: int, end: LeaseEnd, sent_at: float
    ) -> None:
        self._check_open: Final = check_open
        self._lease_ms: Final = lease_ms
        self._ends_ms = end.at_ms
        self._renewer: Final = LeaseRenewer(lease_ms / 1000, sent_at + end.left_ms / 1000)

    @property
    def ended(self) -> bool:
        """Whether the holder has ended the lease, or has lost it."""
        return self._renewer.is_over

    @asynccontextmanager
    async def auto_renew(self) -> AsyncGenerator[Self]:
        """Renew the lease while the block runs, and release it at the end if it is still held.

        The lease is lost if another worker holds it, or if it ends before the store replies. Then a
        cancel scope cancels the block. So the block is left in the task that entered it, inner
        blocks before outer ones (anyio docs, "Cancellation and timeouts").

        :raises LeaseLostError: on leaving, if the lease was lost and the block raised nothing else.
        """
        async with self._renewer.renewing(self._renew, self._release, name=self._KIND):
            yield self

    def kept(self) -> AbstractAsyncContextManager[Self]:
        """Do the same as :meth:`auto_renew`.

        .. deprecated:: 0.1
            Use :meth:`auto_renew`.
        """
        return self.auto_renew()

    # --- for the kinds of leases -------------------------------------------------------------

    @abstractmethod
    async def _send_renew(self, lease_ms: int) -> LeaseEnd | None:
        """Extend the lease to at least ``lease_ms`` from now. Return ``None`` if it is lost."""

    @abstractmethod
    async def _send_release(self) -> bool:
        """Release the lease. Return ``False`` if it is lost."""

    @property
    def _until(self) -> datetime:
        return datetime_of(self._ends_ms)

    def _require_held(self) -> None:
        self._check_open()
        self._renewer.require_held(self._SUBJECT)

    def _lose(self) -> NoReturn:
        self._renewer.lost = True
        raise LeaseLostError

    async def _renew(self, lease: timedelta | float | None = None) -> datetime:
        lease_ms = self._lease_ms if lease is None else duration_to_ms(lease, "lease")
        self._require_held()
        sent_at = anyio.current_time()
        end = await self._send_renew(lease_ms)
        if end is None:
            self._lose()
        self._ends_ms = end.at_ms
        self._renewer.ends_at = sent_at + end.left_ms / 1000
        return self._until

    async def _release(self) -> bool:
        if self.ended:
            return False
        with self._renewer.ending(_RELEASE):
            held = await self._send_release()
            if held:
                self._renewer.end(_RELEASE)
            else:
                self._renewer.lost = True
        return held
