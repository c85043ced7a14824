"""Contract tests of tokens in ``create``, ``put``, ``update_cas`` and ``delete``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

import pytest

from ....errors import CasConflictError, SessionExistsError
from ....model import Cas, OutboxEntry, SessionCursor, SessionId, SessionKey
from ..assertions import everything, kept, require
from ..samples import GLOBEX, KEY, LIFE, PART, ctx, evolve, session
from .verbs import ABSENCES, CHANGES, WRITES, same

if TYPE_CHECKING:
    from ...harness import StoreHarness

_FOREIGN: Final = "0123456789abcdef" * 2


def _hex(incarnation: str) -> bool:
    return len(incarnation) == 32 and not set(incarnation) - set("0123456789abcdef")


@pytest.mark.anyio
class WritingContract:
    """The effect of writing verbs on the record and its token."""

    # --- create and put ----------------------------------------------------------------------

    @pytest.mark.parametrize("verb", ["create", "put"])
    async def test_a_new_session_has_value_one_and_an_incarnation(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        cas = await WRITES[verb](store, session(), Cas.none())
        assert cas.value == 1
        assert _hex(cas.incarnation)
        assert (await require(store)).cas == cas

    @pytest.mark.parametrize("verb", ["create", "put"])
    async def test_every_incarnation_is_another(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open()
        incarnations: set[str] = set()
        for _ in range(10):
            for key in ("one", "two"):
                cas = await WRITES[verb](store, session(key), Cas.none())
                incarnations.add(cas.incarnation)
                await store.delete(SessionKey(key), ctx=ctx())
        assert len(incarnations) == 20

    async def test_create_over_a_live_session_raises_and_changes_nothing(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 1}, ttl_secs=1000))
        async with kept(store):
            with pytest.raises(SessionExistsError) as caught:
                await store.create(session(context={"n": 2}, ttl_secs=5000))
        assert caught.value.key == KEY
        assert caught.value.code == "conflict"

    async def test_the_same_key_in_another_tenant_is_free(self, harness: StoreHarness) -> None:
        store = await harness.open()
        tokens = [
            await store.create(session(owner=owner))
            for owner in (ctx(), ctx(GLOBEX), ctx(env="staging"))
        ]
        assert [cas.value for cas in tokens] == [1, 1, 1]
        assert len({cas.incarnation for cas in tokens}) == 3

    @pytest.mark.parametrize("verb", CHANGES)
    async def test_a_change_replaces_every_field(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open()
        before = await store.create(
            session(
                context={"old": 1, "both": 1},
                labels={"old": True},
                ttl_secs=1000,
                outbox=(OutboxEntry.for_payload(1, b"old"), OutboxEntry.for_payload(2, b"old")),
            )
        )
        given = evolve(
            session(
                context={"both": 2},
                labels={"new": True},
                ttl_secs=2000,
                outbox=(OutboxEntry.for_payload(7, b"new"),),
            ),
            cursor=SessionCursor(
                flow_id="billing", node_id="pay", pack_id="p", wait_reason="card", outbox_seq=7
            ),
        )
        cas = await CHANGES[verb](store, given, before)
        found = await require(store)
        assert found.cas == cas
        assert found.session == evolve(
            given, id=found.session.id, updated_at=found.session.updated_at
        )

    # --- the token of each write -------------------------------------------------------------

    @pytest.mark.parametrize("verb", CHANGES)
    async def test_each_change_moves_the_value_by_one_and_keeps_the_incarnation(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        first = cas = await store.create(session())
        session_id = (await require(store)).session.id
        for value in range(2, 26):
            cas = await CHANGES[verb](store, session(context={"n": value}), cas)
            assert cas == Cas(value=value, incarnation=first.incarnation)
            found = await require(store)
            assert found.cas == cas
            assert found.session.id == session_id
            assert found.session.context == {"n": value}

    async def test_all_verbs_share_one_count(self, harness: StoreHarness) -> None:
        store = await harness.open()
        cas = await store.put(session())
        for round_number in range(3):
            for verb in CHANGES:
                cas = await CHANGES[verb](store, session(context={"n": round_number}), cas)
            await store.touch(KEY, 1000, ctx=ctx())
        assert cas.value == 1 + 3 * len(CHANGES)
        assert (await require(store)).cas == cas

    async def test_a_write_that_changes_nothing_moves_the_token(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"n": 1}))
        await store.put(session(context={"n": 1}))
        assert (await store.mutate(KEY, same, ctx=ctx())).cas.value == 3

    async def test_a_token_survives_its_text_form(self, harness: StoreHarness) -> None:
        store = await harness.open()
        cas = await store.create(session())
        assert Cas.parse(str(cas)) == cas
        assert (await store.update_cas(session(), Cas.parse(str(cas)))).value == 2

    # --- update_cas --------------------------------------------------------------------------

    async def test_update_cas_with_a_used_token_conflicts(self, harness: StoreHarness) -> None:
        store = await harness.open()
        first = await store.create(session())
        second = await store.update_cas(session(context={"n": 2}), first)
        async with kept(store):
            with pytest.raises(CasConflictError) as caught:
                await store.update_cas(session(context={"n": 3}, ttl_secs=5), first)
        assert caught.value.key == KEY
        assert caught.value.expected == first
        assert caught.value.current == second
        assert caught.value.code == "conflict"

    @pytest.mark.parametrize("verb", ["put", "mutate", "update_cas"])
    async def test_any_write_since_makes_a_token_stale(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        first = await store.create(session())
        second = await CHANGES[verb](store, session(), first)
        with pytest.raises(CasConflictError) as caught:
            await store.update_cas(session(), first)
        assert caught.value.current == second

    async def test_touch_does_not_make_a_token_stale(self, harness: StoreHarness) -> None:
        store = await harness.open()
        cas = await store.create(session(ttl_secs=1000))
        await store.touch(KEY, 500, ctx=ctx())
        assert (await store.update_cas(session(), cas)).value == 2

    @pytest.mark.parametrize(
        "token",
        [
            pytest.param(Cas.none(), id="of nothing"),
            pytest.param(Cas(value=3, incarnation=_FOREIGN), id="of another incarnation"),
            pytest.param(Cas(value=3, incarnation="*"), id="pattern for an incarnation"),
        ],
    )
    async def test_a_token_that_is_not_the_stored_one_conflicts(
        self, harness: StoreHarness, token: Cas
    ) -> None:
        store = await harness.open()
        await store.create(session())
        await store.put(session())
        current = await store.put(session())
        async with kept(store):
            with pytest.raises(CasConflictError) as caught:
                await store.update_cas(session(context={"n": 1}), token)
            assert (caught.value.expected, caught.value.current) == (token, current)
            with pytest.raises(CasConflictError) as caught:
                await store.delete(KEY, ctx=ctx(), expected=token)
            assert (caught.value.expected, caught.value.current) == (token, current)

    @pytest.mark.parametrize("value", [1, 2, 4, 30, 33, 3 + 2**32, 10**14 - 1])
    async def test_another_value_of_the_same_incarnation_conflicts(
        self, harness: StoreHarness, value: int
    ) -> None:
        store = await harness.open()
        await store.create(session())
        await store.put(session())
        current = await store.put(session())
        token = Cas(value=value, incarnation=current.incarnation)
        async with kept(store):
            with pytest.raises(CasConflictError):
                await store.update_cas(session(context={"n": 1}), token)
            with pytest.raises(CasConflictError):
                await store.delete(KEY, ctx=ctx(), expected=token)

    async def test_update_cas_with_another_sessions_token_conflicts(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session())
        foreign = await store.create(session("another"))
        elsewhere = await store.create(session(owner=ctx(GLOBEX)))
        async with kept(store, ctx(), ctx(GLOBEX)):
            for token in (foreign, elsewhere):
                with pytest.raises(CasConflictError):
                    await store.update_cas(session(context={"n": 1}), token)

    async def test_update_cas_with_a_token_from_before_a_delete_and_recreate_conflicts(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        before = await store.create(session())
        await store.delete(KEY, ctx=ctx())
        after = await store.create(session())
        assert after.value == before.value
        async with kept(store):
            with pytest.raises(CasConflictError) as caught:
                await store.update_cas(session(context={"n": 1}), before)
            assert caught.value.current == after
            with pytest.raises(CasConflictError):
                await store.delete(KEY, ctx=ctx(), expected=before)

    @pytest.mark.parametrize("verb", ["create", "put"])
    async def test_update_cas_with_a_token_from_before_an_expiry_and_recreate_conflicts(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        before = await store.create(session(ttl_secs=LIFE))
        await harness.advance(LIFE)
        after = await WRITES[verb](store, session(ttl_secs=1000), Cas.none())
        assert after.value == before.value
        async with kept(store):
            with pytest.raises(CasConflictError) as caught:
                await store.update_cas(session(context={"n": 1}), before)
            assert caught.value.current == after

    # --- delete ------------------------------------------------------------------------------

    async def test_delete_tells_whether_there_was_a_session(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        assert await store.delete(KEY, ctx=ctx()) is True
        assert await store.delete(KEY, ctx=ctx()) is False

    @pytest.mark.parametrize("verb", ABSENCES)
    async def test_a_deleted_session_is_absent_at_once(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        cas = await store.put(session(ttl_secs=1000))
        assert await store.delete(KEY, ctx=ctx(), expected=cas) is True
        await ABSENCES[verb](store, KEY, ctx(), cas)

    async def test_delete_removes_one_session_only(self, harness: StoreHarness) -> None:
        store = await harness.open()
        keys = [SessionKey(key) for key in ("a", "ab", "b", "a/b")]
        for key in keys:
            await store.create(session(key))
            await store.create(session(key, owner=ctx(GLOBEX)))
        assert await store.delete(keys[0], ctx=ctx()) is True
        assert set(await everything(store)) == set(keys[1:])
        assert set(await everything(store, ctx(GLOBEX))) == set(keys)

    async def test_delete_with_the_stored_token_removes(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        cas = await store.put(session())
        assert await store.delete(KEY, ctx=ctx(), expected=cas) is True
        assert await store.get(KEY, ctx=ctx()) is None

    async def test_delete_with_a_stale_token_conflicts(self, harness: StoreHarness) -> None:
        store = await harness.open()
        stale = await store.create(session())
        current = await store.put(session())
        async with kept(store):
            with pytest.raises(CasConflictError) as caught:
                await store.delete(KEY, ctx=ctx(), expected=stale)
        assert (caught.value.expected, caught.value.current) == (stale, current)


@pytest.mark.anyio
class StampingContract:
    """The store sets a session's identity and time, whatever values the caller passes."""

    @pytest.mark.parametrize("verb", WRITES)
    async def test_a_callers_id_and_time_are_ignored(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        before = Cas.none() if verb == "create" else await store.create(session(ttl_secs=LIFE))
        reference = await store.create(session("reference"))
        past = datetime(1999, 12, 31, tzinfo=UTC)
        forged = SessionId(uuid4())
        await WRITES[verb](store, session(ttl_secs=LIFE, id=forged, updated_at=past), before)
        found = (await require(store)).session
        clock = (await require(store, SessionKey("reference"))).session.updated_at
        assert reference.value == 1
        assert found.id != forged
        assert abs(found.updated_at - clock) < timedelta(minutes=10)
        assert found.expires_at == found.updated_at + timedelta(seconds=LIFE)

    async def test_values_of_no_type_in_stamped_fields_are_ignored(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(id=None, updated_at="yesterday"))
        found = (await require(store)).session
        assert isinstance(found.id, UUID)
        assert isinstance(found.updated_at, datetime)

    async def test_the_id_is_the_incarnations(self, harness: StoreHarness) -> None:
        store = await harness.open()
        ids: list[SessionId] = []
        for _ in range(2):
            await store.create(session())
            made = (await require(store)).session.id
            for verb in CHANGES:
                current = (await require(store)).cas
                await CHANGES[verb](store, session(), current)
                await store.touch(KEY, 1000, ctx=ctx())
                assert (await require(store)).session.id == made
            ids.append(made)
            await store.delete(KEY, ctx=ctx())
        assert ids[0] != ids[1]

    @pytest.mark.parametrize("verb", WRITES)
    async def test_the_time_is_aware_utc_in_whole_milliseconds(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        before = Cas.none() if verb == "create" else await store.create(session())
        await WRITES[verb](store, session(), before)
        stamped = (await require(store)).session.updated_at
        assert stamped.utcoffset() == timedelta(0)
        assert stamped.microsecond % 1000 == 0

    @pytest.mark.parametrize("verb", CHANGES)
    async def test_each_write_moves_the_time(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open()
        cas = await store.create(session())
        await harness.advance(PART)
        aged = (await require(store)).session.updated_at
        await CHANGES[verb](store, session(), cas)
        fresh = (await require(store)).session.updated_at
        assert timedelta(seconds=PART) <= fresh - aged < timedelta(seconds=PART + 30)

    async def test_refused_writes_do_not_move_the_time(self, harness: StoreHarness) -> None:
        store = await harness.open()
        stale = await store.create(session())
        await store.put(session())
        await harness.advance(PART)
        async with kept(store):
            with pytest.raises(SessionExistsError):
                await store.create(session())
            with pytest.raises(CasConflictError):
                await store.update_cas(session(), stale)
            with pytest.raises(CasConflictError):
                await store.delete(KEY, ctx=ctx(), expected=stale)
