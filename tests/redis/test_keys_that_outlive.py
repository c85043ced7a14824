"""Tests that the table lists every key that a verb leaves, with its lifetime."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import anyio
import msgspec
import pytest

from greentic_session import ReplyScope, SessionKey, WaitRegistry
from greentic_session.abc.generations import GenerationOwner
from greentic_session.abc.streams import StreamLimits, StreamRef, stream_backend_of
from greentic_session.ordering import InboxLimits, SessionAffinity, SessionInbox, SessionLocks
from greentic_session.testing.contract.inbox.helpers import FailedError, fail
from greentic_session.testing.harness import RedisHarness

from ..support.redis import until_async
from ..support.waits import CTX, USER, owner, paused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.abc.generations import SupportsGenerations

pytestmark = pytest.mark.anyio

TABLE: Final = Path(__file__).parents[1] / "vectors" / "keys_that_outlive.md"
TTL: Final = 60
DEADLINE: Final = 20.0
KEPT: Final = max(10, 2 * DEADLINE)
DAY: Final = 86_400.0
FENCED: Final = 3600.0
"""Longest time for which a fencing token is kept after the end of its lease, in seconds."""
LEASE: Final = 30.0
SCOPE: Final = ReplyScope(conversation="chat")


class Row(NamedTuple):
    """A row of the table.

    :ivar names: patterns of the keys.
    :ivar may_stay: whether there may be no expiry.
    """

    names: tuple[re.Pattern[str], ...]
    may_stay: bool


LIMITS: Final = {
    "<record>": max(TTL + LEASE, KEPT),
    "<record>:events": DAY,
    "<record>:fence": 2 * FENCED,
    "{ns}:lookup:{<key>}": TTL + LEASE,
    "{ns}:waits:{<owner>}": TTL + LEASE,
    "{ns}:waits:{<owner>}:events": DAY,
    "{ns}:generation:{<owner>}": TTL + 0.001,
    "{ns}:find:{<owner>}": 2 * (TTL + 2 * LEASE),
    "{ns}:find:{<owner>}:<label>=<value>": 2 * (TTL + 2 * LEASE),
    "{ns}:find:{<owner>}:guards": 2 * KEPT,
    "{ns}:find:complete": 0.0,
    "<record>:out": 300.0,
    "<record>:out:head": 300.0,
    "<record>:lock": LEASE + FENCED,
    "<record>:lock:queue": LEASE,
    "<record>:inbox": LEASE + KEPT + FENCED,
    "<record>:inbox:fence": 2 * FENCED,
    "<record>:inbox:mail": 0.0,
    "<record>:inbox:seen": DAY,
    "<record>:inbox:dead": 30 * DAY,
    "{ns}:inbox:{<name>}": 0.0,
    "{ns}:inbox:{<name>}:tenant:<tenant>": DAY,
    "{ns}:inbox:{<name>}:dead": 60 * DAY,
    "{ns}:early:{<owner>}:<scope>": 600.0,
    "{ns}:early:{<owner>}:<scope>:heads": 600.0,
    "{ns}:affinity:{<group>}:members": LEASE + FENCED,
    "{ns}:affinity:{<group>}:places": 3600.0,
    "{ns}:affinity:{<group>}:ends": 3600.0,
    "{ns}:affinity:{<group>}:ops": KEPT,
}
"""Longest lifetime in seconds, by the first name of each row. With 0, there is no expiry."""
MAY_BE_KEPT: Final = {
    "<record>:fence",
    "<record>:lock",
    "<record>:inbox",
    "<record>:inbox:fence",
    "{ns}:affinity:{<group>}:members",
}
"""Rows whose key may stay for its fencing token."""
RECORD: Final = r"[\w.-]+:[\w.-]+:\{[^}]*\}"


def rows() -> dict[str, Row]:
    """Parse the table."""
    found: dict[str, Row] = {}
    for line in TABLE.read_text("utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        keys, _, _, stays, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
        names = re.findall(r"`([^`]+)`", keys)
        found[names[0]] = Row(tuple(map(pattern_of, names)), stays != "never")
    return found


def pattern_of(name: str) -> re.Pattern[str]:
    """Return the pattern of a name in the table, without the namespace."""
    pattern = re.escape(name.removeprefix("{ns}:"))
    parts = {"<record>": RECORD, "<scope>": "[0-9a-f]{64}"}
    return re.compile(re.sub(r"<\w+>", lambda found: parts.get(found[0], "[^}]*"), pattern))


class Scene:
    """A store and its services, and the keys that they leave."""

    def __init__(self, harness: RedisHarness, store: AsyncSessionStore[Any]) -> None:
        self.harness = harness
        self.store = store
        self.waits: WaitRegistry[Any] = WaitRegistry(store)
        self.locks = SessionLocks(store)
        self.affinity = SessionAffinity(store)
        self.inbox: SessionInbox[Any] = SessionInbox(
            store, owner(), attempts=1, limits=InboxLimits(), waits=self.waits
        )
        self.session = msgspec.structs.replace(paused("form"), ttl_secs=TTL)
        self.rows = rows()

    async def kept(self) -> dict[str, int]:
        """Check each key's lifetime, and return it per row in ms, -1 without an expiry."""
        found: dict[str, int] = {}
        start = len(self.harness.config.namespace) + 1
        for name in [*await self.harness.residue(), *await self.harness.tokens()]:
            short = name[start:]
            matching = [
                title
                for title, row in self.rows.items()
                if any(one.fullmatch(short) for one in row.names)
            ]
            assert len(matching) == 1, f"{short} is of the rows {matching}"
            (title,) = matching
            left = await self.harness.client.read("PTTL", name, key=name)
            if left == -1:
                assert self.rows[title].may_stay, f"{short} has no expiry"
            else:
                assert left <= 1000 * LIMITS[title] + 1, f"{short} lives for {left} ms"
            found[title] = left
        return found


