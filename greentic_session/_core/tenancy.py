"""The access check, which decides whether a caller may act on a record. No other module does that.

* Env and tenant are part of a record's address. For another tenant, a session does not exist.
* Inside the tenant, team and user decide. A record stores both as one *owner* text, ``team/user``.
  An absent part is empty. A team holds no ``/``, so no two owners share a text. Each rule only
  compares such texts, because a server-side script must apply it as well:

  - A write must come from exactly the owner of the live record. So a live session never changes
    its team or user, and never gains a user.
  - Only :meth:`AsyncSessionStore.replace_incarnation` changes a user. It ends the live session and
    begins a new one under its key, for the same team.
  - A call with a :class:`TenantCtx` may act on a record of its own team and user, or on a record
    of its team without a user. A call on a record with a user must present that user.
  - A call through :meth:`AsyncSessionStore.tenant` may act on every record of the tenant.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from .._validation import check_identifier, check_user
from ..abc.records import ANY_OWNER, AllowedOwners
from ..errors import InvalidInputError, TenantMismatchError
from ..model import SessionMeta, TenantCtx

if TYPE_CHECKING:
    from ..model import Session

__all__ = [
    "Owner",
    "WholeTenant",
    "allowed_owners_of",
    "allows",
    "check_caller_may_write",
    "check_presents",
    "ctx_of",
    "owner_of",
    "owners_open_to",
    "scope_of",
    "scope_of_key",
]


class Owner(msgspec.Struct, frozen=True, gc=False):
    """The scope and the owner of a session, as texts that backends store and compare.

    :ivar scope: ``env/tenant``, a part of the record's address.
    :ivar owner: ``team/user``, the owner of the record.
    :ivar allowed: the owners whose records a caller with this owner's text may act on.
    """

    scope: str
    owner: str
    allowed: AllowedOwners


class WholeTenant(TenantCtx, frozen=True, kw_only=True):
    """A caller that may act on every session of its tenant. See :class:`TenantSessionStore`."""


@lru_cache(maxsize=1024)
def _scope(env: str, tenant_id: str) -> str:
    # Cached, so that all owners of a tenant share one text. A store may keep it with each session.
    return f"{env}/{tenant_id}"


def _owner(env: object, tenant_id: object, team_id: object, user_id: object) -> Owner:
    scope = _scope(check_identifier(env, "env"), check_identifier(tenant_id, "tenant_id"))
    team = "" if team_id is None else check_identifier(team_id, "team_id")
    user = "" if user_id is None else check_user(user_id)
    exact = f"{team}/{user}"
    return Owner(scope, exact, owners_open_to(exact))


# Equal texts give equal owners, whatever their class. An exception is not cached.
_cached_owner = lru_cache(maxsize=16_384)(_owner)


def owner_of(who: SessionMeta | TenantCtx) -> Owner:
    """Check the identifiers of a session or a caller, and return them as an owner.

    :param who: the session's meta, or the caller.
    :raises InvalidInputError: ``env``, ``tenant_id``, ``team_id`` or ``user_id`` is invalid.
    """
    try:
        return _cached_owner(who.env, who.tenant_id, who.team_id, who.user_id)
    except TypeError:  # an unhashable value is not a text: the error of `_owner` names it
        return _owner(who.env, who.tenant_id, who.team_id, who.user_id)


def _require_ctx(ctx: object) -> TenantCtx:
    if not isinstance(ctx, TenantCtx):
        raise InvalidInputError("ctx", f"expected TenantCtx, got {type(ctx).__name__}")
    return ctx


def scope_of(ctx: TenantCtx) -> str:
    """Check a caller, and return its ``env/tenant``.

    :raises InvalidInputError: as :func:`owner_of`, or ``ctx`` is not a :class:`TenantCtx`.
    """
    return owner_of(_require_ctx(ctx)).scope


def allowed_owners_of(ctx: TenantCtx) -> tuple[str, AllowedOwners]:
    """Return a caller's ``env/tenant``, and the owners whose records it may act on.

    :raises InvalidInputError: as :func:`scope_of`.
    """
    if type(ctx) is not TenantCtx:
        if type(ctx) is WholeTenant:
            return scope_of(ctx), ANY_OWNER
        ctx = _require_ctx(ctx)
    try:
        caller = _cached_owner(ctx.env, ctx.tenant_id, ctx.team_id, ctx.user_id)
    except TypeError:
        caller = owner_of(ctx)
    return caller.scope, caller.allowed


def owners_open_to(owner: str) -> AllowedOwners:
    """Return the owners whose records a caller with an owner's text may act on."""
    return AllowedOwners(owner, owner[: owner.index("/") + 1])


def ctx_of(scope: str, owner: str) -> TenantCtx:
    """Return the caller with a scope and an owner, without attributes."""
    env, _, tenant_id = scope.partition("/")
    team, _, user = owner.partition("/")
    return TenantCtx(tenant_id=tenant_id, env=env, team_id=team or None, user_id=user or None)


def allows(allowed: AllowedOwners | None, owner: str) -> bool:
    """Return whether a call may act on a record.

    :param allowed: the allowed owners, ``None`` for a call without ``ctx``.
    :param owner: the owner of the record.
    """
    return allowed is None or owner in allowed or allowed is ANY_OWNER


def check_caller_may_write(
    ctx: TenantCtx, session: Session[Any]
) -> None:  # Any: a context of any type
    """Check that a caller may write a session. A store scoped to a caller calls this.

    :raises TenantMismatchError: the session has another env, tenant or team, or another user than
        the caller.
    """
    meta: object = getattr(session, "meta", None)
    if not isinstance(meta, SessionMeta):
        return  # the store refuses it, with an error that names the field
    scope, allowed = allowed_owners_of(ctx)
    owner = owner_of(meta)
    if owner.scope != scope or owner.owner not in allowed:
        raise TenantMismatchError(session.key)


def check_presents(bound: TenantCtx | None, ctx: TenantCtx, key: str = "") -> None:
    """Check that a call presents the caller that a service is bound to.

    If the bound caller has no user, the call may present one.

    :param bound: the caller of the service's scoped view, ``None`` for a service of all callers.
    :param ctx: the caller of the call.
    :param key: names the session in the error.
    :raises TenantMismatchError: ``ctx`` has another env, tenant or team, or another user.
    """
    if bound is None:
        return
    own, caller = owner_of(bound), owner_of(_require_ctx(ctx))
    is_same_user = own.owner == caller.owner
    is_same_team = own.allowed.shared == caller.allowed.shared
    if own.scope != caller.scope or not (is_same_user or (bound.user_id is None and is_same_team)):
        raise TenantMismatchError(key)


def scope_of_key(bound: TenantCtx | None, ctx: TenantCtx | None, key: str = "") -> str:
    """Return the ``env/tenant`` of a key, empty for a key of no tenant.

    :param bound: as in :func:`check_presents`.
    :param ctx: the caller of the call, ``None`` for that of the service.
    :param key: as in :func:`check_presents`.
    :raises TenantMismatchError: as :func:`check_presents`.
    """
    if ctx is None:
        return "" if bound is None else scope_of(bound)
    check_presents(bound, ctx, key)
    return scope_of(ctx)
