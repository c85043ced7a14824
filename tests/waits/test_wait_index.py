"""Tests that no wait is lost when the index is late, incomplete, garbled or half written."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from greentic_session import DuplicateEventError, SessionKey, StoreUnavailableError, WaitRegistry
from greentic_session.abc.records import Verdict
from greentic_session.abc.waits import (
    ClaimRequest,
    EventMemory,
    IndexChange,
    IndexRemoval,
    IndexUpsert,
    WaitOwner,
)
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from ..support.waits import CTX, USER, chat, owner, paused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from greentic_session import AsyncSessionStore, Claim
    from greentic_session.abc.waits import WaitCall
    from greentic_session.testing.harness import StoreHarness

pytestmark = pytest.mark.anyio

HERE, THERE = chat("here"), chat("there")


@pytest.fixture(params=["memory", "valkey"])
async def harness(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[StoreHarness]:
    if request.param == "memory":
        async with MemoryHarness() as memory:
            yield memory
    else:
        async with RedisHarness(valkey_url) as server:
            yield server


class Scene:
    def __init__(self, harness: StoreHarness, store: AsyncSessionStore[Any]) -> None:
        self.harness = harness
        self.store = store
        self.waits: WaitRegistry[Any] = WaitRegistry(store)

    async def register(self, name: str = "form", scope: Any = HERE, **fields: Any) -> None:
        await self.waits.register_wait(CTX, USER, scope, paused(name), **fields)

    async def claim(self, event_id: str | None = None, scope: Any = HERE) -> Claim[Any]:
        return await self.waits.claim(CTX, USER, scope, event_id=event_id)

    async def find(self, scope: Any = HERE) -> SessionKey | None:
        return await self.waits.find_wait_by_scope(CTX, USER, scope)

    @property
    def steps(self) -> type[WaitCall]:
        return type(self.store._wait_backend().call())  # type: ignore[attr-defined] # a capability

    @contextmanager
    def index_down(self) -> Iterator[None]:
        """Let every step on an index fail, as in a failover of its slot or after a crash."""
        with patch.object(self.steps, "update_index", side_effect=StoreUnavailableError("down")):
            yield


@pytest.fixture
async def scene(harness: StoreHarness) -> Scene:
    return Scene(harness, await harness.open())


async def _completes(scene: Scene, turn: Claim[Any]) -> None:
    await turn.complete(turn.session)
    await scene.register()


async def _moves(scene: Scene, turn: Claim[Any]) -> None:
    await turn.wait_again(turn.session, THERE)
    await scene.register()


async def _registers_elsewhere(scene: Scene, turn: Claim[Any]) -> None:
    await turn.release()
    await scene.register(scope=THERE)
    await scene.register("another")


async def _finishes(scene: Scene, turn: Claim[Any]) -> None:
    await turn.finish()
    await scene.register("another")


async def _clears(scene: Scene, turn: Claim[Any]) -> None:
    await turn.release()
    assert await scene.waits.clear_wait(CTX, USER, HERE)
    await scene.register("another")


async def _is_superseded(scene: Scene, turn: Claim[Any]) -> None:
    await scene.register("another")
    await turn.release()


async def test_a_removal_that_comes_late_spares_the_newer_entry(scene: Scene) -> None:
    call = scene.store._wait_backend().call()  # type: ignore[attr-defined] # a capability
    whose, place, key = WaitOwner("default/acme", "/ann"), HERE.scope_hash(), SessionKey("form")
    memory = EventMemory(10, 60_000)

    async def change(**parts: Any) -> list[SessionKey]:
        await call.update_index(whose, IndexChange(**parts), memory)
        found = (await call.entries(whose, place, "", memory)).entries
        return [entry.key for entry in found]

    assert await change(upsert=IndexUpsert(place, key, 20, 0)) == [key]
    assert await change(removals=(IndexRemoval(place, key, 19),)) == [key]
    assert await change(removals=(IndexRemoval(place, key, 20),)) == []


async def test_an_entry_that_leads_to_the_session_of_another_owner_gives_no_claim(
    scene: Scene,
) -> None:
    await scene.register()
    call = scene.store._wait_backend().call()  # type: ignore[attr-defined] # a capability
    place, memory = HERE.scope_hash(), EventMemory(10, 60_000)
    for whose, verdict in (("/bob", Verdict.ABSENT), ("/ann", Verdict.DONE)):
        request = ClaimRequest(
            "default/acme", SessionKey("form"), whose, place, attempt="a", event="", lease_ms=1000
        )
        assert (await call.claim(request, memory)).verdict is verdict


LATER = [_completes, _moves, _registers_elsewhere, _finishes, _clears, _is_superseded]


@pytest.mark.parametrize("later", LATER, ids=lambda later: later.__name__)
@pytest.mark.parametrize("secs", [0, 60])
async def test_an_event_that_the_index_never_heard_of_stays_completed(
    scene: Scene, later: Callable[[Scene, Claim[Any]], Awaitable[None]], secs: int
) -> None:
    await scene.register()
    with scene.index_down():
        async with scene.waits.resume(CTX, USER, HERE, event_id="first") as turn:
            await turn.wait_again(turn.session)
    await scene.harness.advance(secs)
    await later(scene, await scene.claim("second"))
    with pytest.raises(DuplicateEventError):
        await scene.claim("first")


@pytest.mark.parametrize("secs", [0, 60])
async def test_an_event_that_the_index_never_heard_of_starts_no_second_flow(
    scene: Scene, secs: int
) -> None:
    with scene.index_down():
        await scene.register(event_id="start")
    await scene.harness.advance(secs)
    with pytest.raises(DuplicateEventError):
        await scene.register("fresh", event_id="start")
    assert await scene.find() == paused("form").key


@pytest.mark.parametrize("reader", ["find", "list"])
@pytest.mark.parametrize("ttl", [1000, 0])
async def test_a_life_that_the_index_never_heard_of_is_told_to_it_by_the_next_reader(
    scene: Scene, reader: str, ttl: int
) -> None:
    await scene.register(ttl=100)
    with scene.index_down():
        assert await scene.store.touch(paused("form").key, ttl, ctx=owner())
    if reader == "find":
        assert await scene.find() == paused("form").key
    else:
        assert await scene.waits.list_waits_for_user(CTX, USER) == [paused("form").key]
    await scene.harness.advance(500)
    assert await scene.find() == paused("form").key
    await (await scene.claim()).finish()


@pytest.mark.parametrize("verb", ["find", "claim", "clear", "list"])
async def test_a_wait_that_passes_to_another_session_meanwhile_is_there_all_the_same(
    scene: Scene, verb: str
) -> None:
    await scene.register()
    before = getattr(scene.steps, "read_status" if verb != "claim" else "claim")
    passed = False

    async def step(*arguments: Any) -> Any:
        nonlocal passed
        if not passed:
            passed = True
            await scene.register("another", THERE if verb == "list" else HERE)
            if verb == "list":
                await scene.register("form", chat("third"))
        return await before(*arguments)

    with patch.object(scene.steps, before.__name__, step):
        if verb == "find":
            assert await scene.find() == paused("another").key
        elif verb == "claim":
            assert (await scene.claim()).key == paused("another").key
        elif verb == "clear":
            assert await scene.waits.clear_wait(CTX, USER, HERE)
        else:
            assert paused("form").key in await scene.waits.list_waits_for_user(CTX, USER)


async def test_what_is_no_hint_is_passed_over_and_written_over(valkey_url: str) -> None:
    async with RedisHarness(valkey_url) as harness:
        scene = Scene(harness, await harness.open())
        await scene.register()
        index = f"{harness.config.namespace}:waits:{{default:acme::{USER}}}"
        for garbled in ("nonsense\n", "1:2\n", "x:0:0:form\n", "", ":::\n"):
            await harness.client.read("HSET", index, HERE.scope_hash(), garbled)
            assert await scene.find() is None
            assert await scene.waits.list_waits_for_user(CTX, USER) == []
        await scene.register()
        assert await scene.find() == paused("form").key


async def test_waits_of_one_millisecond_have_their_order() -> None:
    async with MemoryHarness() as harness:  # with a clock that stands still
        scene = Scene(harness, await harness.open())
        names = ["z", "m", "a"]
        for name in names:
            await scene.register(name, chat(name))
        keys = [paused(name).key for name in names]
        assert await scene.waits.list_waits_for_user(CTX, USER) == keys


async def test_an_index_does_not_grow_with_what_expired_unread(valkey_url: str) -> None:
    async with RedisHarness(valkey_url) as harness:
        scene = Scene(harness, await harness.open())
        await scene.register("stays", chat("stays"))
        index = f"{harness.config.namespace}:waits:{{default:acme::{USER}}}"
        for round_ in range(5):
            for number in range(100):
                await scene.register(f"k{number}", chat(f"{round_} {number}"), ttl=50)
            await harness.advance(60)
        assert await harness.client.read("HLEN", index) < 250
        assert await scene.find(chat("stays")) == paused("stays").key


@pytest.mark.parametrize("field", ["since", "owner", "wait"])
async def test_a_garbled_record_is_deleted_all_the_same(valkey_url: str, field: str) -> None:
    async with RedisHarness(valkey_url) as harness:
        scene = Scene(harness, await harness.open())
        await scene.register()
        key = paused("form").key
        record = f"{harness.config.namespace}:default:acme:{{{key}}}"
        await harness.client.read("HSET", record, field, b"\xff")
        assert await scene.store.delete(key) is True
        assert await scene.store.get(key, ctx=owner()) is None
