"""Sessions and callers for the contract suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from ...model import Session, SessionCursor, SessionKey, SessionMeta, TenantCtx

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = [
    "ACME",
    "GLOBEX",
    "KEY",
    "LIFE",
    "OTHERS",
    "PART",
    "RED_ANN",
    "SECRET",
    "AppState",
    "ctx",
    "evolve",
    "session",
]

KEY: Final = SessionKey("conversation-1")
ACME: Final = "acme"
GLOBEX: Final = "globex"

LIFE: Final = 100.0
PART: Final = 60.0
"""More than half of :data:`LIFE`, in seconds.

Two of these exceed it. After one, enough is left that the server's own clock does not matter.
"""

SECRET: Final = "correct-horse-battery-staple"  # noqa: S105 - a placeholder
"""Text that no message may repeat."""


class AppState(msgspec.Struct, frozen=True, kw_only=True):
    """A context type as in an application."""

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


RED_ANN: Final = ctx(team_id="red", user_id="ann")
OTHERS: Final = {
    "tenant": ctx(GLOBEX, team_id="red", user_id="ann"),
    "env": ctx(env="staging", team_id="red", user_id="ann"),
    "team": ctx(team_id="blue", user_id="ann"),
    "user": ctx(team_id="red", user_id="bob"),
}
"""Callers that differ from :data:`RED_ANN` in one part."""


def session(
    key: str = KEY,
    *,
    owner: TenantCtx | None = None,
    context: Any = None,  # Any: whatever the store's context type is
    labels: dict[str, Any] | None = None,  # Any: JSON values
    ttl_secs: timedelta | float = 0,
    **fields: Any,  # Any: further fields of Session
) -> Session[Any]:
    """Return a session of ``owner``. The default is the tenant ``acme`` without team and user."""
    return Session(
        key=SessionKey(key),
        cursor=SessionCursor(flow_id="onboarding", node_id="ask_name"),
        meta=SessionMeta.of(ctx() if owner is None else owner, labels),
        context={} if context is None else context,
        ttl_secs=ttl_secs,
        **fields,
    )


def evolve(base: Session[Any], **fields: Any) -> Session[Any]:  # Any: valid and invalid values
    """Return the session with other fields of any type. Structs check no types here."""
    return msgspec.structs.replace(base, **fields)
