"""Tests of the stored form of inboxes in Redis, byte by byte. Changes break deployments."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import ReplyScope, Session, SessionCursor, SessionKey, SessionMeta, TenantCtx
from greentic_session.ordering import InboxLimits, SessionInbox
from greentic_session.testing.contract.inbox.helpers import FailedError, fail
from greentic_session.testing.harness import RedisHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

ANN: Final = TenantCtx(tenant_id="acme", env="prod", team_id="support", user_id="Ann:{1}")
KEY: Final = SessionKey("chat:1")
CHAT: Final = ReplyScope(conversation="chat-42")
CHAT_HASH: Final = "f7ecd6bfcfa2b0aca9572a6eb70722dff50f63f93d2c8df9d55a23be46c4d923"
RECORD, LOOKUP = "prod:acme:{chat%3A1}", "lookup:{chat%3A1}"
BOX, INDEX = f"{RECORD}:inbox", "inbox:{mail.in}"
TENANT_INDEX = f"{INDEX}:tenant:prod/acme"
MEMBER: Final = b"prod/acme/chat:1"
DAY_MS: Final = 86_400_000


class Rig:
    """An inbox, and the namespace as ``redis-cli`` shows it."""

    def __init__(self, harness: RedisHarness, inbox: SessionInbox[dict[str, Any]]) -> None:
        self.harness = harness
        self.inbox = inbox

    async def admit(self, event_id: str = "event:1", payload: bytes = b"\0:hello") -> None:
        await self.inbox.admit(KEY, event_id, payload)

    async def names(self) -> list[str]:
        start = f"{self.harness.config.namespace}:"
        return [name.removeprefix(start) for name in await self.harness.residue()]

    async def read(self, command: str, name: str, *arguments: str | int) -> Any:
        full = f"{self.harness.config.namespace}:{name}"
        return await self.harness.client.read(command, full, *arguments)

    async def hash(self, name: str) -> dict[str, str]:
        reply = await self.read("HGETALL", name)
        return {field.decode(): value.decode() for field, value in reply.items()}

    async def now_ms(self) -> int:
        secs, us = await self.harness.client.read("TIME")
        return int(secs) * 1000 + int(us) // 1000


@pytest.fixture
async def rig(valkey_url: str) -> AsyncIterator[Rig]:
    async with RedisHarness(valkey_url) as harness:
        store = await harness.open()
        inbox = SessionInbox(
            store, ANN, name="mail.in", attempts=1, limits=InboxLimits(early_ttl_secs=60)
        )
        yield Rig(harness, inbox)


async def test_a_pending_message_has_the_documented_bytes(rig: Rig) -> None:
    before = await rig.now_ms()
    await rig.admit()
    after = await rig.now_ms()
    assert await rig.names() == sorted([BOX, f"{BOX}:mail", f"{BOX}:seen", INDEX, TENANT_INDEX])
    mailbox = await rig.hash(BOX)
    assert list(mailbox) == ["posts"]
    assert re.fullmatch(r"[0-9a-f]{16}:\d+:\d+:0;", mailbox["posts"])
    (letter,) = await rig.read("LRANGE", f"{BOX}:mail", 0, -1)
    at, rest = letter.split(b":", 1)
    assert before <= int(at) <= after
    assert rest == b"15:support/Ann:{1}7:event:1\0:hello"
    ((event_id, seen_at),) = await rig.read("ZRANGE", f"{BOX}:seen", 0, -1, "WITHSCORES")
    assert (event_id, int(seen_at)) == (b"event:1", int(at))
    assert await rig.read("PEXPIRETIME", f"{BOX}:seen") == int(at) + DAY_MS - 1
    ((member, due_at),) = await rig.read("ZRANGE", INDEX, 0, -1, "WITHSCORES")
    assert member == MEMBER
    assert before <= due_at <= after + 1
    assert await rig.read("ZRANGE", TENANT_INDEX, 0, -1, "WITHSCORES") == [[member, due_at]]
    assert DAY_MS - 60_000 < await rig.read("PTTL", TENANT_INDEX) <= DAY_MS
    for name in (BOX, f"{BOX}:mail", INDEX):  # messages have no expiry
        assert await rig.read("PTTL", name) == -1


async def test_a_message_that_is_taken_has_the_documented_bytes(rig: Rig) -> None:
    await rig.admit()
    before = await rig.now_ms()
    async with rig.inbox.take("worker-1") as turn:
        after = await rig.now_ms()
        mailbox = await rig.hash(BOX)
        assert list(mailbox) == [
            "posts",
            "fence",
            "lease",
            "start",
            "by",
            "worker",
            "tries",
            "hand",
        ]
        assert mailbox["fence"] == str(turn.fence)
        assert before * 1000 <= turn.fence <= after * 1000 + 1000
        assert int(mailbox["start"]) == int(mailbox["lease"]) - 30_000
        assert await rig.read("HGET", f"{BOX}:fence", "fence") == str(turn.fence).encode()
        kept_until = turn.fence // 1000 + 3_600_000
        assert await rig.read("PEXPIRETIME", f"{BOX}:fence") == kept_until
        assert before + 30_000 <= int(mailbox["lease"]) <= after + 30_000
        assert re.fullmatch("[0-9a-f]{32}", mailbox["by"])
        assert (mailbox["worker"], mailbox["tries"]) == ("worker-1", "1")
        ((_, due_at),) = await rig.read("ZRANGE", INDEX, 0, -1, "WITHSCORES")
        assert due_at > after
        session = Session(
            key=KEY,
            cursor=SessionCursor(flow_id="f", node_id="n"),
            meta=SessionMeta.of(ANN),
        )
        await turn.finish(session)
    names = [name for name in await rig.names() if not name.startswith("find:")]
    assert names == sorted([BOX, f"{BOX}:seen", RECORD, LOOKUP])
    mailbox = await rig.hash(BOX)
    assert list(mailbox) == ["posts", "fence", "ops"]
    assert re.fullmatch(r"[0-9a-f]{16}:\d+:\d+:1;", mailbox["ops"])
    assert 0 < await rig.read("PTTL", BOX) <= 40_000  # twice the deadline
    record = await rig.hash(RECORD)
    assert list(record) == ["cas", "inc", "owner", "ttl", "at", "body", "ops", "until"]


async def test_a_dead_letter_has_the_documented_bytes(rig: Rig) -> None:
    await rig.admit()
    with pytest.raises(FailedError):
        async with rig.inbox.take("worker-1"):
            fail()
    mailbox = await rig.hash(BOX)
    assert list(mailbox) == [
        "posts",
        "fence",
        "tries",
        "hand",
        "ops",
    ]  # no backoff after the last attempt
    before = await rig.now_ms()
    async with rig.inbox.take("worker-1", wait=0) as turn:
        assert turn is None
    after = await rig.now_ms()
    assert await rig.names() == sorted([BOX, f"{BOX}:seen", f"{BOX}:dead", f"{INDEX}:dead"])
    (entry,) = await rig.read("LRANGE", f"{BOX}:dead", 0, -1)
    died_at, tries, letter = entry.split(b":", 2)
    assert before <= int(died_at) <= after
    assert tries == b"1"
    assert letter.endswith(b":15:support/Ann:{1}7:event:1\0:hello")
    assert await rig.read("PEXPIRETIME", f"{BOX}:dead") == int(died_at) + 30 * DAY_MS - 1
    ((member, entered_at),) = await rig.read("ZRANGE", f"{INDEX}:dead", 0, -1, "WITHSCORES")
    assert member == MEMBER
    assert before <= entered_at <= after
    assert 59 * DAY_MS < await rig.read("PTTL", f"{INDEX}:dead") <= 60 * DAY_MS


async def test_an_early_event_has_the_documented_bytes(rig: Rig) -> None:
    before = await rig.now_ms()
    await rig.inbox.deliver(ANN, "Ann:{1}", CHAT, "event:1", b"hello")
    name = f"early:{{prod:acme:support:Ann%3A%7B1%7D}}:{CHAT_HASH}"
    assert await rig.names() == [name, f"{name}:heads"]
    (letter,) = await rig.read("LRANGE", name, 0, -1)
    at, rest = letter.split(b":", 1)
    assert before <= int(at) <= await rig.now_ms()
    assert rest == b"15:support/Ann:{1}7:event:1hello"
    assert await rig.read("PEXPIRETIME", name) == int(at) + 60_000 - 1
    ((head, stored_at),) = await rig.read("ZRANGE", f"{name}:heads", 0, -1, "WITHSCORES")
    assert (head, int(stored_at)) == (b"15:support/Ann:{1}7:event:1", int(at))
    assert await rig.read("PEXPIRETIME", f"{name}:heads") == int(at) + 60_000 - 1


async def test_early_events_of_an_earlier_release_are_known(rig: Rig) -> None:
    """That release only reads and writes the list."""
    await rig.inbox.deliver(ANN, "Ann:{1}", CHAT, "event:1", b"hello")
    name = f"early:{{prod:acme:support:Ann%3A%7B1%7D}}:{CHAT_HASH}"
    now_ms = await rig.now_ms()
    await rig.read("RPUSH", name, f"{now_ms}:15:support/Ann:{{1}}7:event:2!")
    assigned = f"{now_ms}!6:chat:1:15:support/Ann:{{1}}7:event:3!"
    await rig.read("RPUSH", name, assigned)
    for event_id in ("event:1", "event:2", "event:3"):
        await rig.inbox.deliver(ANN, "Ann:{1}", CHAT, event_id, b"again")
    assert await rig.read("LLEN", name) == 3
    await rig.read("LPOP", name)
    await rig.inbox.deliver(ANN, "Ann:{1}", CHAT, "event:1", b"again")
    assert await rig.read("LLEN", name) == 3
    assert await rig.read("ZCARD", f"{name}:heads") == 3


async def test_fences_of_turns_grow_though_the_clock_is_set_back(rig: Rig) -> None:
    ahead = 1000 * (await rig.now_ms() + 3_600_000)
    await rig.admit()
    # As after a turn from before the clock was set back by an hour.
    await rig.read("HSET", BOX, "fence", ahead)
    async with rig.inbox.take("worker") as turn:
        assert turn.fence == ahead + 1
        await turn.finish()
    await rig.read("DEL", BOX)
    await rig.admit("event:2")
    async with rig.inbox.take("worker") as turn:
        assert turn.fence == ahead + 2
        await turn.finish()
