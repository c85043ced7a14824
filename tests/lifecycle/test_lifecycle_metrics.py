"""Tests of a lifecycle's counts, and of its cost."""

from __future__ import annotations

import random
import sys
import tomllib
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from greentic_session import SessionKey
from greentic_session.errors import InvalidInputError, SessionExistsError, SessionNotFoundError
from greentic_session.ordering import (
    LifecycleLimits,
    SessionLifecycle,
    SessionMetrics,
    export_metrics,
)
from tests.contract.test_layers import PACKAGE, _loaded_after
from tests.support.dispatcher import both
from tests.support.lifecycle import A, B, make

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio


# --- counts ---------------------------------------------------------------------------------------


@both
async def test_a_life_is_started_once_and_gone_when_it_ends() -> None:
    lifecycle, _ = make()
    await lifecycle.start(A)
    with pytest.raises(SessionExistsError):
        await lifecycle.start(A)
    await lifecycle.stop(A)
    for verb in (
        lifecycle.touch,
        lifecycle.record_message,
        lifecycle.begin_work,
        lifecycle.should_close,
        lifecycle.metrics_of,
    ):
        with pytest.raises(SessionNotFoundError):
            verb(A)
    await lifecycle.start(A)
    assert lifecycle.metrics_of(A).messages == 0
    with pytest.raises(InvalidInputError):
        await lifecycle.start(SessionKey(""))


@both
async def test_the_books_agree_with_a_plain_count() -> None:
    """After every random step (seeded), the due sessions are those that a full search finds."""
    rng = random.Random(9)
    lifecycle, clock = make(duration_secs=30, messages=5, idle_secs=10, stalled_secs=4)
    names = [SessionKey(f"k{number}") for number in range(30)]
    known: dict[SessionKey, list[int]] = {}  # started, active, messages, running work
    closed: Counter[str] = Counter()
    for _ in range(6000):
        key, now_ms = rng.choice(names), clock.now_ms()
        step = rng.randrange(9)
        life = known.get(key)
        if step == 0:
            clock.advance(rng.random() * 2)
        elif step == 1 and life is None:
            await lifecycle.start(key)
            known[key] = [now_ms, now_ms, 0, 0]
        elif life is None:
            continue
        elif step == 2:
            closed["stopped"] += await lifecycle.stop(key)
            del known[key]
        elif step in (3, 4):
            lifecycle.record_message(key)
            life[1:3] = [now_ms, life[2] + 1]
        elif step == 5:
            lifecycle.touch(key)
            life[1] = now_ms
        elif step == 6:
            lifecycle.begin_work(key)
            life[1], life[3] = now_ms, life[3] + 1
        elif step == 7 and life[3]:
            lifecycle.end_work(key)
            life[1], life[3] = now_ms, life[3] - 1
        expected = _due_by_hand(known, clock.now_ms())
        assert dict(lifecycle.due()) == expected
        if rng.randrange(20) == 0:
            assert dict(await lifecycle.close_due()) == expected
            closed.update(expected.values())
            for name in expected:
                del known[name]
        assert len(lifecycle) == len(known)
        assert len(lifecycle._looks) <= 2 * len(known) + 66
    assert lifecycle.metrics().closed == closed
    assert min(closed[why] for why in ("duration", "messages", "idle", "stopped")) > 0
    for name in known:
        await lifecycle.stop(name)
    left: list[Any] = [lifecycle._lives, lifecycle._looks, lifecycle._due, lifecycle._stalls]
    assert left == [{}, [], {}, {}]


def _due_by_hand(known: Mapping[SessionKey, list[int]], now_ms: int) -> dict[SessionKey, str]:
    due: dict[SessionKey, str] = {}
    for key, (started, active, messages, in_hand) in known.items():
        if in_hand:
            continue
        if now_ms - started >= 30_000:
            due[key] = "duration"
        elif messages >= 5:
            due[key] = "messages"
        elif now_ms - active >= 10_000:
            due[key] = "idle"
    return due


@both
async def test_sessions_that_come_and_go_leave_nothing_behind() -> None:
    lifecycle, _ = make()
    await lifecycle.start(A)
    for _ in range(1000):
        await lifecycle.start(B)
        await lifecycle.stop(B)
        assert len(lifecycle._looks) <= 2 * 2 + 64


