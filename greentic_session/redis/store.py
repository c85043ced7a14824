"""The store of sessions on a Redis or Valkey server, behind Sentinel, or on a cluster."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

from .._compat import override
from .._core.labels import NOT_COMPARED
from .._core.lifetime import wait_until_idle
from ..abc.affinity import SupportsAffinity
from ..abc.clock import SupportsClock
from ..abc.fencing import SupportsFencing
from ..abc.finding import SupportsFinding
from ..abc.generations import SupportsGenerations
from ..abc.inbox import SupportsInbox
from ..abc.locks import SupportsLocks
from ..abc.records import (
    AllowedOwners,
    EncodedSession,
    Outcome,
    Page,
    Record,
    UnreadableRecord,
    mint_incarnation,
)
from ..abc.store import settled
from ..abc.streams import SupportsStreams
from ..abc.timers import SupportsTimers
from ..abc.waits import SupportsWaits
from ..codec import CodecFactory, JsonCodec
from ..model import C, Cas, SessionKey
from ..statistics import StoreStatistics
from ..store import AsyncSessionStore
from .affinity import RedisAffinity
from .entries import SessionEntries
from .finding import RedisFinding
from .generations import RedisGenerations
from .inbox import RedisInbox
from .key_names import KeyNames
from .locks import RedisLocks
from .lookup_reads import read_holders
from .notifications import RedisNotifications
from .record_reads import FIELDS, LargeNames, read_owner, read_some, record_of
from .replies import time_ms, wrong_type
from .scripts.sessions import (
    CREATE,
    DELETE,
    PUT,
    PUT_FENCED,
    REPLACE,
    TOUCH,
    UPDATE_CAS,
    UPDATE_CAS_FENCED,
    create_arguments,
    delete_arguments,
    put_arguments,
    put_fenced_arguments,
    replace_arguments,
    touch_arguments,
    update_cas_arguments,
    update_cas_fenced_arguments,
)
from .session_writes import SessionWrites
from .streams import RedisStreams
from .timers import RedisTimers
from .transport.attempts import log_retention_ms
from .transport.client import RedisClient
from .transport.failures import ForeignValueError
from .transport.server import LARGE_BYTES
from .transport.topology import run_concurrently
from .waits import RedisWaits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from .._core.evolution import Upgrades
    from ..abc.fencing import LeaseRef
    from ..config import RedisConfig
    from ..errors import SessionError
    from .transport.server_process import ServerProcess
    from .transport.topology import ScanPosition

__all__ = ["RedisSessionStore"]

_T = TypeVar("_T")

_LEAST_STEP_SECS: Final = 0.02
"""Minimum time left for a step. With less, its outcome might be unknown."""
_MIN_GRACE_MS: Final = 1000


@final
class RedisSessionStore(
    AsyncSessionStore[C],
    SupportsWaits,
    SupportsFencing,
    SupportsLocks,
    SupportsAffinity,
    SupportsInbox,
    SupportsClock,
    SupportsGenerations,
    SupportsTimers,
    SupportsStreams,
    SupportsFinding,
):
    """Keeps sessions on a Redis (6.2 or later) or Valkey server, shared by any number of workers.

    The store runs on asyncio and connects on first use. Each write is one Lua script in one cluster
    slot. The record stores the operation id of the call. If a reply is lost, the call retries
    until its deadline, and the server does not execute the write twice. The server's clock decides
    when a session expires.

    :param config: the address of the server, the namespace and the deadline.
    :param context_type: as in :class:`AsyncSessionStore`.
    :param codec: as in :class:`AsyncSessionStore`.
    :param host: the process of the server, if the store starts the server itself.
    :param schema_version: as in :class:`AsyncSessionStore`.
    :param upgrades: as in :class:`AsyncSessionStore`.
    :raises InvalidInputError: a field of ``config`` is invalid. The error names it.
    """

    def __init__(
        self,
        config: RedisConfig,
        context_type: type[C] = cast("type[C]", dict),  # noqa: B008 - a cast is no call
        *,
        codec: CodecFactory = JsonCodec,
        host: ServerProcess | None = None,
        schema_version: int | None = None,
        upgrades: Upgrades | None = None,
    ) -> None:
        config.check()
        super().__init__(
            context_type,
            codec=codec,
            max_payload_bytes=config.max_payload_bytes,
            verify=config.verify,
            close_secs=config.close_secs,
            require_ctx=config.require_ctx,
            unknown_fields=config.unknown_fields,
            schema_version=schema_version,
            upgrades=upgrades,
            indexed_labels=config.indexed_labels,
        )
        self._host: Final = host
        self._client: Final = RedisClient(config, host)
        self._names: Final = KeyNames(config.namespace)
        self._large_names: Final = LargeNames()
        # Longer than any attempt may be in flight, even one of a worker with another deadline.
        self._tombstone_ms: Final = log_retention_ms(config.deadline_secs)
        # A reader's steps end within one such time, and those of a writer within another.
        self._index_entries: Final = SessionEntries(
            self._client, self._names, 2 * self._tombstone_ms, is_cluster=bool(config.cluster)
        )
        self._finding_steps: Final = RedisFinding(
            self._client, self._names, self._index_entries, self._large_names
        )
        self._notifications: Final = RedisNotifications(
            self._client, self._names, config.deadline_secs
        )
        self._waits: Final = RedisWaits(
            self._client,
            self._names,
            self._notifications,
            self._tombstone_ms,
            self._index_entries,
        )
        self._writes: Final = SessionWrites(
            self._client, self._names, self._index_entries, self._waits
        )
        self._locks: Final = RedisLocks(self._client, self._names, self._notifications)
        self._inbox: Final = RedisInbox(
            self._client,
            self._names,
            self._notifications,
            self._waits,
            self._index_entries,
            keep_ms=self._tombstone_ms,
            grace_ms=max(_MIN_GRACE_MS, round(2000 * config.deadline_secs)),
        )
        self._affinity: Final = RedisAffinity(self._client, self._names, self._tombstone_ms)
        self._generations: Final = RedisGenerations(self._client, self._names)
        self._timers: Final = RedisTimers(
            self._client, self._names, self._notifications, self._tombstone_ms
        )
        self._streams: Final = RedisStreams(self._client, self._names, self._notifications)

    @override
    async def _open(self) -> None:
        if self._host is not None:
            await self._host.start()

    @override
    async def _aclose(self) -> None:
        try:
            try:
                await self._notifications.aclose()
                await wait_until_idle(self._is_busy, self._close_secs)
            finally:
                await self._client.aclose()
        finally:
            if self._host is not None:
                await self._host.aclose()

    def _is_busy(self) -> bool:
        return self._client.in_flight > 0 or self._has_waiting_calls()

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
    def _wait_backend(self) -> RedisWaits:
        """As :meth:`SupportsWaits._wait_backend`."""
        return self._waits

    @override
    def _inbox_backend(self) -> RedisInbox:
        """As :meth:`SupportsInbox._inbox_backend`."""
        return self._inbox

    @override
    def _affinity_backend(self) -> RedisAffinity:
        """As :meth:`SupportsAffinity._affinity_backend`."""
        return self._affinity

    @override
    def _generation_backend(self) -> RedisGenerations:
        """As :meth:`SupportsGenerations._generation_backend`."""
        return self._generations

    @override
    def _timer_backend(self) -> RedisTimers:
        """As :meth:`SupportsTimers._timer_backend`."""
        return self._timers

    @override
    def _stream_backend(self) -> RedisStreams:
        """As :meth:`SupportsStreams._stream_backend`."""
        return self._streams

    @override
    def _finding_backend(self) -> RedisFinding:
        """As :meth:`SupportsFinding._finding_backend`."""
        return self._finding_steps

    @override
    def _lock_backend(self) -> RedisLocks:
        """As :meth:`SupportsLocks._lock_backend`."""
        return self._locks

    @override
    async def backend_clock_ms(self) -> int:
        """As :meth:`SupportsClock.backend_clock_ms`. Servers of a cluster should agree."""
        return time_ms(await self._client.read("TIME"))

    # --- reading -----------------------------------------------------------------------------

    @override
    async def _read(self, scope: str, key: SessionKey, until: float | None) -> Record | None:
        try:
            name = self._names.session_keys(scope, key)[0]
            large_names = self._large_names
            is_large = name in large_names
            reply = await self._client.read(
                "HMGET", name, *FIELDS, key=name, until=until, is_large=is_large
            )
        except ForeignValueError:
            raise wrong_type(key) from None
        record = record_of(key, reply)
        if record is not None and (is_large or len(record.body) > LARGE_BYTES):
            large_names.note(name, len(record.body))
        return record

    @override
    async def _read_owner(self, scope: str, key: SessionKey, until: float | None) -> str | None:
        return await read_owner(self._client, self._names, scope, key, until)

    @override
    async def _run_each(
        self, steps: Sequence[Callable[[], Awaitable[_T]]]
    ) -> list[_T | SessionError]:
        # The client sends the requests of one iteration of the event loop in one write.
        found: dict[int, _T | SessionError] = {}

        async def run(index: int) -> None:
            found[index] = await settled(steps[index])

        await run_concurrently(run, range(len(steps)))
        return [found[index] for index in range(len(steps))]

    @override
    async def _read_many(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> Sequence[Record | UnreadableRecord | None]:
        return await read_some(self._client, self._names, self._large_names, scope, keys)

    @override
    async def _holders(self, key: SessionKey, until: float | None) -> Sequence[str]:
        try:
            return await read_holders(self._client, self._names, key, until)
        except ForeignValueError:
            raise wrong_type(key) from None

    @override
    async def _page(self, scope: str, position: object | None, batch_size: int) -> Page:
        # A scan may return a key again if the server resizes its table or the scan starts again. So
        # `seen` holds the keys that were returned. `ahead` holds the found keys to read next.
        at: ScanPosition | None
        seen: set[bytes]
        ahead: list[SessionKey]
        at, seen, ahead = (
            (None, set(), [])
            if position is None
            else cast("tuple[ScanPosition | None, set[bytes], list[SessionKey]]", position)
        )
        if not ahead:
            found, at = await self._client.scan(self._names.pattern(scope), batch_size, at)
            names = [name for name in dict.fromkeys(found) if name not in seen]
            seen.update(names)
            ahead = [self._names.key_of(scope, name) for name in names]
        records = await self._read_many(scope, ahead) if ahead else ()
        live = [
            (key, record) for key, record in zip(ahead, records, strict=False) if record is not None
        ]
        ahead = ahead[len(records) :]
        return Page(live, (at, seen, ahead) if at is not None or ahead else None)

    # --- writing -----------------------------------------------------------------------------

    @override
    async def _create(self, encoded: EncodedSession, *, until: float | None = None) -> Outcome:
        arguments = create_arguments(
            new_owner=encoded.owner,
            new_ttl_ms=encoded.ttl_ms,
            new_body=encoded.body,
            new_incarnation=mint_incarnation(),
            held_ms="",
            new_labels=encoded.labels,
        )
        if len(encoded.body) > LARGE_BYTES:
            self._note_large(encoded)
        return await self._writes.run_indexed(
            CREATE, encoded, arguments, until=until, hold_ms=2 * encoded.ttl_ms
        )

    @override
    def _put(
        self, encoded: EncodedSession, lease: LeaseRef | None, *, until: float | None = None
    ) -> Coroutine[Any, Any, Outcome]:
        owner, ttl_ms, body, labels = encoded.owner, encoded.ttl_ms, encoded.body, encoded.labels
        incarnation = mint_incarnation()
        if len(body) > LARGE_BYTES:
            self._note_large(encoded)
        if lease is None:
            arguments = put_arguments(
                new_owner=owner,
                new_ttl_ms=ttl_ms,
                new_body=body,
                new_incarnation=incarnation,
                held_ms="",
                new_labels=labels,
            )
            return self._writes.run_indexed(PUT, encoded, arguments, until=until)
        arguments = put_fenced_arguments(
            new_owner=owner,
            new_ttl_ms=ttl_ms,
            new_body=body,
            new_incarnation=incarnation,
            fencing_token=lease.fence,
            held_ms="",
            new_labels=labels,
        )
        return self._writes.run_indexed(PUT_FENCED, encoded, arguments, until=until, lease=lease)

    @override
    def _update_cas(
        self, encoded: EncodedSession, expected: Cas, until: float | None, lease: LeaseRef | None
    ) -> Coroutine[Any, Any, Outcome]:
        scope, key = encoded.scope, SessionKey(encoded.key)
        owner, ttl_ms, body = encoded.owner, encoded.ttl_ms, encoded.body
        value, incarnation = expected.value, expected.incarnation
        if len(body) > LARGE_BYTES:
            self._note_large(encoded)
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
                held_ms="",
                new_labels=encoded.labels,
            )
            return self._writes.run(
                UPDATE_CAS,
                scope,
                key,
                arguments,
                until=until,
                expected=expected,
                schema_version=encoded.schema_version,
            )
        arguments = update_cas_fenced_arguments(
            new_owner=owner,
            new_ttl_ms=ttl_ms,
            new_body=body,
            expected_incarnation=incarnation,
            expected_version=value,
            following_version=following,
            log_field=log_field,
            fencing_token=lease.fence,
            held_ms="",
            new_labels=encoded.labels,
        )
        return self._writes.run(
            UPDATE_CAS_FENCED,
            scope,
            key,
            arguments,
            until=until,
            expected=expected,
            lease=lease,
            schema_version=encoded.schema_version,
        )

    @override
    async def _replace(
        self, encoded: EncodedSession, expected: Cas, *, until: float | None = None
    ) -> Outcome:
        arguments = replace_arguments(
            new_owner=encoded.owner,
            new_ttl_ms=encoded.ttl_ms,
            new_body=encoded.body,
            new_incarnation=mint_incarnation(),
            expected_incarnation=expected.incarnation,
            expected_version=expected.value,
            held_ms="",
            new_labels=encoded.labels,
        )
        if len(encoded.body) > LARGE_BYTES:
            self._note_large(encoded)
        return await self._writes.run_indexed(
            REPLACE, encoded, arguments, until=until, hold_ms=2 * encoded.ttl_ms
        )

    def _note_large(self, encoded: EncodedSession) -> None:
        name = self._names.record(encoded.scope, SessionKey(encoded.key))
        self._large_names.note(name, len(encoded.body))
        self._slow_writes()

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
        arguments = touch_arguments(
            exact, shared, "" if ttl_ms is None else ttl_ms, "", NOT_COMPARED
        )
        return self._writes.run(TOUCH, scope, key, arguments, until=until)

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
        return await self._writes.run(DELETE, scope, key, arguments, until=until)

    @override
    def _deadline(self) -> float | None:
        return self._client.deadline()

    @override
    def _secs_left(self, until: float | None) -> float:
        now = asyncio.get_running_loop().time()
        return math.inf if until is None else until - now - _LEAST_STEP_SECS
