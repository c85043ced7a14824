"""The lanes of a dispatcher: its queued messages, the ready lanes, and the submitters that wait.

Nothing here waits or runs anything, so every step is atomic on an event loop. Invariants:

* A lane is *ready* exactly if its first message can be taken and no handler has a message of it.
* A lane is *starved* exactly if submitters wait for it although it has room, because the
  dispatcher as a whole has none. So as soon as the dispatcher has room, no lane is starved.
* A lane is removed as soon as it has no message, queued or handled, and no submitter that waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, Literal, TypeVar, cast, final

import anyio

from ...errors import DispatcherFullError

__all__ = ["Lane", "Lanes", "Overflow", "Submitter"]

M = TypeVar("M")

Overflow = Literal["wait", "reject", "drop_oldest"]
"""The reaction to a message for which there is no room."""


@final
class Lane(Generic[M]):
    """The queued messages of one key, in order. A message without a key has its own lane.

    :ivar messages: the queued messages. An entry is a submitter if its message has got room and
        the submitter has not resumed yet.
    :ivar is_busy: whether the handler of one of its messages runs.
    :ivar submitters: the submitters that wait for room, in order. Made when the first one waits.
    """

    __slots__ = ("is_busy", "key", "messages", "submitters")

    def __init__(self, key: str | None) -> None:
        self.key: Final = key
        self.messages: Final[deque[M | Submitter[M]]] = deque()
        self.is_busy: bool = False
        self.submitters: OrderedDict[Submitter[M], None] | None = None


@final
class Submitter(Generic[M]):
    """A submitter that waits for room.

    Its message enters the lane when there is room, and can be taken when the submitter has resumed.
    So a submitter that is cancelled before that has submitted nothing.

    :ivar settled: set when the wait is over.
    :ivar has_room: whether the message is in the lane.
    :ivar is_back: whether the submitter has resumed.
    """

    __slots__ = ("has_room", "is_back", "lane", "message", "settled")

    def __init__(self, lane: Lane[M], message: M) -> None:
        self.lane: Final = lane
        self.message: Final = message
        self.settled: Final = anyio.Event()
        self.has_room: bool = False
        self.is_back: bool = False


@final
class _ArrivalOrder(Generic[M]):
    """The order of arrival of all queued messages. Used only if the oldest one may be dropped."""

    __slots__ = ("_count", "_lane_of", "_numbers")

    def __init__(self) -> None:
        self._count = 0
        self._lane_of: Final[OrderedDict[int, Lane[M]]] = OrderedDict()
        self._numbers: Final[dict[Lane[M], deque[int]]] = {}

    def entered(self, lane: Lane[M]) -> None:
        self._count += 1
        self._lane_of[self._count] = lane
        self._numbers.setdefault(lane, deque()).append(self._count)

    def left(self, lane: Lane[M]) -> None:
        numbers = self._numbers[lane]
        del self._lane_of[numbers.popleft()]  # messages leave a lane in the order of entering it
        if not numbers:
            del self._numbers[lane]

    def oldest(self) -> Lane[M]:
        return next(iter(self._lane_of.values()))


@final
class Lanes(Generic[M]):
    """All lanes of a dispatcher.

    :ivar waiting: the number of all queued messages.
    :ivar blocked: the number of submitters that wait for room.
    :ivar ready: the lanes with a message that can be taken, in order.
    :param per_key: how many messages may be queued in a lane, not counting the running one.
    :param total: how many messages may be queued in all.
    """

    __slots__ = (
        "_ages",
        "_by_key",
        "_loose",
        "_overflow",
        "_per_key",
        "_starved",
        "_total",
        "blocked",
        "ready",
        "waiting",
    )

    def __init__(self, per_key: int, total: int, overflow: Overflow) -> None:
        self._per_key: Final = per_key
        self._total: Final = total
        self._overflow: Final = overflow
        self._by_key: Final[dict[str, Lane[M]]] = {}
        self._loose: Final[set[Lane[M]]] = set()
        self._starved: Final[OrderedDict[Lane[M], None]] = OrderedDict()
        self._ages: Final[_ArrivalOrder[M] | None] = (
            _ArrivalOrder() if overflow == "drop_oldest" else None
        )
        self.ready: Final[OrderedDict[Lane[M], None]] = OrderedDict()
        self.waiting: int = 0
        self.blocked: int = 0

    def __len__(self) -> int:
        """Return the number of lanes. Each message without a key has a lane of its own."""
        return len(self._by_key) + len(self._loose)

    def enter(
        self, key: str | None, message: M, *, may_wait: bool
    ) -> Submitter[M] | tuple[str | None, M] | None:
        """Enqueue a message.

        :returns: ``None`` if it is queued. If another message was dropped for it, key and message
            of that one. If it has to wait for room, its submitter.
        :raises DispatcherFullError: if there is no room and it may not wait. Nothing was changed.
        """
        lane = self._by_key.get(key) if key is not None else None
        is_full = lane is not None and len(lane.messages) >= self._per_key
        # No submitter waits for this room, because a lane with room and submitters is starved.
        if self.waiting < self._total and not is_full:
            self._append(lane or self._open(key), message)
            return None
        if self._ages is not None:
            return self._displace(lane, is_full, self._ages, key, message)
        if self._overflow == "reject" or not may_wait:
            raise DispatcherFullError("key" if is_full else "total")
        return self._block(lane or self._open(key), message)

    def take(self) -> tuple[Lane[M], M]:
        """Take the next message, whose handler runs then. A lane must be ready."""
        lane, _ = self.ready.popitem(last=False)
        first = lane.messages.popleft()
        lane.is_busy = True
        self.waiting -= 1
        if self._ages is not None:
            self._ages.left(lane)
        if self.blocked:
            self._admit(lane)
        return lane, _message_of(first)

    def requeue(self, lane: Lane[M]) -> None:
        """Make the lane ready again or remove it, after the handler of its message has ended."""
        lane.is_busy = False
        if lane.messages:
            self._wake(lane)
        elif not lane.submitters:
            self._close(lane)

    def confirm(self, submitter: Submitter[M]) -> None:
        """Let the message of a submitter that has resumed be taken."""
        submitter.is_back = True
        self._wake(submitter.lane)

    def withdraw(self, submitter: Submitter[M]) -> None:
        """Remove the message of a submitter that was cancelled before it resumed."""
        lane = submitter.lane
        if submitter.has_room:
            # Compare by identity, because messages may define equality in any way.
            place = next(n for n, each in enumerate(lane.messages) if each is submitter)
            del lane.messages[place]
            self.waiting -= 1
            self._wake(lane)
            self._admit(lane)
            self._close_if_idle(lane)
        elif lane.submitters and submitter in lane.submitters:
            self._unblock(lane.submitters, submitter)

    def reject_submitters(self) -> None:
        """Refuse all submitters that wait for room."""
        for lane in self._all():
            submitters = lane.submitters
            while submitters:
                submitter = next(iter(submitters))
                self._unblock(submitters, submitter)
                submitter.settled.set()

    def empty(self) -> list[tuple[str | None, M]]:
        """Remove the queued messages, and return them with their keys, each lane in order.

        A submitter that waits for room, or has not resumed yet, is refused.
        """
        self.reject_submitters()
        out: list[tuple[str | None, M]] = []
        for lane in self._all():
            for each in lane.messages:
                if not _can_be_taken(each):
                    cast("Submitter[M]", each).has_room = False
                else:
                    out.append((lane.key, _message_of(each)))
                if self._ages is not None:
                    self._ages.left(lane)
            self.waiting -= len(lane.messages)
            lane.messages.clear()
            self.ready.pop(lane, None)
            self._close_if_idle(lane)
        return out

    # --- steps -------------------------------------------------------------------------------

    def _all(self) -> list[Lane[M]]:
        return [*self._by_key.values(), *self._loose]

    def _open(self, key: str | None) -> Lane[M]:
        lane: Lane[M] = Lane(key)
        if key is None:
            self._loose.add(lane)
        else:
            self._by_key[key] = lane
        return lane

    def _close(self, lane: Lane[M]) -> None:
        if lane.key is None:
            self._loose.remove(lane)
        else:
            del self._by_key[lane.key]

    def _close_if_idle(self, lane: Lane[M]) -> None:
        if not (lane.messages or lane.is_busy or lane.submitters):
            self._close(lane)

    def _append(self, lane: Lane[M], message: M) -> None:
        lane.messages.append(message)
        self.waiting += 1
        if self._ages is not None:
            self._ages.entered(lane)
        if len(lane.messages) == 1 and not lane.is_busy:
            self.ready[lane] = None

    def _wake(self, lane: Lane[M]) -> None:
        if lane.messages and not lane.is_busy and _can_be_taken(lane.messages[0]):
            self.ready[lane] = None  # a lane that is already ready keeps its position

    def _displace(
        self,
        lane: Lane[M] | None,
        is_full: bool,
        ages: _ArrivalOrder[M],
        key: str | None,
        message: M,
    ) -> tuple[str | None, M]:
        victim = lane if lane is not None and is_full else ages.oldest()
        dropped = victim.key, _message_of(victim.messages.popleft())
        ages.left(victim)
        self.waiting -= 1
        if victim is lane:
            # The lane keeps its turn. Otherwise a key with many messages would never have one.
            victim.messages.append(message)
            ages.entered(victim)
            self.waiting += 1
            return dropped
        if not victim.messages:
            self.ready.pop(victim, None)
            self._close_if_idle(victim)
        self._append(lane or self._open(key), message)
        return dropped

    def _block(self, lane: Lane[M], message: M) -> Submitter[M]:
        submitter = Submitter(lane, message)
        if lane.submitters is None:
            lane.submitters = OrderedDict()
        lane.submitters[submitter] = None
        self.blocked += 1
        if len(lane.messages) < self._per_key:
            self._starved[lane] = None
        return submitter

    def _unblock(
        self, submitters: OrderedDict[Submitter[M], None], submitter: Submitter[M]
    ) -> None:
        lane = submitter.lane
        del submitters[submitter]
        self.blocked -= 1
        if not submitters:
            self._starved.pop(lane, None)
            self._close_if_idle(lane)

    def _admit(self, lane: Lane[M]) -> None:
        """Give the room of a message that has left the lane to the next submitter."""
        if lane.submitters and len(lane.messages) < self._per_key:
            self._starved[lane] = None
        while self._starved and self.waiting < self._total:
            lane, _ = self._starved.popitem(last=False)
            submitters = cast("OrderedDict[Submitter[M], None]", lane.submitters)
            submitter, _ = submitters.popitem(last=False)
            self.blocked -= 1
            submitter.has_room = True
            lane.messages.append(submitter)
            self.waiting += 1
            submitter.settled.set()
            if submitters and len(lane.messages) < self._per_key:
                self._starved[lane] = None  # behind the others


def _can_be_taken(entry: object) -> bool:
    return not isinstance(entry, Submitter) or entry.is_back


def _message_of(entry: M | Submitter[M]) -> M:
    # A message is never a submitter, because the class is private.
    if isinstance(entry, Submitter):
        return cast("Submitter[M]", entry).message
    return entry
