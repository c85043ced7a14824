"""Tests that no session of an old password survives a revocation, in a share of all orders."""

from __future__ import annotations

from math import factorial, prod
from typing import TYPE_CHECKING

import pytest

from ..support.redis import SEED
from ..support.revocations import CRASHES, STEPS, STEPS_APART, Revocations, orders, share_of

if TYPE_CHECKING:
    from collections.abc import Callable


def _total(steps: tuple[int, int, int]) -> int:
    return factorial(sum(steps)) // prod(map(factorial, steps)) * len(CRASHES)


def _run_share(runs: Revocations, steps: tuple[int, int, int], count: int) -> None:
    every = max(1, _total(steps) // count)
    for order, crash in share_of(steps, every, SEED % every):
        runs.run(order, crash)


def test_the_orders_are_those_that_the_guide_counts() -> None:
    assert _total(STEPS) == 216_216
    assert len(set(orders(2, 2, 1))) == len(list(orders(2, 2, 1))) == 30


@pytest.mark.parametrize("steps", [STEPS, STEPS_APART], ids=["together", "apart"])
def test_no_session_of_an_old_password_survives_a_revocation(
    steps: tuple[int, int, int], scaled: Callable[[int], int]
) -> None:
    runs = Revocations()
    _run_share(runs, steps, scaled(2_000))
    assert runs.bad == []
    assert runs.count >= scaled(2_000)
    assert 0 < runs.crashes < runs.count


def test_a_generation_that_is_read_at_enlisting_lets_sessions_survive() -> None:
    runs = Revocations("at enlisting")
    _run_share(runs, STEPS, 2_000)
    assert 0.05 < len(runs.bad) / runs.count < 0.15  # of all orders, 19,752 in 216,216
