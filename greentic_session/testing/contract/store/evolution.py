"""Contract tests of two releases of an application that share their sessions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ....abc.records import UnreadableSession
from ....codec import JsonCodec, MessagePackCodec
from ....errors import DecodeError, InvalidInputError, SchemaVersionError
from ....model import ReplyScope, Session, TenantCtx
from ....ordering import SessionInbox
from ....waits import WaitRegistry
from ..samples import KEY, SECRET, ctx, session

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

SCOPE = ReplyScope(conversation="chat-7")
ALICE = ctx(user_id="alice")


class OldProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A nested part, in the earlier release."""

    name: str = ""


class OldState(msgspec.Struct, frozen=True, kw_only=True):
    """A context type, in the earlier release."""

    step: int = 0
    profile: OldProfile | None = None
    history: tuple[OldProfile, ...] = ()
    by_name: dict[str, OldProfile] = {}


class NewProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A nested part, in the later release."""

    name: str = ""
    nick: str = ""


class NewState(msgspec.Struct, frozen=True, kw_only=True):
    """A context type, in the later release."""

    step: int = 0
    profile: NewProfile | None = None
    history: tuple[NewProfile, ...] = ()
    by_name: dict[str, NewProfile] = {}
    total: int = 0


class Price:
    """A foreign type that msgspec does not know."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        """Compare by value."""
        return isinstance(other, Price) and other.cents == self.cents

    def __hash__(self) -> int:
        """Hash by value."""
        return hash(self.cents)


class Cart(msgspec.Struct, frozen=True):
    """A context type with a foreign part."""

    price: Price


NEW = NewState(step=1, profile=NewProfile(name="Ann", nick=SECRET), total=7)
BELOW: dict[str, NewState] = {
    "a list": NewState(history=(NewProfile(nick="x"),)),
    "a map": NewState(by_name={"a": NewProfile(nick="x")}),
}


def _stepped(given: Session[Any]) -> Session[Any]:
    state: OldState = given.context
    return msgspec.structs.replace(
        given.advance("next"), context=msgspec.structs.replace(state, step=state.step + 1)
    )


async def _put(store: AsyncSessionStore[Any], given: Session[Any]) -> None:
    await store.put(_stepped(given))


async def _update_cas(store: AsyncSessionStore[Any], given: Session[Any]) -> None:
    found = await store.get(KEY, ctx=ALICE)
    assert found is not None
    await store.update_cas(_stepped(given), found.cas)


async def _mutate(store: AsyncSessionStore[Any], given: Session[Any]) -> None:  # noqa: ARG001
    await store.mutate(KEY, _stepped, ctx=ALICE)


async def _recreate(store: AsyncSessionStore[Any], given: Session[Any]) -> None:
    await store.delete(KEY, ctx=ALICE)
    await store.create(_stepped(given))


async def _claim(store: AsyncSessionStore[Any], given: Session[Any]) -> None:
    registry = WaitRegistry(store)
    await registry.register_wait(ALICE, "alice", SCOPE, given)
    claim = await registry.claim(ALICE, "alice", SCOPE, event_id="e1")
    await claim.save(claim.session)
    await claim.wait_again(claim.session)
    claim = await registry.claim(ALICE, "alice", SCOPE, event_id="e2")
    await claim.complete(_stepped(claim.session))


async def _turn(store: AsyncSessionStore[Any], given: Session[Any]) -> None:
    inbox = SessionInbox(store, ctx(), name="bot")
    await inbox.admit(given.key, "e1", b"one", ctx=ALICE)
    await inbox.admit(given.key, "e2", b"two", ctx=ALICE)
    async with inbox.take("worker") as turn:
        assert turn.session is not None
        await turn.commit(turn.session, 1)
        await turn.finish(_stepped(turn.session))


WRITERS = {
    "put": _put,
    "update_cas": _update_cas,
    "mutate": _mutate,
    "create": _recreate,
    "a claim": _claim,
    "a turn": _turn,
}


class EvolutionContract:
    """Fields that a store's type does not know."""

    @pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
    async def test_a_write_of_an_older_type_keeps_the_new_fields(
        self, harness: StoreHarness, write: Callable[..., Any]
    ) -> None:
        new = await harness.open(NewState)
        old = await harness.open(OldState, beside=new)
        await new.create(session(owner=ALICE, context=NEW))
        found = await old.get(KEY, ctx=ALICE)
        assert found is not None
        assert SECRET not in repr(found)
        await write(old, found.session)
        read = await new.get(KEY, ctx=ALICE)
        assert read is not None
        assert read.session.context == msgspec.structs.replace(NEW, step=2)

    async def test_reads_of_several_sessions_keep_the_new_fields(
        self, harness: StoreHarness
    ) -> None:
        new = await harness.open(NewState)
        old = await harness.open(OldState, beside=new)
        for name in ("one", "two"):
            await new.create(session(name, owner=ALICE, context=NEW))
        many = await old.get_many([session("one").key], ctx=ALICE)
        scanned = [each async for each in old.scan(ctx()) if each.session.key == "two"]
        for found in (many[0], scanned[0]):
            assert found is not None
            await old.update_cas(_stepped(found.session), found.cas)
        for name in ("one", "two"):
            read = await new.get(session(name).key, ctx=ALICE)
            assert read is not None
            assert read.session.context.profile == NEW.profile

    @pytest.mark.parametrize("state", BELOW.values(), ids=BELOW)
    async def test_new_fields_below_a_list_or_map_refuse_the_write(
        self, harness: StoreHarness, state: NewState
    ) -> None:
        new = await harness.open(NewState)
        old = await harness.open(OldState, beside=new)
        await new.create(session(owner=ALICE, context=state))
        with pytest.raises(SchemaVersionError):
            await old.mutate(KEY, _stepped, ctx=ALICE)
        await _unchanged(new, state)

    async def test_new_fields_refuse_the_write_of_another_codec(
        self, harness: StoreHarness
    ) -> None:
        new = await harness.open(NewState, codec=MessagePackCodec)
        old = await harness.open(OldState, codec=MessagePackCodec, beside=new)
        await new.create(session(owner=ALICE, context=NEW))
        with pytest.raises(SchemaVersionError):
            await old.mutate(KEY, _stepped, ctx=ALICE)
        await _unchanged(new, NEW)

    async def test_a_store_that_refuses_unknown_fields_reads_but_does_not_write(
        self, harness: StoreHarness
    ) -> None:
        new = await harness.open(NewState)
        old = await harness.open(OldState, unknown_fields="refuse", beside=new)
        await new.create(session(owner=ALICE, context=NEW))
        found = await old.get(KEY, ctx=ALICE)
        assert found is not None
        assert found.session.context.step == 1
        with pytest.raises(SchemaVersionError) as caught:
            await old.put(found.session)
        assert SECRET not in str(caught.value)
        await _unchanged(new, NEW)

    async def test_a_newer_type_that_knows_all_fields_writes_without_unknown_ones(
        self, harness: StoreHarness
    ) -> None:
        new = await harness.open(NewState)
        old = await harness.open(OldState, beside=new)
        await old.create(session(owner=ALICE, context=OldState(step=3)))
        read = await new.mutate(KEY, _stepped, ctx=ALICE)
        assert read.session.unknown is msgspec.UNSET
        assert read.session.context == NewState(step=4)

    async def test_unknown_fields_are_refused_from_elsewhere(self, harness: StoreHarness) -> None:
        store = await harness.open(OldState)
        with pytest.raises(InvalidInputError):
            await store.put(session(context=OldState(), unknown="text"))

    @pytest.mark.parametrize("codec", [JsonCodec, MessagePackCodec])
    async def test_hooks_convert_a_foreign_type(
        self, harness: StoreHarness, codec: Callable[..., Any]
    ) -> None:
        def encode(price: Price) -> int:
            return price.cents

        def decode(kind: type[Price], cents: int) -> Price:
            return kind(cents)

        hooked = partial(codec, enc_hook=encode, dec_hook=decode)
        store = await harness.open(Cart, codec=hooked)
        await store.create(session(context=Cart(Price(5))))
        found = await store.get(KEY)
        assert found is not None
        assert found.session.context == Cart(Price(5))


