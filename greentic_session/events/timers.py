"""The timers of the events of one tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final
from zlib import crc32

from ..abc.records import Verdict
from ..abc.timers import TimerShard
from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ..abc.timers import EnterOutcome, Timer, TimerBackend
    from .packing import EventName

__all__ = ["EventTimers"]


@final
class EventTimers:
    """The timers of the events of one tenant, in shards.

    :ivar backend: the store's timers.
    :ivar name: name of the set of timers.
    :ivar shards: the shards.
    """

    def __init__(self, backend: TimerBackend, name: str, shards: int) -> None:
        self.backend: Final = backend
        self.name: Final = name
        self.shards: Final[Sequence[TimerShard]] = [TimerShard(name, n) for n in range(shards)]
        self._is_declared = False

    async def declare(self) -> None:
        """Record the number of shards, once.

        :raises InvalidInputError: another number is recorded.
        """
        if self._is_declared:
            return
        recorded = await self.backend.declare(self.name, len(self.shards))
        if recorded != len(self.shards):
            raise InvalidInputError("shards", f"the timers have {recorded} shards")
        self._is_declared = True

    def shard_of(self, name: EventName) -> TimerShard:
        """Return the shard of an event. All events of a session have the same one."""
        return self.shards[crc32(name.mailbox.encode()) % len(self.shards)]

    async def enter(
        self,
        name: EventName,
        payload: bytes | None,
        *,
        at_ms: int | None = None,
        delay_ms: int = 0,
        replaces: bool = False,
    ) -> EnterOutcome:
        """Enter a timer, as :meth:`TimerBackend.enter`."""
        await self.declare()
        return await self.backend.enter(
            self.shard_of(name), name.id, payload, at_ms=at_ms, delay_ms=delay_ms, replaces=replaces
        )

    async def cancel(self, name: EventName) -> tuple[bool, bool]:
        """Remove a timer.

        :returns: whether there was one, and whether it was being forwarded.
        """
        await self.declare()
        verdict, was_taken = await self.backend.cancel(self.shard_of(name), name.id)
        return verdict is Verdict.DONE, was_taken

    async def exists(self, name: EventName) -> bool:
        """Return whether an event has a timer."""
        return await self.backend.find(self.shard_of(name), name.id) is not None

    async def timers(self, shards: Sequence[TimerShard]) -> AsyncIterator[Timer]:
        """Iterate over the timers of shards, in no particular order."""
        for shard in shards:
            position: object | None = None
            while True:
                page = await self.backend.page(shard, position)
                for timer in page.timers:
                    yield timer
                position = page.position
                if position is None:
                    break
