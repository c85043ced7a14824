"""Contract tests of invalid arguments to locks: each is refused by name, before any I/O."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from ...._validation import MAX_TTL_SECS
from ....errors import InvalidInputError
from ....model import SessionMeta
from ....ordering import SessionLocks
from ..assertions import refusal, told
from ..samples import ACME, KEY, SECRET, ctx
from ..store.bad_inputs import BAD_IDENTIFIERS, BAD_KEYS, BAD_LIVES
from .helpers import ANN, lock_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ...harness import StoreHarness

# Any in these: values of every wrong type.

_VERBS: Final[dict[str, Callable[[SessionLocks, Any, Any], Awaitable[object]]]] = {
    "hold": lambda locks, key, caller: locks.hold(key, ctx=caller).__aenter__(),
    "try_hold": lambda locks, key, caller: locks.try_hold(key, ctx=caller).__aenter__(),
    "holder": lambda locks, key, caller: locks.holder(key, ctx=caller),
}
_BAD_DURATIONS: Final[dict[str, Any]] = {
    **{name: life for name, life in BAD_LIVES.items() if name not in ("none", "timedelta")},
    "negative timedelta": timedelta(seconds=-1),
    "short timedelta": timedelta(microseconds=1),
    "long timedelta": timedelta(seconds=MAX_TTL_SECS + 1),
}
_NO_TIME: Final = ("below a millisecond", "least of all", "short timedelta")
"""Waiting times that are too short for a wait."""
_NONE: Final[dict[str, Any]] = {"none": None}
_ZERO: Final[dict[str, Any]] = {"zero": 0, "zero fraction": 0.0, "zero timedelta": timedelta(0)}
_BAD_NAMES: Final[dict[str, Any]] = {
    "empty": "",
    "line break": f"{SECRET}\n",
    "lone surrogate": f"{SECRET}\ud800",
    "too long": "x" * 257,
    "number": 7,
    "bytes": SECRET.encode(),
}
_BAD_CALLERS: Final[dict[str, tuple[str, Any]]] = {
    "text": ("ctx", SECRET),
    "meta": ("ctx", SessionMeta(tenant_id=ACME)),
    **{f"tenant {name}": ("tenant_id", ctx(value)) for name, value in BAD_IDENTIFIERS.items()},
    **{f"env {name}": ("env", ctx(env=value)) for name, value in BAD_IDENTIFIERS.items()},
}


@pytest.mark.anyio
class LockInputContract:
    """An argument that breaks a rule is refused by every verb, and never quoted."""

    @pytest.mark.parametrize("verb", _VERBS)
    async def test_a_bad_key_is_not_locked(self, harness: StoreHarness, verb: str) -> None:
        at = await lock_harness(harness)
        for name, key in BAD_KEYS.items():
            error = await refusal(_VERBS[verb](at.locks, key, ANN))
            assert error.field == "key", name
            assert SECRET not in told(error), name
        assert await harness.residue() == []

    @pytest.mark.parametrize("verb", _VERBS)
    async def test_a_bad_caller_holds_no_lock(self, harness: StoreHarness, verb: str) -> None:
        at = await lock_harness(harness)
        for name, (field, caller) in _BAD_CALLERS.items():
            error = await refusal(_VERBS[verb](at.locks, KEY, caller))
            assert error.field == field, name
            assert SECRET not in told(error), name
        assert await harness.residue() == []

    async def test_a_bad_lease_is_not_given(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        for name, lease in {**_BAD_DURATIONS, **_ZERO, **_NONE}.items():
            for verb in (at.locks.hold, at.locks.try_hold):
                assert (await refusal(verb(KEY, lease).__aenter__())).field == "lease", name
        async with at.locks.hold(KEY) as held:
            until = held.until
            for name, lease in {**_BAD_DURATIONS, **_ZERO}.items():
                assert (await refusal(held.renew(lease))).field == "lease", name
            assert (held.until, held.ended) == (until, False)

    async def test_a_bad_wait_is_refused(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        for name, wait in _BAD_DURATIONS.items():
            if name in _NO_TIME:
                continue
            call = at.locks.hold(KEY, wait=wait).__aenter__()
            assert (await refusal(call)).field == "wait", name
        short = [_BAD_DURATIONS[name] for name in _NO_TIME]
        for wait in (*_ZERO.values(), *short, 0.001, timedelta(seconds=1), MAX_TTL_SECS):
            async with at.locks.hold(KEY, wait=wait):
                pass
        await at.assert_free()

    async def test_a_holder_has_no_bad_name(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for name, value in _BAD_NAMES.items():
            with pytest.raises(InvalidInputError) as caught:
                SessionLocks(store, name=value)
            assert caught.value.field == "name", name
            assert SECRET not in told(caught.value), name

    async def test_a_bad_place_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for name, value in {**_BAD_DURATIONS, **_ZERO, **_NONE}.items():
            with pytest.raises(InvalidInputError) as caught:
                SessionLocks(store, place=value)
            assert caught.value.field == "place", name

    async def test_a_store_that_keeps_no_locks_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        wrong: tuple[Any, ...] = (None, "memory://", object(), type(store))
        for value in wrong:
            with pytest.raises(InvalidInputError) as caught:
                SessionLocks(value)
            assert caught.value.field == "store"
