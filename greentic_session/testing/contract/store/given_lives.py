"""Contract tests of ``ttl``: a lifetime that replaces that of the session for one call."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from ..assertions import kept, refusal, require
from ..samples import KEY, LIFE, PART, ctx, session
from .bad_inputs import BAD_LIVES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

    Call = Callable[[AsyncSessionStore[Any], Any], Awaitable[object]]


async def _update_cas(store: AsyncSessionStore[Any], ttl: Any) -> object:
    cas = (await require(store)).cas
    return await store.update_cas(session(ttl_secs=1000), cas, ttl=ttl)


async def _scoped_update_cas(store: AsyncSessionStore[Any], ttl: Any) -> object:
    cas = (await require(store)).cas
    return await store.scoped(ctx()).update_cas(session(ttl_secs=1000), cas, ttl=ttl)


_GIVEN: Final[dict[str, Call]] = {
    "put": lambda store, ttl: store.put(session(ttl_secs=1000), ttl=ttl),
    "update_cas": _update_cas,
    "touch": lambda store, ttl: store.touch(KEY, ttl=ttl, ctx=ctx()),
    "touch by its first name": lambda store, ttl: store.touch(KEY, ttl_secs=ttl, ctx=ctx()),
    "touch by its place": lambda store, ttl: store.touch(KEY, ttl, ctx=ctx()),
    "scoped put": lambda store, ttl: store.scoped(ctx()).put(session(ttl_secs=1000), ttl=ttl),
    "scoped update_cas": _scoped_update_cas,
    "scoped touch": lambda store, ttl: store.scoped(ctx()).touch(KEY, ttl=ttl),
}


@pytest.mark.anyio
class GivenLifeContract:
    """A lifetime that a call gives is stored in place of the session's, in seconds or timedelta."""

    @pytest.mark.parametrize(
        ("ttl", "secs"),
        [(77, 77.0), (77.5, 77.5), (timedelta(minutes=2), 120.0), (0, 0.0), (timedelta(0), 0.0)],
        ids=str,
    )
    @pytest.mark.parametrize("verb", _GIVEN)
    async def test_a_given_life_is_stored(
        self, harness: StoreHarness, verb: str, ttl: timedelta | float, secs: float
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        await _GIVEN[verb](store, ttl)
        assert (await require(store)).session.ttl_secs == secs

    @pytest.mark.parametrize("verb", _GIVEN)
    async def test_the_session_ends_with_the_given_life(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        await _GIVEN[verb](store, timedelta(seconds=LIFE))
        await harness.advance(PART)
        assert await store.exists(KEY) is True
        await harness.advance(LIFE - PART)
        assert await store.exists(KEY) is False

    @pytest.mark.parametrize("verb", _GIVEN)
    async def test_no_given_life_keeps_that_of_the_session(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        await _GIVEN[verb](store, None)
        assert (await require(store)).session.ttl_secs == 1000

    @pytest.mark.parametrize("bad", [name for name in BAD_LIVES if name != "none"])
    async def test_a_bad_life_is_refused(self, harness: StoreHarness, bad: str) -> None:
        store = await harness.open()
        cas = await store.create(session())
        ttl = BAD_LIVES[bad]
        async with kept(store):
            assert (await refusal(store.put(session(), ttl=ttl))).field == "ttl"
            assert (await refusal(store.update_cas(session(), cas, ttl=ttl))).field == "ttl"
            assert (await refusal(store.touch(KEY, ttl=ttl))).field == "ttl"
            assert (await refusal(store.touch(KEY, ttl_secs=ttl))).field == "ttl_secs"

    async def test_a_life_under_both_names_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        async with kept(store):
            assert (await refusal(store.touch(KEY, 7, ttl=7, ctx=ctx()))).field == "ttl"