@pytest.fixture
async def scene(valkey_url: str) -> AsyncIterator[Scene]:
    async with RedisHarness(valkey_url, deadline_secs=DEADLINE) as harness:
        yield Scene(harness, await harness.open())


async def _update(at: Scene) -> None:
    await at.store.mutate(at.session.key, lambda found: found, ctx=owner())


async def _touch(at: Scene) -> None:
    assert await at.store.touch(at.session.key, ctx=owner())


async def _replace(at: Scene) -> None:
    found = await at.store.get(at.session.key, ctx=owner())
    assert found is not None
    await at.store.replace_incarnation(at.session, found.cas)


async def _send(at: Scene) -> None:
    ref = StreamRef("default/acme", at.session.key)
    assert await stream_backend_of(at.store).send(ref, b"m", 7, StreamLimits())


async def _send_all(at: Scene) -> None:
    ref = StreamRef("default/acme", "")
    assert await stream_backend_of(at.store).send(ref, b"m", 7, StreamLimits())


async def _sign_in(at: Scene) -> None:
    steps = cast("SupportsGenerations", at.store)._generation_backend()
    generation = await steps.read(_OWNER, 1000)
    assert await steps.confirm(_OWNER, generation, round(TTL * 1000))


async def _revoke(at: Scene) -> None:
    await cast("SupportsGenerations", at.store)._generation_backend().raise_(_OWNER, 1000)


async def _delete(at: Scene) -> None:
    assert await at.store.delete(at.session.key, ctx=owner())


async def _register(at: Scene) -> None:
    await at.waits.register_wait(CTX, USER, SCOPE, at.session, TTL, event_id=fresh(at))


async def _claim(at: Scene) -> None:
    claim = await at.waits.claim(CTX, USER, SCOPE, event_id="claimed", lease=LEASE)
    await claim.save(claim.session)
    await claim.release()


async def _complete(at: Scene) -> None:
    async with at.waits.resume(CTX, USER, SCOPE, event_id="completed", lease=LEASE) as claim:
        await claim.complete(claim.session)


async def _wait_again(at: Scene) -> None:
    async with at.waits.resume(CTX, USER, SCOPE, event_id="again", lease=LEASE) as claim:
        await claim.wait_again(claim.session, SCOPE, TTL)


