"""Locks on one Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from .._compat import override
from .._core.fencing import FencingCounter
from ..abc.locks import LockBackend, LockOutcome, LockRef, LockRequest, LockState
from ..abc.records import DONE, Verdict
from .replies import clock_ms, parsing_read_reply, parsing_write_reply, wrong_type_of
from .scripts import ACQUIRE_LOCK, RELEASE_LOCK, RENEW_LOCK
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ..abc.notifications import Subscription, SupportsNotifications
    from ..model import SessionKey
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Argument
    from .transport.script import Script

__all__ = ["RedisLocks"]


@final
class RedisLocks(LockBackend):
    """The steps on locks, each one script in the slot of the key's session.

    :param client: of the store.
    :param names: of the store.
    :param notifications: of the store.
    """

    def __init__(
        self, client: RedisClient, names: KeyNames, notifications: SupportsNotifications
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._notifications: Final = notifications
        self._fencing: Final = FencingCounter()

    @override
    def deadline(self) -> float:
        return self._client.deadline()

    @override
    async def acquire(self, request: LockRequest, until: float | None) -> LockOutcome:
        verdict, *told = await self._run(
            ACQUIRE_LOCK,
            request.ref,
            *(
                request.name,
                request.lease_ms,
                request.position_ms,
                int(request.queues),
                self._fencing.last,
            ),
            until=until,
        )
        with parsing_write_reply():
            if verdict is not DONE:
                lease_ms, left_ms = told
                return LockOutcome(verdict, 0, clock_ms(lease_ms), left_ms)
            fence, lease_ms, left_ms = told
            outcome = LockOutcome(DONE, fence, clock_ms(lease_ms), left_ms)
        self._fencing.observe(fence)
        return outcome

    @override
    async def renew(self, place: LockRef, lease_ms: int, until: float | None) -> LockOutcome:
        verdict, *told = await self._run(RENEW_LOCK, place, lease_ms, until=until)
        with parsing_write_reply():
            if verdict is not DONE:
                return LockOutcome(verdict)
            lease_ms, left_ms = told
            return LockOutcome(DONE, 0, clock_ms(lease_ms), left_ms)

    @override
    async def release(self, place: LockRef, lease_ms: int, until: float | None) -> bool:
        verdict, *_ = await self._run(
            RELEASE_LOCK, place, lease_ms, self._names.channel(""), until=until
        )
        return verdict is DONE

    @override
    async def holder(self, scope: str, key: SessionKey, until: float | None) -> LockState | None:
        name = self._names.lock(scope, key)
        try:
            reply = await self._client.read_many(
                [("HMGET", name, "name", "fence", "lease", "by"), ("TIME",)],
                key=name,
                until=until,
            )
        except ForeignValueError:
            raise wrong_type_of("a lock") from None
        with parsing_read_reply():
            (held_by, fence, lease, by), (secs, us) = reply
            lease_ms = clock_ms(lease or 0)
            if by is None or int(secs) * 1000 + int(us) // 1000 >= lease_ms:
                return None
            return LockState((held_by or b"").decode(), int(fence or 0), lease_ms)

    @override
    def subscribe(self, token: str) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(token)

    async def _run(
        self,
        script: Script,
        place: LockRef,
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
                is_hint=script is RELEASE_LOCK,
                grants=place.token if script is ACQUIRE_LOCK else "",
                ends=place.token if script is RELEASE_LOCK else "",
            )
        except ForeignValueError:
            raise wrong_type_of("a lock") from None
        with parsing_write_reply():
            return Verdict(reply[0]), *map(int, reply[1:])
