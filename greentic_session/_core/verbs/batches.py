"""The verbs that write or remove several sessions, each in a step of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final

from ..._validation import check_key, require_sequence
from ...abc.records import DONE, Outcome, Verdict, error_for
from ...errors import SessionError
from ...model import C, Cas
from .. import tenancy
from .base import VerbBase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ...abc.records import AllowedOwners, EncodedSession
    from ...model import Session, SessionKey, TenantCtx

__all__ = ["BatchVerbs"]

_P = TypeVar("_P")
_T = TypeVar("_T")

_MAX_STEPS: Final = 1024
_MAX_BYTES: Final = 1 << 20
"""Limits on the steps that run concurrently, the same as those of reads of several sessions."""


class BatchVerbs(VerbBase[C]):
    """Writes and removes several sessions."""

    @final
    async def put_many(self, sessions: Sequence[Session[C]]) -> list[Cas | SessionError]:
        """Create or replace several sessions, each as :meth:`put` does.

        Each session is an atomic step of its own, so some may be written and others not. Up to 1024
        sessions of about 1 MiB take one round trip to each server, within one deadline. More take
        further round trips. The order of the steps is undefined.

        :param sessions: the new states.
        :returns: in the order of ``sessions``, the new token of each one. If a session was not
            written, the error that :meth:`put` raises takes its place.
        """
        self._check_open()
        require_sequence(sessions, "sessions")
        found: list[Cas | SessionError] = []
        while len(found) < len(sessions):
            until = self._deadline()
            some: list[EncodedSession | SessionError] = []
            size = 0
            for session in sessions[len(found) : len(found) + _MAX_STEPS]:
                encoded = await self._encoded(session, until)
                some.append(encoded)
                size += 0 if isinstance(encoded, SessionError) else len(encoded.body)
                if size > _MAX_BYTES:
                    break
            found += await self._run_valid(some, partial(self._put_step, until))
        return found

    async def _encoded(
        self, session: Session[C], until: float | None
    ) -> EncodedSession | SessionError:
        try:
            if self._holds_writes:
                self._check_open()
                await self._pass_gate(session, until)
            return self._encoder.encode(session)
        except SessionError as error:
            return error.with_traceback(None)

    async def _put_step(self, until: float | None, encoded: EncodedSession) -> Cas:
        self._check_open()
        outcome = (
            self._put(encoded, None) if until is None else self._put(encoded, None, until=until)
        )
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        return self._token(encoded.key, outcome)

    @final
    async def delete_many(
        self, keys: Sequence[SessionKey], *, ctx: TenantCtx
    ) -> list[bool | SessionError]:
        """Remove several sessions of one tenant, each as :meth:`delete` does.

        Each session is an atomic step of its own, so some may be removed and others not. Up to 1024
        keys take one round trip to each server, within one deadline. More take further round trips.

        :param keys: the keys. One that repeats is removed once.
        :param ctx: the caller.
        :returns: in the order of ``keys``, whether each session was removed. If the call could not
            remove it, the error that :meth:`delete` raises takes its place.
        """
        self._check_open()
        require_sequence(keys, "keys")
        scope, allowed = tenancy.allowed_owners_of(ctx)
        found: list[bool | SessionError] = []
        while len(found) < len(keys):
            until = self._deadline()
            some = [_checked(key) for key in keys[len(found) : len(found) + _MAX_STEPS]]
            found += await self._run_valid(some, partial(self._delete_step, scope, allowed, until))
        return found

    async def _delete_step(
        self, scope: str, allowed: AllowedOwners, until: float | None, key: SessionKey
    ) -> bool:
        self._check_open()
        outcome = await self._delete(scope, key, allowed, None, until)
        if outcome.verdict is not DONE and outcome.verdict is not Verdict.ABSENT:
            raise error_for(key, outcome)
        return outcome.verdict is DONE

    async def _run_valid(
        self, items: Sequence[_P | SessionError], step: Callable[[_P], Awaitable[_T]]
    ) -> list[_T | SessionError]:
        """Run a step for each item that is not an error, and keep the errors in their places."""
        valid = [one for one in items if not isinstance(one, SessionError)]
        results = iter(await self._run_each([partial(step, one) for one in valid]))
        return [one if isinstance(one, SessionError) else next(results) for one in items]


def _checked(key: SessionKey) -> SessionKey | SessionError:
    try:
        return check_key(key)
    except SessionError as error:
        return error.with_traceback(None)
