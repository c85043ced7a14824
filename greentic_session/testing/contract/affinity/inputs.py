"""Contract tests of invalid arguments to affinity, and of verbs on a closed store."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from ...._validation import MAX_TTL_SECS
from ....errors import InvalidInputError, StoreUnavailableError
from ....model import SessionMeta
from ....ordering import SessionAffinity
from ....store import AsyncSessionStore
from ..assertions import refusal, told
from ..samples import ACME, KEY, LIFE, SECRET, ctx
from ..store.bad_inputs import BAD_IDENTIFIERS, BAD_KEYS, BAD_LIVES
from .helpers import affinity_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ...harness import StoreHarness

    Call = Callable[[SessionAffinity, Any, Any], Awaitable[object]]

# Any in these: values of every wrong type.


async def _listed(affinity: SessionAffinity, worker: Any, caller: Any) -> object:
    return await anext(affinity.keys_of(worker, ctx=caller))


async def _members(affinity: SessionAffinity, _key: Any, _caller: Any) -> object:
    return await affinity.members()


_OF_KEYS: Final[dict[str, Call]] = {
    "worker_for": lambda affinity, key, caller: affinity.worker_for(key, ctx=caller),
    "placement": lambda affinity, key, caller: affinity.placement(key, ctx=caller),
    "pin": lambda affinity, key, caller: affinity.pin(key, "w1", ctx=caller),
    "unpin": lambda affinity, key, caller: affinity.unpin(key, ctx=caller),
    "touch": lambda affinity, key, caller: affinity.touch(key, ctx=caller),
    "forget": lambda affinity, key, caller: affinity.forget(key, ctx=caller),
}
_OF_WORKERS: Final[dict[str, Call]] = {
    "member": lambda affinity, worker, _: affinity.member(worker).__aenter__(),
    "pin": lambda affinity, worker, caller: affinity.pin(KEY, worker, ctx=caller),
    "keys_of": _listed,
}
_BAD_NAMES: Final[dict[str, Any]] = {
    **{name: value for name, value in BAD_KEYS.items() if "too long" not in name},
    "too long": "x" * 129,
}
_BAD_CALLERS: Final[dict[str, tuple[str, Any]]] = {
    "text": ("ctx", SECRET),
    "meta": ("ctx", SessionMeta(tenant_id=ACME)),
    **{f"tenant {name}": ("tenant_id", ctx(value)) for name, value in BAD_IDENTIFIERS.items()},
    **{f"env {name}": ("env", ctx(env=value)) for name, value in BAD_IDENTIFIERS.items()},
}
_BAD_SPANS: Final[dict[str, Any]] = {
    **{name: life for name, life in BAD_LIVES.items() if name not in ("none", "timedelta")},
    "zero": 0,
    "zero fraction": 0.0,
    "no timedelta": timedelta(0),
    "negative timedelta": timedelta(seconds=-1),
    "short timedelta": timedelta(microseconds=1),
    "long timedelta": timedelta(seconds=MAX_TTL_SECS + 1),
}


@pytest.mark.anyio
class AffinityInputContract:
    """An invalid argument is refused by name before any I/O, and is never quoted."""

    async def test_bad_keys_are_refused(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        for verb, call in _OF_KEYS.items():
            for bad in BAD_KEYS.values():
                error = await refusal(call(at.affinity, bad, None))
                assert error.field == "key", verb
                assert SECRET not in told(error)

    async def test_bad_workers_are_refused(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        for verb, call in _OF_WORKERS.items():
            for bad in _BAD_NAMES.values():
                error = await refusal(call(at.affinity, bad, None))
                assert error.field == "worker", verb
                assert SECRET not in told(error)

    async def test_bad_callers_are_refused(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        for verb, call in {**_OF_KEYS, "keys_of": _listed}.items():
            for field, bad in _BAD_CALLERS.values():
                error = await refusal(call(at.affinity, "name", bad))
                assert error.field == field, verb
                assert SECRET not in told(error)

    async def test_bad_durations_are_refused(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        for bad in _BAD_SPANS.values():
            error = await refusal(at.affinity.pin(KEY, "w1", bad))
            assert error.field == "ttl"
            error = await refusal(at.affinity.touch(KEY, bad))
            assert error.field == "ttl"
            error = await refusal(at.affinity.member("w1", lease=bad).__aenter__())
            assert error.field == "lease"
            with pytest.raises(InvalidInputError) as caught:
                SessionAffinity(at.store, ttl=bad)
            assert caught.value.field == "ttl"

    async def test_bad_groups_and_stores_are_refused(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        for bad in _BAD_NAMES.values():
            with pytest.raises(InvalidInputError) as caught:
                SessionAffinity(at.store, bad)
            assert caught.value.field == "group"
            assert SECRET not in told(caught.value)
        no_stores: list[Any] = [None, SECRET, object(), AsyncSessionStore, at.affinity]
        for no_store in no_stores:
            with pytest.raises(InvalidInputError) as caught:
                SessionAffinity(no_store)
            assert caught.value.field == "store"
            assert SECRET not in told(caught.value)

    async def test_what_is_refused_leaves_nothing(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        bad: Any = ""
        await refusal(at.affinity.pin(KEY, bad, LIFE))
        await refusal(at.affinity.member(bad).__aenter__())
        assert await harness.residue() == []


@pytest.mark.anyio
class AffinityClosingContract:
    """Affinity on a closed store raises the right error."""

    async def test_affinity_on_a_closed_store_raises(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        await at.store.aclose()
        for call in (*_OF_KEYS.values(), *_OF_WORKERS.values(), _members):
            with pytest.raises(StoreUnavailableError) as caught:
                await call(at.affinity, "name", None)
            assert caught.value.code == "unavailable"
            assert "closed" in caught.value.reason

    async def test_a_list_on_a_store_that_closes_raises(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=("w1",))
        found = at.affinity.keys_of("w1")
        await at.store.aclose()
        with pytest.raises(StoreUnavailableError):
            await anext(found)

    async def test_a_member_may_outlive_its_store(
        self, harness: StoreHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        at = await affinity_harness(harness)
        async with at.affinity.member("w1") as membership:
            await at.store.aclose()
        assert not membership.ended
        assert "could not release a membership: unavailable" in caplog.text
