"""Contract tests of verbs that create an absent session: ``get_or_create``, and ``mutate``."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from ....errors import (
    InvalidInputError,
    PayloadTooLargeError,
    SessionExistsError,
    SessionNotFoundError,
    TenantMismatchError,
)
from ....model import SessionKey
from ..assertions import everything, kept, refusal, require, told
from ..samples import GLOBEX, KEY, LIFE, SECRET, ctx, evolve, session
from .rivals import rival
from .verbs import nothing, same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....model import Session, TenantCtx, Versioned
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

    Begin = Callable[[AsyncSessionStore[Any], Any, "TenantCtx | None"], Awaitable["Versioned[Any]"]]

_RACERS: Final = 64
_BEGINS: Final[dict[str, Begin]] = {
    "get_or_create": lambda store, make, caller: store.get_or_create(KEY, make, ctx=caller),
    "mutate": lambda store, make, caller: store.mutate(KEY, same, default=make, ctx=caller),
}
"""Verbs that begin a session if none is live."""
_FIELDS: Final = {"get_or_create": "make", "mutate": "default"}
_OTHERS: Final = {
    "tenant": ctx(GLOBEX, team_id="red"),
    "env": ctx(env="staging", team_id="red"),
    "team": ctx(team_id="blue"),
    "no team": ctx(),
    "user": ctx(team_id="red", user_id="bob"),
}


async def _coroutine() -> Session[Any]:
    return session()


def _generator() -> Any:
    yield session()


class _Callable:
    async def __call__(self) -> Session[Any]:
        return session()


_NOT_PLAIN: Final[dict[str, Any]] = {
    "nothing": None,
    "text": "make",
    "session": session(),
    "coroutine function": _coroutine,
    "part of a coroutine function": partial(_coroutine),
    "object with a coroutine": _Callable(),
    "generator function": _generator,
}
_NOT_SESSIONS: Final[dict[str, Callable[[], Any]]] = {
    "none": lambda: None,
    "dict": lambda: {"key": SECRET},
    "text": lambda: SECRET,
    "coroutine": lambda: _coroutine(),  # noqa: PLW0108 - a plain function that returns one
}


def _add_one(found: Session[Any]) -> Session[Any]:
    return evolve(found, context={"n": found.context["n"] + 1})


def _zero() -> Session[Any]:
    return session(context={"n": 0})


async def _rival_creates(store: AsyncSessionStore[Any]) -> None:
    await store.put(session(context={"n": 100}))


async def _rival_deletes(store: AsyncSessionStore[Any]) -> None:
    await store.delete(KEY, ctx=ctx())


async def _rival_takes_key(store: AsyncSessionStore[Any]) -> None:
    await store.create(session(owner=ctx(user_id="bob")))


@pytest.mark.anyio
class BeginningContract:
    """Begin a session if none is live, in one call. Of several racers, one creates it."""

    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_an_absent_session_is_created_and_returned_as_get_returns_it(
        self, harness: StoreHarness, verb: str, *, with_caller: bool
    ) -> None:
        store = await harness.open()
        await store.create(session("another"))

        def make() -> Session[Any]:
            return session(context={"n": (1, 2)}, labels={"vip": True}, ttl_secs=1000)

        begun = await _BEGINS[verb](store, make, ctx() if with_caller else None)
        assert begun == await require(store)
        assert begun.session.context == {"n": [1, 2]}
        assert begun.session.ttl_secs == 1000
        assert begun.cas.value == 1

    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    async def test_get_or_create_leaves_a_live_session_as_it_is(
        self, harness: StoreHarness, *, with_caller: bool
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 7}))
        made: list[int] = []

        def make() -> Session[Any]:
            made.append(1)
            return _zero()

        async with kept(store):
            found = await store.get_or_create(KEY, make, ctx=ctx() if with_caller else None)
        assert found == await require(store)
        assert made == []

    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_an_expired_session_begins_again(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open()
        first = await store.create(session(context={"n": 7}, ttl_secs=LIFE))
        await harness.advance(LIFE)
        begun = await _BEGINS[verb](store, _zero, ctx())
        assert begun.session.context == {"n": 0}
        assert begun.cas.value == 1
        assert begun.cas.incarnation != first.incarnation

    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_a_session_of_another_tenant_is_not_found_by_a_caller(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=ctx(GLOBEX), context={"n": 7}))
        async with kept(store, ctx(GLOBEX)):
            begun = await _BEGINS[verb](store, _zero, ctx())
        assert begun.session.context == {"n": 0}

    # --- what is refused ---------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("verb", "bad"),
        # A default is optional, so ``mutate`` accepts ``None``.
        [("get_or_create", "nothing"), *product(_BEGINS, [*_NOT_PLAIN][1:])],
    )
    async def test_a_value_that_is_no_plain_function_is_refused(
        self, harness: StoreHarness, verb: str, bad: str
    ) -> None:
        store = await harness.open()
        for _ in range(2):
            error = await refusal(_BEGINS[verb](store, _NOT_PLAIN[bad], ctx()))
            assert error.field == _FIELDS[verb]
            await store.put(session())  # refused also if the function would not run

    @pytest.mark.parametrize("bad", _NOT_SESSIONS)
    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_a_function_that_returns_no_session_is_refused(
        self, harness: StoreHarness, verb: str, bad: str
    ) -> None:
        store = await harness.open()
        with pytest.raises(InvalidInputError) as caught:
            await _BEGINS[verb](store, _NOT_SESSIONS[bad], ctx())
        assert caught.value.field == _FIELDS[verb]
        assert SECRET not in told(caught.value)
        assert await everything(store) == {}

    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_a_session_under_another_key_is_refused(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        with pytest.raises(InvalidInputError) as caught:
            await _BEGINS[verb](store, lambda: session("another"), ctx())
        assert caught.value.field == _FIELDS[verb]
        assert await everything(store) == {}

    @pytest.mark.parametrize("other", _OTHERS)
    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_a_session_that_the_caller_may_not_write_is_refused(
        self, harness: StoreHarness, verb: str, other: str
    ) -> None:
        store = await harness.open()
        owner = _OTHERS[other]
        caller = ctx(team_id="red", user_id="ann")
        with pytest.raises(TenantMismatchError) as caught:
            await _BEGINS[verb](store, lambda: session(owner=owner), caller)
        assert caught.value.key == KEY
        assert await everything(store) == {}
        assert await everything(store, owner) == {}

    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_a_session_that_cannot_be_stored_is_refused(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open(max_payload_bytes=1000)
        with pytest.raises(PayloadTooLargeError):
            await _BEGINS[verb](store, lambda: session(context={"text": "x" * 1000}), ctx())
        with pytest.raises(InvalidInputError) as caught:
            await _BEGINS[verb](store, lambda: session(labels={"n": object()}), ctx())
        assert SECRET not in told(caught.value)
        assert await everything(store) == {}

    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_an_error_of_the_function_creates_nothing(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()

        def make() -> Session[Any]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await _BEGINS[verb](store, make, ctx())
        assert await everything(store) == {}

    # --- other writers -----------------------------------------------------------------------

    async def test_get_or_create_returns_the_session_of_a_faster_creator(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        made: list[int] = []

        def make() -> Session[Any]:
            made.append(1)
            rival(harness, store, _rival_creates)
            return _zero()

        found = await store.get_or_create(KEY, make, ctx=ctx())
        assert found == await require(store)
        assert found.session.context == {"n": 100}
        assert made == [1]

    @pytest.mark.parametrize("verb", _BEGINS)
    async def test_a_key_that_another_user_took_first_is_refused(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()

        def make() -> Session[Any]:
            rival(harness, store, _rival_takes_key)
            return session()

        with pytest.raises(TenantMismatchError):
            await _BEGINS[verb](store, make, ctx())
        found = await require(store, caller=ctx(user_id="bob"))
        assert found.cas.value == 1

    async def test_mutate_changes_the_session_of_a_faster_creator(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        seen: list[int] = []

        def change(found: Session[Any]) -> Session[Any]:
            seen.append(found.context["n"])
            if len(seen) == 1:
                rival(harness, store, _rival_creates)
            return _add_one(found)

        changed = await store.mutate(KEY, change, default=_zero, ctx=ctx())
        assert seen == [0, 100]
        assert changed == await require(store)
        assert changed.session.context == {"n": 101}
        assert changed.cas.value == 2

    async def test_mutate_begins_a_session_that_was_deleted_meanwhile(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        first = await store.create(session(context={"n": 7}))
        seen: list[int] = []

        def change(found: Session[Any]) -> Session[Any]:
            seen.append(found.context["n"])
            if len(seen) == 1:
                rival(harness, store, _rival_deletes)
            return _add_one(found)

        changed = await store.mutate(KEY, change, default=_zero, ctx=ctx())
        assert seen == [7, 0]
        assert changed.session.context == {"n": 1}
        assert changed.cas.value == 1
        assert changed.cas.incarnation != first.incarnation

    async def test_mutate_gives_up_on_a_key_that_is_always_taken(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()

        def change(found: Session[Any]) -> Session[Any]:
            rival(harness, store, _rival_creates)
            return _add_one(found)

        with pytest.raises(SessionExistsError):
            await store.mutate(KEY, change, default=_zero, ctx=ctx(), attempts=1)
        assert (await require(store)).session.context == {"n": 100}

    async def test_of_64_racers_one_creates(self, harness: StoreHarness) -> None:
        first = await harness.open()
        shared = first.statistics().sessions is None  # otherwise the store is in this process
        stores = [await harness.open() if shared else first for _ in range(4)]
        for number in range(5):
            key = SessionKey(f"race-{number}")
            found: list[Versioned[Any]] = []

            async def race(
                racer: int, key: SessionKey = key, found: list[Versioned[Any]] = found
            ) -> None:
                def make() -> Session[Any]:
                    return session(key, context={"racer": racer})

                store = stores[racer % len(stores)]
                found.append(await store.get_or_create(key, make, ctx=ctx()))

            async with anyio.create_task_group() as tasks:
                for racer in range(_RACERS):
                    tasks.start_soon(race, racer)
            assert found == [await require(first, key)] * _RACERS
            assert found[0].cas.value == 1

    async def test_64_racers_that_begin_and_count_lose_no_count(
        self, harness: StoreHarness
    ) -> None:
        first = await harness.open()
        shared = first.statistics().sessions is None
        stores = [await harness.open() if shared else first for _ in range(4)]

        async def count(store: AsyncSessionStore[Any]) -> None:
            await store.mutate(KEY, _add_one, default=_zero, ctx=ctx())

        async with anyio.create_task_group() as tasks:
            for racer in range(_RACERS):
                tasks.start_soon(count, stores[racer % len(stores)])
        found = await require(first)
        assert found.session.context == {"n": _RACERS}
        assert found.cas.value == _RACERS


@pytest.mark.anyio
class EndingByMutateContract:
    """A change that returns ``None`` deletes the session that it was called with."""

    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    @pytest.mark.parametrize(
        "owner", [ctx(), ctx(team_id="red", user_id="ann")], ids=["a tenant's", "a user's"]
    )
    async def test_a_change_to_nothing_deletes(
        self, harness: StoreHarness, owner: TenantCtx, *, with_caller: bool
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=owner))
        await store.create(session("another"))
        assert await store.mutate(KEY, nothing, ctx=owner if with_caller else None) is None
        assert await store.exists(KEY, ctx=owner) is False
        assert await store.exists(KEY) is False
        assert await store.exists(SessionKey("another")) is True

    async def test_a_change_to_nothing_of_an_absent_session_creates_none(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        assert await store.mutate(KEY, nothing, default=_zero, ctx=ctx()) is None
        assert await everything(store) == {}

    async def test_a_session_that_changed_meanwhile_is_not_deleted_unseen(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(_zero())
        seen: list[int] = []

        def end_if_zero(found: Session[Any]) -> Session[Any] | None:
            seen.append(found.context["n"])
            if len(seen) == 1:
                rival(harness, store, _rival_creates)
            return None if found.context["n"] == 0 else found

        kept_one = await store.mutate(KEY, end_if_zero, ctx=ctx())
        assert seen == [0, 100]
        assert kept_one == await require(store)
        assert (await require(store)).session.context == {"n": 100}

    async def test_a_session_that_another_caller_deleted_is_not_found(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session())

        def end(_found: Session[Any]) -> None:
            rival(harness, store, _rival_deletes)

        with pytest.raises(SessionNotFoundError):
            await store.mutate(KEY, end, ctx=ctx())

    async def test_of_many_racers_one_ends_the_session(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        ended: list[object] = []
        missed = 0

        async def end() -> None:
            nonlocal missed
            try:
                ended.append(await store.mutate(KEY, nothing, ctx=ctx()))
            except SessionNotFoundError:
                missed += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(end)
        assert (ended, missed) == ([None], 15)