async def _finish(at: Scene) -> None:
    async with at.waits.resume(CTX, USER, SCOPE, event_id="finished", lease=LEASE) as claim:
        await claim.finish()


async def _clear(at: Scene) -> None:
    assert await at.waits.clear_wait(CTX, USER, SCOPE)


async def _lock(at: Scene) -> None:
    async with at.locks.hold(at.session.key, lease=LEASE):
        assert "<record>:lock" in await at.kept()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_wait_for_lock, at)
            await until_async(lambda: _has_queue(at))
            tasks.cancel_scope.cancel()


async def _has_queue(at: Scene) -> bool:
    return "<record>:lock:queue" in await at.kept()


async def _wait_for_lock(at: Scene) -> None:
    async with at.locks.hold(at.session.key, lease=LEASE):
        pass


async def _worker(at: Scene) -> None:
    async with at.affinity.member("worker", lease=LEASE):
        assert await at.affinity.worker_for(at.session.key) is not None
        assert await at.affinity.touch(at.session.key)
        await at.affinity.pin(at.session.key, "worker")
        assert await at.affinity.unpin(at.session.key)


async def _forget(at: Scene) -> None:
    assert await at.affinity.forget(at.session.key)


async def _admit(at: Scene) -> None:
    await at.inbox.admit(at.session.key, fresh(at), b"hello")


async def _handle(at: Scene) -> None:
    async with at.inbox.take("worker") as turn:
        await at.kept()
        await turn.finish(at.session)


async def _handle_and_remove(at: Scene) -> None:
    async with at.inbox.take("worker") as turn:
        await turn.remove()


async def _die(at: Scene) -> None:
    with suppress(FailedError):
        async with at.inbox.take("worker"):
            fail()
    async with at.inbox.take("worker", wait=0) as turn:
        assert turn is None


async def _replay(at: Scene) -> None:
    (letter,) = [letter async for letter in at.inbox.dead_letters()]
    assert await at.inbox.replay(letter)


async def _discard(at: Scene) -> None:
    (letter,) = [letter async for letter in at.inbox.dead_letters()]
    assert await at.inbox.discard(letter)


async def _deliver(at: Scene) -> None:
    await at.inbox.deliver(CTX, USER, SCOPE, fresh(at), b"hello")


async def _collect(at: Scene) -> None:
    assert await at.inbox.collect(CTX, USER, SCOPE) == 1


def fresh(at: Scene) -> str:
    """Return the id of an event that no other call uses."""
    return f"event {id(at)} {next(_NUMBERS)}"


_OWNER: Final = GenerationOwner("default/acme", "/ann")
_NUMBERS: Final = iter(range(1_000_000))
_SESSION: Final = {"<record>", "{ns}:lookup:{<key>}", "{ns}:find:{<owner>}"}
_INDEX: Final = {"{ns}:waits:{<owner>}"}
_STREAM: Final = {"<record>:out", "<record>:out:head"}
_GENERATION: Final = {"{ns}:generation:{<owner>}"}
_EVENTS: Final = {"<record>:events", "{ns}:waits:{<owner>}:events"}
_SEEN: Final = {"<record>:inbox:seen"}
_MAIL: Final = {
    *("<record>:inbox:mail", "{ns}:inbox:{<name>}", "{ns}:inbox:{<name>}:tenant:<tenant>"),
    *_SEEN,
}
_DEAD: Final = {"{ns}:inbox:{<name>}:dead", *_SEEN}
_EARLY: Final = {"{ns}:early:{<owner>}:<scope>", "{ns}:early:{<owner>}:<scope>:heads"}
_PLACED: Final = {"{ns}:affinity:{<group>}:places", "{ns}:affinity:{<group>}:ends"}
_OPS: Final = {"{ns}:affinity:{<group>}:ops"}

