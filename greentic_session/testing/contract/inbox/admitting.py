"""Contract tests of admitting: each message once, in order, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from ....errors import InboxFullError, TenantMismatchError
from ....model import SessionKey
from ....ordering import InboxLimits
from ..samples import GLOBEX, KEY, LIFE, ctx, session
from .helpers import LEASE, OWNER, PATIENCE, desk

if TYPE_CHECKING:
    from ....ordering import Admitted
    from ...harness import StoreHarness

_OTHER = "conversation-2"


@pytest.mark.anyio
class InboxAdmittingContract:
    """A message is admitted to its session's mailbox once, and the result says so."""

    async def test_the_first_message_is_new_and_has_no_worker(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        told = await at.admit("e1")
        assert (told.is_new, told.waiting, told.worker) == (True, 1, None)

    async def test_those_that_wait_are_counted(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        assert [(await at.admit(f"e{n}")).waiting for n in range(1, 5)] == [1, 2, 3, 4]

    async def test_an_admission_names_the_worker_of_the_turn(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1")
        async with at.turn("worker-7") as turn:
            told = await at.admit("e2")
            assert (told.is_new, told.waiting, told.worker) == (True, 2, "worker-7")
            await turn.finish()
        assert (await at.admit("e3")).worker is None

    async def test_a_worker_whose_lease_has_ended_is_not_told(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1")
        async with at.doomed() as turn:
            await harness.advance(LEASE)
            assert (await at.admit("e2")).worker is None
            assert await turn.release() is False

    @pytest.mark.parametrize("when", ["waiting", "in hand", "handled", "of a session gone"])
    async def test_the_same_event_again_is_not_new(self, harness: StoreHarness, when: str) -> None:
        at = await desk(harness)
        await at.admit("e1")
        if when == "waiting":
            told = await at.admit("e1")
            assert (told.is_new, told.waiting) == (False, 1)
            assert await at.drain() == [(KEY, ["e1"])]
        elif when == "in hand":
            async with at.turn() as turn:
                told = await at.admit("e1")
                assert (told.is_new, told.waiting, told.worker) == (False, 1, "worker-1")
                await turn.finish()
        else:
            async with at.turn() as turn:
                await (turn.finish() if when == "handled" else turn.remove())
            told = await at.admit("e1")
            assert (told.is_new, told.waiting) == (False, 0)
        assert await at.is_idle()

    async def test_an_event_is_forgotten_when_its_time_has_passed(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, limits=InboxLimits(events_ttl_secs=LIFE))
        await at.admit("e1")
        await at.handle()
        await harness.advance(LIFE)
        assert (await at.admit("e1")).is_new

    async def test_the_oldest_event_is_forgotten_first(self, harness: StoreHarness) -> None:
        at = await desk(harness, limits=InboxLimits(mail=3, events=3))
        await at.admit("e1", "e2", "e3")
        await at.handle()
        await harness.advance(1)
        await at.admit("e4")
        assert not (await at.admit("e3")).is_new
        assert (await at.admit("e1")).is_new

    async def test_events_of_different_sessions_have_nothing_to_do_with_one_another(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, tenants="all")
        assert (await at.admit("e1")).is_new
        assert (await at.admit("e1", key=_OTHER)).is_new
        assert (await at.admit("e1", owner=ctx(GLOBEX))).is_new
        assert (await at.admit("e1", owner=ctx(env="staging"))).is_new

    async def test_a_full_mailbox_takes_no_more(self, harness: StoreHarness) -> None:
        at = await desk(harness, limits=InboxLimits(mail=2))
        await at.admit("e1", "e2")
        for _ in range(2):
            with pytest.raises(InboxFullError) as caught:
                await at.admit("e3")
            assert caught.value.limit == 2
            assert caught.value.code == "rate_limited"
        assert not (await at.admit("e2")).is_new  # an admitted event id is known
        assert (await at.admit("e1", key=_OTHER)).is_new
        assert await at.handle() == ["e1", "e2"]
        assert (await at.admit("e3")).is_new

    @pytest.mark.parametrize("payload", [b"", b"\0\xff\n:{}", b"x" * 65_536], ids=["0", "odd", "k"])
    async def test_a_payload_comes_out_as_it_went_in(
        self, harness: StoreHarness, payload: bytes
    ) -> None:
        at = await desk(harness)
        await at.admit("e:1:é😀", payload=payload)
        async with at.turn() as turn:
            assert [(mail.event_id, mail.payload) for mail in turn.mail] == [("e:1:é😀", payload)]
            await turn.finish()

    async def test_admission_times_are_those_of_the_store(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.store.put(session("clock"))
        clock = await at.record("clock")
        await at.admit("e1", "e2")
        async with at.turn() as turn:
            first, second = (mail.admitted_at for mail in turn.mail)
            assert clock.session.updated_at is not None
            assert clock.session.updated_at <= first <= second
            assert first.tzinfo is not None
            await turn.finish()

    @pytest.mark.parametrize("caller", ["other team", "other user", "no user"])
    async def test_a_session_of_others_gets_no_mail(
        self, harness: StoreHarness, caller: str
    ) -> None:
        at = await desk(harness)
        owner = ctx(team_id="red", user_id="ann")
        await at.store.put(session(owner=owner))
        stranger = {
            "other team": ctx(team_id="blue", user_id="ann"),
            "other user": ctx(team_id="red", user_id="bob"),
            "no user": ctx(team_id="red"),
        }[caller]
        with pytest.raises(TenantMismatchError):
            await at.admit("e1", owner=stranger)
        assert await at.is_idle()
        assert (await at.admit("e1", owner=owner)).is_new

    async def test_mail_does_not_outrun_the_fence(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        ann, bob = ctx(team_id="red", user_id="ann"), ctx(team_id="red", user_id="bob")
        await at.admit("b1", "b2", owner=bob)  # there is no session yet
        await at.admit("a1", owner=ann)
        await at.admit("b3", owner=bob)
        await at.store.put(session(owner=ann))
        async with at.turn() as turn:
            assert turn.session is not None
            assert [(mail.event_id, mail.ctx) for mail in turn.mail] == [("a1", ann)]
            await turn.remove()
        # Messages of callers without access become dead letters, as if the session had existed
        # before.
        letters = await at.dead()
        assert [(one.event_id, one.ctx, one.attempts) for one in letters] == [
            ("b1", bob, 0),
            ("b2", bob, 0),
        ]
        assert await at.handle() == ["b3"]
        assert await at.inbox.replay(letters[0])
        assert await at.inbox.discard(letters[1])
        await at.store.delete(KEY, ctx=OWNER)
        assert await at.handle() == ["b1"]

    async def test_a_turn_without_a_session_has_the_mail_of_one(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        ann, bob = ctx(team_id="red", user_id="ann"), ctx(team_id="red", user_id="bob")
        await at.admit("a1", "a2", owner=ann)
        await at.admit("b1", owner=bob)
        await at.admit("a3", owner=ann)
        async with at.turn() as turn:
            assert [mail.event_id for mail in turn.mail] == ["a1", "a2"]
            assert [mail.ctx for mail in turn.mail] == [ann, ann]
            await turn.finish(session(owner=ctx(team_id="red")))
        async with at.turn() as turn:  # the session is open to the whole team
            assert [(mail.event_id, mail.ctx.user_id) for mail in turn.mail] == [
                ("b1", "bob"),
                ("a3", "ann"),
            ]
            await turn.finish()

    async def test_a_caller_that_may_touch_a_session_may_write_to_it(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.store.put(session(owner=ctx(team_id="red")))
        assert (await at.admit("e1", owner=ctx(team_id="red", user_id="ann"))).is_new

    async def test_another_tenants_session_is_none(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.store.put(session(owner=ctx(GLOBEX, team_id="red", user_id="ann")))
        assert (await at.admit("e1")).is_new
        async with at.turn() as turn:
            assert turn.session is None
            assert (turn.tenant.env, turn.tenant.tenant_id) == (OWNER.env, OWNER.tenant_id)
            await turn.finish()

    @pytest.mark.parametrize("key", ["a/b", "/", "a:{b}", "%7B*?[]", "é😀", " "], ids=ascii)
    async def test_any_key_is_a_key(self, harness: StoreHarness, key: str) -> None:
        at = await desk(harness, attempts=1)
        await at.admit("e1", "e2", key=key)
        await at.fail()
        async with at.turn() as turn:
            assert (turn.key, [mail.event_id for mail in turn.mail]) == (key, ["e2"])
            await turn.finish()
        assert [(letter.key, letter.event_id) for letter in await at.dead()] == [(key, "e1")]

    async def test_many_at_once_come_in_once_each(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        peer = await at.peer()
        told: list[Admitted] = []

        async def admit(number: int, inbox: object) -> None:
            assert inbox in (at, peer)
            side = at if inbox is at else peer
            told.append(await side.admit(f"e{number}"))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(admit, number, at)
                    tasks.start_soon(admit, number, peer)
        assert sum(one.is_new for one in told) == 20
        async with at.turn() as turn:
            assert sorted(mail.event_id for mail in turn.mail) == sorted(
                f"e{number}" for number in range(20)
            )
            await turn.finish()

    async def test_a_message_wakes_a_waiting_worker(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        peer = await at.peer()
        heard: list[str] = []
        waiting = anyio.Event()

        async def work() -> None:
            waiting.set()
            heard.extend(await peer.handle())

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                await waiting.wait()
                await at.admit("e1")
        assert heard == ["e1"]
        assert await at.told() == ["e1"]

    async def test_mail_for_a_session_that_is_not_there_makes_none(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("e1")
        assert await at.store.get(SessionKey(KEY), ctx=OWNER) is None