@both
async def test_a_look_costs_what_is_due() -> None:
    class Counting:
        def __init__(self) -> None:
            self.count = 0

        def __call__(self, life: object, now_ms: int) -> Any:
            self.count += 1
            return reached(life, now_ms)  # type: ignore[arg-type] # as it is called

    lifecycle, clock = make()
    for number in range(5000):
        await lifecycle.start(SessionKey(f"k{number}"))
    clock.advance(900)
    for number in range(4990):
        lifecycle.touch(SessionKey(f"k{number}"))
    reached = lifecycle._reached
    counting = Counting()
    lifecycle._reached = counting  # type: ignore[method-assign] # to count the looks
    assert lifecycle.due() == []
    assert counting.count == 0
    clock.advance(900)
    assert len(lifecycle.due()) == 10
    first = counting.count
    assert first <= 5000 + 10  # each was visited once, and entered again
    for _ in range(3):
        assert len(lifecycle.due()) == 10
    assert counting.count == first + 30


# --- metrics --------------------------------------------------------------------------------------


@both
async def test_metrics_of_a_session_and_of_all() -> None:
    lifecycle, clock = make()
    await lifecycle.start(A)
    await lifecycle.start(B)
    for _ in range(10):
        clock.advance(2)
        lifecycle.record_message(A)
    clock.advance(5)
    assert lifecycle.metrics_of(A) == SessionMetrics(
        key=A,
        age_secs=25,
        idle_secs=5,
        messages=10,
        messages_per_sec=0.4,
        in_hand=0,
        is_stalled=False,
    )
    await lifecycle.stop(B)
    told = lifecycle.metrics()
    assert (told.live, told.started, told.messages, told.messages_per_sec) == (1, 2, 10, 0.4)
    assert (told.closed, told.due, told.stalled_ever) == ({"stopped": 1}, 0, 0)
    with pytest.raises(AttributeError):
        told.live = 5  # type: ignore[misc] # frozen


@both
async def test_metrics_are_of_one_moment() -> None:
    class Running:
        def __init__(self) -> None:
            self.now = 0

        def now_ms(self) -> int:
            self.now += 1000
            return self.now

    lifecycle = SessionLifecycle(LifecycleLimits(idle_secs=2), clock=Running())
    await lifecycle.start(A)
    lifecycle.record_message(A)
    told = lifecycle.metrics()  # its fourth query of the time
    assert (told.due, told.messages_per_sec) == (0, 1 / 3)


def test_opentelemetry_gets_the_same_metrics() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    lifecycle, clock = make(messages=2)
    export_metrics(lifecycle, provider.get_meter("test"))

    async def live() -> None:
        for key in ("a", "b", "c"):
            await lifecycle.start(SessionKey(key))
        lifecycle.record_message(A)
        lifecycle.record_message(A)
        await lifecycle.close_due()
        await lifecycle.stop(B)
        clock.advance(1800)

    anyio.run(live)
    collected = reader.get_metrics_data()
    assert collected is not None
    found: dict[tuple[str, ...], float] = {}
    for metric in collected.resource_metrics[0].scope_metrics[0].metrics:
        name = metric.name.removeprefix("greentic_session.lifecycle.")
        for point in metric.data.data_points:
            assert isinstance(point, NumberDataPoint)
            found[name, *map(str, (point.attributes or {}).values())] = point.value
    assert found == {
        ("live",): 1,
        ("due",): 1,
        ("started",): 3,
        ("messages",): 2,
        ("closed", "messages"): 1,
        ("closed", "stopped"): 1,
        ("stalled",): 0,
    }
    provider.shutdown()


def test_opentelemetry_stays_out_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from greentic_session.ordering import SessionLifecycle\nSessionLifecycle()"
    assert "opentelemetry" not in _loaded_after(code)
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ModuleNotFoundError):
        export_metrics(SessionLifecycle())
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    (extra,) = project["optional-dependencies"]["otel"]
    assert extra.startswith("opentelemetry-api>=")
    assert not any("opentelemetry" in each for each in project["dependencies"])
