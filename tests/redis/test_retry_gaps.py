"""Tests of attempts of one call with a long gap: other writes between them, or only one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from greentic_session import OutcomeUnknownError, SessionExistsError, SessionKey
from greentic_session.testing.proxy import Fate, FaultProxy

from ..support.redis import CTX, session, store_at, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.servers import LocalServer

    Store = AsyncSessionStore[Any]

pytestmark = pytest.mark.anyio

VICTIM = SessionKey("victim")
MORE_THAN_A_RECORD_REMEMBERS = 12


def in_turn(*fates: Fate) -> Callable[[bytes], Fate]:
    """A schedule for the scripts that name the victim."""
    left = [*fates]

    def choose(request: bytes) -> Fate:
        concerns_it = VICTIM.encode() in request and b"EVAL" in request
        return left.pop(0) if left and concerns_it else Fate.PASS

    return choose


async def knowing_the_scripts(direct: Store) -> None:
    key = SessionKey("other")
    await direct.put(session(key))
    await direct.delete(key, ctx=CTX)
    await direct.create(session(key))


async def test_a_put_is_not_made_twice_though_others_wrote_and_its_repeat_is_slow(
    server: LocalServer,
) -> None:
    namespace = f"test:{uuid4().hex}"
    async with (
        FaultProxy(server.port, in_turn(Fate.LOSE, Fate.HOLD), delay_secs=0.1) as proxy,
        store_at(server.url, namespace=namespace) as direct,
        store_at(proxy.url, namespace=namespace) as store,
    ):
        await knowing_the_scripts(direct)

        async def write() -> None:
            for _ in range(MORE_THAN_A_RECORD_REMEMBERS):
                await direct.put(session(VICTIM))

        proxy.before_loss = write
        with suppress(OutcomeUnknownError):
            await store.put(session(VICTIM))
        found = await direct.get(VICTIM, ctx=CTX)
        assert found is not None
        assert found.cas.value == MORE_THAN_A_RECORD_REMEMBERS + 1


async def test_a_delete_that_was_made_is_not_reported_as_of_nothing(server: LocalServer) -> None:
    namespace = f"test:{uuid4().hex}"
    async with (
        FaultProxy(server.port, in_turn(Fate.LOSE)) as proxy,
        store_at(server.url, namespace=namespace) as direct,
        store_at(proxy.url, namespace=namespace) as store,
    ):
        await knowing_the_scripts(direct)
        await direct.put(session(VICTIM))

        async def make_again_and_remove() -> None:
            for _ in range(MORE_THAN_A_RECORD_REMEMBERS):
                await direct.put(session(VICTIM))
            await direct.delete(VICTIM, ctx=CTX)

        proxy.before_loss = make_again_and_remove
        with suppress(OutcomeUnknownError):
            assert await store.delete(VICTIM, ctx=CTX)


async def test_a_create_that_was_refused_is_not_made_by_its_first_attempt(
    server: LocalServer,
) -> None:
    namespace = f"test:{uuid4().hex}"
    deadline = 1.5
    async with (
        # It arrives after the call's end: an attempt has half of the deadline, the next the rest.
        FaultProxy(server.port, in_turn(Fate.DELAY), delay_secs=deadline) as proxy,
        store_at(server.url, namespace=namespace) as direct,
        store_at(proxy.url, namespace=namespace, deadline=deadline) as store,
    ):
        await knowing_the_scripts(direct)
        await direct.create(session(VICTIM))
        try:
            await store.create(session(VICTIM))
        except SessionExistsError:
            was_refused = True
        else:
            was_refused = False
        assert was_refused
        assert await direct.delete(VICTIM, ctx=CTX)
        await until(lambda: proxy.executed_late + proxy.never_executed == 1)
        assert await direct.get(VICTIM, ctx=CTX) is None
