"""Contract tests of ``mutate``: read, change and write back, with a retry after a conflict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ....errors import (
    CasConflictError,
    DecodeError,
    InvalidInputError,
    SessionNotFoundError,
    TenantMismatchError,
)
from ....model import Cas, SessionKey
from ..assertions import everything, kept, require, told
from ..samples import GLOBEX, KEY, SECRET, AppState, ctx, evolve, session
from .rivals import rival
from .verbs import same

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from anyio.abc import TaskStatus

    from ....model import Session, TenantCtx
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

_OWNERS: Final = {
    "tenant": ctx(GLOBEX, team_id="red"),
    "env": ctx(env="staging", team_id="red"),
    "team": ctx(team_id="blue"),
    "no team": ctx(),
    "a user it did not have": ctx(team_id="red", user_id="ann"),
}


def _add_one(found: Session[Any]) -> Session[Any]:
    return evolve(found, context={"n": found.context["n"] + 1})


async def _rival_writes(store: AsyncSessionStore[Any]) -> None:
    current = await require(store)
    await store.put(evolve(current.session, context={"n": current.session.context["n"] + 100}))


async def _rival_deletes(store: AsyncSessionStore[Any]) -> None:
    await store.delete(KEY, ctx=ctx())


async def _rival_replaces(store: AsyncSessionStore[Any]) -> None:
    await store.delete(KEY, ctx=ctx())
    await store.create(session(context={"n": 1000}))


async def _rival_takes_over(store: AsyncSessionStore[Any]) -> None:
    await store.delete(KEY, ctx=ctx())
    await store.create(session(owner=ctx(user_id="bob")))


@pytest.mark.anyio
class MutatingContract:
    """The sessions that ``mutate`` passes to the change, writes, returns and refuses."""

    async def test_mutate_returns_exactly_what_get_returns(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 1}, labels={"vip": True}, ttl_secs=1000))

        def change(found: Session[Any]) -> Session[Any]:
            # JSON has no tuples: the session that mutate returns holds a list.
            return evolve(found.advance("paid"), context={"n": (1, 2)}, ttl_secs=500)

        changed = await store.mutate(KEY, change, ctx=ctx())
        assert changed == await require(store)
        assert changed.session.context == {"n": [1, 2]}
        assert changed.session.cursor.node_id == "paid"
        assert changed.session.ttl_secs == 500
        assert changed.cas.value == 2

    async def test_mutate_hands_the_stored_session_to_the_change(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 1}, ttl_secs=1000))
        before = await require(store)
        seen: list[Session[Any]] = []

        def change(found: Session[Any]) -> Session[Any]:
            seen.append(found)
            return found

        await store.mutate(KEY, change, ctx=ctx())
        assert seen == [before.session]

    async def test_a_change_in_place_is_written(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(context={"cart": []}))

        def change(found: Session[Any]) -> Session[Any]:
            found.context["cart"].append("tea")
            return found

        await store.mutate(KEY, change, ctx=ctx())
        changed = await store.mutate(KEY, change, ctx=ctx())
        assert changed.session.context == {"cart": ["tea", "tea"]}
        assert (await require(store)).session.context == {"cart": ["tea", "tea"]}

    async def test_what_mutate_returns_is_the_callers(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(context={"cart": []}))
        changed = await store.mutate(KEY, same, ctx=ctx())
        changed.session.context["cart"].append("tea")
        assert (await require(store)).session.context == {"cart": []}

    async def test_an_error_of_the_change_changes_nothing(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 1}))

        def change(found: Session[Any]) -> Session[Any]:
            found.context["n"] = 2
            raise ZeroDivisionError

        async with kept(store):
            with pytest.raises(ZeroDivisionError):
                await store.mutate(KEY, change, ctx=ctx())

    # --- what a change must not do -----------------------------------------------------------

    async def test_a_change_to_another_key_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        async with kept(store):
            with pytest.raises(InvalidInputError) as caught:
                await store.mutate(KEY, lambda found: evolve(found, key="another"), ctx=ctx())
        assert caught.value.field == "change"
        assert await store.get(SessionKey("another"), ctx=ctx()) is None

    @pytest.mark.parametrize("owner", _OWNERS)
    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    async def test_a_change_of_the_owner_is_refused(
        self, harness: StoreHarness, owner: str, *, with_caller: bool
    ) -> None:
        store = await harness.open()
        mine = ctx(team_id="red")
        await store.create(session(owner=mine))
        meta = session(owner=_OWNERS[owner]).meta
        async with kept(store, mine, _OWNERS[owner]):
            with pytest.raises(TenantMismatchError):
                await store.mutate(
                    KEY, lambda found: evolve(found, meta=meta), ctx=mine if with_caller else None
                )

    async def test_a_change_that_drops_the_user_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        ann = ctx(user_id="ann")
        await store.create(session(owner=ann))
        async with kept(store):
            with pytest.raises(TenantMismatchError):
                await store.mutate(KEY, lambda found: evolve(found, meta=session().meta), ctx=ann)

    @pytest.mark.parametrize("returned", [{}, "session", True], ids=repr)
    async def test_a_change_that_returns_no_session_is_refused(
        self, harness: StoreHarness, returned: Any
    ) -> None:
        store = await harness.open()
        await store.create(session())
        async with kept(store):
            with pytest.raises(InvalidInputError) as caught:
                await store.mutate(KEY, lambda _found: returned, ctx=ctx())
        assert caught.value.field == "change"

    async def test_a_coroutine_function_as_change_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())

        async def change(found: Session[Any]) -> Session[Any]:
            return found

        not_a_change: Any = change
        async with kept(store):
            with pytest.raises(InvalidInputError) as caught:
                await store.mutate(KEY, not_a_change, ctx=ctx())
        assert caught.value.field == "change"

    async def test_a_change_that_could_not_be_read_again_is_not_written(
        self, harness: StoreHarness
    ) -> None:
        # A write that raises has not happened. `mutate` would have to read it back to return it.
        store = await harness.open(AppState)
        await store.create(session(context=AppState(step=1)))
        wrong: Any = SECRET
        async with kept(store):
            with pytest.raises((InvalidInputError, DecodeError)) as caught:
                await store.mutate(
                    KEY, lambda found: evolve(found, context=AppState(step=wrong)), ctx=ctx()
                )
        assert SECRET not in told(caught.value)

    # --- other writers -----------------------------------------------------------------------

    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    async def test_a_change_is_made_again_on_what_a_faster_writer_wrote(
        self, harness: StoreHarness, *, with_caller: bool
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 0}))
        seen: list[int] = []

        def change(found: Session[Any]) -> Session[Any]:
            seen.append(found.context["n"])
            if len(seen) < 3:
                rival(harness, store, _rival_writes)
            return _add_one(found)

        changed = await store.mutate(KEY, change, ctx=ctx() if with_caller else None)
        assert seen == [0, 100, 200]
        assert changed.session.context == {"n": 201}
        assert changed.cas.value == 4
        assert changed == await require(store)

    @pytest.mark.parametrize("attempts", [1, 2, 4])
    async def test_mutate_gives_up_after_its_attempts(
        self, harness: StoreHarness, attempts: int
    ) -> None:
        store = await harness.open()
        first = await store.create(session(context={"n": 0}))
        seen: list[int] = []

        def change(found: Session[Any]) -> Session[Any]:
            seen.append(found.context["n"])
            rival(harness, store, _rival_writes)
            return _add_one(found)

        with pytest.raises(CasConflictError) as caught:
            await store.mutate(KEY, change, ctx=ctx(), attempts=attempts)
        assert seen == [100 * number for number in range(attempts)]
        last = await require(store)
        assert last.session.context == {"n": 100 * attempts}
        assert caught.value.current == last.cas
        assert caught.value.expected == Cas(value=attempts, incarnation=first.incarnation)
        assert caught.value.key == KEY

    async def test_mutate_makes_no_session_that_was_deleted_meanwhile(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 0}))

        def change(found: Session[Any]) -> Session[Any]:
            rival(harness, store, _rival_deletes)
            return _add_one(found)

        with pytest.raises(SessionNotFoundError):
            await store.mutate(KEY, change, ctx=ctx())
        assert await everything(store) == {}

    async def test_mutate_changes_the_session_that_took_the_place_of_the_read_one(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        first = await store.create(session(context={"n": 0}))
        seen: list[int] = []

        def change(found: Session[Any]) -> Session[Any]:
            seen.append(found.context["n"])
            if len(seen) == 1:
                rival(harness, store, _rival_replaces)
            return _add_one(found)

        changed = await store.mutate(KEY, change, ctx=ctx())
        assert seen == [0, 1000]
        assert changed.session.context == {"n": 1001}
        assert changed.cas.value == 2
        assert changed.cas.incarnation != first.incarnation

    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    async def test_mutate_does_not_write_to_a_session_that_became_another_users(
        self, harness: StoreHarness, *, with_caller: bool
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 0}))

        def change(found: Session[Any]) -> Session[Any]:
            rival(harness, store, _rival_takes_over)
            return _add_one(found)

        with pytest.raises(TenantMismatchError):
            await store.mutate(KEY, change, ctx=ctx() if with_caller else None)
        found = await require(store, caller=ctx(user_id="bob"))
        assert found.cas.value == 1
        assert found.session.context == {}

    async def test_every_caller_on_a_hot_key_succeeds_with_the_defaults(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 0}))
        changes = 0

        def change(found: Session[Any]) -> Session[Any]:
            nonlocal changes
            changes += 1
            return _add_one(found)

        async def act(caller: TenantCtx | None) -> None:
            await store.mutate(KEY, change, ctx=caller)

        async with anyio.create_task_group() as tasks:
            for number in range(512):
                tasks.start_soon(act, ctx() if number % 2 else None)
        found = await require(store)
        assert found.session.context == {"n": 512}
        assert found.cas.value == 513
        # Nearly all make one attempt before the queue and one in it.
        assert changes <= 3 * 512

    async def test_every_caller_of_several_processes_succeeds_with_the_defaults(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        if store.statistics().sessions is not None:
            # Because no other process can open such a store.
            pytest.skip("its sessions are those of one process")
        await store.create(session(context={"n": 0}))

        async def act(one: AsyncSessionStore[Any]) -> None:
            await one.mutate(KEY, _add_one, ctx=ctx())

        # Each store has queues, connections and callers of its own, as a process has.
        others = [store, *[await harness.open() for _ in range(3)]]
        async with anyio.create_task_group() as tasks:
            for one in others * 64:
                tasks.start_soon(act, one)
        assert (await require(store)).session.context == {"n": 256}

    async def test_cancelled_callers_on_a_hot_key_hold_up_no_other_caller(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 0}))
        done = 0

        async def act() -> None:
            nonlocal done
            await store.mutate(KEY, _add_one, ctx=ctx())
            done += 1

        # Each group is cancelled at another moment: before the queue, in it, and at its head.
        async with anyio.create_task_group() as tasks:
            for steps in range(40):
                tasks.start_soon(act)
                doomed = await tasks.start(_doomed, act)
                for _ in range(steps):
                    await checkpoint()
                doomed.cancel()
        found = await require(store)
        assert found.cas.value == found.session.context["n"] + 1
        assert done <= found.session.context["n"]
        # No queue is left for callers to wait in.
        await act()


async def _doomed(
    act: Callable[[], Coroutine[Any, Any, None]], *, task_status: TaskStatus[anyio.CancelScope]
) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(act)
            task_status.started(scope)
