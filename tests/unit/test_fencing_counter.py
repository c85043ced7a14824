"""Tests of fencing tokens: they increase for one store object, whatever clocks and servers do."""

from __future__ import annotations

from greentic_session._core.fencing import FencingCounter


def test_a_token_is_at_least_the_time_in_microseconds() -> None:
    assert FencingCounter().issue(5) == 5000


def test_tokens_grow_within_one_millisecond_and_when_the_clock_is_set_back() -> None:
    counter = FencingCounter()
    assert [counter.issue(now_ms) for now_ms in (5, 5, 1, 6)] == [5000, 5001, 5002, 6000]


def test_a_token_exceeds_the_one_that_a_record_still_holds() -> None:
    counter = FencingCounter()
    assert counter.issue(5, above=9000) == 9001
    assert counter.issue(5) == 9002


def test_the_highest_token_of_a_server_is_remembered() -> None:
    counter = FencingCounter()
    for fence in (7000, 3000):
        counter.observe(fence)
    assert counter.last == 7000
    assert counter.issue(5) == 7001
