"""Locks on one Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from .._compat import override
from ..abc.locks import LockBackend, LockBid, LockHolding, LockOutcome, LockPlace
from ..abc.records import DONE, Verdict
from ..errors import StoreUnavailableError
from .replies import being_looked_at, being_read, clock_ms
from .scripts import LEAVE_LOCK, LOCK, RENEW_LOCK
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ..abc.notifications import Bell, SupportsBells
    from ..model import SessionKey
    from .key_names import Names
    from .transport.client import RedisClient
    from .transport.protocol import Argument
    from .transport.script import Script

__all__ = ["RedisLocks"]


@final
class RedisLocks(LockBackend):
    """The steps on locks, each one script in the slot of the key's session.

    :param client: of the store.
    :param names: of the store.
    :param bells: of the store.
    """

    def __init__(self, client: RedisClient, names: Names, bells: SupportsBells) -> None:
        self._client: Final = client
        self._names: Final = names
        self._bells: Final = bells
        # So that one process sees fences grow even where a clock was set back, or another server
        # with another clock has taken over.
        self._fence = 0

    @override
    def deadline(self) -> float:
        return self._client.deadline()

    @override
    async def lock(self, bid: LockBid, until: float | None) -> LockOutcome:
        verdict, *told = await self._run(
            LOCK,
            bid.place,
            *(bid.name, bid.lease_ms, bid.place_ms, int(bid.queues), self._fence),
            until=until,
        )
        with being_read():
            if verdict is not DONE:
                lease_ms, left_ms = told
                return LockOutcome(verdict, 0, clock_ms(lease_ms), left_ms)
            fence, lease_ms, left_ms = told
            outcome = LockOutcome(DONE, fence, clock_ms(lease_ms), left_ms)
        self._fence = max(self._fence, fence)
        return outcome

    @override
    async def renew(self, place: LockPlace, lease_ms: int, until: float | None) -> LockOutcome:
        verdict, *told = await self._run(RENEW_LOCK, place, lease_ms, until=until)
        with being_read():
            if verdict is not DONE:
                return LockOutcome(verdict)
            lease_ms, left_ms = told
            return LockOutcome(DONE, 0, clock_ms(lease_ms), left_ms)

    @override
    async def leave(self, place: LockPlace, lease_ms: int, until: float | None) -> bool:
        verdict, *_ = await self._run(
            LEAVE_LOCK, place, lease_ms, self._names.bell(""), until=until
        )
        return verdict is DONE

    @override
    async def holder(self, scope: str, key: SessionKey, until: float | None) -> LockHolding | None:
        name = self._names.lock(scope, key)
        try:
            reply = await self._client.read_many(
                [("HMGET", name, "name", "fence", "lease", "by"), ("TIME",)],
                key=name,
                until=until,
            )
        except ForeignValueError:
            raise _foreign() from None
        with being_looked_at():
            (held_by, fence, lease, by), (secs, us) = reply
            lease_ms = clock_ms(lease or 0)
            if by is None or int(secs) * 1000 + int(us) // 1000 >= lease_ms:
                return None
            return LockHolding((held_by or b"").decode(), int(fence or 0), lease_ms)

    @override
    def listen(self, token: str) -> AbstractAsyncContextManager[Bell]:
        return self._bells.listen(token)

    async def _run(
        self,
        script: Script,
        place: LockPlace,
        *arguments: Argument,
        until: float | None,
    ) -> tuple[Verdict, *tuple[int, ...]]:
        names = self._names.of_lock(place.scope, place.key)
        parts = (place.token, *arguments)
        try:
            reply = await self._client.run(
                *(script, names, parts),
                until=until,
                # Should leaving be lost with its server, the lease or the place ends by itself.
                is_hint=script is LEAVE_LOCK,
                grants=place.token if script is LOCK else "",
                ends=place.token if script is LEAVE_LOCK else "",
            )
        except ForeignValueError:
            raise _foreign() from None
        with being_read():
            return Verdict(reply[0]), *map(int, reply[1:])


def _foreign() -> StoreUnavailableError:
    return StoreUnavailableError("the name of a lock holds another type of value", code="internal")
