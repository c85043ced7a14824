"""Tests of workers that die or pause between two steps: records and indexes agree afterwards."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    CasConflictError,
    DuplicateEventError,
    LeaseLostError,
    ReplyScope,
    Session,
    SessionKey,
    WaitClaimedError,
    WaitNotFoundError,
    WaitRegistry,
)
from greentic_session.abc.waits import WaitOwner
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from ..support.waits import CTX, answered, chat, owner, paused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from greentic_session.abc.waits import WaitStatus
    from greentic_session.testing.harness import StoreHarness

    from ..support.waits import Registry, Store, Turn

    Call = Callable[[], Awaitable[object]]
    Act = AsyncGenerator[Call, None]

pytestmark = pytest.mark.anyio

HERE: Final = chat("here")
THERE: Final = chat("there")
PLACES: Final = (HERE, THERE)
LEASE_SECS: Final = 30.0
GRACE_SECS: Final = 60.0
"""Longer in seconds than an index intent protects its entry: twice the deadline of the stores."""
MEMORY_SECS: Final = 90_000.0
"""Longer in seconds than completed events are remembered."""


class Died(BaseException):
    """The worker ended here, without a chance to clean up."""


class Mortal:
    """The steps of waits, for a worker that dies or pauses before one of them."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._left: int | None = None
        self._halts = False
        self.halted = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.taken = 0

    def live(self, steps: int | None = None, *, halts: bool = False) -> None:
        """Die or pause before the step after this number of steps. ``None`` means to live on."""
        self._left, self._halts, self.taken = steps, halts, 0

    def call(self) -> Any:
        return MortalCall(self, self._backend.call())

    def __getattr__(self, name: str) -> Any:
        return self.mortal(getattr(self._backend, name))

    def mortal(self, step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def take(*arguments: Any) -> Any:
            if self._left is not None:
                if self._left == 0:
                    await self._end()
                if self._left is not None:
                    self._left -= 1
            self.taken += 1
            return await step(*arguments)

        return take

    async def _end(self) -> None:
        if not self._halts:
            raise Died
        self._left = None
        self.halted.set()
        await self.goes_on.wait()


class MortalCall:
    def __init__(self, worker: Mortal, call: Any) -> None:
        self._worker = worker
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return self._worker.mortal(getattr(self._call, name))


class Scene:
    """A user of its own, a worker that may die, and one that does not."""

    def __init__(self, store: Store, number: int) -> None:
        self.user = f"user {number}"
        self.store = store
        self._backend: Any = store._wait_backend()  # type: ignore[attr-defined] # both backends can
        self.mortal = Mortal(self._backend)
        self.sound: Registry = WaitRegistry(store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "wait_backend", lambda: self.mortal)
            self.doomed: Registry = WaitRegistry(store)

    def session(self, name: str) -> Session[dict[str, Any]]:
        return paused(f"{name} of {self.user}", self.user)

    async def register(self, name: str, scope: ReplyScope, **how: Any) -> object:
        session = self.session(name)
        return await self.doomed.register_wait(CTX, self.user, scope, session, **how)

    async def claim(self, scope: ReplyScope, registry: Registry | None = None, **how: Any) -> Any:
        how = {"event_id": "reply", "lease": LEASE_SECS, **how}
        return await (registry or self.doomed).claim(CTX, self.user, scope, **how)

    async def resume(self, scope: ReplyScope, event_id: str) -> None:
        turn = await self.claim(scope, self.sound, event_id=event_id)
        await turn.complete(answered(turn.session, event_id))

    # --- the state afterwards ----------------------------------------------------------------

    async def standings(self) -> dict[SessionKey, WaitStatus]:
        keys = [self.session(name).key for name in ("form", "rival")]
        told = await self._backend.call().read_status("default/acme", keys)
        return {key: one for key, one in zip(keys, told, strict=True) if one is not None}

    async def assert_agreed(self) -> None:
        """Check that lookups and lists agree with the records, and no stale index entry is left."""
        newest: dict[str, tuple[int, SessionKey]] = {}
        for key, standing in (await self.standings()).items():
            if standing.scope_hash:
                since = (standing.since_us, key)
                newest[standing.scope_hash] = max(newest.get(standing.scope_hash, since), since)
        for scope in PLACES:
            found = await self.sound.find_wait_by_scope(CTX, self.user, scope)
            assert found == newest.get(scope.scope_hash(), (0, None))[1]
        listed = await self.sound.list_waits_for_user(CTX, self.user)
        assert listed == [key for _, key in sorted(newest.values())]
        waiting = {
            (one.scope_hash, key) for key, one in (await self.standings()).items() if one.scope_hash
        }
        assert waiting == {(scope_hash, key) for scope_hash, (_, key) in newest.items()}

    async def assert_repaired(self) -> None:
        """Check that the index has an entry of each waiting session, and no other."""
        whose = WaitOwner("default/acme", f"/{self.user}")
        waiting = {
            (one.scope_hash, key) for key, one in (await self.standings()).items() if one.scope_hash
        }
        entries = await self._backend.call().all_entries(whose)
        assert {(scope_hash, entry.key) for scope_hash, entry in entries} == waiting

    async def assert_known_or_open(self) -> None:
        """Check that every caller learns whether the turn for ``reply`` was ended."""
        found = await self.store.get(self.session("form").key, ctx=owner(self.user))
        is_over = found is None or bool(found.session.context.get("turns"))
        expected = DuplicateEventError if is_over else WaitClaimedError
        with pytest.raises(expected):
            await self.claim(HERE, self.sound)

    async def end_everything(self) -> None:
        for scope in PLACES:
            await self.sound.clear_wait(CTX, self.user, scope)
        for name in ("form", "rival"):
            await self.store.delete(self.session(name).key, ctx=owner(self.user))
        assert await self.sound.list_waits_for_user(CTX, self.user) == []


# --- the interrupted acts -------------------------------------------------------------------------


async def registering(scene: Scene) -> Act:
    yield lambda: scene.register("form", HERE)


async def registering_over_a_token(scene: Scene) -> Act:
    cas = await scene.register("form", THERE)
    yield lambda: scene.register("form", HERE, expected=cas)


async def registering_again(scene: Scene) -> Act:
    await scene.register("form", HERE)
    yield lambda: scene.register("form", HERE)


async def registering_in_the_place_of_another(scene: Scene) -> Act:
    await scene.register("rival", HERE)
    await scene.register("form", THERE)
    yield lambda: scene.register("form", HERE)


async def claiming(scene: Scene) -> Act:
    await scene.register("form", HERE)
    yield lambda: scene.claim(HERE)


async def completing(scene: Scene) -> Act:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    yield lambda: claim.complete(answered(claim.session, "a turn"))
    await scene.assert_known_or_open()


async def finishing(scene: Scene) -> Act:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    yield claim.finish
    await scene.assert_known_or_open()


async def waiting_again(scene: Scene) -> Act:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    yield lambda: claim.wait_again(answered(claim.session, "a turn"), HERE)
    await scene.assert_known_or_open()


async def waiting_again_in_the_place_of_another(scene: Scene) -> Act:
    await scene.register("rival", THERE)
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    yield lambda: claim.wait_again(answered(claim.session, "a turn"), THERE)
    await scene.assert_known_or_open()


async def clearing(scene: Scene) -> Act:
    await scene.register("form", HERE)
    yield lambda: scene.doomed.clear_wait(CTX, scene.user, HERE)


async def mending(scene: Scene) -> Act:
    """Find the state that a worker left when it died while a session superseded another."""
    act = registering_in_the_place_of_another(scene)
    call = await anext(act)
    scene.mortal.live(3)
    with pytest.raises(Died):
        await call()
    await act.aclose()
    scene.mortal.live()
    yield lambda: scene.doomed.find_wait_by_scope(CTX, scene.user, HERE)


async def mending_all(scene: Scene) -> Act:
    """List the state that a worker left when it died after it had completed a turn."""
    act = completing(scene)
    call = await anext(act)
    scene.mortal.live(1)
    with pytest.raises(Died):
        await call()
    await act.aclose()
    scene.mortal.live()
    yield lambda: scene.doomed.list_waits_for_user(CTX, scene.user)
    await scene.assert_known_or_open()


ACTS: Final[list[Callable[[Scene], Act]]] = [
    *(registering, registering_over_a_token, registering_again),
    *(registering_in_the_place_of_another, claiming, completing, finishing),
    *(waiting_again, waiting_again_in_the_place_of_another, clearing, mending, mending_all),
]
IN_MEMORY: Final = [act for act in ACTS if act is not finishing]
REFUSALS: Final = (
    *(CasConflictError, DuplicateEventError, LeaseLostError, WaitClaimedError, WaitNotFoundError),
)


@pytest.fixture
async def memory() -> AsyncIterator[MemoryHarness]:
    async with MemoryHarness() as harness:
        yield harness


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


@pytest.mark.parametrize("is_called_again", [False, True], ids=["once", "called-again"])
@pytest.mark.parametrize("begin", ACTS, ids=lambda begin: begin.__name__)
async def test_a_worker_that_dies_between_two_steps_leaves_records_and_indexes_that_agree(
    valkey: RedisHarness, begin: Callable[[Scene], Act], *, is_called_again: bool
) -> None:
    await die_at_each_step(valkey, begin, is_called_again=is_called_again)


@pytest.mark.parametrize(
    "begin", [act for act in ACTS if act is not finishing], ids=lambda begin: begin.__name__
)
async def test_steps_that_memory_takes_in_one_could_be_taken_apart(
    memory: MemoryHarness, begin: Callable[[Scene], Act]
) -> None:
    # In memory, a process that dies between two steps takes the sessions with it. The removal of a
    # session removes its index entry, and does not wait for the step that remembers events.
    await die_at_each_step(memory, begin, is_called_again=False)


async def die_at_each_step(
    harness: StoreHarness, begin: Callable[[Scene], Act], *, is_called_again: bool
) -> None:
    store = await harness.open()
    scenes: list[Scene] = []
    is_over = False
    while not is_over:
        assert len(scenes) < 20
        scene = Scene(store, len(scenes))
        act = begin(scene)
        call = await anext(act)
        scene.mortal.live(len(scenes))
        scenes.append(scene)
        try:
            await call()
            is_over = True
        except Died:
            if is_called_again:  # by a client that got no reply to the first call
                scene.mortal.live()
                with suppress(*REFUSALS):
                    await call()
        await scene.assert_agreed()
        async for _ in act:
            pass
    assert len(scenes) >= 3  # at least two steps
    # Afterwards no stale index entry is left, and no claim of a dead worker.
    await harness.advance(GRACE_SECS)
    for scene in scenes:
        await scene.assert_agreed()
        await scene.assert_repaired()
        for scope in PLACES:
            if await scene.sound.find_wait_by_scope(CTX, scene.user, scope) is not None:
                await scene.resume(scope, "another reply")
        await scene.assert_agreed()
        await scene.end_everything()
    await harness.advance(MEMORY_SECS)
    assert await harness.residue() == []


# --- a claim outlives the lifetime of its session -------------------------------------------------


async def die(_claim: Turn) -> None:
    pass


async def release(claim: Turn) -> None:
    assert await claim.release()


async def renew(claim: Turn) -> None:
    await claim.renew()


async def save(claim: Turn) -> None:
    await claim.save(claim.session)


async def save_and_release(claim: Turn) -> None:
    await claim.save(claim.session)
    assert await claim.release()


@pytest.mark.parametrize("backend", ["memory", "valkey"])
@pytest.mark.parametrize(
    "leave", [die, release, renew, save, save_and_release], ids=lambda leave: leave.__name__
)
async def test_a_wait_is_found_as_long_as_its_session_lives_though_it_was_claimed_meanwhile(
    valkey_url: str, backend: str, leave: Callable[[Turn], Awaitable[None]]
) -> None:
    async with MemoryHarness() if backend == "memory" else RedisHarness(valkey_url) as harness:
        store = await harness.open()
        scene = Scene(store, 0)
        await scene.sound.register_wait(CTX, scene.user, HERE, scene.session("form"), ttl=100)
        await harness.advance(60)
        claim = await scene.claim(HERE, scene.sound)
        await leave(claim)
        # The lifetime of the registration would have expired. The claim restarted it.
        await harness.advance(70)
        assert await store.get(claim.key, ctx=owner(scene.user)) is not None
        await scene.assert_agreed()
        assert await scene.sound.list_waits_for_user(CTX, scene.user) == [claim.key]
        again = await scene.claim(HERE, scene.sound)
        assert again.fence > claim.fence
        await again.complete(answered(again.session, "a turn"))
        await scene.end_everything()
        await harness.advance(MEMORY_SECS)
        assert await harness.residue() == []
