"""A browser tab on an application process of its own, for races between processes.

Run as a program (``python -m tests.support.web_tabs URL``), this is a worker. It prints ``ready``,
and reads an order from each line of standard input. A slow save prints ``entered`` once it has its
session, and saves after the next line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from greentic_session import create_session_store
from greentic_session.testing.harness import RedisHarness

from ..web.driver import ANN, AppSession, Browser, Rig, change, logout

if TYPE_CHECKING:
    from ..web.driver import Call

__all__ = ["Order"]


class Order(msgspec.Struct):
    """What the worker does next.

    :ivar step: what the request does. ``go`` lets a slow save go on, and ``revoke`` ends all
        sessions of a user without a request.
    :ivar cookie: the cookie of the request.
    """

    step: Literal["save", "logout", "revoke", "go"]
    cookie: str | None = None


async def work(url: str) -> None:
    server = url.partition("?")[0]
    async with create_session_store(url, context_type=AppSession) as store:
        await store.ping()
        rig = Rig(RedisHarness(server), store)
        say("ready")
        while order := await next_order():
            if order.step == "revoke":
                say("revoked", count=await rig.sessions.revoke_all(ANN))
                continue
            browser = Browser(rig, cookie=order.cookie)
            handler = logout if order.step == "logout" else save_slowly
            reply = await browser.post(handler)
            say("replied", status=reply.status, cookies=reply.cookies)


async def save_slowly(call: Call) -> None:
    await call.session()
    say("entered")
    await next_order()
    await change(theme="late")(call)


async def next_order() -> Order | None:
    line = await asyncio.to_thread(sys.stdin.readline)
    return msgspec.json.decode(line, type=Order) if line else None


def say(word: str, **told: Any) -> None:
    os.write(1, json.dumps({"word": word, **told}).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
