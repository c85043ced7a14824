"""The steps of waits on the index of a user, which is in another slot than the records."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

from .._compat import override
from ..abc.waits import (
    EventMemory,
    IndexChange,
    IndexEntries,
    IndexEntry,
    IndexIntent,
    IndexRemoval,
    IndexUpsert,
    WaitCall,
    WaitOwner,
)
from ..errors import OutcomeUnknownError, StoreUnavailableError
from ..model import SessionKey
from .replies import (
    parsing_read_reply,
    parsing_write_reply,
    wrong_type_of,
)
from .scripts.waits import (
    INDEX_INTENT,
    UPDATE_INDEX,
    index_intent_arguments,
    update_index_arguments,
)
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError
from .wait_replies import index_entries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Arguments, Reply
    from .transport.script import Script

__all__ = ["WaitIndexSteps"]

_NO_EVENTS: Final = EventMemory(1, 1)
"""For a change of an index without events. No event is trimmed then."""
_NO_UPSERT: Final = IndexUpsert("", SessionKey(""), 0, 0)


class WaitIndexSteps(WaitCall):
    """Reads and updates indexes of waits, each step one script or one read.

    :param client: of the store.
    :param names: of the store.
    :param grace_ms: longer than any call may be under way, in milliseconds.
    :param until: the deadline of the call.
    """

    def __init__(self, client: RedisClient, names: KeyNames, grace_ms: int, until: float) -> None:
        self._client: Final = client
        self._names: Final = names
        self._grace_ms: Final = grace_ms
        self._until: Final = until

    async def extend_index(
        self, scope: str, key: SessionKey, parts: Sequence[bytes], *, gone: bool
    ) -> None:
        """Update the index after a plain write to a session that waits.

        The write is done and stays done. If the update fails, the next reader repairs the index.

        :param parts: of the script's reply, after the token.
        :param gone: whether the session was deleted. If not, its lifetime may have changed.
        """
        with suppress(ValueError):  # fields of another writer name no index
            scope_hash, owner, number = (part.decode() for part in parts)
            if gone:
                change = IndexChange(removals=(IndexRemoval(scope_hash, key, int(number)),))
            else:
                change = IndexChange(upsert=IndexUpsert(scope_hash, key, 0, int(number)))
            await self._repair(WaitOwner(scope, owner), change)

    async def _repair(self, wait_owner: WaitOwner, change: IndexChange) -> None:
        with suppress(StoreUnavailableError, OutcomeUnknownError):
            await self.update_index(wait_owner, change, _NO_EVENTS)

    @override
    async def entries(
        self, wait_owner: WaitOwner, scope_hash: str, event: str, events: EventMemory
    ) -> IndexEntries:
        """As :meth:`WaitCall.entries`."""
        index = self._index(wait_owner)
        try:
            lines, seen_at, time = cast(
                "tuple[bytes | None, float | bytes | None, tuple[bytes, bytes]]",
                await self._client.read_many(
                    [
                        ("HGET", index, scope_hash),
                        ("ZSCORE", self._names.events(index), event),
                        ("TIME",),
                    ],
                    key=index,
                    until=self._until,
                ),
            )
        except ForeignValueError:
            raise wrong_type_of("an index of waits") from None
        with parsing_read_reply():
            now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
            seen = seen_at is not None and now_ms < float(seen_at) + events.ttl_ms
            return IndexEntries(index_entries(lines or b""), seen)

    @override
    async def all_entries(self, wait_owner: WaitOwner) -> Sequence[tuple[str, IndexEntry]]:
        """As :meth:`WaitCall.all_entries`."""
        index = self._index(wait_owner)
        try:
            reply: dict[bytes, bytes] | list[bytes] = await self._client.read(
                "HGETALL", index, key=index, until=self._until
            )
        except ForeignValueError:
            raise wrong_type_of("an index of waits") from None
        with parsing_read_reply():
            pairs = (
                reply.items()  # RESP3
                if isinstance(reply, dict)
                else zip(reply[::2], reply[1::2], strict=True)
            )
            return [
                (scope.decode(), entry) for scope, lines in pairs for entry in index_entries(lines)
            ]

    @override
    async def index_intent(
        self, wait_owner: WaitOwner, scope_hash: str, key: SessionKey, ttl_ms: int
    ) -> IndexIntent:
        """As :meth:`WaitCall.index_intent`."""
        reply = await self._run_on_index(
            INDEX_INTENT, wait_owner, index_intent_arguments(scope_hash, key, ttl_ms)
        )
        with parsing_write_reply():
            others = [
                IndexEntry(SessionKey(key.decode()), int(since), 0)
                for since, key in zip(reply[2::2], reply[3::2], strict=True)
            ]
            return IndexIntent(reply[0].decode(), reply[1] == 1, others)

    @override
    async def update_index(
        self, wait_owner: WaitOwner, change: IndexChange, events: EventMemory
    ) -> None:
        """As :meth:`WaitCall.update_index`."""
        upsert = change.upsert or _NO_UPSERT
        arguments = update_index_arguments(
            event_limit=events.most,
            event_ttl_ms=events.ttl_ms,
            scope_hash=upsert.scope_hash,
            key=upsert.key,
            since_us=upsert.since_us,
            expires_ms=upsert.expires_ms,
            intent=upsert.intent_id,
            removals=change.removals,
            events=change.events,
        )
        # On one server, the index intent is confirmed: WAIT for the record covers what the server
        # wrote before. In a cluster, the replicas of the index are others.
        confirms = change.confirms and self._client.confirms_apart
        try:
            await self._run_on_index(UPDATE_INDEX, wait_owner, arguments, skips_acks=not confirms)
        except UnconfirmedError as error:
            raise error.plain() from None

    def _index(self, wait_owner: WaitOwner) -> str:
        env, tenant_id = wait_owner.scope.split("/")
        team_id, user_id = wait_owner.owner.split("/", 1)
        return self._names.wait_index(env, tenant_id, team_id, user_id)

    async def _run_on_index(
        self,
        script: Script,
        wait_owner: WaitOwner,
        arguments: Arguments,
        *,
        skips_acks: bool = True,
    ) -> Reply:
        index = self._index(wait_owner)
        names = index, self._names.events(index)
        try:
            parts = (self._grace_ms, *arguments)
            return await self._client.run(
                script, names, parts, until=self._until, skips_acks=skips_acks
            )
        except ForeignValueError:
            raise wrong_type_of("an index of waits") from None
