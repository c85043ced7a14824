"""Contract tests of the store itself: ``async with``, ``ping``, ``statistics``, ``aclose``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from ....errors import StoreUnavailableError
from ....model import Cas
from ....statistics import StoreStatistics
from ..assertions import everything, require
from ..samples import KEY, ctx, session
from .verbs import same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

_VERBS: Final[dict[str, Callable[[AsyncSessionStore[Any]], Awaitable[object]]]] = {
    "get": lambda store: store.get(KEY, ctx=ctx()),
    "get without a caller": lambda store: store.get(KEY),
    "get_many": lambda store: store.get_many([KEY], ctx=ctx()),
    "get_many of nothing": lambda store: store.get_many([], ctx=ctx()),
    "scan": everything,
    "create": lambda store: store.create(session()),
    "put": lambda store: store.put(session()),
    "update_cas": lambda store: store.update_cas(session(), Cas.none()),
    "mutate": lambda store: store.mutate(KEY, same, ctx=ctx()),
    "touch": lambda store: store.touch(KEY, ctx=ctx()),
    "touch without a caller": lambda store: store.touch(KEY),
    "delete": lambda store: store.delete(KEY, ctx=ctx()),
    "ping": lambda store: store.ping(),
    "async with": lambda store: store.__aenter__(),
    "scoped get": lambda store: store.scoped(ctx()).get(KEY),
    "scoped put": lambda store: store.scoped(ctx()).put(session()),
}


@pytest.mark.anyio
class ClosingContract:
    """A store serves calls until it is closed, and then raises the right error."""

    async def test_ping_is_true(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await store.ping() is True

    async def test_only_the_outermost_async_with_closes_the_store(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()  # the harness has entered it
        async with store as entered:
            assert entered is store
            await store.put(session())
        with pytest.raises(ZeroDivisionError):
            async with store:
                raise ZeroDivisionError
        assert store.statistics().closed is False
        assert (await require(store)).cas.value == 1
        await store.__aexit__(None, None, None)
        assert store.statistics().closed is True
        with pytest.raises(StoreUnavailableError):
            await store.get(KEY)

    async def test_aclose_within_async_with_closes_the_store(self, harness: StoreHarness) -> None:
        store = await harness.open()
        async with store:
            await store.aclose()
            assert store.statistics().closed is True
            with pytest.raises(StoreUnavailableError):
                await store.get(KEY)

    async def test_closing_lets_running_calls_end(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        ends: list[str] = []
        running = anyio.Event()

        async def act(verb: str) -> None:
            running.set()
            try:
                await _VERBS[verb](store)
                ends.append("done")
            except StoreUnavailableError as error:  # it began after the store was closed
                ends.append(error.reason)

        async with anyio.create_task_group() as tasks:
            for verb in ("put", "mutate", "touch", "get", "get_many"):
                for _ in range(8):
                    tasks.start_soon(act, verb)
            await running.wait()  # trio starts tasks in random order, and this one may be the first
            await store.aclose()
        assert set(ends) <= {"done", "the store is closed"}
        assert "done" in ends

    @pytest.mark.parametrize("verb", _VERBS)
    async def test_every_verb_of_a_closed_store_raises(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        await store.create(session())
        await store.aclose()
        with pytest.raises(StoreUnavailableError) as caught:
            await _VERBS[verb](store)
        assert caught.value.code == "unavailable"
        assert "closed" in caught.value.reason

    async def test_closing_twice_changes_nothing(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.put(session())
        await store.aclose()
        await store.aclose()
        assert store.statistics().closed is True

    async def test_closing_a_store_that_was_never_used_is_fine(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.aclose()
        assert store.statistics().closed is True

    async def test_closing_at_once_from_several_tasks_is_fine(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.put(session())
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(store.aclose)
        assert store.statistics().closed is True

    async def test_a_scan_begun_before_the_end_does_not_pass_for_complete(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        for number in range(10):
            await store.create(session(f"c{number}"))
        unread = store.scan(ctx(), batch_size=2)
        await store.aclose()
        with pytest.raises(StoreUnavailableError):
            _ = [found async for found in unread]

    async def test_closing_one_store_leaves_another_open(self, harness: StoreHarness) -> None:
        closed, store = await harness.open(), await harness.open()
        await closed.put(session())
        await closed.aclose()
        assert store.statistics().closed is False
        assert await store.ping() is True
        await store.put(session(context={"n": 1}))
        assert (await require(store)).session.context == {"n": 1}

    async def test_statistics_cause_no_io(self, harness: StoreHarness) -> None:
        store = await harness.open()
        fresh = store.statistics()
        assert isinstance(fresh, StoreStatistics)
        assert fresh.backend
        assert fresh.closed is False
        await store.create(session(ttl_secs=1000))
        await store.create(session("another"))
        used = store.statistics()
        assert used.in_flight == 0
        assert used.retries == 0
        # A store that keeps the sessions in the process can count them.
        assert used.sessions in (None, 2)
        assert used.expiring in (None, 1)
        assert used.tenants in (None, 1)
        assert used.lookups in (None, 2)
        assert (fresh.sessions is None) is (used.sessions is None)
