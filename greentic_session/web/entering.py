"""Login, regeneration and logout: the steps that begin or end an incarnation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._validation import check_user
from ..errors import (
    CasConflictError,
    SessionConflictError,
    SessionEndedError,
    SessionLimitError,
    SessionRevokedError,
    TenantMismatchError,
)
from . import saving
from .stamp import new_stamp
from .tokens import Token

if TYPE_CHECKING:
    from ..model import C
    from .bound import BoundSession

__all__ = ["login", "logout", "regenerate"]

_ROUNDS: Final = 64
"""Attempts against parallel saves of the same session. Each of those ends after one."""


async def login(
    bound: BoundSession[C], user_id: str, state: C | None, generation: str | None = None
) -> None:
    """Begin an incarnation that belongs to a user, with another secret.

    The order of the steps leaves no session that a parallel revocation cannot see. The generation
    is read before the password check, or when this begins. The session enters the user's index, and
    replaces the earlier incarnation. Then the generation is confirmed. If it is another one, the
    session is deleted again.

    :param generation: the generation that was read before the password check.
    """
    user_id = check_user(user_id)
    bound.require_cookie()
    if bound.is_over:
        raise SessionEndedError
    sessions = bound.sessions
    owner = sessions.user_ctx(bound.ctx, user_id)
    if generation is None:
        generation = await sessions.generations.read(owner)
    if sessions.policy.max_sessions is not None:
        await _make_room(bound, user_id)
    if state is None and bound.user_id not in (None, user_id):
        state = sessions.new()
    if bound.record is None:
        await saving.create(bound, user_id=user_id, state=state)
    else:
        await _replace(bound, user_id, state, is_login=True)
    key = bound.require_record().session.key
    is_confirmed = False
    try:
        is_confirmed = await sessions.generations.confirm(owner, generation)
        if is_confirmed and sessions.policy.max_sessions is not None:
            await _keep_limit(bound, user_id)
    except BaseException:
        # The secret was sent to no client. So the record opens nothing, even if it stays.
        _forget(bound)
        raise
    if not is_confirmed:
        await sessions.view(bound.ctx).delete(key)
        _forget(bound)
        raise SessionRevokedError
    sessions.counters.add("logins")


async def regenerate(bound: BoundSession[C]) -> None:
    """Begin an incarnation with the same state, user and lifetime, and with another secret."""
    bound.require_cookie()
    bound.require_record()
    await _replace(bound, bound.user_id, None, is_login=False)


async def logout(bound: BoundSession[C]) -> bool:
    """Delete the record, and remove the cookie from the browser.

    :returns: whether there was a record.
    """
    record = bound.record
    is_deleted = False
    if record is not None and not bound.is_over:
        view, expected = bound.sessions.view(bound.ctx), record.cas
        for _ in range(_ROUNDS):
            try:
                is_deleted = await view.delete(record.session.key, expected=expected)
                break
            except CasConflictError as error:
                # A parallel save has written another version. A login has begun another
                # incarnation, and this request may not end that.
                if error.current.incarnation != record.cas.incarnation:
                    bound.end()
                    return False
                expected = error.current
        else:
            raise SessionConflictError(())
    bound.begin_again(bound.sessions.new())
    bound.sent = None
    bound.clears = bound.exchange.can_set_cookie and record is not None
    return is_deleted


async def _replace(
    bound: BoundSession[C], user_id: str | None, state: C | None, *, is_login: bool
) -> None:
    """Replace the incarnation, over the newest version of the one that the request knows.

    :param state: the state to begin with. ``None`` keeps that of the request. The request gets it
        only if this succeeds.
    """
    sessions = bound.sessions
    for _ in range(_ROUNDS):
        record = bound.require_record()
        now_ms = await sessions.clock.now_ms()
        token = Token.mint(bound.require_token().locator)
        stamp = new_stamp(
            sessions.policy,
            token,
            now_ms,
            before=bound.stamp,
            name=bound.label,
            is_login=is_login,
        )
        ends_ms = stamp.end_ms(sessions.policy, now_ms)
        begun = bound.state if state is None else state
        session = bound.built(stamp, begun, ends_ms, now_ms, user_id=user_id)
        try:
            cas = await sessions.store.replace_incarnation(session, record.cas)
        except CasConflictError as error:
            if error.current.incarnation != record.cas.incarnation:
                raise bound.end() from None
            label = bound.label
            await saving.refresh(bound, keeps_changes=state is None)
            bound.label = label
        except TenantMismatchError:
            raise bound.end() from None
        else:
            bound.state = begun
            bound.wrote(session, cas, stamp, now_ms)
            bound.token = bound.sent = token
            bound.clears = False
            return
    sessions.counters.reject("conflict")
    raise SessionConflictError(())


async def _make_room(bound: BoundSession[C], user_id: str) -> None:
    """Refuse the login before it changes anything, if the user has no session left."""
    policy = bound.sessions.policy
    if policy.max_sessions is None or policy.overflow == "oldest":
        return
    devices = await bound.sessions.devices.of_user(bound.ctx, user_id)
    own = None if bound.record is None else bound.record.session.key
    if sum(device.key != own for device in devices) >= policy.max_sessions:
        raise SessionLimitError(policy.max_sessions)


async def _keep_limit(bound: BoundSession[C], user_id: str) -> None:
    """End the oldest sessions over the limit, or this one.

    The session is in the index now. So of several logins at once, each sees those before it, and
    the limit is never exceeded.
    """
    sessions, policy = bound.sessions, bound.sessions.policy
    key, limit = bound.require_record().session.key, policy.max_sessions or 0
    devices = await sessions.devices.of_user(bound.ctx, user_id)
    over = len(devices) - limit
    if over <= 0:
        return
    if policy.overflow == "refuse":
        await sessions.view(bound.ctx).delete(key)
        raise SessionLimitError(limit)
    others = sorted(
        (device for device in devices if device.key != key), key=lambda one: one.age_order
    )
    for device in others[:over]:
        await sessions.devices.revoke(sessions.user_ctx(bound.ctx, user_id), device.key)


def _forget(bound: BoundSession[C]) -> None:
    """Begin again without a record. The cookie of the browser is dead, so it is removed."""
    bound.begin_again(bound.sessions.new())
    bound.sent = None
    bound.clears = True
