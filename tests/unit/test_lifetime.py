"""Tests of blocks that enter a store while others leave it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greentic_session import InMemorySessionStore

if TYPE_CHECKING:
    from typing import Any

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fails", [False, True], ids=["opens", "fails to open"])
async def test_a_block_that_is_being_entered_counts(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: InMemorySessionStore[dict[str, Any]] = InMemorySessionStore()
    opens = anyio.Event()
    await store.__aenter__()

    async def open_slowly(_: object) -> None:
        await opens.wait()
        if fails:
            raise BlockingIOError

    monkeypatch.setattr(InMemorySessionStore, "_open", open_slowly)

    async def enter() -> None:
        if fails:
            with pytest.raises(BlockingIOError):
                await store.__aenter__()
            assert store.statistics().closed
            return
        async with store:
            assert not store.statistics().closed
            assert await store.ping()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(enter)
            await checkpoint()
            await checkpoint()
            await store.__aexit__(None, None, None)
            assert not store.statistics().closed
            opens.set()
    assert store.statistics().closed


async def test_a_block_that_fails_to_open_leaves_the_store_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store: InMemorySessionStore[dict[str, Any]] = InMemorySessionStore()

    async def fail(_: object) -> None:
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(InMemorySessionStore, "_open", fail)
        with pytest.raises(BlockingIOError):
            await store.__aenter__()
    async with store:
        assert await store.ping()
    assert store.statistics().closed
