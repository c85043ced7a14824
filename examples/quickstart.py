"""The life of one session: created, read, changed under compare-and-set, refreshed, deleted.

Runs in memory first. Then it repeats the same steps on the server that ``GREENTIC_SESSION_URL``
names, or ``REDIS_URL`` if that is unset::

    python examples/quickstart.py
    REDIS_URL=redis://localhost:6379 python examples/quickstart.py
"""

from __future__ import annotations

import os

import anyio
import msgspec

from greentic_session import (
    AsyncSessionStore,
    CasConflictError,
    Session,
    SessionCursor,
    SessionMeta,
    TenantCtx,
    create_session_store,
    from_env,
)
from greentic_session.keys import telegram_update_to_session_key


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The bot's knowledge so far. It is the type of ``session.context`` everywhere below."""

    pizza: str
    size: str = "medium"


async def walk(store: AsyncSessionStore[Order]) -> None:
    """Take one session through its life, and print one line per fact."""
    key = telegram_update_to_session_key(bot_id=7012345678, chat_id=5550001, user_id=5550001)
    print(f"1. key     {key[:16]}…, the same on every machine")

    ctx = TenantCtx(tenant_id="pizzeria", user_id="5550001")
    session = Session(
        key=key,
        cursor=SessionCursor(flow_id="order", node_id="ask-size"),
        meta=SessionMeta.of(ctx),
        context=Order(pizza="margherita"),
        ttl_secs=3600,
    )
    created = await store.put(session)
    print(f"2. put     version {created.value}, waiting at {session.cursor.node_id}")

    mine = store.scoped(ctx)  # for a connector: checks the caller's access on every call
    found = await mine.get(key)
    assert found is not None  # noqa: S101 - it was just written
    session, cas = found
    print(f"3. get     version {cas.value}, {session.context}")
    reply = b'{"chat_id": 5550001, "text": "One large margherita. Shall we bake it?"}'
    session = msgspec.structs.replace(session, context=Order(pizza="margherita", size="large"))
    session, is_new = session.with_outbox(reply)
    print(f"   outbox  recorded: new={is_new}; again: new={session.with_outbox(reply)[1]}")
    cas = await mine.update_cas(session.advance("confirm"), cas)
    print(f"   update  version {cas.value}, waiting at confirm, outbox of {len(session.outbox)}")
    try:
        await mine.update_cas(session, created)
    except CasConflictError as stale:
        print(f"   stale   refused: had {stale.expected.value}, stored is {stale.current.value}")

    print(f"4. touch   {await mine.touch(key, ttl_secs=7200)}: two hours from now, same version")
    print(f"   delete  {await mine.delete(key, expected=cas)}, then get is {await mine.get(key)}")


async def main() -> None:
    """Run in memory, then on the server that the environment names."""
    async with create_session_store("memory://", context_type=Order) as store:
        await walk(store)
    if not (os.environ.get("GREENTIC_SESSION_URL") or os.environ.get("REDIS_URL")):
        print("5. set REDIS_URL and run again to see the same on a server")
        return
    async with from_env(context_type=Order) as store:
        print(f"5. the same on {store.statistics().backend}")
        await walk(store)


if __name__ == "__main__":
    anyio.run(main)
