"""The verbs that write what a caller's function returns, for an existing or a new session."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast, final

from ..._validation import check_key
from ...abc.records import Outcome, Record, Verdict
from ...errors import InvalidInputError, SessionNotFoundError
from ...model import C, Cas
from .. import tenancy
from ..encoding import as_versioned
from ..functions import changed_session, made_session, require_plain
from ..key_queues import Conflict
from .base import VerbBase

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...abc.records import AllowedOwners
    from ...model import Session, SessionKey, TenantCtx, Versioned

__all__ = ["MutatingVerbs", "N"]

N = TypeVar("N", bound=None)
"""``None`` if the change may return it. Otherwise type checkers leave it out of a result."""


class MutatingVerbs(VerbBase[C]):
    """Changes or creates sessions with functions of the caller, and retries on conflict."""

    @final
    async def get_or_create(
        self,
        key: SessionKey,
        make: Callable[[], Session[C]],
        *,
        ctx: TenantCtx | None = None,
    ) -> Versioned[C]:
        """Return the live session, or create it. Of any number of racers, exactly one creates it.

        :param key: the session's key.
        :param make: plain function that returns the new session. It runs at most once, and only if
            the session is absent.
        :param ctx: the caller, as in :meth:`get`. Without a caller, a session of any tenant is
            returned, and racers of several tenants create one session each.
        :returns: the session and its token, as a read would return them. If this call created the
            session, the token has value 1.
        :raises TenantMismatchError: as :meth:`get`, or ``ctx`` may not write the new session.
        :raises InvalidInputError: naming ``make``, also if it returned a session under another key.
        :raises PayloadTooLargeError: over the store's limit.
        :raises SessionExistsError: other callers created and removed it until the deadline.
        """
        self._check_open()
        key = check_key(key)
        require_plain(make, "make")
        until = self._deadline()
        made: Session[C] | None = None
        while True:
            _, allowed, record = await self._find(key, ctx, until)
            if record is not None:
                return self._opened(key, record, allowed)
            if made is None:
                made = made_session(key, make, ctx, "make")
            found = await self._try_create(made, until)
            if not isinstance(found, Conflict):
                return found
            if self._secs_left(until) <= 0:
                raise found.error(key)

    @final
    async def mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C] | N],
        *,
        default: Callable[[], Session[C]] | None = None,
        ctx: TenantCtx | None = None,
        attempts: int = 1000,
    ) -> Versioned[C] | N:
        """Read the session, change it and write it back. Retry on conflict.

        Callers of one store with a conflict on the same session queue up, first in first out. One
        deadline covers the time in the queue and all attempts.

        :param key: the session's key.
        :param change: function that returns the new state, or ``None`` to delete the session. It
            runs once per attempt, so it must not have side effects.
        :param default: plain function that returns the session to start from if it is absent. It
            may run once per attempt, as ``change``.
        :param ctx: the caller, as in :meth:`get`.
        :param attempts: limit on the attempts. A jittered pause of up to 16 ms precedes each retry.
            The time in the queue does not count as an attempt.
        :returns: the written session and its token, as a read would return them. ``None`` if
            ``change`` returned ``None``: the session is deleted, or was absent and not created.
        :raises SessionNotFoundError: absent or expired, and there is no ``default``.
        :raises CasConflictError: each attempt, up to ``attempts`` or the deadline, had a conflict.
        :raises SessionExistsError: the same, if the last attempt was to create the session.
        :raises StoreUnavailableError: also if the call was still queued at the deadline.
        :raises TenantMismatchError: as :meth:`get`, or if ``change`` changed the owner, or ``ctx``
            may not write what ``default`` returned.
        """
        self._check_open()
        key = check_key(key)
        if not callable(cast("object", change)):
            raise InvalidInputError("change", f"expected a function, got {type(change).__name__}")
        if default is not None:
            require_plain(default, "default")
        if type(attempts) is not int or attempts < 1:
            raise InvalidInputError("attempts", "expected an int of at least 1")
        until = self._deadline()
        attempt = partial(self._try_mutate, key, change, default, ctx, until)
        scope = tenancy.allowed_owners_of(ctx)[0] if ctx is not None and self._queues else None
        if scope is None or (scope, key) not in self._queues:
            found = await attempt()
            if not isinstance(found, Conflict):
                return cast("Versioned[C] | N", found)
            attempts -= 1
            if not attempts or self._secs_left(until) <= 0:
                raise found.error(key)
            scope = found.scope
        changed = await self._queues.attempt_in_turn(
            scope, key, attempt, attempts, partial(self._secs_left, until)
        )
        return cast("Versioned[C] | N", changed)

    async def _try_mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C] | None],
        default: Callable[[], Session[C]] | None,
        ctx: TenantCtx | None,
        until: float | None,
    ) -> Versioned[C] | Conflict | None:
        """Read the session, change it and write it back, once."""
        scope, allowed, record = await self._find(key, ctx, until)
        if scope is None or record is None:
            if default is None:
                raise SessionNotFoundError(key)
            made = changed_session(made_session(key, default, ctx, "default"), change)
            return None if made is None else await self._try_create(made, until)
        found = self._opened(key, record, allowed)
        # The body is decoded first, because a session that cannot be read must not be written.
        changed = changed_session(found.session, change)
        if changed is None:
            return await self._try_delete(scope, key, record, found.cas, until)
        if self._holds_writes:
            await self._pass_gate(changed, until)
        encoded, body = self._encoder.encode_with_body(changed)
        outcome = self._update_cas(encoded, found.cas, until, None)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is Verdict.CONFLICT:
            return Conflict(scope, found.cas, outcome.token)
        cas = self._token(key, outcome)
        return as_versioned(key, body, cas, encoded.ttl_ms, outcome.at_ms, unknown=changed.unknown)

    async def _find(
        self, key: SessionKey, ctx: TenantCtx | None, until: float | None
    ) -> tuple[str | None, AllowedOwners | None, Record | None]:
        """Return the caller's scope and allowed owners, and the live record."""
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        record = None if scope is None else self._read(scope, key, until)
        if record is not None and not isinstance(record, Record):
            record = await record
        return scope, allowed, record

    async def _try_create(self, made: Session[C], until: float | None) -> Versioned[C] | Conflict:
        """Create a session, and return it as a read would."""
        if self._holds_writes:
            await self._pass_gate(made, until)
        encoded, body = self._encoder.encode_with_body(made)
        outcome = await (
            self._create(encoded) if until is None else self._create(encoded, until=until)
        )
        if outcome.verdict is Verdict.EXISTS:
            return Conflict(encoded.scope, Cas.none(), outcome.token)
        cas = self._token(encoded.key, outcome)
        return as_versioned(
            made.key, body, cas, encoded.ttl_ms, outcome.at_ms, unknown=made.unknown
        )

    async def _try_delete(
        self, scope: str, key: SessionKey, record: Record, cas: Cas, until: float | None
    ) -> Conflict | None:
        """Delete a session with the token that was read."""
        # The owner of the record that was read, so that without a caller the step needs no lookup.
        owners = tenancy.owners_open_to(record.owner)
        outcome = await self._delete(scope, key, owners, cas, until)
        if outcome.verdict in (Verdict.CONFLICT, Verdict.ABSENT):
            return Conflict(scope, cas, outcome.token)
        self._token(key, outcome)
        return None
