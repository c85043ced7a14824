"""The steps of timers that a backend implements: payloads that become due at a time.

Timers are an optional capability of a store. A *timer* has an id, a payload and a due time by the
store's clock. It is in one shard of a named set of timers, and all steps on a shard are in one
slot. A *forwarder* takes due timers, acts on them and finishes them. A timer that is not finished
within the lease of its forwarder is due again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from .notifications import Subscription
    from .records import Verdict

__all__ = [
    "EnterOutcome",
    "SupportsTimers",
    "TakenTimers",
    "Timer",
    "TimerBackend",
    "TimerPage",
    "TimerShard",
    "TimerStatistics",
    "timer_backend_of",
]


class TimerShard(NamedTuple):
    """A shard of a set of timers.

    :ivar name: name of the set.
    :ivar number: number of the shard, from 0.
    """

    name: str
    number: int


class Timer(NamedTuple):
    """A timer that a forwarder took, or that a page lists.

    :ivar timer_id: its id, unique within its shard.
    :ivar due_ms: when it became due, in milliseconds since the epoch by the store's clock.
    :ivar payload: its payload.
    """

    timer_id: str
    due_ms: int
    payload: bytes


class EnterOutcome(NamedTuple):
    """The outcome of entering a timer.

    :ivar verdict: ``DONE``. ``EXISTS`` if a timer has the id and was not to be replaced.
        ``ABSENT`` if no timer has the id and there is no payload.
    :ivar due_ms: when the stored timer is due, in milliseconds since the epoch. 0 if none is
        stored.
    """

    verdict: Verdict
    due_ms: int = 0


class TakenTimers(NamedTuple):
    """The timers that a forwarder took.

    :ivar timers: the timers, in the order in which they became due.
    :ivar next_secs: seconds until the next timer is due, or until a lease of taken timers ends.
        0 if another one is due already, ``None`` if the shard is empty.
    """

    timers: Sequence[Timer]
    next_secs: float | None


class TimerPage(NamedTuple):
    """A page of timers.

    :ivar timers: the timers. A page before the last one may be empty, too.
    :ivar position: position of the next page, in the backend's own form. ``None`` after the last
        page.
    """

    timers: Sequence[Timer]
    position: object | None


class TimerStatistics(NamedTuple):
    """The numbers of a shard.

    :ivar scheduled: number of timers, due ones included.
    :ivar due: number of timers that are due and not taken.
    :ivar oldest_due_ms: when the oldest of these became due that was never taken, in milliseconds
        since the epoch. ``None`` if there is none.
    """

    scheduled: int
    due: int
    oldest_due_ms: int | None


class TimerBackend(ABC):
    """The steps of timers.

    The arguments have been checked. Each step is atomic and uses the store's clock. A repeated step
    has the same result, so a caller may repeat it if its reply was lost. Any step may raise
    :class:`StoreUnavailableError`. A step that writes may also raise :class:`OutcomeUnknownError`.

    A timer is due when ``now >= due``. No step returns a timer before.
    """

    @abstractmethod
    async def declare(self, name: str, shards: int) -> int:
        """Record the number of shards of a set, unless it is recorded already.

        :returns: the recorded number.
        """

    @abstractmethod
    async def enter(
        self,
        shard: TimerShard,
        timer_id: str,
        payload: bytes | None,
        *,
        at_ms: int | None = None,
        delay_ms: int = 0,
        replaces: bool = False,
    ) -> EnterOutcome:
        """Enter a timer, and notify the forwarders if it is the first one to become due.

        A taken timer that is replaced can be taken again. Its forwarder can no longer finish it.

        :param payload: the payload, not empty. ``None`` keeps the stored payload, so only the due
            time changes.
        :param at_ms: the due time, in milliseconds since the epoch. ``None`` counts from now.
        :param delay_ms: milliseconds from now, without ``at_ms``.
        :param replaces: whether to replace a timer with this id. ``None`` as payload implies it.
        """

    @abstractmethod
    async def cancel(self, shard: TimerShard, timer_id: str) -> tuple[Verdict, bool]:
        """Remove a timer.

        :returns: ``DONE``, or ``ABSENT`` if no timer has the id. The second value tells whether a
            forwarder had taken the timer and may be acting on it.
        """

    @abstractmethod
    async def take(self, shard: TimerShard, most: int, lease_ms: int, attempt: str) -> TakenTimers:
        """Take the timers that have been due for longest, for the time of a lease.

        :param most: limit on the number of timers.
        :param lease_ms: milliseconds after which unfinished timers are due again.
        :param attempt: text that identifies the call. The same attempt gets the same timers again.
        """

    @abstractmethod
    async def finish(
        self, shard: TimerShard, attempt: str, timers: Mapping[str, int | None]
    ) -> None:
        """Remove or postpone timers that an attempt took. Timers that it no longer holds stay.

        :param attempt: the attempt of :meth:`take`.
        :param timers: timer id → the new due time in milliseconds since the epoch. ``None`` removes
            the timer.
        """

    @abstractmethod
    async def next_due(self, shard: TimerShard) -> float | None:
        """Return the seconds until the next timer is due, 0 if one is due, ``None`` if empty."""

    @abstractmethod
    async def find(self, shard: TimerShard, timer_id: str) -> Timer | None:
        """Return a timer, taken or not, ``None`` if there is none."""

    @abstractmethod
    async def statistics(self, shard: TimerShard) -> TimerStatistics:
        """Return the numbers of a shard."""

    @abstractmethod
    async def page(self, shard: TimerShard, position: object | None) -> TimerPage:
        """Return a page of a shard's timers, in no particular order.

        A timer that is stored the whole time is returned once over all pages.

        :param position: position of the page, ``None`` for the first one.
        """

    @abstractmethod
    def subscribe(self, name: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to the timers of a set that become due earlier than all others of a shard."""


class SupportsTimers(ABC):
    """A store with timers."""

    @abstractmethod
    def _timer_backend(self) -> TimerBackend:
        """Return the steps of timers."""


def timer_backend_of(store: object) -> TimerBackend:
    """Return the backend of timers of a store.

    :raises InvalidInputError: the store does not support timers.
    """
    if not isinstance(store, SupportsTimers):
        raise InvalidInputError("store", f"{type(store).__name__} does not support timers")
    return store._timer_backend()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
