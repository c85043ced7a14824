"""Sessions with a typed context, of 0.9 KB each in JSON: for the memory backend."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from greentic_session import OutboxEntry, Session, SessionCursor, SessionMeta, TenantCtx
from greentic_session.keys import telegram_update_to_session_key

__all__ = ["Order", "order_of", "orders"]

_SESSIONS: Final = 256
"""Distinct sessions, each with its own key, user and objects. None is used twice in a row."""


class Item(msgspec.Struct, frozen=True):
    """One line of an order."""

    sku: str
    count: int
    price: float


class Order(msgspec.Struct, frozen=True):
    """A typed context: the state of a flow that handles a return."""

    language: str
    step: int
    answers: tuple[tuple[str, str], ...]
    items: tuple[Item, ...]
    flags: frozenset[str]
    note: str


def orders(context_type: Any) -> list[tuple[TenantCtx, Session[Any]]]:
    """Return callers and their sessions.

    :param context_type: ``Order``, or ``dict`` for a plain dict with the same content.
    """
    return [order_of(number, context_type) for number in range(_SESSIONS)]


def order_of(number: int, context_type: Any) -> tuple[TenantCtx, Session[Any]]:
    """Return one order."""
    ctx = TenantCtx(tenant_id="acme", env="prod", team_id="support", user_id=f"user-{number}")
    answers = (
        ("name", f"Ann Example the {number}th"),
        ("order", f"A-{number:07}"),
        ("reason", "the parcel came damaged on Tuesday"),
    )
    items = (Item("SKU-10442", 2, 19.9), Item(f"SKU-{number}", 1, 5.25))
    order = Order("en", number % 7, answers, items, frozenset({"beta", "eu"}), "n" * 120)
    session: Session[Any] = Session(
        key=telegram_update_to_session_key("bot", str(number), ctx.user_id or ""),
        cursor=SessionCursor(
            flow_id="returns", node_id="confirm_address", wait_reason="input", outbox_seq=3
        ),
        meta=SessionMeta.of(ctx, labels={"channel": "telegram", "vip": number % 2 == 0}),
        context=msgspec.to_builtins(order) if context_type is dict else order,
        outbox=tuple(OutboxEntry.for_payload(seq, b"%d %d" % (number, seq)) for seq in range(3)),
        ttl_secs=3600,
    )
    return ctx, session
