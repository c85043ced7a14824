"""Contract tests of finding waits by scope and by user, and of clearing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ....errors import AmbiguousWaitError, LeaseLostError, WaitNotFoundError
from ....model import ReplyScope, SessionKey
from ..samples import KEY, LIFE, ctx, session
from ..store.verbs import CHANGES, same
from .helpers import ANN, ANOTHER, BOB, CHAT, HOUR, MAIL, THREAD, wait_harness, without_user

if TYPE_CHECKING:
    from ....model import TenantCtx
    from ...harness import StoreHarness


@pytest.mark.anyio
class WaitFindingContract:
    """Waits are found in the order of registration, and a lookup changes nothing."""

    async def test_where_nothing_waits_nothing_is_found(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        assert await at.find() is None
        assert await at.listed() == []
        assert await at.clear() is False
        assert await at.find_by_user() is None
        with pytest.raises(WaitNotFoundError):
            await at.claim()
        with pytest.raises(WaitNotFoundError):
            async with at.resume(event_id="e"):
                pytest.fail("the block must not be entered")
        assert await at.waits.rebuild_index(ANN) == 0
        assert await harness.residue() == []

    async def test_a_session_that_does_not_wait_is_not_found(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.create()
        async with at.kept():
            assert await at.find() is None
            assert await at.listed() == []
            assert await at.clear() is False
            assert await at.find_by_user() is None
            assert await at.waits.rebuild_index(ANN) == 0

    async def test_looking_changes_nothing(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        cas = await at.register(ttl=LIFE)
        await at.register(THREAD, ANOTHER)
        before = await at.record()
        for _ in range(3):
            await harness.advance(1)
            assert await at.find() == KEY
            assert await at.listed() == [KEY, ANOTHER]
            with pytest.raises(AmbiguousWaitError):
                await at.find_by_user()
        # Token and lifetime are unchanged.
        assert (await at.record()).cas == before.cas == cas
        await harness.advance(LIFE - 3)
        assert await at.find() is None

    # --- the list ----------------------------------------------------------------------------

    async def test_the_oldest_wait_is_listed_first(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        keys = [SessionKey(f"c{number}") for number in (5, 2, 9, 0, 7, 1)]
        for key in keys:
            await at.register(ReplyScope(conversation=key), key)
            await harness.advance(1)
        assert await at.listed() == keys

    @pytest.mark.parametrize("way", ["register", "register elsewhere", "wait again", "elsewhere"])
    async def test_a_session_that_waits_again_is_listed_last(
        self, harness: StoreHarness, way: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(CHAT)
        await harness.advance(1)
        await at.register(MAIL, ANOTHER)
        await harness.advance(1)
        assert await at.listed() == [KEY, ANOTHER]
        if way.startswith("register"):
            await at.register(THREAD if "elsewhere" in way else CHAT)
        else:
            await at.take_turn(onto=THREAD if "elsewhere" in way else CHAT)
        assert await at.listed() == [ANOTHER, KEY]

    @pytest.mark.parametrize("way", [*CHANGES, "touch", "claim", "save", "release"])
    async def test_what_leaves_the_wait_leaves_its_place_in_the_list(
        self, harness: StoreHarness, way: str
    ) -> None:
        at = await wait_harness(harness)
        cas = await at.register(CHAT, ttl_secs=LIFE)
        await harness.advance(1)
        await at.register(MAIL, ANOTHER)
        await harness.advance(1)
        if way in CHANGES:
            await CHANGES[way](at.store, session(owner=ANN, ttl_secs=LIFE), cas)
        elif way == "touch":
            assert await at.store.touch(KEY, LIFE, ctx=ANN) is True
        else:
            turn = await at.claim()
            if way == "save":
                await turn.save(turn.session)
            elif way == "release":
                assert await turn.release() is True
        assert await at.listed() == [KEY, ANOTHER]
        assert await at.find() == KEY

    async def test_a_hundred_waits_are_listed_once_each(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        keys = [SessionKey(f"c{number:03}") for number in range(100)]
        for key in keys:
            await at.register(ReplyScope(conversation=key), key)
        assert await at.listed() == keys
        assert await at.waits.rebuild_index(ANN) == 100
        assert await at.listed() == keys

    # --- the deprecated lookup ---------------------------------------------------------------

    @pytest.mark.parametrize("caller", [ANN, without_user(ANN)], ids=["with a user", "without"])
    async def test_find_by_user_gives_the_one_session_that_waits(
        self, harness: StoreHarness, caller: TenantCtx
    ) -> None:
        at = await wait_harness(harness)
        await at.register(context={"n": 1})
        await at.create(ANOTHER)
        await at.register(owner=BOB, key="c3")
        assert await at.find_by_user(caller) == await at.record()
        turn = await at.claim()
        found = await at.find_by_user(caller)
        assert found is not None
        assert found.cas == turn.cas
        await turn.complete(turn.session)
        assert await at.find_by_user(caller) is None

    async def test_find_by_user_does_not_choose(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(CHAT, "c1")
        await at.register(THREAD, "c2")
        await at.register(MAIL, "c3", ttl=LIFE)
        for count in (3, 2):
            with pytest.raises(AmbiguousWaitError) as caught:
                await at.find_by_user()
            assert caught.value.count == count
            assert caught.value.code == "conflict"
            await harness.advance(LIFE)
        assert await at.clear(THREAD) is True
        assert await at.find_by_user() == await at.record("c1")

    # --- clearing ----------------------------------------------------------------------------

    async def test_clearing_removes_wait_and_session(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.register(THREAD, ANOTHER)
        before = await at.record(ANOTHER)
        assert await at.clear() is True
        assert await at.find() is None
        assert await at.listed() == [ANOTHER]
        assert await at.store.get(KEY) is None
        assert await at.record(ANOTHER) == before
        assert await at.clear() is False
        assert await at.clear(THREAD) is True
        await harness.advance(HOUR)
        assert await harness.residue() == []

    async def test_clearing_a_claimed_wait_ends_the_claim(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        assert await at.clear() is True
        assert await at.store.get(KEY) is None
        with pytest.raises(LeaseLostError):
            await turn.complete(turn.session)
        assert await at.store.get(KEY) is None

    async def test_clearing_leaves_the_superseded_session(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.register(key=ANOTHER)
        before = await at.record()
        assert await at.clear() is True
        assert await at.store.get(ANOTHER, ctx=ANN) is None
        assert await at.record() == before
        assert await at.find() is None
        assert await at.clear() is False

    async def test_a_cleared_session_can_be_registered_again(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        first = await at.register()
        assert await at.clear() is True
        second = await at.register()
        assert second.value == 1
        assert second.incarnation != first.incarnation
        assert await at.find() == KEY

    # --- plain verbs on a waiting session ----------------------------------------------------

    @pytest.mark.parametrize("way", [*CHANGES, "touch"])
    async def test_a_session_that_waits_is_a_session(self, harness: StoreHarness, way: str) -> None:
        at = await wait_harness(harness)
        cas = await at.register(context={"n": 1})
        if way == "touch":
            assert await at.store.touch(KEY, ctx=ANN) is True
        else:
            cas = await CHANGES[way](at.store, session(owner=ANN, context={"n": 2}), cas)
            assert cas.value == 2
        assert await at.find() == KEY
        assert await at.listed() == [KEY]
        turn = await at.claim()
        assert turn.session.context == {"n": 1 if way == "touch" else 2}
        assert turn.cas.value == cas.value + 1

    @pytest.mark.parametrize("verb", ["find", "clear", "claim"])
    async def test_a_key_created_again_waits_in_its_new_place_only(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(MAIL, ANOTHER)  # so that the user's index exists throughout
        await at.register(ttl=LIFE)
        await harness.advance(LIFE)
        cas = await at.register(THREAD)
        if verb == "find":
            assert await at.find() is None
        elif verb == "clear":
            assert await at.clear() is False
        else:
            with pytest.raises(WaitNotFoundError):
                await at.claim()
        assert (await at.record()).cas == cas
        assert await at.find(THREAD) == KEY
        assert len(await at.listed()) == 2

    @pytest.mark.parametrize("end", ["deleted", "expired"])
    async def test_a_key_that_waited_once_does_not_wait_in_its_next_life(
        self, harness: StoreHarness, end: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(THREAD, ANOTHER)  # so that the user's index exists throughout
        await at.register(ttl=LIFE)
        turn = await at.claim(lease=1)
        await turn.release()
        if end == "deleted":
            assert await at.store.delete(KEY) is True
        else:
            await harness.advance(LIFE)
        await at.create()
        assert await at.find() is None
        assert await at.listed() == [ANOTHER]
        with pytest.raises(WaitNotFoundError):
            await at.claim()
        assert await at.clear() is False
        assert (await at.store.mutate(KEY, same, ctx=ctx(team_id="red", user_id="ann"))).cas.value
