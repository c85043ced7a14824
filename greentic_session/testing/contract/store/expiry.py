"""Contract tests of lifetimes: when a session expires, and which verbs renew its lifetime."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from ...._validation import MAX_TTL_SECS
from ....errors import CasConflictError, SessionExistsError, TenantMismatchError
from ....model import Cas, OutboxEntry
from ..assertions import everything, kept, require
from ..samples import GLOBEX, KEY, LIFE, PART, ctx, evolve, session
from .verbs import ABSENCES, CHANGES, WRITES

if TYPE_CHECKING:
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

_YEAR: Final = 366 * 86_400.0


async def _renew(verb: str, store: AsyncSessionStore[Any], ttl_secs: float) -> None:
    """Renew the lifetime of the session under KEY, by a verb that can."""
    if verb in CHANGES:
        await CHANGES[verb](store, session(ttl_secs=ttl_secs), (await require(store)).cas)
    else:
        assert verb == "touch"
        assert await store.touch(KEY, ttl_secs, ctx=ctx()) is True


_RENEWALS: Final = (*CHANGES, "touch")


@pytest.mark.anyio
class LifeContract:
    """A session is absent from the instant ``now >= expires_at``, and not before."""

    async def test_a_session_lives_until_its_end(self, harness: StoreHarness) -> None:
        store = await harness.open()
        cas = await store.create(session(ttl_secs=LIFE, context={"n": 1}))
        await harness.advance(PART)
        found = await require(store)
        assert found.cas == cas
        assert found.session.context == {"n": 1}
        assert found.session.ttl_secs == LIFE

    @pytest.mark.parametrize("verb", ABSENCES)
    async def test_a_session_is_absent_at_the_instant_of_its_end(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        cas = await store.put(session(ttl_secs=LIFE))
        await harness.advance(LIFE)
        await ABSENCES[verb](store, KEY, ctx(), cas)

    @pytest.mark.parametrize("verb", _RENEWALS)
    async def test_life_zero_never_ends(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await _renew(verb, store, 0)
        await harness.advance(50 * _YEAR)
        found = await require(store)
        assert found.session.ttl_secs == 0
        assert found.session.expires_at is None

    @pytest.mark.parametrize("ttl_secs", [0.001, 0.03, 0.999, 1.5, 2])
    @pytest.mark.parametrize("verb", _RENEWALS)
    async def test_a_short_life_ends_on_its_millisecond(
        self, harness: StoreHarness, verb: str, ttl_secs: float
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await _renew(verb, store, ttl_secs)
        await harness.advance(ttl_secs)
        assert await store.get(KEY, ctx=ctx()) is None
        assert await store.get(KEY) is None

    @pytest.mark.parametrize("ttl_secs", [90.001, 90.25, 90.123, 90.999, 1234567.891, 91])
    @pytest.mark.parametrize("verb", ["create", *_RENEWALS])
    async def test_a_life_is_kept_to_the_millisecond(
        self, harness: StoreHarness, verb: str, ttl_secs: float
    ) -> None:
        store = await harness.open()
        if verb == "create":
            await store.create(session(ttl_secs=ttl_secs))
        else:
            await store.create(session(ttl_secs=LIFE))
            await _renew(verb, store, ttl_secs)
        found = (await require(store)).session
        assert found.ttl_secs == ttl_secs
        assert found.expires_at == found.updated_at + timedelta(seconds=ttl_secs)

    async def test_a_life_finer_than_a_millisecond_is_rounded(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for ttl_secs, rounded in ((90.12345, 90.123), (90.12375, 90.124)):
            await store.put(session(ttl_secs=ttl_secs))
            assert (await require(store)).session.ttl_secs == rounded

    @pytest.mark.parametrize("verb", ["create", *_RENEWALS])
    async def test_the_longest_life_is_about_a_century(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        if verb == "create":
            await store.create(session(ttl_secs=MAX_TTL_SECS))
        else:
            await store.create(session(ttl_secs=LIFE))
            await _renew(verb, store, MAX_TTL_SECS)
        await harness.advance(50 * _YEAR)
        found = (await require(store)).session
        assert found.expires_at == found.updated_at + timedelta(seconds=MAX_TTL_SECS)
        await harness.advance(50 * _YEAR)
        assert await store.get(KEY, ctx=ctx()) is None

    # --- a new lifetime ----------------------------------------------------------------------

    @pytest.mark.parametrize("verb", _RENEWALS)
    async def test_a_renewal_starts_a_new_lifetime(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        for _ in range(3):
            await harness.advance(PART)
            await _renew(verb, store, LIFE)
        await harness.advance(PART)
        assert await store.get(KEY, ctx=ctx()) is not None
        await harness.advance(LIFE - PART)
        assert await store.get(KEY, ctx=ctx()) is None

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            pytest.param(1000.0, LIFE, id="shorter"),
            pytest.param(0.0, LIFE, id="from permanent"),
            pytest.param(PART, LIFE, id="longer"),
        ],
    )
    @pytest.mark.parametrize("verb", _RENEWALS)
    async def test_a_renewal_with_another_life_counts_from_now(
        self, harness: StoreHarness, verb: str, before: float, after: float
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=before))
        await harness.advance(before / 10)
        await _renew(verb, store, after)
        await harness.advance(PART)
        assert (await require(store)).session.ttl_secs == after
        await harness.advance(after - PART)
        assert await store.get(KEY, ctx=ctx()) is None
        assert await everything(store) == {}

    @pytest.mark.parametrize("verb", WRITES)
    async def test_a_refused_write_gives_no_new_life(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        stale = await store.create(session(ttl_secs=LIFE))
        await store.put(session(ttl_secs=LIFE))
        await harness.advance(PART)
        owner = ctx(team_id="red") if verb.startswith("put") else ctx()
        with pytest.raises((CasConflictError, SessionExistsError, TenantMismatchError)):
            await WRITES[verb](store, session(ttl_secs=1000, owner=owner), stale)
        await harness.advance(LIFE - PART)
        assert await store.get(KEY, ctx=ctx()) is None

    async def test_reading_does_not_renew_the_lifetime(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await harness.advance(PART)
        await store.get(KEY)
        await store.get_many([KEY], ctx=ctx())
        await everything(store)
        await harness.advance(LIFE - PART)
        assert await store.get(KEY, ctx=ctx()) is None

    async def test_the_same_key_has_a_life_in_each_tenant(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await store.create(session(owner=ctx(GLOBEX), ttl_secs=1000))
        await store.create(session(owner=ctx(env="staging")))
        await harness.advance(LIFE)
        assert await store.get(KEY, ctx=ctx()) is None
        assert await store.get(KEY, ctx=ctx(GLOBEX)) is not None
        await harness.advance(1000)
        assert await store.get(KEY, ctx=ctx(GLOBEX)) is None
        assert await store.get(KEY, ctx=ctx(env="staging")) is not None

    async def test_a_session_can_live_again_and_again(self, harness: StoreHarness) -> None:
        store = await harness.open()
        incarnations: set[str] = set()
        for _ in range(5):
            cas = await store.create(session(ttl_secs=LIFE))
            incarnations.add(cas.incarnation)
            await harness.advance(LIFE)
            assert await store.get(KEY) is None
        assert len(incarnations) == 5


@pytest.mark.anyio
class TouchContract:
    """``touch`` renews the lifetime and changes nothing else."""

    @pytest.mark.parametrize("ttl_secs", [None, 0, 500, 120.5], ids=repr)
    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    async def test_touch_moves_neither_token_nor_content(
        self, harness: StoreHarness, ttl_secs: float | None, *, with_caller: bool
    ) -> None:
        store = await harness.open()
        entry = OutboxEntry.for_payload(1, b"hello")
        await store.create(session(ttl_secs=1000))
        await store.put(
            session(ttl_secs=1000, context={"n": 1}, labels={"vip": True}, outbox=(entry,))
        )
        before = await require(store)
        assert await store.touch(KEY, ttl_secs, ctx=ctx() if with_caller else None) is True
        after = await require(store)
        assert after.cas == before.cas
        assert after.session == evolve(
            before.session,
            ttl_secs=1000 if ttl_secs is None else ttl_secs,
            updated_at=after.session.updated_at,
        )

    async def test_touch_moves_the_time(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        await harness.advance(PART)
        aged = (await require(store)).session
        await store.touch(KEY, ctx=ctx())
        fresh = (await require(store)).session
        gained = timedelta(seconds=PART)
        assert gained <= fresh.updated_at - aged.updated_at < 2 * gained
        assert aged.expires_at is not None
        assert fresh.expires_at is not None
        assert gained <= fresh.expires_at - aged.expires_at < 2 * gained

    async def test_touch_without_a_life_keeps_the_stored_one(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await harness.advance(PART)
        assert await store.touch(KEY, ctx=ctx()) is True
        await harness.advance(PART)
        assert (await require(store)).session.ttl_secs == LIFE
        await harness.advance(LIFE - PART)
        assert await store.get(KEY, ctx=ctx()) is None

    async def test_touch_without_a_life_keeps_the_one_of_the_last_touch(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        await store.touch(KEY, LIFE, ctx=ctx())
        await harness.advance(PART)
        await store.touch(KEY, ctx=ctx())
        assert (await require(store)).session.ttl_secs == LIFE
        await harness.advance(LIFE)
        assert await store.get(KEY, ctx=ctx()) is None

    async def test_touch_without_a_life_leaves_a_permanent_session_permanent(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session())
        assert await store.touch(KEY, ctx=ctx()) is True
        await harness.advance(_YEAR)
        assert (await require(store)).session.ttl_secs == 0

    async def test_a_later_write_brings_its_own_life(self, harness: StoreHarness) -> None:
        store = await harness.open()
        written = session(ttl_secs=LIFE)
        cas = await store.create(written)
        await store.touch(KEY, 1000, ctx=ctx())
        await store.update_cas(written, cas)
        assert (await require(store)).session.ttl_secs == LIFE
        await harness.advance(LIFE)
        assert await store.get(KEY, ctx=ctx()) is None

    @pytest.mark.parametrize("ttl_secs", [None, 0, 1000], ids=repr)
    async def test_touch_does_not_bring_back_what_has_expired(
        self, harness: StoreHarness, ttl_secs: float | None
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(ttl_secs=LIFE))
        await harness.advance(LIFE)
        assert await store.touch(KEY, ttl_secs, ctx=ctx()) is False
        assert await store.touch(KEY, ttl_secs) is False
        assert await everything(store) == {}
        with pytest.raises(CasConflictError) as caught:
            await store.update_cas(session(), cas)
        assert caught.value.current == Cas.none()

    async def test_touch_leaves_other_sessions_alone(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session("another", ttl_secs=LIFE))
        await store.create(session(owner=ctx(GLOBEX), ttl_secs=LIFE))
        await store.create(session(ttl_secs=LIFE))
        async with kept(store, ctx(GLOBEX)):
            await store.touch(KEY, 1000, ctx=ctx())
        await harness.advance(LIFE)
        assert set(await everything(store)) == {KEY}
        assert await everything(store, ctx(GLOBEX)) == {}
