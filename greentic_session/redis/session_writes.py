"""The runner of the scripts that write or remove a session."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

from .._core.labels import NOT_COMPARED, kept_labels
from ..abc.records import Outcome, Verdict
from ..errors import StoreUnavailableError
from ..model import SessionKey
from .entries import MAX_ATTEMPTS, is_unindexed
from .replies import outcome_of, parsing_write_reply, wrong_type
from .scripts.sessions import DELETE, PUT, PUT_FENCED, REPLACE
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from ..abc.fencing import LeaseRef
    from ..abc.records import EncodedSession
    from ..model import Cas
    from .entries import Held, SessionEntries
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Arguments, Reply
    from .transport.script import Script
    from .waits import RedisWaits

__all__ = ["SessionWrites"]

_TOKEN_REPLY: Final = 4
"""Length of a reply that holds only a token."""
_ENDED_REPLIES: Final = (5, 8)
"""Lengths of a reply that ends with the owner and the labels of an incarnation that ended."""


class _Write(NamedTuple):
    """The script of a write with its arguments, which may run several times.

    :ivar names: of its keys, without the indexes.
    :ivar arguments: the arguments from ARGV 4 on. If the write can create a session, the last two
        are ``held_ms`` and ``new_labels``.
    :ivar schema_version: of the state, 0 for none.
    :ivar until: the deadline.
    """

    script: Script
    scope: str
    key: str
    names: tuple[str, ...]
    arguments: Arguments
    schema_version: int
    until: float


@final
class SessionWrites:
    """Runs the scripts of ``lua/sessions/``, and updates the indexes in other slots.

    :param client: of the store.
    :param names: of the store.
    :param entries: the index entries of the store's sessions.
    :param waits: of the store. A write to a session that waits updates their index.
    """

    def __init__(
        self, client: RedisClient, names: KeyNames, entries: SessionEntries, waits: RedisWaits
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._entries: Final = entries
        self._waits: Final = waits

    def run_indexed(
        self,
        script: Script,
        encoded: EncodedSession,
        arguments: Arguments,
        *,
        until: float | None,
        lease: LeaseRef | None = None,
        hold_ms: int | None = None,
    ) -> Coroutine[Any, Any, Outcome]:  # Any: as of every coroutine function
        """Run the script of a write that may create the session, with its index entries.

        :param hold_ms: as in :meth:`SessionEntries.write`.
        """
        if self._entries.is_cluster:
            return self._run_after_entries(
                script, encoded, arguments, until=until, lease=lease, hold_ms=hold_ms
            )
        scope, key, labels = encoded.scope, encoded.key, encoded.labels
        return self.run(
            script,
            scope,
            key,
            arguments,
            until=until,
            lease=lease,
            schema_version=encoded.schema_version,
            indexes=self._names.index_names(scope, key, encoded.owner, labels),
        )

    async def _run_after_entries(
        self,
        script: Script,
        encoded: EncodedSession,
        arguments: Arguments,
        *,
        until: float | None,
        lease: LeaseRef | None,
        hold_ms: int | None,
    ) -> Outcome:
        scope, key, version = encoded.scope, encoded.key, encoded.schema_version
        until = self._client.deadline() if until is None else until
        names = self._keys(script, scope, key, lease)
        write = _Write(script, scope, key, names, arguments, version, until)
        try:
            reply = await self._entries.write(
                partial(self._attempt, write),
                scope,
                key,
                encoded.owner,
                encoded.labels,
                until=until,
                hold_ms=hold_ms,
            )
        except UnconfirmedError as error:
            await self._update_indexes(script, scope, key, error.reply, until)
            raise error.plain() from None
        outcome = outcome_of(key, reply)
        await self._update_indexes(script, scope, key, reply, until)
        return outcome

    async def run(
        self,
        script: Script,
        scope: str,
        key: str,
        arguments: Arguments,
        *,
        until: float | None = None,
        expected: Cas | None = None,
        lease: LeaseRef | None = None,
        schema_version: int = 0,
        indexes: tuple[str, ...] = (),
    ) -> Outcome:
        """Run the script of a write.

        :param arguments: the arguments from ARGV 4 on.
        :param until: as in :meth:`.RedisClient.run`. ``None`` starts a deadline.
        :param expected: the token that an ``update_cas`` expects.
        :param lease: the lease that guards the write.
        :param schema_version: version of the state, 0 for none.
        :param indexes: names of the indexes that the script writes. Without them, a session that
            lacks entries costs a second run.
        """
        until = self._client.deadline() if until is None else until
        names = self._names.session_keys(scope, key)
        if lease is not None or script is DELETE or script is REPLACE:
            names = self._keys(script, scope, key, lease)
        given = (scope, *arguments, schema_version) if schema_version else (scope, *arguments)
        try:
            # Most writes end here, so they need no further coroutine.
            reply = await self._client.run(script, names + indexes, given, until=until)
            if type(reply) is not int and is_unindexed(reply):
                write = _Write(script, scope, key, names, arguments, schema_version, until)
                reply = await self._run_with_entries(write, reply)
        except ForeignValueError:
            raise wrong_type(key) from None
        except UnconfirmedError as error:
            if type(error.reply) is not int:
                await self._update_indexes(script, scope, key, error.reply, until)
            raise error.plain() from None
        if expected is not None and type(reply) is int:  # only the time of the write
            return Outcome(Verdict.DONE, expected.value + 1, expected.incarnation, reply)
        outcome = outcome_of(key, reply)
        if not isinstance(reply, int) and len(reply) > _TOKEN_REPLY:
            await self._update_indexes(script, scope, key, reply, until)
        return outcome

    async def _run_with_entries(self, write: _Write, refusal: Reply) -> Reply:
        """Run a script again that wrote nothing, because the session lacks index entries."""
        scope, key, until, given = write.scope, write.key, write.until, str(write.arguments[-1])
        keeps = given == NOT_COMPARED
        for _ in range(MAX_ATTEMPTS):
            with parsing_write_reply():
                hold_ms, owner, stored = int(refusal[1]), refusal[2].decode(), refusal[3].decode()
                had_no_end = hold_ms > 0 and refusal[4] == b"0"
            labels = stored if keeps else given
            named = kept_labels(owner, stored) if keeps else given
            reply = await self._entries.write(
                partial(self._attempt, write._replace(arguments=(*write.arguments[:-1], named))),
                scope,
                key,
                owner,
                labels,
                until=until,
                hold_ms=hold_ms,
                had_no_end=had_no_end,
                keeps=keeps,
            )
            if not is_unindexed(reply):
                if labels != stored:
                    await self._entries.remove(scope, key, f"{owner}\n{stored}".encode(), until)
                return reply
            refusal = reply  # another writer has changed the owner or the labels since
        raise StoreUnavailableError("the session changes faster than its index", code="internal")

    async def _attempt(self, write: _Write, indexes: tuple[str, ...], held_ms: Held) -> Reply:
        script, scope, key, names, arguments, schema_version, until = write
        if held_ms != "":
            arguments = (*arguments[:-2], held_ms, arguments[-1])
        given = (scope, *arguments, schema_version) if schema_version else (scope, *arguments)
        try:
            return await self._client.run(script, names + indexes, given, until=until)
        except ForeignValueError:
            raise wrong_type(key) from None

    def _keys(
        self, script: Script, scope: str, key: str, lease: LeaseRef | None
    ) -> tuple[str, ...]:
        names = self._names.session_keys(scope, key)
        if script is DELETE or script is REPLACE:
            return (*names, self._names.events(names[0]))
        return names if lease is None else (*names, self._names.lease(lease))

    async def _update_indexes(
        self, script: Script, scope: str, key: str, reply: Reply, until: float
    ) -> None:
        """Update the indexes in other slots, as the reply of a write that is done tells."""
        is_gone = script is DELETE or script is REPLACE
        may_leave_entries = is_gone or script is PUT or script is PUT_FENCED
        if may_leave_entries and len(reply) in _ENDED_REPLIES:
            await self._entries.remove(scope, key, reply.pop(), until, is_replaced=not is_gone)
        if len(reply) > _TOKEN_REPLY:  # the session waits
            call = self._waits.call(until)
            await call.extend_index(scope, SessionKey(key), reply[_TOKEN_REPLY:], gone=is_gone)
