"""Contract tests of ``require_ctx``: a store that refuses calls without a caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ....model import Cas
from ..assertions import kept, refusal, require
from ..samples import KEY, ctx, session
from .verbs import KEY_VERBS, LOOKUP_VERBS, READS, REMOVALS, WRITES

if TYPE_CHECKING:
    from ...harness import StoreHarness


@pytest.mark.anyio
class CallerContract:
    """A store that requires a caller never looks up the tenant of a key."""

    @pytest.mark.parametrize("verb", LOOKUP_VERBS)
    async def test_a_call_without_a_caller_is_refused(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open(require_ctx=True)
        async with kept(store):
            assert (await refusal(LOOKUP_VERBS[verb](store, KEY, None))).field == "ctx"
        await store.create(session())
        async with kept(store):
            assert (await refusal(LOOKUP_VERBS[verb](store, KEY, None))).field == "ctx"

    @pytest.mark.parametrize("verb", KEY_VERBS)
    async def test_a_call_with_a_caller_is_served(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open(require_ctx=True)
        await store.create(session())
        assert await KEY_VERBS[verb](store, KEY, ctx())
        assert await store.exists(KEY, ctx=ctx()) is (verb not in REMOVALS)

    @pytest.mark.parametrize("verb", [name for name in READS if "without" not in name])
    async def test_a_read_of_a_caller_is_served(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open(require_ctx=True)
        await store.create(session())
        assert (await READS[verb](store, KEY, ctx())).session.key == KEY

    @pytest.mark.parametrize("verb", WRITES)
    async def test_a_write_takes_the_owner_from_its_session(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open(require_ctx=True)
        owner = ctx(team_id="red", user_id="ann")
        before = Cas.none() if verb == "create" else await store.create(session(owner=owner))
        cas = await WRITES[verb](store, session(owner=owner), before)
        assert (await require(store, caller=owner)).cas == cas

    async def test_a_view_is_a_caller(self, harness: StoreHarness) -> None:
        view = (await harness.open(require_ctx=True)).scoped(ctx())
        begun = await view.get_or_create(KEY, session)
        assert await view.get(KEY) == await view.require(KEY) == begun
        assert await view.exists(KEY) is True
        assert await view.touch(KEY, ttl=77) is True
        assert await view.delete(KEY) is True
