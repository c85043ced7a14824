"""Contract tests of races between tasks: exactly one winner, and nothing is lost."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ....errors import CasConflictError, SessionError, SessionExistsError, TenantMismatchError
from ....model import Cas
from ..assertions import everything, require
from ..samples import KEY, ctx, evolve, session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from ....model import Session
    from ...harness import StoreHarness

_RACERS: Final = 40


async def _race(calls: Iterable[Callable[[], Awaitable[object]]]) -> list[Any]:
    """Start all calls at once. Return each result or library error."""
    ends: dict[int, Any] = {}
    start = anyio.Event()

    async def run(place: int, call: Callable[[], Awaitable[object]]) -> None:
        await start.wait()
        try:
            ends[place] = await call()
        except SessionError as error:
            ends[place] = error

    async with anyio.create_task_group() as tasks:
        for place, call in enumerate(calls):
            tasks.start_soon(run, place, call)
        start.set()
    return [ends[place] for place in range(len(ends))]


def _winner(ends: Sequence[Any], *losing: type[SessionError]) -> int:
    """Return the index of the only success. The others failed with an expected error."""
    winners = [place for place, end in enumerate(ends) if not isinstance(end, SessionError)]
    assert len(winners) == 1, winners
    assert {type(end) for end in ends if isinstance(end, SessionError)} <= set(losing)
    return winners[0]


def _count(found: Session[Any]) -> Session[Any]:
    return evolve(found, context={"n": found.context["n"] + 1})


@pytest.mark.anyio
class RaceContract:
    """Each verb is one atomic step, whatever other workers do."""

    async def test_of_many_creates_one_wins(self, harness: StoreHarness) -> None:
        store = await harness.open()
        ends = await _race(partial(store.create, session(context={"n": n})) for n in range(_RACERS))
        winner = _winner(ends, SessionExistsError)
        found = await require(store)
        assert found.session.context == {"n": winner}
        assert found.cas == ends[winner]
        assert found.cas.value == 1

    async def test_of_many_creates_by_several_workers_one_wins(self, harness: StoreHarness) -> None:
        first = await harness.open()
        shared = first.statistics().sessions is None  # otherwise the store is in this process
        stores = [await harness.open() if shared else first for _ in range(4)]
        for number in range(10):
            given = [session(f"c{number}", context={"n": n}) for n in range(8)]
            ends = await _race(partial(stores[n % 4].create, one) for n, one in enumerate(given))
            winner = _winner(ends, SessionExistsError)
            found = await require(first, given[0].key)
            assert found.session.context == {"n": winner}

    async def test_of_many_updates_with_one_token_one_wins(self, harness: StoreHarness) -> None:
        store = await harness.open()
        cas = await store.create(session())
        for _ in range(5):
            ends = await _race(
                partial(store.update_cas, session(context={"n": n}), cas) for n in range(_RACERS)
            )
            winner = _winner(ends, CasConflictError)
            assert ends[winner] == Cas(value=cas.value + 1, incarnation=cas.incarnation)
            for place, end in enumerate(ends):
                if place != winner:
                    assert (end.expected, end.current) == (cas, ends[winner])
            cas = ends[winner]
            found = await require(store)
            assert found.cas == cas
            assert found.session.context == {"n": winner}

    async def test_each_of_many_puts_is_a_version_of_its_own(self, harness: StoreHarness) -> None:
        store = await harness.open()
        ends = await _race(partial(store.put, session(context={"n": n})) for n in range(_RACERS))
        assert sorted(cas.value for cas in ends) == list(range(1, _RACERS + 1))
        assert len({cas.incarnation for cas in ends}) == 1
        found = await require(store)
        assert found.cas.value == _RACERS
        assert found.session.context == {"n": ends.index(found.cas)}

    @pytest.mark.parametrize(("tasks", "times"), [(2, 30), (8, 10), (25, 2)])
    async def test_no_mutation_is_lost(self, harness: StoreHarness, tasks: int, times: int) -> None:
        store = await harness.open()
        first = await store.create(session(context={"n": 0}))

        async def work() -> list[Any]:
            return [await store.mutate(KEY, _count, ctx=ctx(), attempts=1000) for _ in range(times)]

        ends = await _race([work] * tasks)
        changes = [change for end in ends for change in end]
        found = await require(store)
        assert found.session.context == {"n": tasks * times}
        assert found.cas == Cas(value=1 + tasks * times, incarnation=first.incarnation)
        # Each change was made to the version before, and each caller knows which version it made.
        assert sorted(change.cas.value for change in changes) == list(range(2, found.cas.value + 1))
        assert all(change.session.context == {"n": change.cas.value - 1} for change in changes)

    @pytest.mark.parametrize("with_token", [True, False], ids=["with a token", "without"])
    async def test_of_many_deletes_one_removes(
        self, harness: StoreHarness, *, with_token: bool
    ) -> None:
        store = await harness.open()
        for _ in range(5):
            cas = await store.create(session())
            expected = cas if with_token else None
            ends = await _race([partial(store.delete, KEY, ctx=ctx(), expected=expected)] * _RACERS)
            assert sorted(ends) == [False] * (_RACERS - 1) + [True]
            assert await store.get(KEY) is None

    @pytest.mark.parametrize("round_number", range(4))
    async def test_of_an_update_and_a_delete_with_one_token_one_wins(
        self, harness: StoreHarness, round_number: int
    ) -> None:
        store = await harness.open()
        cas = await store.create(session())
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(store.update_cas, session(context={"n": 2}), cas),
            partial(store.delete, KEY, ctx=ctx(), expected=cas),
        ]
        if round_number % 2:
            calls.reverse()
        ends = await _race(calls)
        wins = [end for end in ends if end is True or isinstance(end, Cas)]
        assert len(wins) == 1
        found = await store.get(KEY)
        if wins[0] is True:
            assert found is None
        else:
            assert found is not None
            assert found.cas == wins[0]

    async def test_of_many_users_one_gets_the_key(self, harness: StoreHarness) -> None:
        store = await harness.open()
        owners = [ctx(user_id=f"user-{n}") for n in range(_RACERS)]
        ends = await _race(partial(store.create, session(owner=owner)) for owner in owners)
        winner = _winner(ends, TenantMismatchError)
        assert (await require(store, caller=owners[winner])).cas == ends[winner]

    async def test_tenants_do_not_race_for_a_key(self, harness: StoreHarness) -> None:
        store = await harness.open()
        owners = [ctx(f"tenant-{n}") for n in range(_RACERS)]
        ends = await _race(partial(store.create, session(owner=owner)) for owner in owners)
        assert [end.value for end in ends] == [1] * _RACERS
        for owner, cas in zip(owners, ends, strict=True):
            assert (await require(store, caller=owner)).cas == cas

    async def test_touches_do_not_make_updates_conflict(self, harness: StoreHarness) -> None:
        store = await harness.open()
        first = await store.create(session(ttl_secs=1000))
        done = anyio.Event()

        async def touch() -> int:
            touched = 0
            while not done.is_set():
                assert await store.touch(KEY, 2000, ctx=ctx()) is True
                touched += 1
                await checkpoint()
            return touched

        async def update() -> Cas:
            cas = first
            for n in range(50):
                cas = await store.update_cas(session(context={"n": n}, ttl_secs=1000), cas)
                await checkpoint()
            done.set()
            return cas

        *touches, last = await _race([touch, touch, touch, update])
        assert last == Cas(value=51, incarnation=first.incarnation)
        assert min(touches) > 0
        found = await require(store)
        assert found.cas == last
        assert found.session.context == {"n": 49}

    @pytest.mark.parametrize("seed", range(6))
    async def test_versions_and_incarnations_add_up_under_every_verb(
        self, harness: StoreHarness, seed: int
    ) -> None:
        store = await harness.open()
        versions: defaultdict[str, list[int]] = defaultdict(list)
        deleted = 0

        async def work(number: int) -> None:
            nonlocal deleted
            chance = random.Random(f"{seed}/{number}")
            known = Cas(value=1, incarnation="a" * 32)
            for _ in range(25):
                try:
                    match chance.randrange(6):
                        case 0:
                            known = await store.create(session())
                        case 1 | 2:
                            known = await store.put(session())
                        case 3 | 4:
                            known = await store.update_cas(session(), known)
                        case _:
                            removed = await store.delete(KEY, ctx=ctx())
                            deleted += removed
                            continue
                except SessionExistsError:
                    continue
                except CasConflictError as conflict:
                    known = conflict.current
                    continue
                versions[known.incarnation].append(known.value)
                if chance.random() < 0.5:
                    await checkpoint()

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(work, number)
        found = await store.get(KEY, ctx=ctx())
        assert len(versions) == deleted + (found is not None)
        for values in versions.values():
            assert sorted(values) == list(range(1, len(values) + 1))
        if found is not None:
            assert found.cas.value == len(versions[found.cas.incarnation])
        assert set(await everything(store)) <= {KEY}
