"""Contract tests of ``find``: the live sessions of a user or with labels, each of them once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from ....abc.inbox import SupportsInbox
from ....abc.waits import SupportsWaits
from ....errors import InvalidInputError
from ....model import ReplyScope, SessionKey
from ....ordering import SessionInbox
from ....waits import WaitRegistry
from ..assertions import require
from ..samples import GLOBEX, KEY, LIFE, PART, ctx, evolve, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from ....model import Session, Versioned
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

    Write = Callable[[AsyncSessionStore[Any], Session[Any]], Awaitable[object]]

_NAMES: Final = ("channel", "game")
_ANN: Final = ctx(team_id="red", user_id="ann")
_CHAT: Final = ReplyScope(conversation="chat-1")
_OWNERS: Final = {
    "plain": ctx(),
    "red": ctx(team_id="red"),
    "red-ann": _ANN,
    "red-bob": ctx(team_id="red", user_id="bob"),
    "blue-ann": ctx(team_id="blue", user_id="ann"),
    "ann": ctx(user_id="ann"),
    "annie": ctx(user_id="annie"),
}
_VALUES: Final[dict[str, Any]] = {
    "text": "1",
    "int": 1,
    "bool": True,
    "empty": "",
    "negative": -(10**30),
    "odd text": "a=b\nc:{d}%[*]é",
    "long text": "é" * 500,
    "other long text": "é" * 499 + "e",
}


async def _open(harness: StoreHarness) -> AsyncSessionStore[Any]:
    store = await harness.open(indexed_labels=_NAMES)
    await store.rebuild_index(ctx())
    return store


async def _keys(found: AsyncIterator[Versioned[Any]]) -> list[str]:
    return sorted([one.session.key async for one in found])


async def _found(store: AsyncSessionStore[Any], **conditions: Any) -> list[str]:
    """Return the keys that all verbs find, which must agree."""
    keys = await _keys(store.find(ctx(), **conditions))
    assert sorted([key async for key in store.find_keys(ctx(), **conditions)]) == keys
    assert await store.count(ctx(), **conditions) == len(keys)
    return keys


def _labelled(state: Session[Any], labels: dict[str, Any]) -> Session[Any]:
    return evolve(state, meta=msgspec.structs.replace(state.meta, labels=labels))


async def _by_turn(store: AsyncSessionStore[Any], state: Session[Any]) -> None:
    assert isinstance(store, SupportsInbox)
    inbox: SessionInbox[Any] = SessionInbox(store, ctx=_ANN)
    await inbox.admit(state.key, "e1", b"hello")
    async with inbox.take("worker-1", wait=20) as turn:
        assert turn is not None
        await turn.finish(state)


async def _by_wait(store: AsyncSessionStore[Any], state: Session[Any]) -> None:
    assert isinstance(store, SupportsWaits)
    await WaitRegistry(store).register_wait(_ANN, "ann", _CHAT, state)


async def _by_claim(store: AsyncSessionStore[Any], state: Session[Any], how: str) -> None:
    registry: WaitRegistry[Any] = WaitRegistry(store)
    before = _labelled(state, {})
    await registry.register_wait(_ANN, "ann", _CHAT, before)
    claim = await registry.claim(_ANN, "ann", _CHAT)
    if how == "complete":
        await claim.complete(state)
    elif how == "save":
        await claim.save(state)
    else:
        await claim.wait_again(state, _CHAT)


async def _by_update(store: AsyncSessionStore[Any], state: Session[Any]) -> None:
    cas = await store.create(_labelled(state, {"game": 1}))
    await store.update_cas(state, cas)


async def _by_mutate(store: AsyncSessionStore[Any], state: Session[Any]) -> None:
    await store.create(_labelled(state, {"channel": "old"}))
    await store.mutate(state.key, lambda _: state)


async def _by_replacement(store: AsyncSessionStore[Any], state: Session[Any]) -> None:
    await store.create(_labelled(state, {"channel": "old"}))
    await store.put(state)


_WAYS: Final[dict[str, Write]] = {
    "create": lambda store, state: store.create(state),
    "put": lambda store, state: store.put(state),
    "put over another": _by_replacement,
    "update_cas": _by_update,
    "mutate": _by_mutate,
    "register_wait": _by_wait,
    "complete": lambda store, state: _by_claim(store, state, "complete"),
    "save": lambda store, state: _by_claim(store, state, "save"),
    "wait_again": lambda store, state: _by_claim(store, state, "wait_again"),
    "turn": _by_turn,
}


@pytest.mark.anyio
class FindingContract:
    """``find``, ``find_keys`` and ``count`` return the right sessions."""

    async def test_find_of_a_user_gives_those_of_all_teams(self, harness: StoreHarness) -> None:
        store = await _open(harness)
        for key, owner in _OWNERS.items():
            await store.create(session(key, owner=owner))
        await store.create(session("other", owner=ctx(GLOBEX, user_id="ann")))
        assert await _found(store, user_id="ann") == ["ann", "blue-ann", "red-ann"]
        assert await _found(store, user_id="an") == []
        assert await _found(store) == sorted(_OWNERS)

    @pytest.mark.parametrize("caller", _OWNERS)
    @pytest.mark.parametrize("user", [None, "ann"])
    async def test_find_gives_a_caller_what_scan_would_give(
        self, harness: StoreHarness, caller: str, user: str | None
    ) -> None:
        store = await _open(harness)
        for key, owner in _OWNERS.items():
            await store.create(session(key, owner=owner, labels={"channel": "web"}))
        who = _OWNERS[caller]

        def of_user(found: list[str]) -> list[str]:
            return [key for key in found if user is None or _OWNERS[key].user_id == user]

        scanned = of_user(await _keys(store.scan(who)))
        open_to = of_user(await _keys(store.scan(who, fenced=True)))
        conditions: Any = {"user_id": user, "labels": {"channel": "web"}}
        assert await _keys(store.find(who, **conditions)) == scanned
        assert await store.count(who, **conditions) == len(scanned)
        view = store.scoped(who)
        assert await _keys(view.find(**conditions)) == open_to
        assert sorted([key async for key in view.find_keys(**conditions)]) == open_to
        assert await view.count(**conditions) == len(open_to)

    @pytest.mark.parametrize("wanted", _VALUES)
    async def test_find_by_a_label_gives_the_sessions_with_that_value_and_type(
        self, harness: StoreHarness, wanted: str
    ) -> None:
        store = await _open(harness)
        for key, value in _VALUES.items():
            await store.create(session(key, labels={"channel": value, "free": wanted}))
        await store.create(session("list", labels={"channel": [1]}))
        await store.create(session("none", labels={"channel": None}))
        await store.create(session("without"))
        await store.create(session("game", labels={"game": _VALUES[wanted]}))
        assert await _found(store, labels={"channel": _VALUES[wanted]}) == [wanted]

    async def test_find_by_several_labels_and_a_user_gives_those_that_have_all(
        self, harness: StoreHarness
    ) -> None:
        store = await _open(harness)
        for number in range(60):
            labels = {"channel": f"c{number % 2}", "game": number % 3}
            owner = ctx(user_id=f"u{number % 5}")
            await store.create(session(f"k{number:02}", owner=owner, labels=labels))
        both: Mapping[str, Any] = {"channel": "c1", "game": 2}
        expected = [f"k{number:02}" for number in range(60) if number % 6 == 5]
        assert await _found(store, labels=both) == expected
        assert await _found(store, labels=both, user_id="u0") == ["k05", "k35"]

    @pytest.mark.parametrize("limit", [1, 7, 40, 41])
    async def test_find_gives_at_most_its_limit(self, harness: StoreHarness, limit: int) -> None:
        store = await _open(harness)
        for number in range(40):
            await store.create(session(f"k{number}", owner=ctx(user_id="ann")))
        found = [one.session.key async for one in store.find(ctx(), user_id="ann", limit=limit)]
        assert len(found) == len(set(found)) == min(limit, 40)
        keys = [key async for key in store.find_keys(ctx(), user_id="ann", limit=limit)]
        assert len(keys) == len(set(keys)) == min(limit, 40)

    async def test_find_returns_what_get_returns(self, harness: StoreHarness) -> None:
        store = await _open(harness)
        for number in range(5):
            state = session(f"k{number}", owner=_ANN, context={"n": number}, ttl_secs=LIFE * number)
            await store.create(state)
        found = [one async for one in store.find(ctx(), user_id="ann")]
        assert len(found) == 5
        for one in found:
            assert one == await require(store, one.session.key, _ANN)

    @pytest.mark.parametrize("way", _WAYS)
    async def test_each_verb_that_writes_a_session_enters_it_in_the_indexes(
        self, harness: StoreHarness, way: str
    ) -> None:
        store = await _open(harness)
        state = session(owner=_ANN, labels={"channel": "web"}, ttl_secs=10 * LIFE)
        await _WAYS[way](store, state)
        assert await _keys(store.scan(ctx())) == [KEY]
        assert await _found(store, user_id="ann") == [KEY]
        assert await _found(store, labels={"channel": "web"}) == [KEY]
        assert await _found(store, labels={"channel": "old"}) == []
        assert await _found(store, labels={"game": 1}) == []

    async def test_find_gives_neither_deleted_nor_expired_sessions(
        self, harness: StoreHarness
    ) -> None:
        store = await _open(harness)
        for number in range(4):
            labels = {"channel": "web"}
            await store.create(session(f"short-{number}", owner=_ANN, labels=labels, ttl_secs=LIFE))
            await store.create(session(f"long-{number}", owner=_ANN, labels=labels))
        assert await store.delete(SessionKey("long-0"), ctx=_ANN) is True
        await harness.advance(LIFE)
        for conditions in ({"user_id": "ann"}, {"labels": {"channel": "web"}}):
            assert await _found(store, **conditions) == ["long-1", "long-2", "long-3"]

    async def test_a_key_of_another_user_moves_to_that_user(self, harness: StoreHarness) -> None:
        store = await _open(harness)
        bob = ctx(user_id="bob")
        await store.create(session(owner=_ANN, labels={"channel": "web"}))
        assert await store.delete(KEY, ctx=_ANN) is True
        await store.create(session(owner=bob, labels={"channel": "app"}, ttl_secs=LIFE))
        await harness.advance(LIFE)
        await store.put(session(owner=_ANN, labels={"channel": "tv"}))
        assert await _found(store, user_id="ann") == [KEY]
        assert await _found(store, user_id="bob") == []
        assert await _found(store, labels={"channel": "tv"}) == [KEY]
        assert await _found(store, labels={"channel": "app"}) == []

    @pytest.mark.parametrize("verb", ["touch", "update_cas", "put"])
    async def test_a_session_that_is_kept_alive_is_found_for_as_long(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await _open(harness)
        state = session(owner=_ANN, labels={"channel": "web"}, ttl_secs=LIFE)
        cas = await store.create(state)
        for _ in range(6):
            await harness.advance(PART)
            if verb == "touch":
                assert await store.touch(KEY, ctx=_ANN) is True
            elif verb == "put":
                cas = await store.put(state)
            else:
                cas = await store.update_cas(state, cas)
            assert await _found(store, user_id="ann") == [KEY]
            assert await _found(store, labels={"channel": "web"}) == [KEY]
            assert await _keys(store.scan(ctx())) == [KEY]

    async def test_a_session_whose_lifetime_changes_is_found_until_its_end(
        self, harness: StoreHarness
    ) -> None:
        store = await _open(harness)
        await store.create(session(owner=_ANN, labels={"channel": "web"}, ttl_secs=LIFE))
        for ttl in (0, LIFE, 20 * LIFE, 0, 5 * LIFE):
            assert await store.touch(KEY, ttl, ctx=_ANN) is True
            await harness.advance(ttl * 0.9)
            assert await _found(store, user_id="ann", labels={"channel": "web"}) == [KEY]
        await harness.advance(LIFE)
        assert await _found(store, user_id="ann", labels={"channel": "web"}) == []

    @pytest.mark.parametrize("verb", ["put", "put_many", "update_cas"])
    async def test_nothing_is_left_of_labels_that_a_permanent_session_had(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await _open(harness)
        state = session(owner=_ANN, ttl_secs=0)
        cas = await store.create(_labelled(state, {"channel": "0"}))
        marks = set(await harness.residue())
        for number in range(1, 5):
            changed = _labelled(state, {"channel": str(number)})
            if verb == "put":
                await store.put(changed)
            elif verb == "put_many":
                assert not isinstance((await store.put_many([changed]))[0], Exception)
            else:
                cas = await store.update_cas(changed, cas)
        assert len(await harness.residue()) == len(marks)
        await store.delete(state.key, ctx=_ANN)
        assert await store.count(ctx()) == 0

    async def test_nothing_is_left_of_the_indexes_after_all_lifetimes(
        self, harness: StoreHarness
    ) -> None:
        store = await _open(harness)
        for number in range(30):
            labels = {"channel": f"c{number % 2}", "game": number % 3}
            owner = ctx(user_id=f"u{number % 5}")
            await store.create(session(f"k{number}", owner=owner, labels=labels, ttl_secs=LIFE))
            await store.create(session(f"p{number}", owner=owner, labels=labels))
            assert await store.delete(SessionKey(f"p{number}"), ctx=owner) is True
        await harness.advance(100 * LIFE)
        assert await harness.residue() == []

    @pytest.mark.parametrize("by", ["user_id", "labels", "scan"])
    async def test_sessions_that_live_throughout_are_found_once_while_others_come_and_go(
        self, harness: StoreHarness, by: str
    ) -> None:
        store = await _open(harness)
        labels = {"channel": "web"}
        keys = sorted(f"stays-{number}" for number in range(400))
        for number, key in enumerate(keys):
            ttl = LIFE * (number % 3)
            await store.create(session(key, owner=_ANN, labels=labels, ttl_secs=ttl))
            await store.create(session(f"goes-{key}", owner=_ANN, labels=labels))
        conditions: Any = {"user_id": "ann"} if by == "user_id" else {"labels": labels}
        found = (
            store.scan(ctx(), batch_size=40) if by == "scan" else store.find(ctx(), **conditions)
        )
        given: list[str] = []
        async for one in found:
            given.append(one.session.key)
            key = keys[len(given) % 400]
            await store.put(session(f"comes-{len(given)}", owner=_ANN, labels=labels))
            await store.delete(SessionKey(f"goes-{key}"), ctx=_ANN)
            # Lifetimes come and go as well, which moves the entries of the index.
            await store.touch(SessionKey(key), LIFE * (len(given) % 4), ctx=_ANN)
            if len(given) > 2000:
                break
        assert len(given) == len(set(given))
        assert sorted(key for key in given if key.startswith("stays-")) == keys

    async def test_rebuild_index_may_run_again_and_for_all_tenants(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open(indexed_labels=_NAMES)
        await store.rebuild_index()
        await store.create(session(labels={"channel": "web"}))
        assert await store.rebuild_index(ctx()) == 0
        assert await store.rebuild_index() == 0
        assert await _found(store, labels={"channel": "web"}) == [KEY]

    @pytest.mark.parametrize(
        ("field", "arguments"),
        [
            ("labels", {"labels": {"free": "x"}}),
            ("labels", {"labels": {"channel": 1.5}}),
            ("labels", {"labels": {"channel": None}}),
            ("labels", {"labels": {1: "x"}}),
            ("labels", {"labels": "channel"}),
            ("user_id", {"user_id": ""}),
            ("user_id", {"user_id": 5}),
            ("limit", {"limit": 0}),
            ("limit", {"limit": True}),
        ],
    )
    async def test_a_search_with_a_bad_argument_is_refused(
        self, harness: StoreHarness, field: str, arguments: dict[str, Any]
    ) -> None:
        store = await harness.open(indexed_labels=_NAMES)
        for verb in (store.find, store.find_keys):
            with pytest.raises(InvalidInputError) as caught:
                verb(ctx(), **arguments)
            assert caught.value.field == field
        if field != "limit":
            with pytest.raises(InvalidInputError) as caught:
                await store.count(ctx(), **arguments)
            assert caught.value.field == field

    @pytest.mark.parametrize("names", ["channel", ("a", "a"), ("",), (5,), ("x" * 129,), 5])
    async def test_bad_names_of_indexed_labels_are_refused(
        self, harness: StoreHarness, names: Any
    ) -> None:
        with pytest.raises(InvalidInputError) as caught:
            await harness.open(indexed_labels=names)
        assert caught.value.field == "indexed_labels"
