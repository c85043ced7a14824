"""Tests of an inbox next to workers of an earlier release, which write only the common index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from greentic_session import SessionKey, TenantCtx
from greentic_session.ordering import SessionInbox
from greentic_session.testing.harness import RedisHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

ACME: Final = TenantCtx(tenant_id="acme")
GLOBEX: Final = TenantCtx(tenant_id="globex")
PAGE: Final = 128
PATIENCE_SECS: Final = 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


async def forget_tenants(harness: RedisHarness) -> None:
    """Leave the common index alone, as workers of an earlier release do."""
    index = f"{harness.config.namespace}:inbox:{{inbox}}"
    names = [f"{index}:tenant:{env}" for env in ("default/acme", "default/globex")]
    await harness.client.read("DEL", *names, key=index)


async def taken(inbox: SessionInbox[Any], wait: float | None = 0) -> list[str]:
    async with inbox.take("worker", wait=wait) as turn:
        if turn is None:
            return []
        events = [mail.event_id for mail in turn.mail]
        await turn.finish()
        return events


async def test_message_of_an_older_worker_behind_many_of_another_tenant_is_found(
    harness: RedisHarness,
) -> None:
    store = await harness.open()
    other, inbox = SessionInbox(store, GLOBEX), SessionInbox(store, ACME)
    async with anyio.create_task_group() as tasks:
        for number in range(2 * PAGE + 1):
            tasks.start_soon(other.admit, SessionKey(f"other-{number}"), "e", b"")
    await inbox.admit(SessionKey("mine"), "e1", b"")
    await forget_tenants(harness)
    assert await taken(inbox) == ["e1"]
    assert await taken(inbox) == []


async def test_waiting_worker_finds_the_next_messages_of_an_older_worker(
    harness: RedisHarness,
) -> None:
    """No notification arrives. A worker that found one message expects another."""
    store = await harness.open()
    inbox = SessionInbox(store, ACME)
    await inbox.admit(SessionKey("one"), "e1", b"")
    await forget_tenants(harness)
    assert await taken(inbox) == ["e1"]
    index = f"{harness.config.namespace}:inbox:{{inbox}}"
    with anyio.fail_after(PATIENCE_SECS):
        async with anyio.create_task_group() as tasks:
            found: list[str] = []

            async def take() -> None:
                found.extend(await taken(inbox, None))

            # The entry is due at once, and its message comes by a mailbox that has a worker.
            await inbox.admit(SessionKey("two"), "e2", b"")
            await harness.client.read("ZADD", index, 0, "default/acme/two", key=index)
            await forget_tenants(harness)
            tasks.start_soon(take)
    assert found == ["e2"]


async def test_entry_that_an_older_worker_removed_costs_nothing(harness: RedisHarness) -> None:
    store = await harness.open()
    inbox = SessionInbox(store, ACME)
    for number in range(100):  # more than one call corrects
        await inbox.admit(SessionKey(f"{number}"), "e", b"")
    index = f"{harness.config.namespace}:inbox:{{inbox}}"
    await harness.client.read("DEL", index, key=index)
    assert await taken(inbox) == []
    assert (await inbox.depth()).sessions == 0


async def test_turn_of_an_older_worker_is_left_alone(harness: RedisHarness) -> None:
    """It defers the session in the common index only."""
    store = await harness.open()
    inbox = SessionInbox(store, ACME)
    await inbox.admit(SessionKey("one"), "e1", b"")
    every = SessionInbox(store, ACME, tenants="all")
    async with every.take("older", wait=0) as turn:
        assert turn is not None
        assert await taken(inbox) == []
    assert await taken(inbox) == ["e1"]
