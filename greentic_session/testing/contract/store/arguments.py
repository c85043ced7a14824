"""Contract tests of invalid keys, callers, lifetimes, tokens and numbers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from ....model import Cas, SessionMeta, TenantCtx
from ..assertions import kept, refusal, require, told
from ..samples import ACME, KEY, SECRET, ctx, evolve, session
from .bad_inputs import BAD_IDENTIFIERS, BAD_KEYS, BAD_LIVES, BAD_USERS
from .verbs import KEY_VERBS, same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

    Call = Callable[[AsyncSessionStore[Any], Any], Awaitable[object]]


async def _scan(store: AsyncSessionStore[Any], caller: Any, batch_size: Any = 10) -> object:
    return [found async for found in store.scan(caller, batch_size=batch_size)]


async def _scoped(store: AsyncSessionStore[Any], caller: Any) -> object:
    return store.scoped(caller)


def _by(verb: str) -> Call:
    return lambda store, caller: KEY_VERBS[verb](store, KEY, caller)


_CALLER_VERBS: Final[dict[str, Call]] = {
    **{verb: _by(verb) for verb in KEY_VERBS},
    "scan": _scan,
    "scoped": _scoped,
}
_BAD_CALLERS: Final[dict[str, tuple[str, Any]]] = {
    "ctx text": ("ctx", SECRET),
    "ctx dict": ("ctx", {"tenant_id": SECRET}),
    "ctx meta": ("ctx", SessionMeta(tenant_id=ACME)),
    "ctx class": ("ctx", TenantCtx),
    **{
        f"{field} {name}": (field, msgspec.structs.replace(ctx(), **{field: value}))
        for field in ("tenant_id", "env", "team_id")
        for name, value in BAD_IDENTIFIERS.items()
    },
    "tenant_id none": ("tenant_id", ctx(None)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    **{f"user_id {name}": ("user_id", ctx(user_id=value)) for name, value in BAD_USERS.items()},
}
_BAD_TOKENS: Final[dict[str, Any]] = {
    "text": f"1-{'a' * 32}",
    "number": 1,
    "tuple": (1, "a" * 32),
    "value text": Cas(value="1", incarnation="a" * 32),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "value true": Cas(value=True, incarnation="a" * 32),
    "value fraction": Cas(value=1.0, incarnation="a" * 32),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "value none": Cas(value=None, incarnation="a" * 32),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "value negative": Cas(value=-1, incarnation="a" * 32),
    "value zero with an incarnation": Cas(value=0, incarnation="a" * 32),
    "value without an incarnation": Cas(value=1, incarnation=""),
    "value over the limit": Cas(value=10**14, incarnation="a" * 32),
    "value beyond doubles": Cas(value=3 + 2**53, incarnation="a" * 32),
    "value beyond 64 bits": Cas(value=3 + 2**64, incarnation="a" * 32),
    "incarnation none": Cas(value=1, incarnation=None),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "incarnation bytes": Cas(value=1, incarnation=b"a" * 32),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
}
_BAD_COUNTS: Final[dict[str, Any]] = {
    "zero": 0,
    "negative": -1,
    "fraction": 1.5,
    "true": True,
    "text": "3",
    "none": None,
}


@pytest.mark.anyio
class ArgumentContract:
    """An invalid argument is refused by name, before any I/O, and is never quoted."""

    @pytest.mark.parametrize("bad", BAD_KEYS)
    async def test_a_bad_key_is_refused(self, harness: StoreHarness, bad: str) -> None:
        store = await harness.open()
        await store.create(session())
        async with kept(store):
            for verb, act in KEY_VERBS.items():
                error = await refusal(act(store, BAD_KEYS[bad], ctx()))
                assert error.field == "key", verb
                assert SECRET not in told(error), verb

    @pytest.mark.parametrize("place", [0, 1, 2])
    async def test_one_bad_key_of_many_is_refused(self, harness: StoreHarness, place: int) -> None:
        store = await harness.open()
        keys: list[Any] = [KEY, KEY, KEY]
        keys[place] = f"{SECRET}\0"
        error = await refusal(store.get_many(keys, ctx=ctx()))
        assert error.field == "key"
        assert SECRET not in told(error)

    @pytest.mark.parametrize("kind", ["one text", "none", "number", "iterator"])
    async def test_keys_that_are_no_sequence_are_refused(
        self, harness: StoreHarness, kind: str
    ) -> None:
        store = await harness.open()
        await store.create(session())
        # An iterator can be read only once. A check of its keys would leave none to look up.
        kinds: dict[str, Any] = {
            "one text": KEY,
            "none": None,
            "number": 7,
            "iterator": iter([KEY]),
        }
        error = await refusal(store.get_many(kinds[kind], ctx=ctx()))
        assert error.field == "keys"

    @pytest.mark.parametrize("bad", _BAD_CALLERS)
    async def test_a_bad_caller_is_refused(self, harness: StoreHarness, bad: str) -> None:
        store = await harness.open()
        await store.create(session())
        field, caller = _BAD_CALLERS[bad]
        async with kept(store):
            for verb, act in _CALLER_VERBS.items():
                error = await refusal(act(store, caller))
                assert error.field == field, verb
                assert SECRET not in told(error), verb

    @pytest.mark.parametrize("verb", ["get_many", "delete_many", "scan", "scoped"])
    async def test_a_caller_that_must_be_given_is_not_none(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        await store.create(session())
        error = await refusal(_CALLER_VERBS[verb](store, None))
        assert error.field == "ctx"

    # touch accepts None as a lifetime.
    @pytest.mark.parametrize("bad", [name for name in BAD_LIVES if name != "none"])
    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    async def test_touch_with_a_bad_life_is_refused(
        self, harness: StoreHarness, bad: str, *, with_caller: bool
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        async with kept(store):
            error = await refusal(
                store.touch(KEY, BAD_LIVES[bad], ctx=ctx() if with_caller else None)
            )
        assert error.field == "ttl_secs"

    async def test_a_life_given_as_a_timedelta_is_that_many_seconds(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        given = session(ttl_secs=timedelta(minutes=20))
        cas = await store.create(given)
        assert (await require(store)).session.ttl_secs == 1200
        await store.update_cas(session(ttl_secs=timedelta(0)), cas)
        assert (await require(store)).session.ttl_secs == 0
        await store.put(given)
        assert (await require(store)).session.ttl_secs == 1200
        assert await store.touch(KEY, timedelta(hours=1), ctx=ctx())
        assert (await require(store)).session.ttl_secs == 3600
        assert await store.scoped(ctx()).touch(KEY, timedelta(0))
        assert (await require(store)).session.expires_at is None
        week = timedelta(weeks=1)
        changed = await store.mutate(KEY, lambda found: evolve(found, ttl_secs=week), ctx=ctx())
        assert changed.session.ttl_secs == week.total_seconds()
        assert changed == await require(store)

    @pytest.mark.parametrize("bad", _BAD_TOKENS)
    async def test_a_bad_token_is_refused(self, harness: StoreHarness, bad: str) -> None:
        store = await harness.open()
        await store.create(session())
        async with kept(store):
            error = await refusal(store.update_cas(session(), _BAD_TOKENS[bad]))
            assert error.field == "expected"
            error = await refusal(store.delete(KEY, ctx=ctx(), expected=_BAD_TOKENS[bad]))
            assert error.field == "expected"
            error = await refusal(store.delete(KEY, expected=_BAD_TOKENS[bad]))
            assert error.field == "expected"

    async def test_update_cas_needs_a_token(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        none: Any = None
        async with kept(store):
            error = await refusal(store.update_cas(session(), none))
        assert error.field == "expected"

    @pytest.mark.parametrize("bad", _BAD_COUNTS)
    async def test_a_bad_number_of_attempts_is_refused(
        self, harness: StoreHarness, bad: str
    ) -> None:
        store = await harness.open()
        await store.create(session())
        async with kept(store):
            error = await refusal(store.mutate(KEY, same, ctx=ctx(), attempts=_BAD_COUNTS[bad]))
        assert error.field == "attempts"

    @pytest.mark.parametrize("bad", [*_BAD_COUNTS, "huge"])
    async def test_a_bad_batch_size_is_refused(self, harness: StoreHarness, bad: str) -> None:
        store = await harness.open()
        await store.create(session())
        error = await refusal(_scan(store, ctx(), {**_BAD_COUNTS, "huge": 10_001}[bad]))
        assert error.field == "batch_size"

    @pytest.mark.parametrize("change", [None, "change", 7], ids=repr)
    async def test_a_change_that_cannot_be_called_is_refused(
        self, harness: StoreHarness, change: Any
    ) -> None:
        store = await harness.open()
        await store.create(session())
        async with kept(store):
            error = await refusal(store.mutate(KEY, change, ctx=ctx()))
        assert error.field == "change"
