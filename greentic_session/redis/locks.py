"""Locks on a Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from .._compat import override
from .._core.fencing import FencingCounter
from ..abc.locks import LockBackend, LockCall, LockOutcome, LockRef, LockRequest, LockState
from ..abc.records import DONE, Verdict
from .replies import clock_ms, parsing_read_reply, parsing_write_reply, wrong_type_of
from .scripts.locks import (
    ACQUIRE_LOCK,
    RELEASE_LOCK,
    RENEW_LOCK,
    acquire_lock_arguments,
    release_lock_arguments,
    renew_lock_arguments,
)
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ..abc.notifications import Subscription, SupportsNotifications
    from ..model import SessionKey
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Arguments
    from .transport.script import Script

__all__ = ["RedisLocks"]


@final
class RedisLocks(LockBackend):
    """Creates calls on the locks of a store.

    :param client: the client of the store.
    :param names: the key names of the store.
    :param notifications: the notifications of the store.
    """

    def __init__(
        self, client: RedisClient, names: KeyNames, notifications: SupportsNotifications
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._notifications: Final = notifications
        self._fencing: Final = FencingCounter()

    @override
    def call(self) -> RedisLockCall:
        return RedisLockCall(self._client, self._names, self._fencing, self._client.deadline())

    @override
    def subscribe(self, token: str) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(token)


@final
class RedisLockCall(LockCall):
    """Runs each step on a lock as one script in the slot of the key's session.

    :param client: the client of the store.
    :param names: the key names of the store.
    :param fencing: the fencing counter of the store's locks.
    :param until: the deadline of the call, on the loop's clock.
    """

    def __init__(
        self, client: RedisClient, names: KeyNames, fencing: FencingCounter, until: float
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._fencing: Final = fencing
        self._until: Final = until

    @override
    async def acquire(self, request: LockRequest) -> LockOutcome:
        arguments = acquire_lock_arguments(
            token=request.ref.token,
            name=request.name,
            lease_ms=request.lease_ms,
            position_ms=request.position_ms,
            queues=request.queues,
            fence_floor=self._fencing.last,
        )
        verdict, *rest = await self._run(ACQUIRE_LOCK, request.ref, arguments)
        with parsing_write_reply():
            if verdict is not DONE:
                lease_ms, left_ms = rest
                return LockOutcome(verdict, 0, clock_ms(lease_ms), left_ms)
            fence, lease_ms, left_ms = rest
            outcome = LockOutcome(DONE, fence, clock_ms(lease_ms), left_ms)
        self._fencing.observe(fence)
        return outcome

    @override
    async def renew(self, ref: LockRef, lease_ms: int) -> LockOutcome:
        arguments = renew_lock_arguments(ref.token, lease_ms)
        verdict, *rest = await self._run(RENEW_LOCK, ref, arguments)
        with parsing_write_reply():
            if verdict is not DONE:
                return LockOutcome(verdict)
            lease_ms, left_ms = rest
            return LockOutcome(DONE, 0, clock_ms(lease_ms), left_ms)

    @override
    async def release(self, ref: LockRef, lease_ms: int) -> bool:
        arguments = release_lock_arguments(
            ref.token, known_lease_end=lease_ms, channel_prefix=self._names.channel("")
        )
        verdict, *_ = await self._run(RELEASE_LOCK, ref, arguments)
        return verdict is DONE

    @override
    async def holder(self, scope: str, key: SessionKey) -> LockState | None:
        name = self._names.lock(scope, key)
        try:
            reply = await self._client.read_many(
                [("HMGET", name, "name", "fence", "lease", "by"), ("TIME",)],
                key=name,
                until=self._until,
            )
        except ForeignValueError:
            raise wrong_type_of("a lock") from None
        with parsing_read_reply():
            (held_by, fence, lease, by), (secs, us) = reply
            lease_ms = clock_ms(lease or 0)
            if by is None or int(secs) * 1000 + int(us) // 1000 >= lease_ms:
                return None
            return LockState((held_by or b"").decode(), int(fence or 0), lease_ms)

    async def _run(
        self, script: Script, ref: LockRef, arguments: Arguments
    ) -> tuple[Verdict, *tuple[int, ...]]:
        try:
            reply = await self._client.run(
                script,
                self._names.lock_keys(ref.scope, ref.key),
                arguments,
                until=self._until,
                # If a failover loses a release, the lease or the queue position lapses. If it loses
                # a renewal, the lease ends earlier. Fencing tokens refuse a stale holder.
                skips_acks=script is not ACQUIRE_LOCK,
                grants=ref.token if script is ACQUIRE_LOCK else "",
                ends=ref.token if script is RELEASE_LOCK else "",
            )
        except ForeignValueError:
            raise wrong_type_of("a lock") from None
        except UnconfirmedError as error:
            raise error.plain() from None
        with parsing_write_reply():
            return Verdict(reply[0]), *map(int, reply[1:])
