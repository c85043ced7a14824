"""Tests of searches on a server: crashes between two steps, older releases, stored names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    InvalidInputError,
    SessionKey,
    StoreUnavailableError,
    TenantCtx,
)
from greentic_session.redis import RedisSessionStore
from greentic_session.testing.contract.samples import ctx, session
from greentic_session.testing.harness import RedisHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import Session

    Store = RedisSessionStore[Any]
    Act = Callable[[Store, str], Awaitable[object]]

pytestmark = pytest.mark.anyio

ANN: Final = ctx(user_id="ann")
BOB: Final = ctx(user_id="bob")
TENANT: Final = ctx()
LIFE: Final = 1000.0
NAMES: Final = ("channel",)
MAX_STEPS: Final = 24


def state(
    key: str, owner: TenantCtx = ANN, channel: str = "web", ttl: float = LIFE
) -> Session[Any]:
    return session(key, owner=owner, labels={"channel": channel}, ttl_secs=ttl)


@pytest.fixture(params=["valkey_url", "cluster_url"], ids=["one server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
async def harness(url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(url) as harness:
        yield harness


async def opened(harness: RedisHarness) -> Store:
    store = await harness.open(indexed_labels=NAMES)
    assert isinstance(store, RedisSessionStore)
    return store


class Died(BaseException):
    """The worker ended here, without a chance to clean up."""


class Steps:
    """Ends or halts a worker before one of its scripts."""

    def __init__(self, store: Store) -> None:
        self._run = store._client.run
        self.taken = 0
        self.last: int | None = None
        self.halts = False
        self.halted = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.one_by_one: asyncio.Lock | None = None
        store._client.run = self.run  # type: ignore[method-assign] # counts the scripts

    def live(self, steps: int | None, *, halts: bool = False) -> None:
        self.taken, self.last, self.halts = 0, steps, halts
        self.halted, self.goes_on = asyncio.Event(), asyncio.Event()

    async def run(self, *arguments: Any, **options: Any) -> Any:
        if self.one_by_one is None:
            return await self._step(*arguments, **options)
        async with self.one_by_one:
            return await self._step(*arguments, **options)

    async def _step(self, *arguments: Any, **options: Any) -> Any:
        if self.taken == self.last:
            if not self.halts:
                raise Died
            self.last = None
            self.halted.set()
            await self.goes_on.wait()
        self.taken += 1
        return await self._run(*arguments, **options)


async def _recreate(store: Store, key: str) -> object:
    await store.delete(SessionKey(key), ctx=ANN)
    return await store.create(state(key, BOB, "app"))


async def _label(store: Store, key: str) -> object:
    found = await store.get(SessionKey(key), ctx=ANN)
    assert found is not None
    return await store.update_cas(state(key, channel="app"), found.cas)


# What a worker does to a session, and whether the session exists before.
ACTS: Final[dict[str, tuple[bool, Act]]] = {
    "create": (False, lambda store, key: store.create(state(key))),
    "put": (False, lambda store, key: store.put(state(key))),
    "put over another label": (True, lambda store, key: store.put(state(key, channel="app"))),
    "update of a label": (True, _label),
    "longer": (True, lambda store, key: store.touch(SessionKey(key), 50 * LIFE, ctx=ANN)),
    "without an end": (True, lambda store, key: store.touch(SessionKey(key), 0, ctx=ANN)),
    "delete": (True, lambda store, key: store.delete(SessionKey(key), ctx=ANN)),
    "delete and create": (True, _recreate),
}


async def check(store: Store, keys: set[str]) -> None:
    """Check that searches find the live sessions, by what a read of each returns."""
    live = {key: await store.get(SessionKey(key)) for key in keys}
    for user in ("ann", "bob"):
        expected = sorted(
            key for key, one in live.items() if one and one.session.meta.user_id == user
        )
        assert sorted([key async for key in store.find_keys(TENANT, user_id=user)]) == expected
    for channel in ("web", "app"):
        expected = sorted(
            key
            for key, one in live.items()
            if one and one.session.meta.labels["channel"] == channel
        )
        labels = {"channel": channel}
        assert sorted([key async for key in store.find_keys(TENANT, labels=labels)]) == expected
    scanned = sorted([one.session.key async for one in store.scan(TENANT)])
    assert scanned == sorted(key for key, one in live.items() if one)


@pytest.mark.parametrize("act", ACTS)
async def test_a_live_session_is_found_after_a_crash_at_any_step(
    harness: RedisHarness, act: str
) -> None:
    doomed, sound = await opened(harness), await opened(harness)
    await sound.rebuild_index()
    steps = Steps(doomed)
    exists, run = ACTS[act]
    keys: set[str] = set()
    for number in range(MAX_STEPS):
        key = f"{act} {number}"
        keys.add(key)
        if exists:
            await sound.create(state(key))
        steps.live(number)
        try:
            await run(doomed, key)
        except (Died, BaseExceptionGroup):
            await check(sound, keys)
            continue
        break
    else:
        pytest.fail("the call has more steps than expected")
    assert steps.taken == number >= 1
    await check(sound, keys)
    await check(sound, keys)  # after repairs


@pytest.mark.parametrize("act", ACTS)
async def test_a_live_session_is_found_after_searches_between_any_two_steps(
    harness: RedisHarness, act: str
) -> None:
    slow, sound = await opened(harness), await opened(harness)
    await sound.rebuild_index()
    steps = Steps(slow)
    exists, run = ACTS[act]
    keys: set[str] = set()
    for number in range(MAX_STEPS):
        key = f"{act} {number}"
        keys.add(key)
        if exists:
            await sound.create(state(key))
        steps.live(number, halts=True)
        task = asyncio.ensure_future(run(slow, key))
        halted = asyncio.ensure_future(steps.halted.wait())
        await asyncio.wait([task, halted], return_when=asyncio.FIRST_COMPLETED)
        is_over = not steps.halted.is_set()
        halted.cancel()
        if not is_over:
            await check(sound, keys)  # this repairs what is stale
        steps.goes_on.set()
        await task
        await check(sound, keys)
        if is_over:
            break
    else:
        pytest.fail("the call has more steps than expected")


async def test_a_repair_leaves_an_entry_that_is_written_again_meanwhile(
    harness: RedisHarness,
) -> None:
    reader, writer = await opened(harness), await opened(harness)
    await writer.rebuild_index()
    steps = Steps(reader)
    for number in range(8):
        key = f"k{number}"
        await writer.create(state(key, ttl=0))
        await writer.delete(SessionKey(key), ctx=ANN)
        for index in _indexes(writer, key):  # as after a crash of the delete
            await harness.client.read("ZADD", index, 1_500_000_000_000_000, key, key=index)
        steps.live(number, halts=True)
        task = asyncio.ensure_future(reader.count(TENANT, user_id="ann"))
        halted = asyncio.ensure_future(steps.halted.wait())
        await asyncio.wait([task, halted], return_when=asyncio.FIRST_COMPLETED)
        is_over = not steps.halted.is_set()
        halted.cancel()
        await writer.create(state(key, ttl=0))
        steps.goes_on.set()
        await task
        await check(writer, {key})
        await writer.delete(SessionKey(key), ctx=ANN)
        if is_over:
            return


def _indexes(store: Store, key: str) -> list[str]:
    slots = store._names.session_indexes("default/acme", key, "/ann", "channel=sweb")
    return [index.name for slot in slots for index in slot]


async def _age_to_an_older_release(harness: RedisHarness) -> None:
    """Remove what a release without indexes does not write."""
    for name in await harness._names():
        if ":find:" in name:
            await harness.client.read("DEL", name, key=name)
        elif name.endswith("}") and ":lookup:" not in name:
            await harness.client.read("HDEL", name, "until", "labels", key=name)


async def test_sessions_of_an_older_release_are_scanned_and_found_after_a_rebuild(
    harness: RedisHarness,
) -> None:
    store = await opened(harness)
    for number in range(40):
        await store.create(state(f"k{number}", ANN if number % 2 else BOB, ttl=LIFE * (number % 3)))
    await _age_to_an_older_release(harness)
    assert len([one async for one in store.scan(TENANT)]) == 40
    assert await store.count(TENANT, user_id="ann") == 20
    with pytest.raises(InvalidInputError) as caught:
        await store.count(TENANT, labels={"channel": "web"})
    assert caught.value.field == "labels"
    assert await store.rebuild_index(ctx("globex")) == 0
    with pytest.raises(InvalidInputError):
        await store.count(TENANT, labels={"channel": "web"})
    assert await store.rebuild_index(TENANT) == 40
    await check(store, {f"k{number}" for number in range(40)})
    assert await store.rebuild_index(TENANT) == 0


async def test_a_rebuild_that_was_interrupted_goes_on(harness: RedisHarness) -> None:
    store, doomed = await opened(harness), await opened(harness)
    for number in range(30):
        await store.create(state(f"k{number}"))
    await _age_to_an_older_release(harness)
    steps = Steps(doomed)
    if not doomed._index_entries.is_cluster:
        steps.one_by_one = asyncio.Lock()  # otherwise a fast machine ends all steps at once
    steps.live(100 if doomed._index_entries.is_cluster else 20)
    with pytest.raises((Died, BaseExceptionGroup)):
        await doomed.rebuild_index()
    with pytest.raises(InvalidInputError):
        await store.count(TENANT, labels={"channel": "web"})
    assert 0 < await store.rebuild_index() < 30
    await check(store, {f"k{number}" for number in range(30)})


async def test_a_session_of_an_older_release_is_indexed_by_its_next_write(
    harness: RedisHarness,
) -> None:
    store = await opened(harness)
    await store.rebuild_index()
    cas = await store.create(state("k"))
    await store.create(state("t"))
    await _age_to_an_older_release(harness)
    await store.update_cas(state("k"), cas)
    await store.touch(SessionKey("t"), ctx=ANN)
    await store.rebuild_index()
    assert await store.count(TENANT, labels={"channel": "web"}) == 2
    assert await store.count(TENANT, user_id="ann") == 2


async def test_a_new_label_is_refused_until_a_rebuild_with_it(harness: RedisHarness) -> None:
    old = await harness.open()
    await old.rebuild_index()
    await old.create(state("k"))
    store = await opened(harness)
    assert await store.count(TENANT, user_id="ann") == 1
    with pytest.raises(InvalidInputError, match="rebuild_index"):
        await store.count(TENANT, labels={"channel": "web"})
    assert await store.rebuild_index() == 1
    assert await store.count(TENANT, labels={"channel": "web"}) == 1


async def test_writes_take_no_further_round_trip_on_one_server(valkey_url: str) -> None:
    async with RedisHarness(valkey_url) as harness:
        store = await opened(harness)
        steps = Steps(store)
        cas = await store.create(state("k"))
        assert steps.taken == 1
        for _ in range(3):
            steps.live(None)
            cas = await store.update_cas(state("k"), cas)
            await store.touch(SessionKey("k"), ctx=ANN)
            assert steps.taken == 2
        steps.live(None)
        await store.put(state("k", channel="app"))
        assert steps.taken == 2  # the second one removes the entry of the old label
        steps.live(None)
        # A new lifetime needs new entries: one call more.
        await store.touch(SessionKey("k"), 5 * LIFE, ctx=ANN)
        assert steps.taken == 2


async def test_entries_are_refreshed_once_per_lifetime(harness: RedisHarness) -> None:
    store = await opened(harness)
    await store.create(state("k"))
    steps = Steps(store)
    for _ in range(20):  # in all, five lifetimes
        await harness.advance(LIFE / 4)
        assert await store.touch(SessionKey("k"), ctx=ANN) is True
    # Each refresh is one call more, in a cluster with the entries in two slots before and after.
    refreshes = (steps.taken - 20) / (5 if store._index_entries.is_cluster else 1)
    assert 3 <= refreshes <= 6


async def test_the_stored_names_and_fields_are_these(valkey_url: str) -> None:
    async with RedisHarness(valkey_url) as harness:
        store = await opened(harness)
        await store.rebuild_index()
        await store.create(session("a:b", owner=ANN, labels={"channel": "w/x"}, ttl_secs=LIFE))
        ns = harness.config.namespace
        record = f"{ns}:default:acme:{{a%3Ab}}"
        until, labels, at = await harness.client.read("HMGET", record, "until", "labels", "at")
        assert labels == b"channel=sw/x"
        assert int(until) == int(at) + 2 * LIFE * 1000
        shard = f"{ns}:find:{{default:acme:8}}"
        names = [shard, f"{shard}:channel=sw/x", f"{ns}:find:{{default:acme::ann}}"]
        found = [name for name in await harness._names() if ":find:" in name]
        assert found == sorted([*names, f"{ns}:find:complete"])
        for name in names:
            assert await harness.client.read("ZRANGE", name, 0, -1) == [b"a%3Ab"]
            assert int(await harness.client.read("ZSCORE", name, "a%3Ab")) == int(until)
            assert int(await harness.client.read("PTTL", name)) > LIFE * 1900
        marks = await harness.client.read("ZRANGE", f"{ns}:find:complete", 0, -1)
        assert marks == [b"*\n", b"*\nchannel"]
        await store.touch(SessionKey("a:b"), 0, ctx=ANN)
        assert int(await harness.client.read("ZSCORE", shard, "a%3Ab")) >= 10**15
        assert await harness.client.read("PTTL", shard) == -1


@pytest.mark.parametrize("verb", ["create", "put", "touch", "find", "scan"])
async def test_an_index_of_another_type_is_an_error_and_nothing_is_written(
    valkey_url: str, verb: str
) -> None:
    async with RedisHarness(valkey_url) as harness:
        store = await opened(harness)
        await store.rebuild_index()
        await store.create(state("old"))
        for name in _indexes(store, "k") + _indexes(store, "old"):
            await harness.client.read("SET", name, "foreign")
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "create": lambda: store.create(state("k")),
            "put": lambda: store.put(state("k")),
            "touch": lambda: store.touch(SessionKey("old"), 50 * LIFE, ctx=ANN),
            "find": lambda: store.count(TENANT, user_id="ann"),
            "scan": lambda: anext(store.scan(TENANT)),
        }
        with pytest.raises((StoreUnavailableError, Exception)) as caught:
            await calls[verb]()
        assert type(caught.value).__module__.startswith("greentic_session")
        assert await store.get(SessionKey("k"), ctx=ANN) is None
        old = await store.get(SessionKey("old"), ctx=ANN)
        assert old is not None
        assert old.session.ttl_secs == LIFE


@pytest.mark.parametrize("change", ["label", "user", "both twice"])
async def test_a_longer_life_keeps_the_entries_of_a_session_that_another_writer_changes(
    harness: RedisHarness, change: str
) -> None:
    first, second = await opened(harness), await opened(harness)
    await first.rebuild_index()
    key = SessionKey("key")
    cas = await first.create(state("key"))
    steps = Steps(first)
    steps.live(1, halts=True)
    view = first.tenant(TENANT.env, TENANT.tenant_id)
    touched = asyncio.ensure_future(view.touch(key, 0))  # the script asks for other entries first
    async with asyncio.timeout(20):
        await steps.halted.wait()
        if change != "user":
            await second.put(state("key", channel="app"))
            cas = (await second.require(key, ctx=ANN)).cas
        if change != "label":
            channel = "web" if change == "user" else "tv"
            await second.replace_incarnation(state("key", BOB, channel), cas)
        steps.goes_on.set()
        assert await touched
    await harness.advance(10 * LIFE)
    await second.create(state("other"))  # an addition removes expired entries
    found = await second.get(key)
    assert found is not None
    assert found.session.ttl_secs == 0
    labels = found.session.meta.labels
    assert key in [one async for one in second.find_keys(TENANT, labels=labels)]
    user = found.session.meta.user_id
    assert key in [one async for one in second.find_keys(TENANT, user_id=user)]
