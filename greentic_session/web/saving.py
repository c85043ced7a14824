"""The save points of a web session: creation, change, merge, and the upkeep of the token."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from ..abc.fencing import UNFENCED
from ..errors import (
    CasConflictError,
    SessionConflictError,
    SessionEndedError,
    SessionError,
    SessionNotFoundError,
    TenantMismatchError,
)
from ..model import C, Session, Versioned
from .stamp import Stamp, new_stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model import Cas
    from .bound import BoundSession
    from .tokens import Token

__all__ = ["commit", "create", "mutate", "refresh", "save"]

_ROUNDS: Final = 8
"""Attempts to write a merged state, before the conflict counts as lost."""
_MUTATIONS: Final = 1000
"""Attempts of a mutation. Its function is applied to each state, so it has no conflict to lose."""


async def commit(bound: BoundSession[C]) -> None:
    """Save what the request changed, before the head of its response is sent.

    A request that changed nothing extends the lifetime, and renews the token, if that is due.

    :raises SessionConflictError: a parallel request changed the same plain field.
    """
    if bound.is_over:
        return
    if bound.is_changed:
        with suppress(SessionEndedError):
            await _save_changed(bound)
    elif bound.record is not None:
        await _keep_up(bound, bound.record)


async def save(bound: BoundSession[C]) -> None:
    """Save the state if it changed.

    :raises SessionEndedError: the session has ended.
    :raises SessionConflictError: as :func:`commit`.
    """
    if bound.is_over:
        raise SessionEndedError
    if bound.is_changed:
        await _save_changed(bound)


async def _save_changed(bound: BoundSession[C]) -> None:
    if bound.record is None:
        await create(bound)
        return
    session, base = bound.record.session, bound.base
    mine = bound.state
    now_ms = await bound.sessions.clock.now_ms()
    if await _write_once(bound, bound.record, now_ms):
        bound.sessions.counters.add("writes")
        return

    def merged(theirs: Session[C]) -> C:
        before = bound.sessions.encoder.decode_body(session.key, base or b"").context
        return bound.sessions.merged(before, mine, theirs.context)

    await _write_in_rounds(bound, merged)
    bound.sessions.counters.add("merges")


async def create(
    bound: BoundSession[C], *, user_id: str | None = None, state: C | None = None
) -> None:
    """Create the record, and send its token.

    :param user_id: the user that logs in.
    :param state: the state to begin with. ``None`` is that of the request.
    """
    bound.require_cookie()
    now_ms = await bound.sessions.clock.now_ms()
    policy = bound.sessions.policy
    token = bound.require_token()
    stamp = new_stamp(
        policy, token, now_ms, before=None, name=bound.label, is_login=user_id is not None
    )
    if bound.stamp is not None:  # a CSRF token was already made
        stamp = msgspec.structs.replace(stamp, k=bound.stamp.k)
    begun = bound.state if state is None else state
    session = bound.built(stamp, begun, stamp.end_ms(policy, now_ms), now_ms, user_id=user_id)
    cas = await bound.sessions.store.create(session)
    bound.is_wanted, bound.state = False, begun
    bound.wrote(session, cas, stamp, now_ms)
    bound.sent, bound.clears = token, False
    bound.sessions.counters.add("creates")


async def mutate(bound: BoundSession[C], change: Callable[[C], C]) -> None:
    """Apply a function to the stored state, with the unsaved changes of the request, at once."""
    if bound.is_over:
        raise SessionEndedError
    encoder = bound.sessions.encoder
    if bound.record is None:
        await create(bound, state=change(bound.state))
        return
    key, base = bound.record.session.key, bound.base
    data = bound.encoded()
    is_changed = data is None or data != base

    def changed(theirs: Session[C]) -> C:
        if not is_changed:
            return change(theirs.context)
        # A private copy, because the function may change it, and run again.
        mine = bound.state if data is None else encoder.decode_body(key, data).context
        before = encoder.decode_body(key, base or b"").context
        return change(bound.sessions.merged(before, mine, theirs.context))

    await _write_in_rounds(bound, changed, is_mutation=True)
    bound.sessions.counters.add("writes")


async def refresh(bound: BoundSession[C], *, keeps_changes: bool = False) -> None:
    """Read the stored state again.

    :param keeps_changes: whether to merge unsaved changes into it. Otherwise they are dropped.
    :raises SessionEndedError: the session has ended.
    """
    before = bound.require_record()
    found = await bound.sessions.view(bound.ctx).get(before.session.key)
    stamp = None if found is None else Stamp.of(found.session.meta)
    if found is None or stamp is None or found.cas.incarnation != before.cas.incarnation:
        raise bound.end()
    mine, base, is_changed = bound.state, bound.base, bound.is_changed
    bound.adopt(found, stamp)
    if keeps_changes and is_changed:
        old = bound.sessions.encoder.decode_body(before.session.key, base or b"").context
        bound.state = bound.sessions.merged(old, mine, found.session.context)


async def _write_once(bound: BoundSession[C], record: Versioned[C], now_ms: int) -> bool:
    """Write the state over the record that was read.

    :returns: ``False`` if the record has another version of the same incarnation.
    :raises SessionEndedError: it has another incarnation, or is gone.
    """
    old = bound.stamp
    if old is None:
        raise bound.end()
    stamp, send = bound.refreshed(old, now_ms)
    ends_ms = bound.end_after(stamp, now_ms)
    session = bound.rebuilt(record.session, stamp, bound.state, ends_ms, now_ms)
    try:
        cas = await _update(bound, session, record)
    except CasConflictError as error:
        if error.current.incarnation != record.cas.incarnation:
            raise bound.end() from None
        return False
    except TenantMismatchError:  # a login replaced the incarnation by one of another owner
        raise bound.end() from None
    bound.wrote(session, cas, msgspec.structs.replace(stamp, d=bound.label), now_ms)
    _note_sent(bound, send)
    return True


async def _update(bound: BoundSession[C], session: Session[C], record: Versioned[C]) -> Cas:
    store = bound.sessions.store
    if bound.fence is UNFENCED:
        return await store.update_cas(session, record.cas)
    return await store.update_cas(session, record.cas, fence=bound.fence)


async def _write_in_rounds(
    bound: BoundSession[C], change: Callable[[Session[C]], C], *, is_mutation: bool = False
) -> None:
    """Read the session, change its state and write it, until no other request comes between.

    :raises SessionEndedError: the session has ended.
    :raises SessionConflictError: other requests came between in each round.
    """
    sessions, record = bound.sessions, bound.require_record()
    now_ms = await sessions.clock.now_ms()
    written: list[tuple[Stamp, Token | None]] = []

    def apply(theirs: Session[C]) -> Session[C]:
        stamp = Stamp.of(theirs.meta)
        if theirs.id != record.session.id or stamp is None:
            raise SessionEndedError
        stamp, send = bound.refreshed(stamp, now_ms)
        written[:] = [(stamp, send)]
        ends_ms = bound.end_after(stamp, now_ms)
        return bound.rebuilt(theirs, stamp, change(theirs), ends_ms, now_ms)

    try:
        if bound.fence is UNFENCED:
            found = await sessions.store.mutate(
                record.session.key,
                apply,
                ctx=bound.owner_ctx,
                attempts=_MUTATIONS if is_mutation else _ROUNDS,
            )
        else:
            found = await _write_fenced(bound, record, apply)
    except (SessionNotFoundError, SessionEndedError, TenantMismatchError):
        raise bound.end() from None
    except CasConflictError as error:
        if error.current.incarnation not in ("", record.cas.incarnation):
            raise bound.end() from None
        sessions.counters.reject("conflict")
        raise SessionConflictError(()) from None
    (stamp, send), *_ = written
    bound.adopt(found, msgspec.structs.replace(stamp, d=bound.label))
    _note_sent(bound, send)


async def _write_fenced(
    bound: BoundSession[C], record: Versioned[C], apply: Callable[[Session[C]], Session[C]]
) -> Versioned[C]:
    conflict: CasConflictError | None = None
    for _ in range(_ROUNDS):
        found = await bound.sessions.view(bound.ctx).get(record.session.key)
        if found is None:
            raise SessionEndedError
        session = apply(found.session)
        try:
            cas = await _update(bound, session, found)
        except CasConflictError as error:
            conflict = error
        else:
            return Versioned(session, cas)
    if conflict is None:
        raise SessionEndedError
    raise conflict


async def _keep_up(bound: BoundSession[C], record: Versioned[C]) -> None:
    """Extend the lifetime, and renew the token, if that is due.

    The session was read, so the request succeeds even if this does not.
    """
    sessions = bound.sessions
    now_ms = await sessions.clock.now_ms()
    old = bound.stamp
    if old is None:
        return
    stamp, send = bound.refreshed(old, now_ms)
    if stamp is not old:
        ends_ms = bound.end_after(stamp, now_ms)
        session = bound.rebuilt(record.session, stamp, bound.state, ends_ms, now_ms)
        try:
            cas = await _update(bound, session, record)
        except CasConflictError as error:
            # Another request wrote, and the next one does what is left to do.
            if error.current.incarnation != record.cas.incarnation:
                bound.end()
        except TenantMismatchError:
            bound.end()
        except SessionError:
            sessions.counters.reject("unavailable")
        else:
            bound.wrote(session, cas, stamp, now_ms)
            _note_sent(bound, send)
        return
    ends_ms = bound.end_after(stamp, now_ms)
    if ends_ms - bound.ends_ms >= max(1, sessions.policy.touch_every_ms):
        try:
            await sessions.view(bound.ctx).touch(record.session.key, (ends_ms - now_ms) / 1000)
        except SessionError:
            sessions.counters.reject("unavailable")


def _note_sent(bound: BoundSession[C], send: Token | None) -> None:
    if send is not None:
        if send is not bound.token:
            bound.sessions.counters.add("renewals")
        bound.sent = bound.token = send
