"""The contract suite on generations: inherit :class:`GenerationContract`, give it a ``harness``.

For stores with generations (:class:`greentic_session.abc.generations.SupportsGenerations`). The
fixture and the rest are as for :class:`SessionStoreContract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import pytest

from ...._core import tenancy
from ....abc.generations import GenerationBackend, GenerationOwner, generation_backend_of
from ....errors import StoreUnavailableError
from ..samples import GLOBEX, LIFE, PART, ctx

if TYPE_CHECKING:
    from ....model import TenantCtx
    from ...harness import StoreHarness

__all__ = ["GenerationContract"]

_ANN: Final = ctx(team_id="red", user_id="ann")
_OTHERS: Final = {
    "tenant": ctx(GLOBEX, team_id="red", user_id="ann"),
    "env": ctx(env="staging", team_id="red", user_id="ann"),
    "team": ctx(team_id="blue", user_id="ann"),
    "no team": ctx(user_id="ann"),
    "user": ctx(team_id="red", user_id="bob"),
    "no user": ctx(team_id="red"),
}
_KEEP_MS: Final = round(LIFE * 1000)


def _owner(caller: TenantCtx = _ANN) -> GenerationOwner:
    found = tenancy.owner_of(caller)
    return GenerationOwner(found.scope, found.owner)


async def _backend(harness: StoreHarness) -> GenerationBackend:
    return generation_backend_of(await harness.open())


@pytest.mark.anyio
class GenerationContract:
    """A generation is confirmed until it is raised or ends, and never returns."""

    async def test_a_generation_stays_until_it_is_raised(self, harness: StoreHarness) -> None:
        at = await _backend(harness)
        first = await at.read(_owner(), _KEEP_MS)
        assert first
        assert await at.read(_owner(), _KEEP_MS) == first
        assert await at.confirm(_owner(), first, _KEEP_MS) is True
        assert await at.confirm(_owner(), first, _KEEP_MS) is True
        assert await at.read(_owner(), _KEEP_MS) == first

    async def test_a_raised_generation_is_not_confirmed_again(self, harness: StoreHarness) -> None:
        at = await _backend(harness)
        seen = [await at.read(_owner(), _KEEP_MS)]
        for _ in range(3):
            raised = await at.raise_(_owner(), _KEEP_MS)
            assert raised not in seen
            seen.append(raised)
            assert [await at.confirm(_owner(), one, 0) for one in seen] == [
                *(False for _ in seen[1:]),
                True,
            ]
            assert await at.read(_owner(), _KEEP_MS) == raised

    @pytest.mark.parametrize("other", _OTHERS.values(), ids=_OTHERS)
    async def test_another_owners_generation_is_another_one(
        self, harness: StoreHarness, other: TenantCtx
    ) -> None:
        at = await _backend(harness)
        mine, theirs = await at.read(_owner(), _KEEP_MS), await at.read(_owner(other), _KEEP_MS)
        assert mine != theirs
        assert await at.confirm(_owner(other), mine, _KEEP_MS) is False
        await at.raise_(_owner(other), _KEEP_MS)
        assert await at.confirm(_owner(), mine, _KEEP_MS) is True

    async def test_an_unknown_generation_is_not_confirmed(self, harness: StoreHarness) -> None:
        at = await _backend(harness)
        for unknown in ("", "1", "a" * 32):
            assert await at.confirm(_owner(), unknown, _KEEP_MS) is False
        await at.read(_owner(), _KEEP_MS)
        for unknown in ("", "1", "a" * 32):
            assert await at.confirm(_owner(), unknown, _KEEP_MS) is False

    async def test_a_generation_that_was_only_read_ends(self, harness: StoreHarness) -> None:
        at = await _backend(harness)
        first = await at.read(_owner(), _KEEP_MS)
        await harness.advance(LIFE * 2)
        assert await at.confirm(_owner(), first, _KEEP_MS) is False
        assert await at.read(_owner(), _KEEP_MS) != first
        assert await at.confirm(_owner(), first, _KEEP_MS) is False

    async def test_a_raise_after_the_end_begins_another_generation(
        self, harness: StoreHarness
    ) -> None:
        at = await _backend(harness)
        first = await at.read(_owner(), _KEEP_MS)
        await harness.advance(LIFE * 2)
        second = await at.raise_(_owner(), _KEEP_MS)
        assert second != first
        assert await at.confirm(_owner(), second, _KEEP_MS) is True

    async def test_a_read_keeps_the_generation_for_its_time(self, harness: StoreHarness) -> None:
        at = await _backend(harness)
        first = await at.read(_owner(), _KEEP_MS)
        await harness.advance(PART)
        assert await at.read(_owner(), _KEEP_MS) == first
        await harness.advance(PART)
        assert await at.confirm(_owner(), first, 1) is True

    @pytest.mark.parametrize("step", ["read", "raise", "confirm"])
    async def test_no_step_shortens_the_life_of_a_generation(
        self, harness: StoreHarness, step: str
    ) -> None:
        at = await _backend(harness)
        first = await at.read(_owner(), _KEEP_MS)
        assert await at.confirm(_owner(), first, 10 * _KEEP_MS) is True
        if step == "read":
            await at.read(_owner(), 1000)
        elif step == "raise":
            first = await at.raise_(_owner(), 1000)
        else:
            await at.confirm(_owner(), first, 1000)
        await harness.advance(LIFE * 9)
        assert await at.read(_owner(), 1000) == first

    @pytest.mark.parametrize("step", ["read", "raise", "confirm"])
    async def test_a_generation_of_a_permanent_session_is_permanent(
        self, harness: StoreHarness, step: str
    ) -> None:
        at = await _backend(harness)
        first = await at.read(_owner(), _KEEP_MS)
        assert await at.confirm(_owner(), first, 0) is True
        if step == "read":
            await at.read(_owner(), _KEEP_MS)
        elif step == "raise":
            first = await at.raise_(_owner(), _KEEP_MS)
        else:
            await at.confirm(_owner(), first, _KEEP_MS)
        await harness.advance(LIFE * 10_000)
        assert await at.read(_owner(), _KEEP_MS) == first

    async def test_a_generation_never_returns_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await _backend(harness)
        seen: list[str] = []
        for _ in range(3):
            seen.append(await at.raise_(_owner(), _KEEP_MS))
            await harness.advance(LIFE * 3)
            await at.read(_owner(), _KEEP_MS)
            await harness.advance(-LIFE * 3)
            seen.append(await at.raise_(_owner(), _KEEP_MS))
        assert len(set(seen)) == len(seen)
        confirmed = [await at.confirm(_owner(), one, _KEEP_MS) for one in seen]
        assert confirmed == [*(False for _ in seen[1:]), True]

    async def test_of_parallel_readers_each_gets_the_same_generation(
        self, harness: StoreHarness
    ) -> None:
        at = await _backend(harness)
        found: list[str] = []

        async def read() -> None:
            found.append(await at.read(_owner(), _KEEP_MS))

        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(read)
        assert len(found) == 16
        assert len(set(found)) == 1

    async def test_nothing_is_left_when_the_sessions_have_ended(
        self, harness: StoreHarness
    ) -> None:
        at = await _backend(harness)
        first = await at.read(_owner(), _KEEP_MS)
        await at.confirm(_owner(), first, _KEEP_MS)
        await at.raise_(_owner(), _KEEP_MS)
        assert await harness.residue()
        await harness.advance(LIFE * 2)
        assert not await harness.residue()

    async def test_a_closed_store_has_no_generations(self, harness: StoreHarness) -> None:
        store = await harness.open()
        at = generation_backend_of(store)
        await store.aclose()
        with pytest.raises(StoreUnavailableError):
            await at.read(_owner(), _KEEP_MS)
