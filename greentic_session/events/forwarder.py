"""The forwarder: takes due timers and turns them into messages."""

from __future__ import annotations

import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final, final

import anyio

from .._core.leases import RELEASE_SECS
from .._core.tasks import run_to_completion
from ..errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..abc.timers import Timer, TimerShard
    from .timers import EventTimers

__all__ = ["KEEP", "Forwarder"]

KEEP: Final = -1
"""A result of forwarding: the timer stays, and is due again when the lease ends."""
_LOG: Final = logging.getLogger(__name__)
_MOST: Final = 64
_POLL_SECS: Final = 30.0
"""Limit on the sleep of a forwarder, because a notification may be lost."""
_RETRY_SECS: Final = 1.0
"""Pause of a shard after the store was unavailable."""
_INTERVAL_SECS: Final = 0.02
"""Least time between two looks at a shard, so that a burst is taken in batches."""

_NOTIFIED_SECS: Final = 0.05
"""Least time between a look at a shard and one after a notification, which is for all shards."""


@final
class Forwarder:
    """Forwards due timers while it runs. Any number of forwarders may share the timers.

    If a forwarder dies, its timers are due again when their lease ends.

    :param timers: the timers.
    :param forward: forwards one timer. It returns when the timer is due again in milliseconds since
        the epoch, ``None`` to remove it, or :data:`KEEP`.
    :param lane: returns the lane of a timer. Timers of one lane are forwarded in order.
    :param lease_ms: length of the lease, in milliseconds.
    """

    def __init__(
        self,
        timers: EventTimers,
        forward: Callable[[Timer], Awaitable[int | None]],
        lane: Callable[[Timer], str],
        lease_ms: int,
    ) -> None:
        self._timers: Final = timers
        self._forward: Final = forward
        self._lane: Final = lane
        self._lease_ms: Final = lease_ms
        self._looks_at: Final = dict.fromkeys(timers.shards, 0.0)
        self._looked_at: Final = dict.fromkeys(timers.shards, 0.0)

    async def run(self) -> None:
        """Forward timers until the call is cancelled."""
        backend = self._timers.backend
        async with backend.subscribe(self._timers.name) as subscription:
            while True:
                now = anyio.current_time()
                due = [shard for shard, at in self._looks_at.items() if at <= now]
                if due:
                    async with anyio.create_task_group() as tasks:
                        for shard in due:
                            tasks.start_soon(self._look, shard)
                    continue
                sleep_secs = min(self._looks_at.values()) - now
                if await subscription.wait(max(0.0, sleep_secs)):
                    # The notification does not name the shard.
                    soon = anyio.current_time()
                    for shard, at in self._looks_at.items():
                        earliest = self._looked_at[shard] + _NOTIFIED_SECS
                        self._looks_at[shard] = min(at, max(soon, earliest))

    async def _look(self, shard: TimerShard) -> None:
        """Take the due timers of a shard, and forward them."""
        self._looked_at[shard] = looked_at = anyio.current_time()
        attempt = secrets.token_hex(8)
        try:
            taken = await self._timers.backend.take(shard, _MOST, self._lease_ms, attempt)
            secs = _POLL_SECS if taken.next_secs is None else min(taken.next_secs, _POLL_SECS)
            self._looks_at[shard] = max(anyio.current_time() + secs, looked_at + _INTERVAL_SECS)
            if taken.timers:
                await self._forward_all(shard, attempt, list(taken.timers))
        except SessionError as error:
            _LOG.warning("timers were not forwarded: %s", type(error).__name__)
            self._looks_at[shard] = anyio.current_time() + _RETRY_SECS

    async def _forward_all(self, shard: TimerShard, attempt: str, taken: list[Timer]) -> None:
        lanes: dict[str, list[Timer]] = {}
        for timer in taken:
            lanes.setdefault(self._lane(timer), []).append(timer)
        done: dict[str, int | None] = {}

        async def forward(lane: list[Timer]) -> None:
            for timer in lane:
                try:
                    again_ms = await self._forward(timer)
                except Exception as error:  # noqa: BLE001 - one timer must not stop the others
                    _LOG.warning("a timer was not forwarded: %s", type(error).__name__)
                    return  # the later ones of the lane wait, so that the order stays
                if again_ms == KEEP:
                    return
                done[timer.timer_id] = again_ms

        try:
            async with anyio.create_task_group() as tasks:
                for lane in lanes.values():
                    tasks.start_soon(forward, lane)
        except anyio.get_cancelled_exc_class():
            # Another forwarder need not wait for the end of the lease.
            again = {timer.timer_id: timer.due_ms for timer in taken} | done
            finish = partial(self._timers.backend.finish, shard, attempt, again)
            await run_to_completion(finish, "greentic_session stopped forwarder", RELEASE_SECS)
            raise
        if done:
            await self._timers.backend.finish(shard, attempt, done)
