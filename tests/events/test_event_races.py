"""Tests of events in races: cancelling against firing, and workers that die."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from greentic_session import SessionKey, SessionMeta, create_session_store
from greentic_session.events import SessionEvents
from greentic_session.model import Session
from greentic_session.testing.contract.events.helpers import Note
from greentic_session.testing.contract.samples import ctx

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from greentic_session.events import Event, EventTurn
    from greentic_session.store import AsyncSessionStore

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
KEYS = [SessionKey(f"s{number}") for number in range(8)]


@pytest.fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[AsyncSessionStore[Any]]:
    url = "memory://"
    if request.param == "valkey":
        url = f"{request.getfixturevalue('valkey_url')}?namespace=races{random.random()}"
    async with create_session_store(url) as opened:
        for key in KEYS:
            await opened.create(Session(key=key, meta=SessionMeta.of(ctx()), context={"told": []}))
        yield opened


def _events(store: AsyncSessionStore[Any], **options: Any) -> SessionEvents[Any, Note]:
    return SessionEvents(store, ctx(), payload_type=Note, lease=2, **options)


class _Workers:
    """Workers that note what they handled. A kill stops them at any await."""

    def __init__(self, store: AsyncSessionStore[Any]) -> None:
        self.store = store
        self.handled: list[str] = []
        self.late: list[float] = []

    async def handle(self, event: Event[Note], turn: EventTurn[Any]) -> None:
        self.handled.append(event.payload.text)
        await turn.update(lambda state: {"told": [*state["told"], event.payload.text]})

    @asynccontextmanager
    async def running(self, number: int) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(self._work)
            yield
            tasks.cancel_scope.cancel()

    async def _work(self) -> None:
        async with _events(self.store).process(self.handle, worker="w", concurrency=4):
            await anyio.sleep_forever()


async def test_a_cancelled_event_is_never_handled_however_close_to_its_due_time(
    store: AsyncSessionStore[Any],
) -> None:
    events, workers = _events(store), _Workers(store)
    results: dict[str, str] = {}

    async def race(number: int) -> None:
        name = f"e{number}"
        delay = random.uniform(0, 0.02)
        event_id = await events.schedule(Note(name), session=KEYS[number % len(KEYS)], delay=delay)
        await anyio.sleep(max(0.0, delay + random.uniform(-0.004, 0.01)))
        results[name] = await events.cancel(event_id)

    async with workers.running(2):
        for start in range(0, 100, 10):
            async with anyio.create_task_group() as tasks:
                for number in range(start, start + 10):
                    tasks.start_soon(race, number)
        await _until_over(events)
    cancelled = {name for name, result in results.items() if result == "cancelled"}
    assert len(results) == 100
    assert not cancelled & set(workers.handled)
    assert set(results) - cancelled == set(workers.handled)


async def test_each_event_is_committed_once_although_workers_are_stopped(
    store: AsyncSessionStore[Any],
) -> None:
    events, workers = _events(store), _Workers(store)  # a stopped take ends with its lease
    names = [f"e{number}" for number in range(120)]
    for number, name in enumerate(names):
        delay = random.uniform(0, 1)
        await events.schedule(Note(name), session=KEYS[number % len(KEYS)], delay=delay)
    with anyio.fail_after(PATIENCE):
        while (await events.statistics()).scheduled:
            async with workers.running(2):
                await anyio.sleep(random.uniform(0.05, 0.3))
        async with workers.running(2):
            await _until_over(events)
    told = [name for key in KEYS for name in (await store.require(key)).session.context["told"]]
    assert sorted(told) == sorted(names)


async def test_no_event_is_handled_before_it_is_due(store: AsyncSessionStore[Any]) -> None:
    events, early = _events(store), []

    async def handle(event: Event[Note], turn: EventTurn[Any]) -> None:
        assert turn.is_active
        if datetime.now(UTC) < event.due_at:  # the server has the clock of this machine
            early.append(event)

    async with events.process(handle, worker="w"):
        for number in range(50):
            await events.schedule(Note(""), session=KEYS[number % len(KEYS)], delay=number / 100)
        await _until_over(events)
    found = await events.statistics()
    assert found.handled == 50
    assert early == []


async def _until_over(events: SessionEvents[Any, Note]) -> None:
    """Wait until no timer is left, and no session is due or has a held turn."""
    with anyio.fail_after(PATIENCE):
        while (await events.statistics()).scheduled or (  # noqa: ASYNC110
            await events.inbox.depth()
        ).sessions:
            await anyio.sleep(0.02)
