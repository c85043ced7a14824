"""The session that all contenders store: about 1 KB as a record, of which 0.9 KB is the body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from greentic_session import Session, SessionCursor, SessionMeta, TenantCtx
from greentic_session.keys import telegram_update_to_session_key

if TYPE_CHECKING:
    from greentic_session import SessionKey

__all__ = ["CTX", "KEPT_SECS", "STATE", "key", "session"]

CTX: Final = TenantCtx(tenant_id="acme", team_id="support", user_id="5550001")
KEPT_SECS: Final = 3600.0

# Any: JSON values, as in an application
STATE: Final[dict[str, Any]] = {
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "locale": "en-GB",
    "step": 7,
    "plan": {"id": "team-yearly", "seats": 12, "price": 1188.0, "currency": "EUR", "trial": False},
    "answers": {
        "company": "Analytical Engines Ltd",
        "industry": "manufacturing",
        "size": "11-50",
        "goal": "answer customers in the evening, when nobody is at the desk",
        "channels": ["telegram", "web", "e-mail"],
    },
    "history": [
        {"from": "bot", "text": "Which channels do your customers write to you on?"},
        {"from": "user", "text": "Mostly Telegram, and the form on our web site."},
        {"from": "bot", "text": "And how many people will answer them?"},
        {"from": "user", "text": "Twelve of us, but never more than four at the same time."},
    ],
    "flags": {"verified": True, "newsletter": False, "beta": True, "vip": False},
}


def key(number: int) -> SessionKey:
    """Return the key of one conversation."""
    return telegram_update_to_session_key(bot_id=7012345678, chat_id=number, user_id=number)


def session(number: int, ctx: TenantCtx = CTX) -> Session:
    """Return one conversation."""
    return Session(
        key=key(number),
        cursor=SessionCursor(flow_id="onboarding", node_id="ask_seats", outbox_seq=7),
        meta=SessionMeta.of(ctx),
        context=STATE,
        ttl_secs=KEPT_SECS,
    )
