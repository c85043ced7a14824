"""Sessions on one Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast, final

from .._compat import override
from ..abc.affinity import SupportsAffinity
from ..abc.fencing import SupportsFencing
from ..abc.inbox import SupportsInbox
from ..abc.locks import SupportsLocks
from ..abc.records import (
    AllowedOwners,
    EncodedSession,
    Outcome,
    Page,
    Record,
    UnreadableRecord,
    Verdict,
    mint_incarnation,
)
from ..abc.waits import SupportsWaits
from ..codec import CodecFactory, JsonCodec
from ..errors import DecodeError
from ..model import C, Cas, SessionKey
from ..statistics import StoreStatistics
from ..store import AsyncSessionStore
from .affinity import RedisAffinity
from .inbox import RedisInbox
from .key_names import KeyNames
from .locks import RedisLocks
from .notifications import RedisNotifications
from .replies import outcome_of, undecodable_record, wrong_type
from .scripts.sessions import (
    CREATE,
    DELETE,
    PUT,
    PUT_FENCED,
    TOUCH,
    UPDATE_CAS,
    UPDATE_CAS_FENCED,
    create_arguments,
    delete_arguments,
    put_arguments,
    put_fenced_arguments,
    touch_arguments,
    update_cas_arguments,
    update_cas_fenced_arguments,
)
from .transport.attempts import log_retention_ms
from .transport.client import RedisClient
from .transport.failures import ForeignValueError, malformed_reply
from .waits import RedisWaits

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from ..abc.fencing import LeaseRef
    from ..config import RedisConfig
    from .transport.protocol import Arguments, Command, Reply
    from .transport.script import Script
    from .transport.server_process import ServerProcess
    from .transport.topology import ScanPosition

__all__ = ["RedisSessionStore"]

_MIN_GRACE_MS: Final = 1000
_TOKEN_REPLY: Final = 4
"""Length of a reply that tells of a token only."""
_FIELDS: Final = ("cas", "inc", "owner", "ttl", "at", "body")


@final
class RedisSessionStore(
    AsyncSessionStore[C],
    SupportsWaits,
    SupportsFencing,
    SupportsLocks,
    SupportsAffinity,
    SupportsInbox,
):
    """Keeps sessions on a Redis (6.2 or later) or Valkey server, shared by any number of workers.

    Runs on asyncio. Connects on first use. Each write is one Lua script on one cluster slot, under
    an operation id that the record remembers: when a reply is lost, the call is repeated within its
    deadline, and is answered without being done twice. The server's clock decides on life and time.

    :param config: where the server is, the namespace and the deadline.
    :param context_type: as in :class:`AsyncSessionStore`.
    :param codec: as in :class:`AsyncSessionStore`.
    :param host: has the server run, if it does not by itself.
    :raises InvalidInputError: naming the field of ``config`` at fault.
    """

    def __init__(
        self,
        config: RedisConfig,
        context_type: type[C] = cast("type[C]", dict),  # noqa: B008 - a cast is no call
        *,
        codec: CodecFactory = JsonCodec,
        host: ServerProcess | None = None,
    ) -> None:
        config.check()
        super().__init__(
            context_type,
            codec=codec,
            max_payload_bytes=config.max_payload_bytes,
            verify=config.verify,
        )
        self._host: Final = host
        self._client: Final = RedisClient(config, host)
        self._names: Final = KeyNames(config.namespace)
        # Longer than an attempt of a call may still be on its way, also from a worker that has
        # another deadline.
        self._tombstone_ms: Final = log_retention_ms(config.deadline_secs)
        self._waits: Final = RedisWaits(self._client, self._names, self._tombstone_ms)
        self._notifications: Final = RedisNotifications(
            self._client, self._names, config.deadline_secs
        )
        self._locks: Final = RedisLocks(self._client, self._names, self._notifications)
        self._inbox: Final = RedisInbox(
            self._client,
            self._names,
            self._notifications,
            self._waits,
            keep_ms=self._tombstone_ms,
            grace_ms=max(_MIN_GRACE_MS, round(2000 * config.deadline_secs)),
        )
        self._affinity: Final = RedisAffinity(self._client, self._names, self._tombstone_ms)

    @override
    async def _open(self) -> None:
        if self._host is not None:
            await self._host.start()

    @override
    async def _aclose(self) -> None:
        try:
            try:
                await self._notifications.aclose()
            finally:
                await self._client.aclose()
        finally:
            if self._host is not None:
                await self._host.aclose()

    @override
    async def _ping(self) -> None:
        await self._client.ping()

    @override
    def statistics(self) -> StoreStatistics:
        """As :meth:`AsyncSessionStore.statistics`."""
        return StoreStatistics(
            backend="redis",
            closed=self._closed,
            in_flight=self._client.in_flight,
            connections=self._client.connections + self._notifications.connections,
            retries=self._client.retries,
        )

    @override
    def wait_backend(self) -> RedisWaits:
        """As :meth:`SupportsWaits.wait_backend`."""
        return self._waits

    @override
    def inbox_backend(self) -> RedisInbox:
        """As :meth:`SupportsInbox.inbox_backend`."""
        return self._inbox

    @override
    def affinity_backend(self) -> RedisAffinity:
        """As :meth:`SupportsAffinity.affinity_backend`."""
        return self._affinity

    @override
    def lock_backend(self) -> RedisLocks:
        """As :meth:`SupportsLocks.lock_backend`."""
        return self._locks

    # --- reading -----------------------------------------------------------------------------

    @override
    async def _read(self, scope: str, key: SessionKey, until: float | None) -> Record | None:
        try:
            name = self._names.session_keys(scope, key)[0]
            reply = await self._client.read("HMGET", name, *_FIELDS, key=name, until=until)
        except ForeignValueError:
            raise wrong_type(key) from None
        return _record(key, reply)

    @override
    async def _read_many(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> Sequence[Record | UnreadableRecord | None]:
        commands: list[Command] = [
            ("HMGET", self._names.record(scope, key), *_FIELDS) for key in keys
        ]
        records: list[Record | UnreadableRecord | None] = [None] * len(keys)
        until = self._client.deadline()
        left = list(range(len(keys)))
        while left:
            try:
                replies = await self._client.read_each([commands[i] for i in left], until=until)
            except ForeignValueError as error:  # of one name: the others are read again
                index = left.pop(error.index)
                records[index] = UnreadableRecord(None, wrong_type(keys[index]))
                continue
            for index, reply in zip(left, replies, strict=True):
                records[index] = _record_or_error(keys[index], reply)
            break
        return records

    @override
    async def _holders(self, key: SessionKey, until: float | None) -> Sequence[str]:
        lookup = self._names.lookup(key)
        try:
            reply: list[bytes] = await self._client.read("HKEYS", lookup, key=lookup, until=until)
            try:
                scopes = [scope.decode(errors="replace") for scope in reply]
            except (TypeError, AttributeError):
                raise malformed_reply() from None
            if len(scopes) < 2:
                return scopes
            # Some may have expired: the records tell, by the server's clock.
            alive: list[int] = await self._client.read_many(
                [("HEXISTS", self._names.record(scope, key), "cas") for scope in scopes],
                key=lookup,
                until=until,
            )
        except ForeignValueError:
            raise wrong_type(key) from None
        return [scope for scope, exists in zip(scopes, alive, strict=True) if exists]

    @override
    async def _page(self, scope: str, position: object | None, batch_size: int) -> Page:
        # A name may be given again, while the server's table is resized or the scan begins anew:
        # `seen` are those given.
        at: ScanPosition | None
        seen: set[bytes]
        at, seen = (
            (None, set()) if position is None else cast("tuple[ScanPosition, set[bytes]]", position)
        )
        found, following = await self._client.scan(self._names.pattern(scope), batch_size, at)
        names = [name for name in dict.fromkeys(found) if name not in seen]
        seen.update(names)
        keys = [self._names.key_of(scope, name) for name in names]
        records = await self._read_many(scope, keys) if keys else ()
        live = [
            (key, record) for key, record in zip(keys, records, strict=True) if record is not None
        ]
        return Page(live, (following, seen) if following is not None else None)

    # --- writing -----------------------------------------------------------------------------

    @override
    async def _create(self, encoded: EncodedSession) -> Outcome:
        arguments = create_arguments(
            encoded.owner, encoded.ttl_ms, encoded.body, mint_incarnation()
        )
        return await self._run(CREATE, encoded.scope, SessionKey(encoded.key), arguments)

    @override
    def _put(self, encoded: EncodedSession, lease: LeaseRef | None) -> Coroutine[Any, Any, Outcome]:
        scope, key = encoded.scope, SessionKey(encoded.key)
        owner, ttl_ms, body = encoded.owner, encoded.ttl_ms, encoded.body
        incarnation = mint_incarnation()
        if lease is None:
            return self._run(PUT, scope, key, put_arguments(owner, ttl_ms, body, incarnation))
        arguments = put_fenced_arguments(owner, ttl_ms, body, incarnation, lease.fence)
        return self._run(PUT_FENCED, scope, key, arguments, lease=lease)

    @override
    def _update_cas(
        self, encoded: EncodedSession, expected: Cas, until: float | None, lease: LeaseRef | None
    ) -> Coroutine[Any, Any, Outcome]:
        scope, key = encoded.scope, SessionKey(encoded.key)
        owner, ttl_ms, body = encoded.owner, encoded.ttl_ms, encoded.body
        value, incarnation = expected.value, expected.incarnation
        following = value + 1
        log_field = f"op{following % 8}"  # see ``lua/lib/record.lua``
        if lease is None:
            arguments = update_cas_arguments(
                new_owner=owner,
                new_ttl_ms=ttl_ms,
                new_body=body,
                expected_incarnation=incarnation,
                expected_version=value,
                following_version=following,
                log_field=log_field,
            )
            return self._run(UPDATE_CAS, scope, key, arguments, until=until, expected=expected)
        arguments = update_cas_fenced_arguments(
            new_owner=owner,
            new_ttl_ms=ttl_ms,
            new_body=body,
            expected_incarnation=incarnation,
            expected_version=value,
            following_version=following,
            log_field=log_field,
            fencing_token=lease.fence,
        )
        return self._run(
            UPDATE_CAS_FENCED, scope, key, arguments, until=until, expected=expected, lease=lease
        )

    @override
    def _touch(
        self,
        scope: str,
        key: SessionKey,
        ttl_ms: int | None,
        allowed: AllowedOwners | None,
        until: float | None,
    ) -> Coroutine[Any, Any, Outcome]:
        exact, shared = allowed or ("", "")
        arguments = touch_arguments(exact, shared, "" if ttl_ms is None else ttl_ms)
        return self._run(TOUCH, scope, key, arguments, until=until)

    @override
    async def _delete(
        self,
        scope: str,
        key: SessionKey,
        allowed: AllowedOwners | None,
        expected: Cas | None,
        until: float | None,
    ) -> Outcome:
        exact, shared = allowed or ("", "")
        arguments = delete_arguments(
            exact,
            shared,
            "" if expected is None else expected.incarnation,
            "" if expected is None else expected.value,
            self._tombstone_ms,
        )
        return await self._run(DELETE, scope, key, arguments, until=until)

    @override
    def _deadline(self) -> float | None:
        return self._client.deadline()

    async def _run(
        self,
        script: Script,
        scope: str,
        key: SessionKey,
        arguments: Arguments,
        *,
        until: float | None = None,
        expected: Cas | None = None,
        lease: LeaseRef | None = None,
    ) -> Outcome:
        until = self._client.deadline() if until is None else until
        names = self._names.session_keys(scope, key)
        if script is DELETE:
            names = (*names, self._names.events(names[0]))
        elif lease is not None:
            names = (*names, self._names.lease(lease))
        try:
            reply = await self._client.run(script, names, (scope, *arguments), until=until)
        except ForeignValueError:
            raise wrong_type(key) from None
        if expected is not None and type(reply) is int:  # the time alone
            return Outcome(Verdict.DONE, expected.value + 1, expected.incarnation, reply)
        outcome = outcome_of(key, reply)
        if len(reply) > _TOKEN_REPLY:  # the session waits
            call = self._waits.call(until)
            await call.extend_index(scope, key, reply[_TOKEN_REPLY:], gone=script is DELETE)
        return outcome


def _record_or_error(key: str, reply: Reply) -> Record | UnreadableRecord | None:
    try:
        return _record(key, reply)
    except DecodeError as caught:
        error = caught.with_traceback(None)
    try:
        owner = cast("list[bytes]", reply)[_FIELDS.index("owner")].decode()
    except (UnicodeError, AttributeError):
        return UnreadableRecord(None, error)
    return UnreadableRecord(owner, error)


def _record(key: str, reply: Reply) -> Record | None:
    try:
        value, incarnation, owner, ttl_ms, at_ms, body = cast("list[bytes | None]", reply)
    except (TypeError, ValueError):
        raise malformed_reply() from None
    if value is None:
        return None
    if incarnation is None or owner is None or ttl_ms is None or at_ms is None or body is None:
        raise DecodeError(key, "the stored record lacks a field")
    try:
        return Record(
            int(value), incarnation.decode(), owner.decode(), int(ttl_ms), int(at_ms), body
        )
    except (TypeError, ValueError, AttributeError):
        raise undecodable_record(key) from None
