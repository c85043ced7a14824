"""The verbs that write or remove a session in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from ..._validation import check_key, ttl_to_ms
from ...abc.fencing import UNFENCED
from ...abc.records import DONE, Outcome, Verdict, error_for
from ...errors import CasConflictError, InvalidInputError, SessionExistsError
from ...model import C, Cas
from .. import tenancy
from ..encoding import check_token, with_ttl
from .base import VerbBase

if TYPE_CHECKING:
    from datetime import timedelta

    from ...abc.fencing import Fenced
    from ...model import Session, SessionKey, TenantCtx

__all__ = ["WritingVerbs"]


class WritingVerbs(VerbBase[C]):
    """Writes, touches and removes sessions."""

    @final
    async def create(self, session: Session[C]) -> Cas:
        """Store a new session.

        :returns: its token, with value 1.
        :raises SessionExistsError: a live session of the same owner has the key.
        :raises TenantMismatchError: a live session of another team or user has the key.
        :raises PayloadTooLargeError: over the store's limit.
        """
        until = await self._enter_write(session) if self._holds_writes else None
        encoded = self._encoder.encode(session)
        outcome = await (
            self._create(encoded) if until is None else self._create(encoded, until=until)
        )
        if outcome.verdict is Verdict.EXISTS:
            raise SessionExistsError(encoded.key)
        return self._token(encoded.key, outcome)

    @final
    async def put(
        self,
        session: Session[C],
        *,
        fence: Fenced = UNFENCED,
        ttl: timedelta | float | None = None,
    ) -> Cas:
        """Create a session, or replace the live one regardless of its token.

        :param session: the new state.
        :param fence: a lease of this key. The session is written only while the lease is held.
            ``None`` is refused, because it is not a lease.
        :param ttl: the lifetime to store instead of the session's ``ttl_secs``, in seconds or as a
            ``timedelta``. ``0`` never expires.
        :returns: the new token. If the session was absent or expired, a token of a new incarnation.
        :raises LeaseLostError: the lease has ended, whether or not there is a newer one.
        :raises TenantMismatchError: the live session has another team or user.
        :raises PayloadTooLargeError: over the store's limit.
        """
        until = await self._enter_write(session) if self._holds_writes else None
        encoded = self._encoder.encode(session)
        if ttl is not None:
            encoded = with_ttl(encoded, ttl)
        lease = None if fence is UNFENCED else self._lease(fence, encoded)
        outcome = (
            self._put(encoded, lease) if until is None else self._put(encoded, lease, until=until)
        )
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        raise error_for(encoded.key, outcome)

    @final
    async def update_cas(
        self,
        session: Session[C],
        expected: Cas,
        *,
        fence: Fenced = UNFENCED,
        ttl: timedelta | float | None = None,
    ) -> Cas:
        """Replace the session if its token is the expected one. This never creates a session.

        :param session: the new state.
        :param expected: the token that the last read or write returned.
        :param fence: a lease of this key. The session is written only while the lease is held.
            ``None`` is refused, because it is not a lease.
        :param ttl: the lifetime to store instead of the session's ``ttl_secs``, in seconds or as a
            ``timedelta``. ``0`` never expires.
        :returns: the new token.
        :raises LeaseLostError: the lease has ended, whether or not there is a newer one.
        :raises CasConflictError: another token is stored, or ``Cas.none()`` because the session is
            absent or expired.
        :raises TenantMismatchError: the live session has another team or user.
        :raises PayloadTooLargeError: over the store's limit.
        """
        until = await self._enter_write(session) if self._holds_writes else None
        check_token(expected)
        encoded = self._encoder.encode(session)
        if ttl is not None:
            encoded = with_ttl(encoded, ttl)
        lease = None if fence is UNFENCED else self._lease(fence, encoded)
        outcome = self._update_cas(encoded, expected, until, lease)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        if outcome.verdict is Verdict.CONFLICT:
            raise CasConflictError(encoded.key, expected, outcome.token)
        raise error_for(encoded.key, outcome)

    @final
    async def replace_incarnation(self, session: Session[C], expected: Cas) -> Cas:
        """End the live session and begin a new one under its key, in one step.

        It is a delete and a create, so the new session has another :attr:`Session.id` and no token
        of the old one fits. The wait, its claim and the completed events of the old one end. A
        claim that ends late gets :class:`LeaseLostError`. Messages, locks and placements belong to
        the key. They stay.

        :param session: the new session. Env, tenant and team are the stored ones. The user may
            differ, and no other verb allows that. The outbox is the given one.
        :param expected: token that must be stored.
        :returns: the token of the new session, with value 1.
        :raises CasConflictError: another token is stored, or ``Cas.none()`` because the session is
            absent or expired.
        :raises TenantMismatchError: the live session has another team.
        :raises PayloadTooLargeError: over the store's limit.
        """
        until = await self._enter_write(session) if self._holds_writes else None
        check_token(expected)
        encoded = self._encoder.encode(session)
        outcome = await self._replace(encoded, expected, until=until)
        if outcome.verdict is Verdict.CONFLICT:
            current = outcome.token
            raise CasConflictError(encoded.key, expected, current)
        return self._token(encoded.key, outcome)

    @final
    async def touch(
        self,
        key: SessionKey,
        ttl_secs: timedelta | float | None = None,
        *,
        ctx: TenantCtx | None = None,
        ttl: timedelta | float | None = None,
    ) -> bool:
        """Restart the session's lifetime. Token and payload stay the same.

        :param key: the session's key.
        :param ttl_secs: the new lifetime, in seconds or as a :class:`datetime.timedelta`. ``0``
            makes the session permanent. ``None`` keeps the stored lifetime. A later write stores
            the lifetime of the session that it writes.
        :param ctx: the caller, as in :meth:`get`.
        :param ttl: another name of ``ttl_secs``, as in :meth:`put`. Only one of them may be given.
        :returns: ``False`` if absent or expired.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: several tenants have the key, and there is no ``ctx``.
        """
        if self._closed:
            self._check_open()
        key = check_key(key)
        ttl_ms = None if ttl_secs is None else ttl_to_ms(ttl_secs)
        if ttl is not None:
            if ttl_ms is not None:
                raise InvalidInputError("ttl", "is given twice: expected ttl or ttl_secs")
            ttl_ms = ttl_to_ms(ttl, "ttl")
        until = self._deadline()
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        if scope is None:
            return False
        outcome = self._touch(scope, key, ttl_ms, allowed, until)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is not DONE and outcome.verdict is not Verdict.ABSENT:
            raise error_for(key, outcome)
        return outcome.verdict is DONE

    @final
    async def delete(
        self, key: SessionKey, *, ctx: TenantCtx | None = None, expected: Cas | None = None
    ) -> bool:
        """Remove the session, its wait and its completed events.

        Messages, locks and placements belong to the key. They stay.

        :param key: the session's key.
        :param ctx: the caller, as in :meth:`get`.
        :param expected: token that must be stored. ``None`` removes the session regardless of its
            token.
        :returns: ``False`` if absent or expired, also with ``expected``.
        :raises CasConflictError: a live session has another token.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: several tenants have the key, and there is no ``ctx``.
        :raises DecodeError: a field of the stored record cannot be read. With ``ctx``, the record
            is removed if its owner can be read and passes the access check.
        """
        self._check_open()
        key = check_key(key)
        if expected is not None:
            check_token(expected)
        until = self._deadline()
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        if scope is None:
            return False
        outcome = await self._delete(scope, key, allowed, expected, until)
        if outcome.verdict is Verdict.ABSENT:
            return False
        if outcome.verdict is Verdict.CONFLICT and expected is not None:
            raise CasConflictError(key, expected, outcome.token)
        self._token(key, outcome)
        return True
