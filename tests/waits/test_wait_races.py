"""Tests of workers that race for waits and are killed or paused: each wait resumes once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from greentic_session import (
    CasConflictError,
    DuplicateEventError,
    SessionError,
    WaitClaimedError,
    WaitNotFoundError,
    WaitRegistry,
)
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from ..support.redis import SEED, until_async
from ..support.waits import (
    CTX,
    ELSEWHERE,
    ENDINGS,
    USER,
    Orders,
    Race,
    Wait,
    answered,
    chat,
    owner,
    paused,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from greentic_session.testing.harness import StoreHarness

    from ..support.waits import Registry, Store

pytestmark = pytest.mark.anyio

GRACE_SECS: Final = 60.0
"""Longer in seconds than an index intent protects its entry: twice the stores' deadline."""


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


# --- killed in the middle of turns ----------------------------------------------------------------


class Field:
    """Many waits, and their results."""

    def __init__(self, harness: RedisHarness, store: Store, *, waits: int, users: int) -> None:
        self._harness = harness
        self.store = store
        self.registry: Registry = WaitRegistry(store)
        self.users = users
        self.waits = [Wait.of(number, users) for number in range(waits)]

    def orders(self, **more: Any) -> Orders:
        numbers = [wait.number for wait in self.waits]
        random.Random(SEED).shuffle(numbers)
        return Orders(numbers=tuple(numbers), users=self.users, seed=SEED, **more)

    async def prepare(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for user in range(self.users):
                tasks.create_task(self._register(self.waits[user :: self.users]))

    async def _register(self, waits: list[Wait]) -> None:
        for wait in waits:
            session = paused(wait.key, wait.user)
            await self.registry.register_wait(CTX, wait.user, wait.scope, session)

    async def assert_resumed_once_each(self, race: Race) -> None:
        """Check that no turn is lost or doubled, no claim is left, and all reports are true."""
        assert race.misled == []
        for wait in self.waits:
            turns = await wait.turns(self.store)
            assert len(turns) == 1, f"{wait.key} was completed {len(turns)} times"
            # A killed worker may not have reported its success, but no worker reported a false one.
            # Each claim had its own token, and the last claim was the one that completed.
            assert race.completed[wait.number] <= 1
            assert race.wins.get(wait.number, turns[0]) == turns[0]
            fences = race.fences[wait.number]
            assert len(set(fences)) == len(fences)
            assert turns[0][1] >= max(fences, default=0)
        print(  # noqa: T201 - pytest shows it with a failure
            f"GREENTIC_SESSION_TEST_SEED={SEED}: {len(self.waits)} waits,",
            f"{race.completed.total()} completions reported,",
            ", ".join(f"{count} {what}" for what, count in sorted(race.tally.items())),
        )
        await self.assert_quiet()

    async def assert_quiet(self) -> None:
        """Check that no session waits or is claimed, and that the indexes become empty."""
        for wait in self.waits:
            record = f"{self._harness.config.namespace}:default:acme:{{{wait.key}}}"
            claim = await self._harness.client.read("HMGET", record, "wait", "lease", "attempt")
            assert claim == [None, None, None]
            assert await self.registry.find_wait_by_scope(CTX, wait.user, wait.scope) is None
            with pytest.raises((DuplicateEventError, WaitNotFoundError)):
                await self.registry.claim(CTX, wait.user, wait.scope, event_id=wait.event_id)
        await self._harness.advance(GRACE_SECS)
        for user in {wait.user for wait in self.waits}:
            assert await self.registry.list_waits_for_user(CTX, user) == []
        names = await self._harness.residue()
        assert [name for name in names if ":waits:" in name and not name.endswith(":events")] == []


@pytest.mark.timeout(180)  # seconds; about ten are needed on an idle machine
async def test_each_of_many_waits_is_resumed_once_by_workers_that_are_killed(
    harness: RedisHarness, scaled: Callable[[int], int]
) -> None:
    waits, kills = scaled(2000), scaled(16)
    field = Field(harness, await harness.open(), waits=waits, users=scaled(100))
    await field.prepare()
    race = Race(harness, field.orders(), kills=kills)
    await race.run(workers=8)
    await field.assert_resumed_once_each(race)
    assert race.tally["kills"] >= kills / 2
    assert race.tally["turns cut off"] > 0
    assert race.tally["met a claim"] > 0  # it was a race
    # Each killed worker had at most as many turns as it has tasks.
    assert race.completed.total() >= waits - 4 * race.tally["kills"]


# --- the indexes vanish under them ----------------------------------------------------------------


async def register_what_waits(field: Field) -> Counter[str]:
    """Act as a supervisor that knows the sessions, and registers those that no lookup finds."""
    done: Counter[str] = Counter()
    for wait in field.waits:
        found = await field.store.get(wait.key, ctx=owner(wait.user))
        assert found is not None
        if found.session.context.get("turns"):
            continue
        if await field.registry.find_wait_by_scope(CTX, wait.user, wait.scope) is not None:
            continue
        try:
            await field.registry.register_wait(
                CTX, wait.user, wait.scope, found.session, expected=found.cas
            )
            done["registered again"] += 1
        except CasConflictError:
            done["changed meanwhile"] += 1
    return done


async def rebuild(field: Field) -> Counter[str]:
    return Counter({"entered again": await field.registry.rebuild_index(CTX)})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("heal", [register_what_waits, rebuild], ids=["registering", "rebuilding"])
async def test_indexes_that_vanish_lose_no_wait_and_double_none(
    harness: RedisHarness,
    scaled: Callable[[int], int],
    heal: Callable[[Field], Awaitable[Counter[str]]],
) -> None:
    field = Field(harness, await harness.open(), waits=scaled(2000), users=scaled(100))
    await field.prepare()
    race = Race(harness, field.orders(indexes_vanish=True), kills=4)
    running = asyncio.create_task(race.run(workers=8))
    healed: Counter[str] = Counter()
    try:
        for share in (0.25, 0.5, 0.75):

            async def has_come_so_far(share: float = share) -> bool:
                return running.done() or race.completed.total() >= share * len(field.waits)

            await until_async(has_come_so_far, secs=40)
            await harness.forget_indexes()
            healed["times lost"] += 1
            healed += await heal(field)
        # A worker that was killed during a repair left nothing to repair, so once is enough.
        async with asyncio.timeout(60):
            await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    race.tally += healed
    await field.assert_resumed_once_each(race)
    assert race.tally["kills"] >= 3
    assert healed["registered again"] + healed["entered again"] > 0


# --- the same moment ------------------------------------------------------------------------------


class SameMoment:
    """Several people, or several copies of one reply, at once."""

    CALLERS: Final = 32

    async def test_one_of_many_takes_the_turn_and_the_others_find_it_claimed(
        self, harness: StoreHarness
    ) -> None:
        waits: Registry = WaitRegistry(await harness.open())
        await waits.register_wait(CTX, USER, chat(), paused("form"))
        refused = anyio.Event()
        said: Counter[str] = Counter()

        async def approve(number: int) -> None:
            try:
                # Half of them send the same event, and the others one each.
                event_id = "approval" if number % 2 else f"approval {number}"
                async with waits.resume(CTX, USER, chat(), event_id=event_id) as turn:
                    await refused.wait()  # the turn lasts until all others have arrived
                    await turn.complete(answered(turn.session, number))
                said["completed"] += 1
            except WaitClaimedError:
                said["claimed"] += 1
                if said["claimed"] == self.CALLERS - 1:
                    refused.set()

        await self.at_once(approve)
        assert said == {"completed": 1, "claimed": self.CALLERS - 1}

    @pytest.mark.parametrize(
        ("is_same", "late"), [(True, DuplicateEventError), (False, WaitNotFoundError)]
    )
    async def test_a_reply_during_or_after_the_turn_is_refused(
        self, harness: StoreHarness, late: type[SessionError], *, is_same: bool
    ) -> None:
        store = await harness.open()
        waits: Registry = WaitRegistry(store)
        session = paused("form")
        await waits.register_wait(CTX, USER, chat(), session)
        said: Counter[str] = Counter()

        async def approve(number: int) -> None:
            event_id = "approval" if is_same else f"approval {number} after {said.total()}"
            try:
                async with waits.resume(CTX, USER, chat(), event_id=event_id) as turn:
                    await anyio.lowlevel.checkpoint()
                    await turn.complete(answered(turn.session, number))
                said["completed"] += 1
            except WaitClaimedError:
                said["claimed"] += 1
            except late:
                said["late"] += 1

        await self.at_once(approve)
        assert said["completed"] == 1
        assert said.total() == self.CALLERS
        early = said["late"]
        await self.at_once(approve)
        assert said["late"] == early + self.CALLERS
        assert said.total() == 2 * self.CALLERS
        found = await store.get(session.key, ctx=owner())
        assert found is not None
        assert found.cas.value == 3  # registered, claimed, completed
        assert len(found.session.context["turns"]) == len(found.session.outbox) == 1

    @pytest.mark.parametrize("verb", [verb for verb in ENDINGS if verb not in ("renew", "save")])
    async def test_a_turn_that_is_ended_twice_at_once_is_ended_once(
        self, harness: StoreHarness, verb: str
    ) -> None:
        waits: Registry = WaitRegistry(await harness.open())
        await waits.register_wait(CTX, USER, chat(), paused("form"))
        turn = await waits.claim(CTX, USER, chat())
        said: Counter[str] = Counter()

        async def end(_number: int) -> None:
            try:
                said[type(await ENDINGS[verb](turn)).__name__] += 1
            except SessionError as error:
                said[type(error).__name__] += 1

        await self.at_once(end)
        ended = {"finish": "NoneType", "release": "bool"}.get(verb, "Cas")
        if verb == "release":
            assert said == {ended: self.CALLERS}
        else:
            assert said == {ended: 1, "LeaseLostError": self.CALLERS - 1}
        waiting = {"wait_again": ELSEWHERE, "release": chat()}.get(verb)
        for scope in (chat(), ELSEWHERE):
            found = await waits.find_wait_by_scope(CTX, USER, scope)
            assert found == (turn.key if scope == waiting else None)

    async def at_once(self, call: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for number in range(self.CALLERS):
                    tasks.start_soon(call, number)


class TestSameMomentInMemory(SameMoment):
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        async with MemoryHarness() as harness:
            yield harness


class TestSameMomentOnValkey(SameMoment):
    pass
