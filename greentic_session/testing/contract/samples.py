"""Sessions and callers that the contract suite uses."""

from __future__ import annotations

from typing import Any

import msgspec

from ...model import Session, SessionCursor, SessionKey, SessionMeta, TenantCtx

__all__ = ["ACME", "GLOBEX", "KEY", "AppState", "ctx", "session"]

KEY = SessionKey("conversation-1")
ACME = "acme"
GLOBEX = "globex"


class AppState(msgspec.Struct, frozen=True, kw_only=True):
    """A context type such as an application has."""

    step: int = 0
    answers: dict[str, str] = {}
    tags: tuple[str, ...] = ()


def ctx(
    tenant_id: str = ACME,
    *,
    env: str = "default",
    team_id: str | None = None,
    user_id: str | None = None,
) -> TenantCtx:
    """Return a caller."""
    return TenantCtx(tenant_id=tenant_id, env=env, team_id=team_id, user_id=user_id)


def session(
    key: str = KEY,
    *,
    owner: TenantCtx | None = None,
    context: Any = None,  # Any: whatever the store's context type is
    ttl_secs: float = 0,
    **fields: Any,  # Any: further fields of Session
) -> Session[Any]:
    """Return a session of ``owner`` (the tenant ``acme`` without team and user by default)."""
    return Session(
        key=SessionKey(key),
        cursor=SessionCursor(flow_id="onboarding", node_id="ask_name"),
        meta=SessionMeta.of(ctx() if owner is None else owner),
        context={} if context is None else context,
        ttl_secs=ttl_secs,
        **fields,
    )