Step = tuple["Callable[[Scene], Awaitable[object]]", set[str]]
SCENARIOS: Final[dict[str, list[Step]]] = {
    "session": [
        (lambda at: at.store.create(at.session), _SESSION),
        (lambda at: at.store.put(at.session), _SESSION),
        (_update, _SESSION),
        (_touch, _SESSION),
        (_replace, _SESSION),
        (_delete, {"<record>"}),
    ],
    "permanent session": [
        (lambda at: at.store.put(msgspec.structs.replace(at.session, ttl_secs=0)), _SESSION),
        (lambda at: at.store.touch(at.session.key, TTL, ctx=owner()), _SESSION),
        (lambda at: at.store.touch(at.session.key, 0, ctx=owner()), _SESSION),
        (_delete, {"<record>"}),
    ],
    "wait": [
        (_register, _SESSION | _INDEX | _EVENTS),
        (_claim, _SESSION | _INDEX | _EVENTS),
        (_wait_again, _SESSION | _INDEX | _EVENTS),
        (_complete, _SESSION | _EVENTS),
        (_register, _SESSION | _INDEX | _EVENTS),
        (_finish, {"<record>"} | _EVENTS),
        (_register, _SESSION | _INDEX | _EVENTS),
        (_register, _SESSION | _INDEX | _EVENTS),
        (_replace, _SESSION | {"{ns}:waits:{<owner>}:events"}),
        (_register, _SESSION | _INDEX | _EVENTS),
        (_clear, {"<record>", "{ns}:waits:{<owner>}:events"}),
    ],
    "permanent wait": [
        (
            lambda at: at.waits.register_wait(
                CTX, USER, SCOPE, msgspec.structs.replace(at.session, ttl_secs=0)
            ),
            _SESSION | _INDEX,
        ),
        (_finish, {"<record>"} | _EVENTS),
    ],
    "stream": [
        (lambda at: at.store.create(at.session), _SESSION),
        (_send, _SESSION | _STREAM),
        (_send_all, _SESSION | _STREAM),
        (_delete, {"<record>"} | _STREAM),
    ],
    "generation": [(_sign_in, _GENERATION), (_revoke, _GENERATION)],
    "lock": [(_lock, set())],
    "affinity": [(_worker, _PLACED | _OPS), (_forget, _OPS)],
    "inbox": [
        (_admit, _MAIL),
        (_handle, _SESSION | _SEEN),
        (_admit, _MAIL | _SESSION),
        (_handle_and_remove, {"<record>"} | _SEEN),
        (_admit, _MAIL | {"<record>"}),
        (_die, {"<record>", "<record>:inbox:dead"} | _DEAD),
        (_replay, _MAIL | {"<record>"} | _DEAD),
        (_die, {"<record>", "<record>:inbox:dead"} | _DEAD),
        (_discard, {"<record>"} | _DEAD),
    ],
    "early event": [
        (_deliver, _EARLY),
        (_register, _EARLY | _SESSION | _INDEX | _EVENTS),
        (_collect, _MAIL | _SESSION | _INDEX | _EVENTS),
        (_handle_and_remove, {"<record>", "{ns}:waits:{<owner>}:events"} | _SEEN),
    ],
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_verb_leaves_the_keys_that_are_listed_and_ends_leave_none_without_an_expiry(
    scene: Scene, name: str
) -> None:
    kept: dict[str, int] = {}
    for number, (verb, expected) in enumerate(SCENARIOS[name]):
        await verb(scene)
        kept = await scene.kept()
        assert kept.keys() - MAY_BE_KEPT == expected, number
    assert -1 not in kept.values()


def test_the_list_and_the_lifetimes_here_have_the_same_rows() -> None:
    assert list(rows()) == list(LIMITS)


async def test_the_test_knows_a_key_without_an_expiry(scene: Scene) -> None:
    await scene.store.put(scene.session)
    record = f"{scene.harness.config.namespace}:default:acme:{{{SessionKey(scene.session.key)}}}"
    for command in (("ZADD", f"{record}:events", 1, "e"), ("SET", f"{record}:other", "x")):
        await scene.harness.client.read(*command)
        with pytest.raises(AssertionError, match=r"has no expiry|is of the rows \[\]"):
            await scene.kept()
        await scene.harness.client.read("DEL", command[1])
