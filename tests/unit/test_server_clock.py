"""Tests of the knowledge about a server's clock at the time of an attempt."""

from __future__ import annotations

import pytest

from greentic_session.redis.transport.server_clock import ServerClock


def told(server_secs: float) -> list[bytes]:
    """Return a reply to ``TIME``."""
    return [b"%d" % int(server_secs), b"%d" % round(server_secs % 1 * 1_000_000)]


def test_a_clock_that_was_never_read_tells_nothing() -> None:
    assert ServerClock().time_at(5.0) is None


def test_an_attempt_is_told_by_the_last_reading_before_it() -> None:
    clock = ServerClock()
    clock.learn(told(1000.5), 10.0)
    clock.learn(told(5000.5), 20.0)  # set forward by over an hour
    assert clock.time_at(15.0) == pytest.approx(1_005_500)
    assert clock.time_at(25.0) == pytest.approx(5_005_500)


def test_an_attempt_before_all_readings_is_told_by_the_one_that_is_furthest_behind() -> None:
    clock = ServerClock()
    clock.learn(told(5000), 10.0)
    clock.learn(told(1000), 20.0)
    assert clock.time_at(5.0) == pytest.approx(985_000)


def test_readings_are_bounded_and_last_for_a_minute_of_attempts() -> None:
    clock = ServerClock()
    for tenth in range(10_000):  # a burst of retries, each of which reads the clock
        clock.learn(told(1000 + tenth / 10), tenth / 10)
    clock.learn(told(90_000), 1000.0)
    assert clock.time_at(940.0) == pytest.approx(1_940_000)


@pytest.mark.parametrize("reply", [b"x", [b"x", b"y"], [b"1"], None, OSError()])
def test_a_reply_of_another_form_is_ignored(reply: object) -> None:
    clock = ServerClock()
    clock.learn(reply, 10.0)
    assert clock.time_at(20.0) is None
