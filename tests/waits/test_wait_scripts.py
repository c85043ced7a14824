"""Tests of the wait scripts alone: retries, true verdicts, and one step or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.redis.transport.failures import ForeignValueError

from ..support.scripts import ELSEWHERE, EVENT, Turn, WaitScriptRunner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

LOST: Final = [-8]
UNKNOWN: Final = [-5]
HOW: Final = ("complete", "wait", "save", "finish")

Step = tuple[str, "Callable[[WaitScriptRunner, Turn, dict[str, Any]], Awaitable[Any]]"]
"""The state that a call needs, and the call."""


def _settling(how: str) -> Step:
    return "claimed", lambda runner, at, call: runner.settle(how, at, event=EVENT, **call)


TRACED: Final[dict[str, Step]] = {
    "pause of a new session": ("nothing", lambda runner, _, call: runner.pause(0, **call)),
    "pause over nothing": ("nothing", lambda runner, _, call: runner.pause(**call)),
    "pause": ("session", lambda runner, _, call: runner.pause(**call)),
    "pause of a token": ("session", lambda runner, at, call: runner.pause(at.version, **call)),
    "pause for an event": ("nothing", lambda runner, _, call: runner.pause(0, event="new", **call)),
    "pause again": ("waiting", lambda runner, _, call: runner.pause(**call)),
    "pause elsewhere": ("waiting", lambda runner, _, call: runner.pause(scope=ELSEWHERE, **call)),
    "pause over a claim": ("claimed", lambda runner, at, call: runner.pause(at.version, **call)),
    **{how: _settling(how) for how in HOW},
    "release": ("claimed", lambda runner, at, call: runner.release(at.fence, **call)),
    "clear": ("waiting", lambda runner, _, call: runner.clear(**call)),
    "clear of a claim": ("claimed", lambda runner, _, call: runner.clear(**call)),
}
"""Calls that leave an entry in the operation log."""

UNTRACED: Final[dict[str, Step]] = {
    "claim": ("waiting", lambda runner, _, call: runner.claim(event=EVENT, **call)),
    "claim again": ("claimed", lambda runner, _, call: runner.claim(event=EVENT, **call)),
    "renew": ("claimed", lambda runner, at, call: runner.renew(at.fence, **call)),
    "supersede": ("waiting", lambda runner, at, call: runner.supersede(at.since, **call)),
}
"""Calls that may be repeated."""

PLAIN: Final[dict[str, Step]] = {
    "create": ("nothing", lambda runner, _, call: runner.create(**call)),
    "put": ("claimed", lambda runner, _, call: runner.put(**call)),
    "update_cas": ("claimed", lambda runner, at, call: runner.update(at.version, **call)),
    "touch": ("claimed", lambda runner, _, call: runner.touch(5000, **call)),
    "delete": ("claimed", lambda runner, _, call: runner.delete(**call)),
}
STEPS: Final = {**TRACED, **UNTRACED, **PLAIN}
REMOVALS: Final = ("clear", "clear of a claim", "delete")
"""Removals, which delete all fields of the session."""
KNOWS_EVENTS: Final = (*HOW, "claim", "claim again", "pause for an event", *REMOVALS)
UNTOUCHED: Final = {("supersede", 1), *((name, 2) for name in STEPS if name not in KNOWS_EVENTS)}
"""Step and key (1 the lookup, 2 the events) that the step does not read."""


async def prepared(runner: WaitScriptRunner, name: str) -> Callable[..., Awaitable[Any]]:
    """Return the call of that name, on a record in the required state."""
    state, step = STEPS[name]
    turn = await runner.arrange(state)
    return lambda **call: step(runner, turn, {"op": "the call", **call})


class TestRepeated:
    @pytest.mark.parametrize("others", [0, 6])
    @pytest.mark.parametrize("age", ["", 50])
    @pytest.mark.parametrize("name", TRACED)
    async def test_a_repeated_call_is_answered_and_changes_nothing(
        self, runner: WaitScriptRunner, name: str, age: object, others: int
    ) -> None:
        call = await prepared(runner, name)
        first = await call()
        assert first[0] == 1
        await runner.others(others)
        before = await runner.everything()
        again = await call(age=age)
        assert await runner.everything() == before
        assert (again[0], again[3]) == (1, first[3])
        assert len(again) == len(first)
        if name in ("wait", "save"):
            assert again == first
        elif name[:5] == "pause":
            # The record no longer has the session's earlier scope.
            assert again == [*first[:5], b""]
        elif name == "complete" or (name == "release" and not others):
            assert again[:4] == first[:4]
        # A removal keeps no token to return, and no caller needs one.

    @pytest.mark.parametrize("after", ["put", "pause"])
    @pytest.mark.parametrize("name", TRACED)
    async def test_a_call_that_the_ring_has_forgotten_is_unknown(
        self, runner: WaitScriptRunner, name: str, after: str
    ) -> None:
        call = await prepared(runner, name)
        assert (await call())[0] == 1
        await runner.others(12)
        if after == "pause":
            await runner.pause()
        before = await runner.everything()
        assert await call(age=60_000) == UNKNOWN
        assert await runner.everything() == before

    @pytest.mark.parametrize("name", ["pause", "pause again", "release", "clear"])
    async def test_a_call_that_the_operation_log_would_know_was_not_executed(
        self, runner: WaitScriptRunner, name: str
    ) -> None:
        call = await prepared(runner, name)
        await runner.others(12)
        await runner.age()
        # All entries of the log are older than the first attempt, so that attempt never arrived.
        assert (await call(age=5))[0] == 1

    async def test_a_refusal_is_certain_while_the_operation_log_would_know(
        self, runner: WaitScriptRunner
    ) -> None:
        turn = await runner.arrange("claimed")
        await runner.others(1)
        await runner.release(turn.fence)
        before = await runner.everything()
        for how in HOW:
            assert await runner.settle(how, turn, age=50) == LOST
        assert await runner.release(turn.fence, age=50) == LOST
        for version in (2, 1, 0):  # the operation log shows that the claim made version 2
            assert await runner.pause(version, age=50) == [-2, b"3", b"a" * 32]
        assert await runner.pause(owner="blue/", age=50) == [-3]
        assert await runner.clear(scope=ELSEWHERE, age=50) == [0]
        assert await runner.everything() == before
        await runner.others(12)
        before = await runner.everything()
        # The record does not show which call ended the claim. It may have been the first attempt.
        for how in HOW:
            assert await runner.settle(how, turn) == LOST
            assert await runner.settle(how, turn, age=60_000) == UNKNOWN
        assert await runner.release(turn.fence, age=60_000) == UNKNOWN
        assert await runner.pause(2, age=60_000) == UNKNOWN
        assert await runner.clear(scope=ELSEWHERE, age=60_000) == UNKNOWN
        # A renewal only reports that the claim is no longer held.
        assert await runner.renew(turn.fence, age=60_000) == LOST
        await runner.age()
        assert await runner.settle("complete", turn, age=5) == LOST
        assert await runner.release(turn.fence, age=5) == LOST
        assert await runner.everything() == before

    async def test_an_earlier_attempt_on_a_record_that_is_gone_is_unknown(
        self, runner: WaitScriptRunner
    ) -> None:
        turn = Turn(2, 1, 1)
        for how in HOW:
            assert await runner.settle(how, turn) == LOST
            assert await runner.settle(how, turn, age=50) == UNKNOWN
        assert await runner.release(1) == LOST
        assert await runner.release(1, age=50) == UNKNOWN
        assert await runner.pause(1) == [-2, b"0", b""]
        assert (await runner.pause(1, age=50))[0] == -5
        # A session created by the earlier attempt could have expired since.
        assert await runner.pause(0, ttl=50, age=50) == UNKNOWN
        assert await runner.pause(ttl=49, age=50) == UNKNOWN
        # A repetition of these changes nothing, or they leave a trace of the removal.
        assert await runner.clear(age=50) == [0]
        assert await runner.claim(age=50) == [0]
        assert await runner.renew(1, age=50) == LOST
        assert await runner.supersede(1, age=50) == [0]
        assert await runner.everything() == {}
        assert (await runner.pause(0, ttl=60_000, age=50))[:2] == [1, b"1"]

    async def test_a_repeated_claim_finds_its_own_attempt(self, runner: WaitScriptRunner) -> None:
        await runner.arrange("waiting", ttl=50_000)
        first = await runner.claim(op="the call")
        assert first[:3] == [1, b"2", b"a" * 32]
        before = await runner.everything(), await runner.fields()
        # The lease does not end earlier, so a request for less changes nothing.
        again = await runner.claim(op="the call", lease=1, age=50)
        assert (again[:8], again[9]) == (first[:8], first[9])
        assert (await runner.everything(), await runner.fields()) == before
        again = await runner.claim(op="the call", lease=60_000, age=50)
        assert (again[:7], again[9]) == (first[:7], first[9])
        assert int(again[7]) >= int(first[7]) + 30_000
        after = await runner.fields()
        assert int(after[b"start"]) == int(again[7]) - 60_000
        assert after == {**before[1], b"lease": again[7], b"start": after[b"start"]}
        assert await runner.client.read("PEXPIRETIME", runner.record) == int(again[7]) + 49_999
        # Its entry in the operation log is gone as well, so the attempt's id decides.
        await runner.others(12)
        late = await runner.claim(op="the call", age=60_000)
        assert (late[0], late[6], late[9]) == (1, first[6], first[9])

    async def test_a_repeated_renewal_renews_again(self, runner: WaitScriptRunner) -> None:
        turn = await runner.arrange("claimed", ttl=50_000)
        first = await runner.renew(turn.fence, 60_000, op="the call")
        before = await runner.everything(), await runner.fields()
        again = await runner.renew(turn.fence, 1, op="the call", age=50)
        assert again[:2] == first[:2]
        assert (await runner.everything(), await runner.fields()) == before
        again = await runner.renew(turn.fence, 90_000, op="the call", age=50)
        assert int(again[1]) >= int(first[1]) + 30_000
        after = await runner.fields()
        assert int(after[b"start"]) == int(again[1]) - 90_000
        assert after == {**before[1], b"lease": again[1], b"start": after[b"start"]}

    async def test_a_repeated_supersede_spares_the_next_wait(
        self, runner: WaitScriptRunner
    ) -> None:
        turn = await runner.arrange("waiting")
        assert await runner.supersede(turn.since, op="the call") == [1]
        before = await runner.everything()
        assert await runner.supersede(turn.since, op="the call", age=50) == [0]
        assert await runner.everything() == before
        await runner.pause()
        before = await runner.everything()
        assert await runner.supersede(turn.since, op="the call", age=50) == [0]
        assert await runner.everything() == before

    @pytest.mark.parametrize("name", ["finish", "clear", "clear of a claim"])
    async def test_a_repeated_removal_spares_the_next_session(
        self, runner: WaitScriptRunner, name: str
    ) -> None:
        call = await prepared(runner, name)
        first = await call()
        assert set(await runner.fields()) == {b"ops"}
        assert 0 < await runner.left_ms() <= 60_000
        assert (await runner.pause(0, new="n"))[:3] == [1, b"1", b"n" * 32]
        assert await runner.left_ms() == -1
        before = await runner.everything()
        again = await call(age=50)
        assert (again[0], again[3]) == (1, first[3])
        assert await runner.everything() == before


class TestFence:
    async def test_fences_grow_over_everything_that_ends_a_claim(
        self, runner: WaitScriptRunner
    ) -> None:
        await runner.arrange("waiting")
        fences: list[int] = []

        async def claimed() -> Turn:
            now_us = await runner.now_us()
            turn = await runner.taken(f"attempt {len(fences)}")
            assert turn.fence >= now_us
            fences.append(turn.fence)
            return turn

        await runner.release((await claimed()).fence)
        await runner.settle("wait", await claimed())
        await runner.settle("complete", await claimed())
        await runner.pause()
        await claimed()
        await runner.pause()
        await claimed()
        await runner.run_out()
        await claimed()
        await runner.clear()
        await runner.pause(0)
        await runner.settle("finish", await claimed())
        await runner.pause(0)
        await claimed()
        await runner.delete()
        await runner.pause(0)
        await claimed()
        await runner.client.read("DEL", *runner.names)  # a server that returned without its data
        await runner.pause(0)
        turn = await claimed()
        assert fences == sorted(set(fences))
        # And if the server's clock was set back.
        ahead = turn.fence + 10**12
        await runner.pretend(fence=ahead)
        assert await runner.release(turn.fence) == LOST
        await runner.run_out()
        assert (await runner.taken("late")).fence == ahead + 1

    @pytest.mark.parametrize(
        "way", ["released", "completed", "paused", "run out", "other", "none", "gone"]
    )
    async def test_a_caller_without_a_claim_changes_nothing(
        self, runner: WaitScriptRunner, way: str
    ) -> None:
        turn = await runner.arrange("claimed")
        match way:
            case "released":
                await runner.release(turn.fence)
            case "completed":
                await runner.settle("complete", turn)
            case "paused":
                await runner.pause()
            case "run out":
                await runner.run_out()
                await runner.taken("second")
            case "other":
                turn = turn._replace(fence=turn.fence + 1)
            case "none":
                await runner.delete()
                await runner.create()
            case _:
                await runner.delete()
        # The token is right, and only the access check refuses the call.
        version = int((await runner.fields()).get(b"cas", b"0"))
        turn = turn._replace(version=version)
        before = await runner.everything()
        for how in HOW:
            assert await runner.settle(how, turn, event=EVENT) == LOST
        assert await runner.renew(turn.fence) == LOST
        assert await runner.release(turn.fence) == LOST
        assert await runner.everything() == before

    async def test_a_lease_that_ran_out_is_held_until_another_comes(
        self, runner: WaitScriptRunner
    ) -> None:
        turn = await runner.arrange("claimed")
        await runner.run_out()
        assert (await runner.renew(turn.fence))[0] == 1
        assert (await runner.claim("second"))[0] == -6
        await runner.run_out()
        saved = await runner.settle("save", turn)
        assert saved[:2] == [1, b"3"]
        second = await runner.taken("second")
        assert (second.version, second.since) == (4, turn.since)
        assert await runner.settle("complete", turn._replace(version=4)) == LOST
        assert (await runner.settle("complete", second))[:2] == [1, b"5"]

    @pytest.mark.parametrize("how", HOW)
    async def test_a_write_under_the_claim_is_a_conflict(
        self, runner: WaitScriptRunner, how: str
    ) -> None:
        turn = await runner.arrange("claimed")
        await runner.others(1)
        before = await runner.everything()
        conflict = [-2, b"3", b"a" * 32]
        assert await runner.settle(how, turn, event=EVENT) == conflict
        assert await runner.settle(how, turn, event=EVENT, age=50) == conflict
        other = turn._replace(version=3)
        assert await runner.settle(how, other, inc="z", event=EVENT) == conflict
        assert await runner.everything() == before
        assert (await runner.settle(how, other, event=EVENT))[0] == 1

    async def test_an_attempt_that_never_heard_its_number_gives_back_by_name(
        self, runner: WaitScriptRunner
    ) -> None:
        await runner.arrange("claimed")
        before = await runner.everything()
        assert await runner.release(0, "second") == LOST
        assert await runner.release(0) == LOST
        assert await runner.everything() == before
        assert (await runner.release(0, "first", op="the call"))[0] == 1
        turn = await runner.taken("first")
        before = await runner.everything()
        assert (await runner.release(0, "first", op="the call", age=50))[0] == 1
        assert await runner.everything() == before
        assert (await runner.renew(turn.fence))[0] == 1


class TestForeignValues:
    @pytest.mark.parametrize("place", [0, 1, 2])
    @pytest.mark.parametrize("name", STEPS)
    async def test_a_foreign_value_under_a_name_changes_nothing(
        self, runner: WaitScriptRunner, name: str, place: int
    ) -> None:
        call = await prepared(runner, name)
        foreign = runner.names[place]
        await runner.client.read("DEL", foreign)
        await runner.client.read("SET", foreign, "foreign")
        before = await runner.everything()
        if (name, place) in UNTOUCHED:
            assert (await call())[0] == 1
            if name not in REMOVALS:
                assert await runner.client.read("GET", foreign) == b"foreign"
            return
        with pytest.raises(ForeignValueError):
            await call()
        assert await runner.everything() == before