def rename(state: dict[str, Any]) -> dict[str, Any]:
    """Convert version 1, which calls the field ``count``."""
    return {"step": state.pop("count") + 100, **state}


def double(state: dict[str, Any]) -> dict[str, Any]:
    """Convert version 2, to show how often it runs."""
    return {**state, "step": state["step"] * 2}


UPGRADES = {1: rename, 2: double}


class VersionContract:
    """Versions of a store's type, and the functions that convert earlier ones."""

    @pytest.mark.parametrize("codec", [JsonCodec, MessagePackCodec])
    async def test_an_upgrade_runs_once_over_any_number_of_writes(
        self, harness: StoreHarness, codec: Any
    ) -> None:
        first = await harness.open(codec=codec)
        third, second = [
            await harness.open(
                OldState, codec=codec, schema_version=version, upgrades=upgrades, beside=first
            )
            for version, upgrades in ((3, UPGRADES), (2, {1: rename}))
        ]
        await first.create(session(owner=ALICE, context={"count": 1}))
        found = await second.get(KEY, ctx=ALICE)
        assert found is not None
        assert found.session.context.step == 101
        await third.mutate(KEY, _stepped, ctx=ALICE)
        await second.mutate(KEY, _stepped, ctx=ALICE)
        await first.mutate(KEY, lambda given: given.advance("there"), ctx=ALICE)
        read = await third.get(KEY, ctx=ALICE)
        assert read is not None
        assert read.session.context.step == 204

    @pytest.mark.parametrize("verb", ["put", "update_cas", "register_wait"])
    async def test_a_blind_write_over_a_newer_record_is_refused(
        self, harness: StoreHarness, verb: str
    ) -> None:
        new = await harness.open(OldState, schema_version=3)
        old = await harness.open(OldState, schema_version=2, beside=new)
        cas = await new.create(session(owner=ALICE, context=OldState(step=3)))
        blind = session(owner=ALICE, context=OldState(step=9))
        registry = WaitRegistry(old)
        write = {
            "put": partial(old.put, blind),
            "update_cas": partial(old.update_cas, blind, cas),
            "register_wait": partial(registry.register_wait, ALICE, "alice", SCOPE, blind),
        }[verb]
        with pytest.raises(SchemaVersionError):
            await write()
        await _unchanged(new, OldState(step=3))
        await new.put(blind)
        await _unchanged(new, OldState(step=9))

    async def test_a_claim_and_a_turn_do_not_lower_a_version(self, harness: StoreHarness) -> None:
        new = await harness.open(OldState, schema_version=3)
        old = await harness.open(OldState, schema_version=2, beside=new)
        blind = session(owner=ALICE, context=OldState(step=9))
        await WaitRegistry(new).register_wait(
            ALICE, "alice", SCOPE, session(owner=ALICE, context=OldState(step=3))
        )
        claim = await WaitRegistry(old).claim(ALICE, "alice", SCOPE)
        with pytest.raises(SchemaVersionError):
            await claim.complete(blind)
        await claim.complete(claim.session)
        inbox = SessionInbox(old, ctx(), name="bot")
        await inbox.admit(KEY, "e1", b"one", ctx=ALICE)
        async with inbox.take("worker") as turn:
            with pytest.raises(SchemaVersionError):
                await turn.finish(blind)
            assert turn.session is not None
            await turn.finish(turn.session)
        await _unchanged(new, OldState(step=3))

    async def test_a_new_session_under_the_key_has_its_own_version(
        self, harness: StoreHarness
    ) -> None:
        new = await harness.open(OldState, schema_version=3)
        old = await harness.open(OldState, schema_version=2, beside=new)
        await new.create(session(owner=ALICE, context=OldState(), ttl_secs=50))
        await harness.advance(60)
        await old.put(session(owner=ALICE, context=OldState(step=2)))
        await _unchanged(new, OldState(step=2))
        await new.delete(KEY, ctx=ALICE)
        await old.put(session(owner=ALICE, context=OldState(step=2)))

    async def test_an_upgrade_that_fails_makes_the_session_unreadable(
        self, harness: StoreHarness
    ) -> None:
        first = await harness.open()
        third = await harness.open(OldState, schema_version=3, upgrades=UPGRADES, beside=first)
        await first.create(session(owner=ALICE, context={"secret": SECRET}))
        with pytest.raises(DecodeError) as caught:
            await third.get(KEY, ctx=ALICE)
        assert caught.value.reason == "the upgrade from version 1 raised KeyError"
        assert await third.get_many([KEY], ctx=ALICE, on_error="skip") == [None]
        returned = await third.get_many([KEY], ctx=ALICE, on_error="return")
        assert isinstance(returned[0], UnreadableSession)

    @pytest.mark.parametrize(
        "options",
        [
            {"schema_version": 0},
            {"schema_version": "3"},
            {"unknown_fields": "drop"},
            {"upgrades": {1: rename}},
            {"schema_version": 2, "upgrades": {2: rename}},
            {"schema_version": 2, "upgrades": {1: "rename"}},
            {"schema_version": 2, "upgrades": [rename]},
        ],
        ids=("zero", "text", "word", "no_version", "own_version", "no_function", "list"),
    )
    async def test_bad_options_are_refused(
        self, harness: StoreHarness, options: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidInputError) as caught:
            await harness.open(OldState, **options)
        assert caught.value.field in options


async def _unchanged(store: AsyncSessionStore[Any], state: object, by: TenantCtx = ALICE) -> None:
    found = await store.get(KEY, ctx=by)
    assert found is not None
    assert found.session.context == state
