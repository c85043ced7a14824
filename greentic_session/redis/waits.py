"""Waits on a Redis or Valkey server."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast, final

from .._compat import override
from .._core.fencing import FencingCounter
from .._core.labels import NOT_COMPARED, kept_labels
from ..abc.records import Verdict, mint_incarnation
from ..abc.waits import (
    ClaimEnding,
    ClaimRef,
    ClaimRequest,
    EndingMode,
    EventMemory,
    IndexChange,
    IndexUpsert,
    Registration,
    SeenEvent,
    WaitBackend,
    WaitOutcome,
    WaitOwner,
    WaitStatus,
)
from ..errors import DurabilityError, OutcomeUnknownError, StoreUnavailableError
from .entries import MAX_ATTEMPTS, is_unindexed, pop_ended
from .replies import (
    parsing_read_reply,
    parsing_write_reply,
    wrong_type,
)
from .scripts.finding import INDEX_SESSION, index_session_arguments
from .scripts.sessions import with_schema_version
from .scripts.waits import (
    CLAIM,
    CLEAR,
    END_CLAIM,
    REGISTER,
    RELEASE_CLAIM,
    RENEW_CLAIM,
    SUPERSEDE,
    claim_arguments,
    clear_arguments,
    end_claim_arguments,
    register_arguments,
    release_claim_arguments,
    renew_claim_arguments,
    supersede_arguments,
)
from .transport.acks import TOUCH_FOR_WAIT, UnconfirmedError
from .transport.failures import ForeignValueError
from .wait_index import WaitIndexSteps
from .wait_replies import claim_outcome, seen_events, status_of, written_outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.notifications import Subscription, SupportsNotifications
    from ..abc.records import EncodedSession
    from ..model import SessionKey
    from .entries import Held, SessionEntries
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Arguments, Reply
    from .transport.script import Script
    from .transport.topology import ScanPosition

__all__ = ["RedisWaits"]

_STATUS_FIELDS: Final = ("owner", "ttl", "at", "lease", "wait", "since")
_KEYS_PER_PAGE: Final = 512
_FINISHED_REPLY: Final = 6
_CLEARED_REPLY: Final = 5
"""Length of a reply that ends with the owner and the labels of a deleted session."""


@final
class RedisWaits(WaitBackend):
    """Makes calls on the waits of a store.

    :param client: of the store.
    :param names: of the store.
    :param notifications: of the store.
    :param grace_ms: longer than any call may be under way, in milliseconds.
    :param index_entries: of the store.
    """

    def __init__(
        self,
        client: RedisClient,
        names: KeyNames,
        notifications: SupportsNotifications,
        grace_ms: int,
        index_entries: SessionEntries,
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._notifications: Final = notifications
        self._grace_ms: Final = grace_ms
        self._index_entries: Final = index_entries
        self._fencing: Final = FencingCounter()

    @override
    def call(self, until: float | None = None) -> RedisWaitCall:
        """As :meth:`WaitBackend.call`.

        :param until: the deadline, if it counts from an earlier time.
        """
        until = self._client.deadline() if until is None else until
        return RedisWaitCall(
            self._client,
            self._names,
            grace_ms=self._grace_ms,
            fencing=self._fencing,
            index_entries=self._index_entries,
            until=until,
        )

    @override
    def subscribe(self, scope: str, key: SessionKey) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(self._names.claims_topic(scope, key))

    @override
    async def list_keys(
        self, scope: str, position: object | None
    ) -> tuple[Sequence[SessionKey], object | None]:
        found, following = await self._client.scan(
            self._names.pattern(scope), _KEYS_PER_PAGE, cast("ScanPosition | None", position)
        )
        return [self._names.key_of(scope, name) for name in found], following


@final
class RedisWaitCall(WaitIndexSteps):
    """Runs the steps of waits, each one script in one slot.

    :param client: of the store.
    :param names: of the store.
    :param grace_ms: longer than any call may be under way, in milliseconds.
    :param fencing: of the store's waits.
    :param index_entries: of the store.
    :param until: the deadline of the call.
    """

    def __init__(
        self,
        client: RedisClient,
        names: KeyNames,
        *,
        grace_ms: int,
        fencing: FencingCounter,
        index_entries: SessionEntries,
        until: float,
    ) -> None:
        super().__init__(client, names, grace_ms, until)
        self._fencing: Final = fencing
        self._index_entries: Final = index_entries

    async def _extend(self, ref: ClaimRef, parts: Sequence[bytes]) -> None:
        """Let the index live as long as a record whose lifetime a step prolonged.

        :param parts: since when the session waits, its reply scope, and when its record expires.
            Then its labels, if its index entries end too early.
            Empty if the step was not done.
        """
        if len(parts) > 3:
            labels = parts[3].decode(errors="replace")
            with suppress(StoreUnavailableError, OutcomeUnknownError, DurabilityError):
                await self._prolong_entries(ref, labels)
        if not parts or not parts[1]:
            return
        # Only a registration creates the entry. Because this step may arrive after the wait ended.
        entry = IndexUpsert(parts[1].decode(), ref.key, 0, int(parts[2]))
        change = IndexChange(upsert=entry)
        await self._repair(WaitOwner(ref.scope, ref.owner), change)

    def _channel(self, ref: ClaimRef) -> str:
        return self._names.channel(self._names.claims_topic(ref.scope, ref.key))

    async def _prolong_entries(self, ref: ClaimRef, labels: str) -> None:
        """Let the entries of the session live as long as its record, which a claim prolonged."""
        owner = ref.owner

        async def attempt(indexes: tuple[str, ...], held: Held) -> Reply:
            names = (*self._names.session_keys(ref.scope, ref.key), *indexes)
            arguments = index_session_arguments("", "", held, kept_labels(owner, labels))
            return await self._client.run(
                INDEX_SESSION, names, (ref.scope, *arguments), until=self._until, skips_acks=True
            )

        for _ in range(MAX_ATTEMPTS):
            reply = await self._index_entries.write(
                attempt, ref.scope, ref.key, owner, labels, until=self._until, keeps=True
            )
            if not is_unindexed(reply):
                return
            with parsing_write_reply():  # another writer has changed them since
                owner, labels = reply[2].decode(), reply[3].decode()

    # --- on a record -------------------------------------------------------------------------

    @override
    async def register(self, registration: Registration, events: EventMemory) -> WaitOutcome:
        encoded, expected, scope_hash, event, floor_us = registration
        arguments = register_arguments(
            new_owner=encoded.owner,
            new_ttl_ms=encoded.ttl_ms,
            new_body=encoded.body,
            expected_incarnation="" if expected is None else expected.incarnation,
            expected_version="" if expected is None else expected.value,
            new_incarnation=mint_incarnation(),
            scope_hash=scope_hash,
            since_floor=floor_us,
            event=event,
            event_limit=events.most,
            event_ttl_ms=events.ttl_ms,
            held_ms="",
            new_labels=encoded.labels,
        )
        reply, shortfall = await self._write_indexed(REGISTER, encoded, arguments)
        return written_outcome(encoded.key, reply, shortfall)

    @override
    async def claim(self, request: ClaimRequest, events: EventMemory) -> WaitOutcome:
        key = request.key
        arguments = claim_arguments(
            expected_owner=request.owner,
            scope_hash=request.scope_hash,
            claim_attempt=request.attempt,
            event=request.event,
            lease_ms=request.lease_ms,
            event_ttl_ms=events.ttl_ms,
            fencing_floor=self._fencing.last,
        )
        try:
            reply = await self._run(CLAIM, request.scope, key, arguments, grants=request.attempt)
        except UnconfirmedError as error:
            raise error.plain() from None
        outcome = claim_outcome(key, reply)
        if outcome.verdict is not Verdict.DONE:
            return outcome
        self._fencing.observe(outcome.fence)
        if outcome.ttl_ms:
            ref = ClaimRef(request.scope, key, request.owner, outcome.fence)
            await self._extend(ref, reply[9:])
        return outcome

    @override
    async def renew(self, ref: ClaimRef, lease_ms: int) -> WaitOutcome:
        arguments = renew_claim_arguments(ref.fence, lease_ms)
        # If it is lost with its server, the lease ends earlier. The record refuses a stale worker.
        reply = await self._run(RENEW_CLAIM, ref.scope, ref.key, arguments, skips_acks=True)
        with parsing_write_reply():
            if reply[0] != Verdict.DONE:
                return WaitOutcome(Verdict(reply[0]))
            outcome = WaitOutcome(Verdict.DONE, lease_ms=int(reply[1]), left_ms=int(reply[2]))
        await self._extend(ref, reply[3:])
        return outcome

    @override
    async def end_claim(self, ending: ClaimEnding, events: EventMemory) -> WaitOutcome:
        ref, how, encoded, expected, event, scope_hash, floor_us = ending
        arguments = end_claim_arguments(
            new_owner=ref.owner if encoded is None else encoded.owner,
            new_ttl_ms="" if encoded is None else encoded.ttl_ms,
            new_body=b"" if encoded is None else encoded.body,
            expected_incarnation=expected.incarnation,
            expected_version=expected.value,
            fencing_token=ref.fence,
            mode=how.value,
            scope_hash=scope_hash,
            since_floor=floor_us,
            event=event,
            event_limit=events.most,
            event_ttl_ms=events.ttl_ms,
            tombstone_ms=self._grace_ms,
            channel=self._channel(ref),
            held_ms="",
            new_labels=NOT_COMPARED if encoded is None else encoded.labels,
        )
        if encoded is None:
            reply, shortfall = await self._write(END_CLAIM, ref.scope, ref.key, arguments)
            ended = pop_ended(reply, _FINISHED_REPLY)
            await self._index_entries.remove(ref.scope, ref.key, ended, self._until)
        else:
            reply, shortfall = await self._write_indexed(END_CLAIM, encoded, arguments)
        if how is EndingMode.SAVE:
            await self._extend(ref, reply[4:])
        return written_outcome(ref.key, reply[:5], shortfall)

    @override
    async def release(self, ref: ClaimRef, attempt: str) -> WaitOutcome:
        arguments = release_claim_arguments(ref.fence, attempt, self._channel(ref))
        # If it is lost with its server, the lease ends at its time.
        reply = await self._run(
            RELEASE_CLAIM, ref.scope, ref.key, arguments, ends=attempt, skips_acks=True
        )
        await self._extend(ref, reply[4:])
        return written_outcome(ref.key, reply[:4])

    @override
    async def supersede(self, scope: str, key: SessionKey, scope_hash: str, since_us: int) -> None:
        # If it is lost with its server, a reader that finds the session supersedes it.
        arguments = supersede_arguments(scope_hash, since_us)
        await self._run(SUPERSEDE, scope, key, arguments, skips_acks=True)

    @override
    async def events_of(self, scope: str, keys: Sequence[SessionKey]) -> Sequence[SeenEvent]:
        records = (self._names.record(scope, key) for key in keys)
        try:
            replies: list[Reply] = await self._client.read_each(
                [("ZRANGE", self._names.events(name), 0, -1, "WITHSCORES") for name in records],
                until=self._until,
            )
        except ForeignValueError as error:
            raise wrong_type(keys[error.index]) from None
        with parsing_read_reply():
            return [event for reply in replies for event in seen_events(reply)]

    @override
    async def clear(self, scope: str, key: SessionKey, owner: str, scope_hash: str) -> WaitOutcome:
        arguments = clear_arguments(owner, scope_hash, self._grace_ms)
        reply, shortfall = await self._write(CLEAR, scope, key, arguments)
        ended = pop_ended(reply, _CLEARED_REPLY)
        await self._index_entries.remove(scope, key, ended, self._until)
        return written_outcome(key, reply, shortfall)

    @property
    @override
    def confirms(self) -> bool:
        return self._client.confirms

    @override
    async def confirm(self, wait_owner: WaitOwner, keys: Sequence[SessionKey]) -> None:
        if not self._client.confirms:
            return
        index = self._index(wait_owner)
        places: list[tuple[str, ...]] = [(index, self._names.events(index))]
        if self._client.confirms_apart:
            places += [self._record_names(wait_owner.scope, key) for key in keys]
        try:
            for names in places:
                await self._client.run(TOUCH_FOR_WAIT, names, (), until=self._until)
        except UnconfirmedError as error:
            raise error.plain() from None

    @override
    async def read_status(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> Sequence[WaitStatus | None]:
        try:
            replies: list[Reply] = await self._client.read_each(
                [("HMGET", self._names.record(scope, key), *_STATUS_FIELDS) for key in keys],
                until=self._until,
            )
        except ForeignValueError as error:
            raise wrong_type(keys[error.index]) from None
        return [status_of(key, reply) for key, reply in zip(keys, replies, strict=True)]

    # --- shared steps ------------------------------------------------------------------------

    async def _run(
        self,
        script: Script,
        scope: str,
        key: str,
        arguments: Arguments,
        *,
        indexes: tuple[str, ...] = (),
        skips_acks: bool = False,
        grants: str = "",
        ends: str = "",
    ) -> Reply:
        names: tuple[str, ...] = (*self._record_names(scope, key), *indexes)
        if script is CLAIM:
            names = (*names, f"{names[0]}:fence")
        try:
            return await self._client.run(
                script,
                names,
                (scope, *arguments),
                until=self._until,
                skips_acks=skips_acks,
                grants=grants,
                ends=ends,
            )
        except ForeignValueError:
            raise wrong_type(key) from None

    async def _write(
        self, script: Script, scope: str, key: str, arguments: Arguments
    ) -> tuple[Reply, tuple[int, int] | None]:
        """Run a script, and return its reply with :attr:`Outcome.shortfall`."""
        try:
            return await self._run(script, scope, key, arguments), None
        except UnconfirmedError as error:
            return error.reply, error.shortfall

    async def _write_indexed(
        self, script: Script, encoded: EncodedSession, arguments: Arguments
    ) -> tuple[Reply, tuple[int, int] | None]:
        """Run a script that writes a session with its index entries, as :meth:`_write`."""
        scope, key = encoded.scope, encoded.key

        async def attempt(indexes: tuple[str, ...], held: Held) -> Reply:
            given = with_schema_version((*arguments[:-2], held, arguments[-1]), encoded)
            return await self._run(script, scope, key, given, indexes=indexes)

        try:
            reply = await self._index_entries.write(
                attempt, scope, key, encoded.owner, encoded.labels, until=self._until
            )
        except UnconfirmedError as error:
            return error.reply, error.shortfall
        return reply, None

    def _record_names(self, scope: str, key: str) -> tuple[str, str, str]:
        record = self._names.record(scope, key)
        return record, self._names.lookup(key), self._names.events(record)
