"""When sessions are due, what is called then, and what is counted."""

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

from greentic_session import ManualClock, SessionKey
from greentic_session.errors import (
    InvalidInputError,
    SessionExistsError,
    SessionNotFoundError,
)
from greentic_session.ordering import (
    LifecycleHooks,
    LifecycleLimits,
    SessionLifecycle,
    SessionMetrics,
    export_metrics,
)
from tests.dispatcher_rig import both
from tests.test_floors import PACKAGE, _loaded_after

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio

A, B = SessionKey("a"), SessionKey("b")


class Diary:
    """Hooks that write down what they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, SessionMetrics]] = []
        self.hooks = LifecycleHooks(
            on_start=self._note("start"),
            on_idle=self._note("idle"),
            on_stalled=self._note("stalled"),
            on_expire=self._note("expire"),
            on_close=self._note("close"),
        )

    def _note(self, name: str) -> Any:  # Any: a hook, whose type is not exported
        async def note(told: SessionMetrics) -> None:
            await anyio.lowlevel.checkpoint()
            self.told.append((name, told))

        return note

    def names(self) -> list[str]:
        return [f"{name} {told.key}" for name, told in self.told]


def make(diary: Diary | None = None, **limits: Any) -> tuple[SessionLifecycle, ManualClock]:
    clock = ManualClock()
    hooks = diary.hooks if diary else None
    return SessionLifecycle(LifecycleLimits(**limits), hooks=hooks, clock=clock), clock


# --- limits --------------------------------------------------------------------------------------


def test_the_limits_unless_said_otherwise() -> None:
    limits = LifecycleLimits()
    assert (limits.duration_secs, limits.messages, limits.idle_secs) == (7200, 1000, 1800)


@both
async def test_idle_is_reached_at_its_very_millisecond() -> None:
    lifecycle, clock = make()
    await lifecycle.start(A)
    clock.advance(1799.999)
    assert (lifecycle.should_close(A), lifecycle.due()) == (None, [])
    clock.advance(0.001)
    assert (lifecycle.should_close(A), lifecycle.due()) == ("idle", [(A, "idle")])
    lifecycle.touch(A)
    assert (lifecycle.should_close(A), lifecycle.due()) == (None, [])
    clock.advance(1800)
    assert await lifecycle.close_due() == [(A, "idle")]
    assert A not in lifecycle


@both
async def test_duration_is_reached_however_active_a_session_is() -> None:
    lifecycle, clock = make()
    await lifecycle.start(A)
    for _ in range(7):
        clock.advance(1000)
        lifecycle.touch(A)
    clock.advance(199.999)
    assert lifecycle.due() == []
    clock.advance(0.001)
    assert lifecycle.due() == [(A, "duration")]
    lifecycle.touch(A)
    assert lifecycle.due() == [(A, "duration")]


@both
async def test_messages_are_reached_at_once() -> None:
    lifecycle, _ = make(messages=3)
    await lifecycle.start(A)
    for _ in range(2):
        lifecycle.record_message(A)
    assert lifecycle.due() == []
    lifecycle.record_message(A)
    assert lifecycle.should_close(A) == "messages"
    assert lifecycle.due() == [(A, "messages")]
    assert await lifecycle.close_due() == [(A, "messages")]
    assert len(lifecycle) == 0


@both
async def test_none_is_no_limit() -> None:
    lifecycle, clock = make(duration_secs=None, messages=None, idle_secs=None, stalled_secs=None)
    await lifecycle.start(A)
    lifecycle.begin_work(A)
    for _ in range(2000):
        lifecycle.record_message(A)
    clock.advance(10**9)
    assert (lifecycle.should_close(A), await lifecycle.close_due()) == (None, [])
    assert not lifecycle.metrics_of(A).is_stalled


@pytest.mark.parametrize(
    ("field", "limit"),
    [
        ("duration_secs", 0),
        ("idle_secs", -1),
        ("stalled_secs", float("nan")),
        ("messages", 0),
        ("messages", True),
    ],
)
def test_bad_limits_are_refused(field: str, limit: float) -> None:
    with pytest.raises(InvalidInputError) as refused:
        make(None, **{field: limit})
    assert refused.value.field == field


@both
async def test_a_clock_that_is_set_back_makes_nobody_due() -> None:
    lifecycle, clock = make()
    await lifecycle.start(A)
    start_ms = clock.now_ms()
    clock.advance(1800)
    assert lifecycle.due() == [(A, "idle")]
    clock.set_ms(start_ms)
    assert lifecycle.due() == []
    clock.advance(1800)
    assert lifecycle.due() == [(A, "idle")]


# --- work ----------------------------------------------------------------------------------------


@both
async def test_work_in_hand_is_neither_idle_nor_cut_off() -> None:
    diary = Diary()
    lifecycle, clock = make(diary, stalled_secs=None)
    await lifecycle.start(A)
    lifecycle.begin_work(A)
    clock.advance(1800)
    assert lifecycle.should_close(A) is None
    clock.advance(5400)
    assert lifecycle.should_close(A) == "duration"
    assert await lifecycle.close_due() == []
    lifecycle.begin_work(A)
    lifecycle.end_work(A)
    assert lifecycle.due() == []
    lifecycle.end_work(A)
    assert await lifecycle.close_due() == [(A, "duration")]


@both
async def test_work_that_does_not_move_is_reported_once_until_it_does() -> None:
    diary = Diary()
    lifecycle, clock = make(diary, stalled_secs=60)
    await lifecycle.start(A)
    await lifecycle.start(B)
    clock.advance(600)
    assert not lifecycle.metrics_of(A).is_stalled  # there is no work
    lifecycle.begin_work(A)
    clock.advance(59.999)
    await lifecycle.close_due()
    assert "stalled a" not in diary.names()
    clock.advance(0.001)
    for _ in range(3):
        await lifecycle.close_due()
    assert diary.names().count("stalled a") == 1
    assert lifecycle.metrics_of(A).is_stalled
    assert diary.told[-1][1].in_hand == 1
    lifecycle.touch(A)
    assert not lifecycle.metrics_of(A).is_stalled
    clock.advance(60)
    await lifecycle.close_due()
    assert diary.names().count("stalled a") == 2
    assert lifecycle.metrics().stalled_ever == 2
    assert "stalled b" not in diary.names()


@both
async def test_progress_before_the_report_takes_it_back() -> None:
    diary = Diary()
    lifecycle, clock = make(diary, stalled_secs=60)
    await lifecycle.start(A)
    lifecycle.begin_work(A)
    clock.advance(60)
    assert lifecycle.due() == []  # finds the stall, reports nothing
    lifecycle.record_message(A)
    await lifecycle.close_due()
    assert diary.names() == ["start a"]


@both
async def test_a_hook_may_stop_what_stalls() -> None:
    async def stop(told: SessionMetrics) -> None:
        assert await lifecycle.stop(told.key)

    clock = ManualClock()
    lifecycle = SessionLifecycle(hooks=LifecycleHooks(on_stalled=stop), clock=clock)
    await lifecycle.start(A)
    lifecycle.begin_work(A)
    clock.advance(7200)
    assert await lifecycle.close_due() == []
    assert lifecycle.metrics().closed == {"stopped": 1}
    lifecycle.end_work(A)  # the work hears of it later, and may say so


@both
async def test_work_that_was_not_begun_cannot_end() -> None:
    lifecycle, _ = make()
    await lifecycle.start(A)
    with pytest.raises(InvalidInputError):
        lifecycle.end_work(A)


# --- hooks ---------------------------------------------------------------------------------------


@both
async def test_what_is_called_when() -> None:
    diary = Diary()
    lifecycle, clock = make(diary, messages=1)
    for key in ("idle", "full", "old", "stopped"):
        await lifecycle.start(SessionKey(key))
    lifecycle.record_message(SessionKey("full"))
    assert await lifecycle.stop(SessionKey("stopped"))
    assert not await lifecycle.stop(SessionKey("stopped"))
    await lifecycle.close_due()
    clock.advance(1800)
    lifecycle.touch(SessionKey("old"))
    await lifecycle.close_due()
    lifecycle.begin_work(SessionKey("old"))
    clock.advance(5400)
    lifecycle.end_work(SessionKey("old"))
    await lifecycle.close_due()
    assert diary.names()[4:] == [
        "close stopped",
        "expire full",
        "close full",
        "idle idle",
        "expire idle",
        "close idle",
        "expire old",
        "close old",
    ]
    assert {told.key: told.closed for name, told in diary.told if name == "close"} == {
        "stopped": "stopped",
        "full": "messages",
        "idle": "idle",
        "old": "duration",
    }
    assert lifecycle.metrics().closed == {"stopped": 1, "messages": 1, "idle": 1, "duration": 1}


@both
async def test_a_hook_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: SessionMetrics) -> None:
        raise ValueError

    clock = ManualClock()
    hooks = LifecycleHooks(on_start=fail, on_idle=fail, on_expire=fail, on_close=fail)
    lifecycle = SessionLifecycle(hooks=hooks, clock=clock)
    await lifecycle.start(A)
    await lifecycle.start(B)
    clock.advance(1800)
    assert await lifecycle.close_due() == [(A, "idle"), (B, "idle")]
    assert [record.getMessage() for record in caplog.records] == [
        f"the hook {name} failed"
        for name in ("on_start", "on_start", *(("on_idle", "on_expire", "on_close") * 2))
    ]


@both
async def test_two_that_close_at_once_close_each_session_once() -> None:
    diary = Diary()
    lifecycle, clock = make(diary)
    for number in range(20):
        await lifecycle.start(SessionKey(f"k{number}"))
    clock.advance(1800)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(lifecycle.close_due)
    closed = Counter(told.key for name, told in diary.told if name == "close")
    assert closed == {f"k{number}": 1 for number in range(20)}


@both
async def test_what_becomes_active_while_others_are_closed_stays() -> None:
    async def touch_b(_: SessionMetrics) -> None:
        lifecycle.touch(B)

    clock = ManualClock()
    lifecycle = SessionLifecycle(hooks=LifecycleHooks(on_close=touch_b), clock=clock)
    await lifecycle.start(A)
    await lifecycle.start(B)
    clock.advance(1800)
    assert await lifecycle.close_due() == [(A, "idle")]
    assert B in lifecycle


@both
async def test_a_close_that_is_cancelled_leaves_the_rest_due() -> None:
    async def hang(_: SessionMetrics) -> None:
        scope.cancel()
        await anyio.sleep_forever()

    clock = ManualClock()
    lifecycle = SessionLifecycle(hooks=LifecycleHooks(on_close=hang), clock=clock)
    await lifecycle.start(A)
    await lifecycle.start(B)
    clock.advance(1800)
    with anyio.CancelScope() as scope:
        await lifecycle.close_due()
    assert A not in lifecycle
    assert lifecycle.due() == [(B, "idle")]


# --- books ---------------------------------------------------------------------------------------


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
    """Seeded: after every step, who is due is who a look at every session finds."""
    rng = random.Random(9)
    lifecycle, clock = make(duration_secs=30, messages=5, idle_secs=10, stalled_secs=4)
    names = [SessionKey(f"k{number}") for number in range(30)]
    known: dict[SessionKey, list[int]] = {}  # started, active, messages, work in hand
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
    assert first <= 5000 + 10  # each was looked at once, and entered anew
    for _ in range(3):
        assert len(lifecycle.due()) == 10
    assert counting.count == first + 30


# --- metrics -------------------------------------------------------------------------------------


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


def test_opentelemetry_is_told_the_same() -> None:
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
