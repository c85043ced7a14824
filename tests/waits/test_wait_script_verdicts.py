"""Tests of the verdicts of the wait scripts: which step is refused, in which order."""

from __future__ import annotations

import pytest

from ..support.scripts import ELSEWHERE, EVENT, SCOPE, Turn, WaitScriptRunner
from .test_wait_scripts import HOW

pytestmark = pytest.mark.anyio


class TestVerdicts:
    async def test_a_claim_is_judged_in_order(self, runner: WaitScriptRunner) -> None:
        waiting = await runner.arrange("waiting")
        claim = await runner.claim("first")
        lease = claim[7]
        assert claim[:3] == [1, b"2", b"a" * 32]
        assert claim[4:6] == [b"0", b"{}"]
        assert int(lease) == int(claim[3]) + 30_000 == int(claim[3]) + int(claim[8])
        assert int(claim[9]) == waiting.since
        before = await runner.everything()
        refused = await runner.claim("second")
        assert refused[:2] == [-6, lease]
        assert 0 < int(refused[2]) <= int(claim[8])
        assert await runner.claim("second", owner="red/bob") == [0]
        assert await runner.claim("second", owner="red/") == [0]
        assert await runner.claim("second", scope=ELSEWHERE) == [0]
        assert await runner.everything() == before
        await runner.client.read("ZADD", runner.events, await runner.now_us() // 1000, EVENT)
        before = await runner.everything()
        for attempt in ("first", "second"):
            assert await runner.claim(attempt, event=EVENT) == [-7]
            assert await runner.claim(attempt, owner="red/bob", scope=ELSEWHERE, event=EVENT) == [
                -7
            ]
        assert (await runner.claim("second", event="f" * 64))[:2] == [-6, lease]
        assert await runner.everything() == before
        await runner.settle("finish", Turn(2, int(claim[6])))
        assert await runner.claim("second", event=EVENT) == [-7]
        assert await runner.claim("second") == [0]

    async def test_a_session_that_does_not_wait_is_not_claimed(
        self, runner: WaitScriptRunner
    ) -> None:
        assert await runner.claim() == [0]
        await runner.create()
        assert await runner.claim() == [0]
        assert await runner.claim(scope="") == [0]
        await runner.pause()
        turn = await runner.taken()
        await runner.settle("complete", turn)
        assert await runner.claim() == [0]
        assert set(await runner.fields()) & {b"wait", b"since", b"lease", b"attempt"} == set()

    async def test_refusals_change_nothing(self, runner: WaitScriptRunner) -> None:
        turn = await runner.arrange("waiting")
        before = await runner.everything()
        conflict = [-2, b"1", b"a" * 32]
        assert await runner.pause(0) == conflict
        assert await runner.pause(2) == conflict
        assert await runner.pause(1, inc="z") == conflict
        for owner in ("blue/ann", "red/bob", "red/", "/ann"):
            for version in ("", 0, 1, 2):
                assert await runner.pause(version, owner=owner) == [-3]
            assert await runner.clear(owner=owner) == [0]
        assert await runner.clear(scope=ELSEWHERE) == [0]
        assert await runner.supersede(turn.since, scope=ELSEWHERE) == [0]
        for since in (turn.since - 1, turn.since + 1, 0):
            assert await runner.supersede(since) == [0]
        assert await runner.everything() == before

    async def test_registrations_grow_and_tell_what_was_left(
        self, runner: WaitScriptRunner
    ) -> None:
        now_us = await runner.now_us()
        late_us = now_us + 10**12
        first = await runner.pause(0)
        assert int(first[4]) >= now_us
        assert first[5] == b""
        again = await runner.pause()
        assert int(again[4]) > int(first[4])
        assert again[5] == b""  # it waits where it did before
        moved = await runner.pause(scope=ELSEWHERE, floor=late_us)
        assert (int(moved[4]), moved[5]) == (late_us + 1, SCOPE.encode())
        back = await runner.pause()
        assert (int(back[4]), back[5]) == (late_us + 2, ELSEWHERE.encode())
        turn = await runner.taken()
        assert turn.since == late_us + 2
        assert int((await runner.settle("wait", turn))[4]) == late_us + 3
        turn = await runner.taken()
        waits = await runner.settle("wait", turn, scope=ELSEWHERE, floor=late_us + 5)
        assert int(waits[4]) == late_us + 6
        fields = await runner.fields()
        assert (fields[b"wait"], fields[b"since"]) == (ELSEWHERE.encode(), waits[4])
        assert int(fields[b"fence"]) == turn.fence
        assert not {b"lease", b"attempt"} & set(fields)

    async def test_a_superseded_session_keeps_its_claim(self, runner: WaitScriptRunner) -> None:
        turn = await runner.arrange("claimed")
        assert await runner.supersede(turn.since) == [1]
        assert await runner.claim() == [0]
        assert (await runner.renew(turn.fence))[0] == 1
        saved = await runner.settle("save", turn)
        assert saved[:2] == [1, b"3"]
        assert (await runner.settle("wait", turn._replace(version=3)))[:2] == [1, b"4"]
        assert (await runner.claim("second"))[0] == 1

    @pytest.mark.parametrize("how", HOW)
    async def test_an_event_is_remembered_with_the_end_of_the_claim(
        self, runner: WaitScriptRunner, how: str
    ) -> None:
        turn = await runner.arrange("claimed")
        reply = await runner.settle(how, turn, event=EVENT)
        if how == "save":
            assert await seen(runner) == {}
            assert (await runner.claim("first", event=EVENT))[0] == 1
            return
        assert await seen(runner) == {EVENT: int(reply[3])}
        ends = int(await runner.client.read("PEXPIRETIME", runner.events))
        assert ends == int(reply[3]) + 3_600_000 - 1
        assert await runner.claim("first", event=EVENT) == [-7]

    async def test_events_are_forgotten_by_age_and_count(self, runner: WaitScriptRunner) -> None:
        now_ms = await runner.now_us() // 1000
        old = {"young": now_ms - 200_000, "older": now_ms - 300_000, "oldest": now_ms - 900_000}
        for event, at_ms in old.items():
            await runner.client.read("ZADD", runner.events, at_ms, event)
        await runner.arrange("waiting")
        assert await runner.claim(event="oldest", memory=2_000_000) == [-7]
        assert (await runner.claim(event="oldest", memory=900_000))[0] == 1
        turn = await runner.taken()
        await runner.settle("wait", turn, event="first", memory=900_000)
        assert set(await seen(runner)) == {"older", "young", "first"}
        turn = await runner.taken()
        await runner.settle("complete", turn, event="second", most=2, memory=900_000)
        assert set(await seen(runner)) == {"first", "second"}

    async def test_the_newest_event_stays_next_to_one_of_a_clock_that_was_ahead(
        self, runner: WaitScriptRunner
    ) -> None:
        ahead_ms = await runner.now_us() // 1000 + 60_000
        await runner.client.read("ZADD", runner.events, ahead_ms, "ahead")
        turn = await runner.arrange("claimed")
        await runner.settle("wait", turn, event="newest", most=1, memory=900_000)
        assert set(await seen(runner)) == {"newest"}


async def seen(runner: WaitScriptRunner) -> dict[str, int]:
    """Return the completed events that the session remembers."""
    listed: list[bytes] = await runner.client.read("ZRANGE", runner.events, 0, -1)
    return {
        event.decode(): int(float(await runner.client.read("ZSCORE", runner.events, event)))
        for event in listed
    }
