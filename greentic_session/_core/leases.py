"""A lease that is renewed while a block runs, and the end of the block when it is lost."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, final

import anyio

from ..errors import DurabilityError, LeaseLostError, SessionError
from .tasks import run_to_completion, start_background

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

__all__ = ["LeaseRenewer"]

_LOGGER: Final = logging.getLogger(__name__)


@final
class LeaseRenewer:
    """The time that a lease has left, by the event loop's clock, and who looks after it.

    Leases are counted from when they were asked for: what the answer took is of their time.

    :param lease_secs: how long the lease is each time it is renewed.
    :param ends_at: when it ends, on the event loop's clock.
    :ivar ends_at: the same, as last heard.
    :ivar ended: whether the holder has ended it.
    :ivar lost: whether it was found to be held no longer.
    """

    __slots__ = ("_endings", "_lease_secs", "ended", "ends_at", "lost")

    def __init__(self, lease_secs: float, ends_at: float) -> None:
        self._lease_secs: Final = lease_secs
        self._endings: Final[set[anyio.Event]] = set()
        self.ends_at = ends_at
        self.ended = False
        self.lost = False

    @property
    def is_over(self) -> bool:
        """Whether it was ended, or found lost."""
        return self.ended or self.lost

    def require_held(self, what: str) -> None:
        """Do nothing while the lease may be held.

        :param what: for people, of what was ended.
        :raises LeaseLostError: it was ended, or found lost.
        """
        if self.ended:
            raise LeaseLostError(f"{what} has ended")
        if self.lost:
            raise LeaseLostError

    @property
    def _renew_at(self) -> float:
        return self.ends_at - self._lease_secs * 2 / 3

    @contextmanager
    def ending(self, *, ends: bool = True) -> Generator[None]:
        """Say that an ending is under way: its answer tells whether the lease was lost.

        :param ends: whether it ends the lease if it is done, also if too few replicas know of it.
        """
        ending = anyio.Event()
        self._endings.add(ending)
        try:
            yield
        except DurabilityError:
            self.ended = self.ended or ends
            raise
        finally:
            self._endings.discard(ending)
            ending.set()

    @asynccontextmanager
    async def renewing(
        self,
        renew: Callable[[], Awaitable[object]],
        leave: Callable[[], Awaitable[object]],
        *,
        name: str,
        leave_secs: float,
    ) -> AsyncGenerator[None]:
        """Renew the lease at a third of it while the block runs, and leave it at the end.

        When the lease is lost (the backend says so, or the time ended and it could not be asked),
        the block is cancelled by a cancel scope: what it still awaits ends at once, unless it is
        shielded; and the block is left in the task that entered it, inner blocks before outer ones
        (anyio docs, "Cancellation and timeouts").

        :param renew: renews it, and sets :attr:`ends_at`; :class:`LeaseLostError` ends the block,
            after any other error it is tried again while time is left. One that is not of this
            library is logged.
        :param leave: called at the end, however the block ends and also if its task is cancelled;
            to look at what stands, and give back what is still held.
        :param name: of what is kept, for people.
        :param leave_secs: limit on ``leave``.
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
                await leave()
            except SessionError as error:
                # How the block ended counts; what was not given back comes back with its lease.
                _LOGGER.warning("a %s was not given back: %s", name, error.code)

        try:
            with block:
                yield
        finally:
            await run_to_completion(end, f"greentic_session end of {name}", leave_secs)
        if self.lost and not self.ended:
            raise LeaseLostError

    async def _renew_until_over(
        self, block: anyio.CancelScope, renew: Callable[[], Awaitable[object]], name: str
    ) -> None:
        lease_secs = self._lease_secs
        renew_at = self._renew_at
        late_secs = lease_secs / 3  # a loop that was held up wakes late, and may still ask
        while not self.is_over:
            await anyio.sleep_until(renew_at)
            patience_secs = max(self.ends_at - anyio.current_time(), late_secs)
            if patience_secs <= 0:
                break
            try:
                with anyio.fail_after(patience_secs):
                    await renew()
                renew_at = self._renew_at
                late_secs = lease_secs / 3
            except LeaseLostError:
                break
            except Exception as error:  # whatever it is, the block must end with its lease
                if not isinstance(error, (SessionError, TimeoutError)):
                    _LOGGER.exception("a %s could not be renewed", name)
                renew_at = min(anyio.current_time() + lease_secs / 10, self.ends_at)
                late_secs = 0.0  # who asked in vain is not late
        while self._endings:  # what the store answers there tells whether it was lost
            await next(iter(self._endings)).wait()
        if not self.ended:
            self.lost = True
            block.cancel()
