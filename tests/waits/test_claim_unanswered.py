"""Tests of a claim of unknown outcome: no worker knows of it, so it is released."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from greentic_session import (
    OutcomeUnknownError,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    WaitClaimedError,
    WaitRegistry,
)
from greentic_session.redis import scripts as lua
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.proxy import Fate, FaultProxy

from ..support.redis import store_at, until_async
from ..support.waits import USER, chat, owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..support.waits import Registry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def harness(tcp_server_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(tcp_server_url) as harness:
        yield harness


async def registered(harness: RedisHarness) -> Registry:
    """Return a registry with a sound connection, on which a session waits."""
    near: Registry = WaitRegistry(await harness.open())
    session: Session[dict[str, object]] = Session(
        key=SessionKey("claimed"),
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta.of(owner()),
        context={},
    )
    await near.register_wait(owner(), USER, chat(), session)
    async with near.resume(owner(), USER, chat()):
        pass  # the server has the script
    return near


def silent_claims(request: bytes) -> Fate:
    """Let the server execute each claim, and drop its reply."""
    return Fate.SILENCE if lua.CLAIM.sha1.encode() in request else Fate.PASS


async def is_free(waits: Registry) -> bool:
    try:
        found = await waits.claim(owner(), USER, chat(), lease=60)
    except WaitClaimedError:
        return False
    await found.release()
    return True


async def claim(waits: Registry) -> None:
    await waits.claim(owner(), USER, chat(), lease=60)


async def resume(waits: Registry) -> None:
    async with waits.resume(owner(), USER, chat(), lease=60):
        pass


@pytest.mark.parametrize("verb", ["claim", "resume"])
async def test_a_claim_with_an_unknown_outcome_is_released(
    harness: RedisHarness, tcp_server_url: str, verb: str
) -> None:
    near = await registered(harness)
    async with (
        FaultProxy(int(tcp_server_url.rsplit(":", 1)[1]), silent_claims) as proxy,
        store_at(proxy.url, namespace=harness.config.namespace, deadline=0.5) as store,
    ):
        far: Registry = WaitRegistry(store)
        with pytest.raises(OutcomeUnknownError):
            await (claim(far) if verb == "claim" else resume(far))
        await until_async(lambda: is_free(near))


async def test_a_named_claim_with_an_unknown_outcome_is_left_to_its_repetition(
    harness: RedisHarness, tcp_server_url: str
) -> None:
    near = await registered(harness)
    async with (
        FaultProxy(int(tcp_server_url.rsplit(":", 1)[1]), silent_claims) as proxy,
        store_at(proxy.url, namespace=harness.config.namespace, deadline=0.5) as store,
    ):
        far: Registry = WaitRegistry(store)
        with pytest.raises(OutcomeUnknownError):
            await far.claim(owner(), USER, chat(), attempt_id="mine", lease=60)
        assert not await is_free(near)
        found = await near.claim(owner(), USER, chat(), attempt_id="mine", lease=60)
        assert await found.release()
