"""Contract tests of registering: token, reply scope, lifetime, and the superseded session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import CasConflictError, PayloadTooLargeError, WaitNotFoundError
from ....model import Cas, OutboxEntry, ReplyScope
from ..samples import KEY, LIFE, PART, session
from .helpers import ANN, ANOTHER, CHAT, MAIL, THREAD, wait_harness

if TYPE_CHECKING:
    from ...harness import StoreHarness

_PLACES: Final = [
    CHAT,
    ReplyScope(conversation="chat-2"),
    ReplyScope(conversation="chat-1", thread="x"),
    ReplyScope(conversation="chat-1", reply_to="x"),
    ReplyScope(conversation="chat-1", correlation="x"),
    ReplyScope(conversation="chat-1", thread="x", reply_to="x"),
    ReplyScope(conversation="chat-1", reply_to="x", correlation="x"),
    ReplyScope(conversation="chat-1", thread="x", reply_to="x", correlation="x"),
    ReplyScope(conversation="chat-1x"),
    ReplyScope(conversation="Chat-1"),
    ReplyScope(conversation="chat-1 "),
    ReplyScope(conversation="chat-1 x"),
    ReplyScope(conversation="chat-1", thread="x "),
    ReplyScope(conversation="chat-1", thread=" x"),
    ReplyScope(conversation="chat:1{é}%😀"),
]


@pytest.mark.anyio
class WaitRegisteringContract:
    """A registered session is stored, and found under its reply scope only."""

    async def test_the_first_token_has_value_one(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        cas = await at.register(context={"n": 1}, labels={"a": 1})
        assert cas.value == 1
        assert await at.find() == KEY
        assert await at.listed() == [KEY]
        found = await at.record()
        assert found.cas == cas
        given = session(owner=ANN, context={"n": 1}, labels={"a": 1})
        assert (found.session.context, found.session.meta) == (given.context, given.meta)
        assert found.session.cursor == given.cursor
        assert found.session.id.hex == cas.incarnation

    async def test_registering_again_is_the_next_version(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        first = await at.register(context={"n": 1})
        second = await at.register(context={"n": 2})
        third = await at.register(context={"n": 3})
        assert second == Cas(value=2, incarnation=first.incarnation)
        assert third == Cas(value=3, incarnation=first.incarnation)
        found = await at.record()
        assert (found.cas, found.session.context) == (third, {"n": 3})
        assert await at.listed() == [KEY]

    async def test_a_session_that_did_not_wait_is_paused(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        first = await at.create(context={"n": 1})
        assert await at.find() is None
        cas = await at.register(context={"n": 2})
        assert cas == Cas(value=2, incarnation=first.incarnation)
        assert (await at.record()).session.context == {"n": 2}
        assert await at.find() == KEY

    async def test_a_wait_counts_as_a_write_for_older_tokens(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        first = await at.create()
        cas = await at.register()
        with pytest.raises(CasConflictError) as caught:
            await at.store.update_cas(session(owner=ANN), first)
        assert caught.value.current == cas
        again = await at.store.update_cas(session(owner=ANN, context={"n": 2}), cas)
        assert again.value == 3
        assert await at.find() == KEY

    async def test_the_time_is_stamped_by_the_store(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.create()
        before = (await at.record()).session.updated_at
        await at.register(updated_at=datetime(1999, 1, 1, tzinfo=UTC))
        assert (await at.record()).session.updated_at >= before

    # --- over a token ------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "state", ["absent", "expired", "plain", "waiting", "waiting elsewhere"]
    )
    async def test_over_the_stored_token_it_is_written(
        self, harness: StoreHarness, state: str
    ) -> None:
        at = await wait_harness(harness)
        expected = Cas.none()
        if state == "expired":
            await at.register(ttl=LIFE)
            await harness.advance(LIFE)
        elif state == "plain":
            expected = await at.create()
        elif state != "absent":
            expected = await at.register(CHAT if state == "waiting" else THREAD)
        cas = await at.register(expected=expected, context={"n": 2})
        assert cas.value == expected.value + 1
        assert not expected.value or cas.incarnation == expected.incarnation
        found = await at.record()
        assert (found.cas, found.session.context) == (cas, {"n": 2})
        assert await at.find() == KEY
        assert await at.find(THREAD) is None

    @pytest.mark.parametrize("state", ["plain", "waiting", "waiting elsewhere"])
    @pytest.mark.parametrize("token", ["older", "newer", "another incarnation", "none"])
    async def test_over_another_token_nothing_is_written(
        self, harness: StoreHarness, token: str, state: str
    ) -> None:
        at = await wait_harness(harness)
        older = await at.create()
        if state == "plain":
            current = await at.store.put(session(owner=ANN))
        else:
            current = await at.register(CHAT if state == "waiting" else THREAD)
        await at.register(MAIL, ANOTHER)
        expected = {
            "older": older,
            "newer": Cas(value=3, incarnation=current.incarnation),
            "another incarnation": Cas(value=2, incarnation="a" * 32),
            "none": Cas.none(),
        }[token]
        for scope in (CHAT, MAIL):
            async with at.kept():
                with pytest.raises(CasConflictError) as caught:
                    await at.register(scope, expected=expected, context={"n": 2})
            error = caught.value
            assert (error.key, error.expected, error.current) == (KEY, expected, current)

    @pytest.mark.parametrize("state", ["absent", "expired", "deleted"])
    async def test_over_a_token_an_absent_session_is_not_created(
        self, harness: StoreHarness, state: str
    ) -> None:
        at = await wait_harness(harness)
        token = Cas(value=1, incarnation="a" * 32)
        if state != "absent":
            token = await at.register(ttl=LIFE)
            if state == "deleted":
                assert await at.store.delete(KEY, ctx=ANN) is True
            await harness.advance(LIFE)
        async with at.kept():
            with pytest.raises(CasConflictError) as caught:
                await at.register(expected=token)
        assert (caught.value.expected, caught.value.current) == (token, Cas.none())

    # --- reply scopes ------------------------------------------------------------------------

    async def test_a_session_leaves_the_place_where_it_waited(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(CHAT)
        for left, scope in ((CHAT, THREAD), (THREAD, MAIL), (MAIL, CHAT)):
            await at.register(scope)
            assert await at.find(left) is None
            assert await at.find(scope) == KEY
            assert await at.listed() == [KEY]
            with pytest.raises(WaitNotFoundError):
                await at.claim(left)

    async def test_each_part_of_a_reply_scope_tells_places_apart(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        for number, scope in enumerate(_PLACES):
            await at.register(scope, f"c{number}")
        for number, scope in enumerate(_PLACES):
            assert await at.find(scope) == f"c{number}"
        assert len(await at.listed()) == len(_PLACES)

    async def test_an_empty_part_of_a_reply_scope_is_an_absent_one(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ReplyScope(conversation="chat-1", thread="", reply_to="", correlation=""))
        assert await at.find(CHAT) == KEY

    async def test_another_session_supersedes(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        cas = await at.register(ttl=LIFE, context={"n": 1})
        before = await at.record()
        await at.register(key=ANOTHER, context={"n": 2})
        assert await at.find() == ANOTHER
        assert await at.listed() == [ANOTHER]
        # The record of the superseded session is unchanged: content, token, time and lifetime.
        assert await at.record() == before
        assert before.cas == cas
        turn = await at.claim()
        assert (turn.key, turn.session.context) == (ANOTHER, {"n": 2})
        await turn.complete(turn.session)
        assert await at.find() is None
        assert await at.record() == before
        await harness.advance(LIFE)
        assert await at.store.get(KEY, ctx=ANN) is None

    async def test_a_superseded_session_comes_back_by_registering(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        for number in range(4):
            key, other = (KEY, ANOTHER) if number % 2 else (ANOTHER, KEY)
            await at.register(key=key)
            assert await at.find() == key
            assert await at.listed() == [key]
            if number:
                assert (await at.record(other)).cas.value == (number + 1) // 2

    async def test_a_superseded_session_can_wait_elsewhere(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.register(key=ANOTHER)
        await at.register(THREAD)
        assert await at.find(CHAT) == ANOTHER
        assert await at.find(THREAD) == KEY
        assert set(await at.listed()) == {KEY, ANOTHER}

    async def test_a_session_that_moves_onto_anothers_reply_scope_supersedes_it(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(CHAT)
        await at.register(THREAD, ANOTHER)
        await at.register(THREAD)
        assert await at.find(CHAT) is None
        assert await at.find(THREAD) == KEY
        assert await at.listed() == [KEY]
        assert (await at.record(ANOTHER)).cas.value == 1

    async def test_of_many_on_one_place_the_last_is_found(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        for number in (3, 1, 4, 0, 5, 2):
            await at.register(key=f"c{number}")
            assert await at.find() == f"c{number}"
        assert await at.listed() == ["c2"]
        assert await at.waits.rebuild_index(ANN) == 1

    # --- lifetimes ---------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("ttl", "own", "expected"),
        [
            pytest.param(None, 0, 0, id="none keeps for ever"),
            pytest.param(None, LIFE, LIFE, id="none keeps a life"),
            pytest.param(0, LIFE, 0, id="zero is for ever"),
            pytest.param(timedelta(0), LIFE, 0, id="timedelta zero is for ever"),
            pytest.param(90, 0, 90, id="whole seconds"),
            pytest.param(90.123, LIFE, 90.123, id="fractions"),
            pytest.param(timedelta(minutes=1.5), 0, 90, id="timedelta"),
            pytest.param(timedelta(milliseconds=90_123), LIFE, 90.123, id="timedelta to 1 ms"),
        ],
    )
    async def test_the_ttl_is_the_sessions_life(
        self, harness: StoreHarness, ttl: Any, own: float, expected: float
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=ttl, ttl_secs=own)
        assert (await at.record()).session.ttl_secs == expected
        await harness.advance(PART)
        assert await at.find() == KEY
        assert await at.listed() == [KEY]
        await harness.advance(LIFE)
        assert (await at.find() is None) is (expected > 0)
        assert len(await at.listed()) == (expected == 0)
        assert (await at.store.get(KEY, ctx=ANN) is None) is (expected > 0)

    async def test_registering_starts_a_new_life(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        for _ in range(3):
            await at.register(ttl=LIFE)
            await harness.advance(PART)
        assert await at.find() == KEY
        await harness.advance(LIFE - PART)
        assert await at.find() is None

    async def test_an_expired_session_is_created_again(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        first = await at.register(ttl=LIFE)
        await at.register(ttl=LIFE)
        await harness.advance(LIFE)
        second = await at.register(ttl=LIFE)
        assert second.value == 1
        assert second.incarnation != first.incarnation
        assert (await at.record()).cas == second
        assert await at.find() == KEY
        assert await at.listed() == [KEY]

    # --- what is written ---------------------------------------------------------------------

    async def test_repeated_outbox_entries_are_dropped(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        one, two = OutboxEntry.for_payload(1, b"a"), OutboxEntry.for_payload(2, b"a")
        await at.register(outbox=(one, two, one, OutboxEntry.for_payload(2, b"a")))
        assert (await at.record()).session.outbox == (one, two)
        assert (await at.claim()).session.outbox == (one, two)

    async def test_a_session_over_the_limit_is_not_registered(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, max_payload_bytes=1000)
        async with at.kept():
            with pytest.raises(PayloadTooLargeError):
                await at.register(context={"text": "x" * 1000})
        await at.register(THREAD)
        async with at.kept():
            with pytest.raises(PayloadTooLargeError):
                await at.register(context={"text": "x" * 1000})
