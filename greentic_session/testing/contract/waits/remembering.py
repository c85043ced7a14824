"""Contract tests of the memory of completed events: its duration, size and place."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ....errors import DuplicateEventError
from ..samples import KEY, LIFE, PART
from .helpers import ANN, ANOTHER, ENDINGS, HOUR, wait_harness

if TYPE_CHECKING:
    from ...harness import StoreHarness


@pytest.mark.anyio
class WaitRememberingContract:
    """Completed events are known for a time, even if the indexes were lost."""

    # --- for how long ------------------------------------------------------------------------

    @pytest.mark.parametrize("most", [1, 3])
    async def test_the_newest_events_are_remembered(self, harness: StoreHarness, most: int) -> None:
        at = await wait_harness(harness, max_events=most)
        await at.register()
        for number in range(most + 3):
            await at.take_turn(event_id=f"e{number}")
            await harness.advance(1)
        for number in range(3, most + 3):
            with pytest.raises(DuplicateEventError):
                await at.claim(event_id=f"e{number}")
        for number in range(3):
            assert await (await at.claim(event_id=f"e{number}")).release() is True

    async def test_the_very_newest_event_is_always_remembered(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, max_events=1)
        await at.register()
        for number in range(12):
            await at.take_turn(event_id=f"e{number}")
            with pytest.raises(DuplicateEventError):
                await at.claim(event_id=f"e{number}")

    async def test_the_events_of_each_session_are_remembered_by_the_user_too(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness, max_events=2)
        for number in range(3):
            await at.register(key=f"c{number}")
            turn = await at.claim(event_id=f"e{number}")
            await turn.finish()
            await harness.advance(1)
        await at.register(key="c9")
        for number in (1, 2):
            with pytest.raises(DuplicateEventError):
                await at.claim(event_id=f"e{number}")
        await at.take_turn(event_id="e0")

    @pytest.mark.parametrize("events_ttl", [LIFE, timedelta(seconds=LIFE)], ids=["s", "delta"])
    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_events_are_remembered_for_a_while(
        self, harness: StoreHarness, ending: str, events_ttl: Any
    ) -> None:
        at = await wait_harness(harness, events_ttl=events_ttl)
        await at.register()
        await ENDINGS[ending](await at.claim(event_id="e"))
        await at.register()
        await harness.advance(PART)
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")
        await harness.advance(LIFE - PART)
        await at.take_turn(event_id="e")
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")

    async def test_newer_events_do_not_prolong_older_ones(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, events_ttl=LIFE)
        await at.register()
        await at.take_turn(event_id="old")
        await harness.advance(PART)
        await at.take_turn(event_id="new")
        await harness.advance(LIFE - PART)
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="new")
        await at.take_turn(event_id="old")

    async def test_events_are_remembered_for_a_day_unless_said(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.take_turn(event_id="e")
        await harness.advance(23 * HOUR)
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")
        await harness.advance(HOUR)
        await at.take_turn(event_id="e")

    # --- where they are kept -----------------------------------------------------------------

    @pytest.mark.parametrize("heal", ["register", "rebuild"])
    async def test_the_session_that_waits_on_remembers_when_indexes_are_lost(
        self, harness: StoreHarness, heal: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.take_turn(event_id="e")
        await harness.forget_indexes()
        if heal == "register":
            await at.register()
        else:
            assert await at.waits.rebuild_index(ANN) == 1
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_the_key_remembers_when_indexes_are_lost(
        self, harness: StoreHarness, ending: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await ENDINGS[ending](await at.claim(event_id="e"))
        await harness.forget_indexes()
        await at.register()
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")

    async def test_what_a_session_remembers_stays_at_its_place_when_it_is_superseded(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.take_turn(event_id="e")
        await harness.forget_indexes()
        await at.waits.rebuild_index(ANN)
        await at.register(key=ANOTHER)
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")

    @pytest.mark.parametrize("way", ["delete", "delete without a caller", "clear"])
    async def test_what_a_session_remembers_goes_with_it(
        self, harness: StoreHarness, way: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.take_turn(event_id="e")
        if way == "clear":
            assert await at.clear() is True
        else:
            assert await at.store.delete(KEY, ctx=ANN if way == "delete" else None) is True
        await harness.forget_indexes()
        await harness.advance(HOUR)
        assert await harness.residue() == []
        await at.register()
        await at.take_turn(event_id="e")
