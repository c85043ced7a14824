"""The verbs that read a session, and write what a caller's function makes of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast, final

from ..._validation import check_key
from ...abc.records import Outcome, Record, Verdict
from ...errors import InvalidInputError, SessionNotFoundError
from ...model import C
from .. import tenancy
from ..encoding import apply_change, as_versioned
from ..key_queues import Conflict
from .base import VerbBase

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model import Session, SessionKey, TenantCtx, Versioned

__all__ = ["MutatingVerbs"]


class MutatingVerbs(VerbBase[C]):
    """Changes sessions with functions of the caller, and retries on conflict."""

    @final
    async def mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C]],
        *,
        ctx: TenantCtx | None = None,
        attempts: int = 1000,
    ) -> Versioned[C]:
        """Read the session, change it and write it back. Retry on conflict.

        Callers of one store with a conflict on the same session queue up, first in first out. One
        deadline covers the time in the queue and all attempts.

        :param key: the session's key.
        :param change: function that returns the new state. It runs once per attempt, so it must not
            have side effects.
        :param ctx: the caller, as in :meth:`get`.
        :param attempts: limit on the attempts. A jittered pause of up to 16 ms precedes each retry.
            The time in the queue does not count as an attempt.
        :returns: the written session and its token, as a read would return them.
        :raises SessionNotFoundError: absent or expired.
        :raises CasConflictError: each attempt, up to ``attempts`` or the deadline, had a conflict.
        :raises StoreUnavailableError: also if the call was still queued at the deadline.
        :raises TenantMismatchError: as :meth:`get`, or if ``change`` changed the owner.
        """
        self.check_open()
        key = check_key(key)
        if not callable(cast("object", change)):
            raise InvalidInputError("change", f"expected a function, got {type(change).__name__}")
        if type(attempts) is not int or attempts < 1:
            raise InvalidInputError("attempts", "expected an int of at least 1")
        until = self._deadline()
        scope = tenancy.allowed_owners_of(ctx)[0] if ctx is not None and self._queues else None
        if scope is None or (scope, key) not in self._queues:
            found = await self._try_mutate(key, change, ctx, until)
            if not isinstance(found, Conflict):
                return found
            attempts -= 1
            if not attempts or self._secs_left(until) <= 0:
                raise found.error(key)
            scope = found.scope
        return await self._queues.attempt_in_turn(
            scope,
            key,
            partial(self._try_mutate, key, change, ctx, until),
            attempts,
            partial(self._secs_left, until),
        )

    async def _try_mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C]],
        ctx: TenantCtx | None,
        until: float | None,
    ) -> Versioned[C] | Conflict:
        """Read the session, change it and write it back, once."""
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        record = None if scope is None else self._read(scope, key, until)
        if record is not None and not isinstance(record, Record):
            record = await record
        if scope is None or record is None:
            raise SessionNotFoundError(key)
        found = self._opened(key, record, allowed)
        # The body is decoded first, because a session that cannot be read must not be written.
        changed = apply_change(found.session, change)
        if self._holds_writes:
            await self._pass_gate(changed, until)
        encoded, body = self.encoder.encode_with_body(changed)
        outcome = self._update_cas(encoded, found.cas, until, None)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is Verdict.CONFLICT:
            return Conflict(scope, found.cas, outcome.token)
        cas = self._token(key, outcome)
        return as_versioned(key, body, cas, encoded.ttl_ms, outcome.at_ms)
