"""Faulty connections between a store and its server: the package's proxy with the suite's seed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from greentic_session.testing import proxy
from greentic_session.testing.proxy import BREAKS, LOSSES, Fate, Line
from greentic_session.testing.proxy import FaultProxy as Proxy

from .redis import SEED

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BREAKS", "LOSSES", "Fate", "Line", "Proxy", "at_random", "first_script_of_each_key"]


def first_script_of_each_key(fate: Fate) -> Callable[[bytes], Fate]:
    seen: set[bytes] = set()

    def choose(request: bytes) -> Fate:
        key = re.search(rb"victim-\w+", request)
        if key is None or b"EVAL" not in request or key[0] in seen:
            return Fate.PASS
        seen.add(key[0])
        return fate

    return choose


def at_random(chance: float) -> Callable[[bytes], Fate]:
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    return proxy.at_random(SEED, chance)
