"""Tests of when sessions are due, and of the hooks called then."""

from __future__ import annotations

import pytest

from greentic_session import ManualClock
from greentic_session.errors import InvalidInputError, SessionNotFoundError
from greentic_session.ordering import (
    LifecycleHooks,
    LifecycleLimits,
    SessionLifecycle,
    SessionMetrics,
)
from tests.support.dispatcher import both
from tests.support.lifecycle import A, B, Diary, make

pytestmark = pytest.mark.anyio


# --- limits ---------------------------------------------------------------------------------------


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
async def test_a_clock_that_is_set_back_makes_no_session_due() -> None:
    lifecycle, clock = make()
    await lifecycle.start(A)
    start_ms = clock.now_ms()
    clock.advance(1800)
    assert lifecycle.due() == [(A, "idle")]
    clock.set_ms(start_ms)
    assert lifecycle.due() == []
    clock.advance(1800)
    assert lifecycle.due() == [(A, "idle")]


# --- work -----------------------------------------------------------------------------------------


@both
async def test_a_session_with_running_work_is_not_idle_and_not_closed() -> None:
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
    lifecycle.end_work(A)  # the work learns of it later, and may raise


@both
async def test_work_that_was_not_begun_cannot_end() -> None:
    lifecycle, _ = make()
    await lifecycle.start(A)
    with pytest.raises(InvalidInputError):
        lifecycle.end_work(A)


@both
async def test_work_of_a_life_that_is_over_touches_no_later_one() -> None:
    lifecycle, clock = make(idle_secs=60)
    await lifecycle.start(A)
    early, late = lifecycle.begin_work(A), lifecycle.begin_work(A)
    await lifecycle.stop(A)
    lifecycle.end_work(early)
    await lifecycle.start(A)
    current = lifecycle.begin_work(A)
    clock.advance(30)
    lifecycle.end_work(late)
    told = lifecycle.metrics_of(A)
    assert (told.in_hand, told.closed) == (1, None)
    clock.advance(30)
    assert lifecycle.due() == []
    lifecycle.end_work(current)
    clock.advance(60)
    assert lifecycle.due() == [(A, "idle")]


@both
async def test_work_ends_once() -> None:
    lifecycle, _ = make()
    await lifecycle.start(A)
    first, second = lifecycle.begin_work(A), lifecycle.begin_work(A)
    lifecycle.end_work(first)
    with pytest.raises(InvalidInputError) as refused:
        lifecycle.end_work(first)
    assert (refused.value.field, lifecycle.metrics_of(A).in_hand) == ("work", 1)
    lifecycle.end_work(A)  # any of it
    with pytest.raises(InvalidInputError):
        lifecycle.end_work(second)


@both
async def test_work_in_a_block_ends_with_it() -> None:
    lifecycle, clock = make(idle_secs=60)
    await lifecycle.start(A)

    def fail() -> None:
        with lifecycle.working(A), lifecycle.working(A):
            assert lifecycle.metrics_of(A).in_hand == 2
            clock.advance(60)
            assert lifecycle.due() == []
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert lifecycle.metrics_of(A).in_hand == 0
    with lifecycle.working(A):
        await lifecycle.stop(A)
        await lifecycle.start(A)
        lifecycle.begin_work(A)
    assert lifecycle.metrics_of(A).in_hand == 1
    with pytest.raises(SessionNotFoundError), lifecycle.working(B):
        pytest.fail("the block was entered")
