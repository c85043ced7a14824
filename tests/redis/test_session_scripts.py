"""Tests of the session scripts alone: a retry under its operation id is answered, not repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.testing.harness import RedisHarness

from ..support.redis import until_async
from ..support.scripts import ANYBODY, EVENT, FIELD, OWNER, SCOPE, ScriptRunner, WaitScriptRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.anyio


REPEATED: Final[dict[str, Callable[[ScriptRunner, dict[str, Any]], Awaitable[Any]]]] = {
    "create": lambda runner, call: runner.create(inc="c", **call),
    "put": lambda runner, call: runner.put(inc="c", **call),
    "update_cas": lambda runner, call: runner.update(1, **call),
    "touch": lambda runner, call: runner.touch(50_000, **call),
    "touch of nobody": lambda runner, call: runner.touch(50_000, ANYBODY, **call),
    "delete": lambda runner, call: runner.delete(**call),
    "delete of a token": lambda runner, call: runner.delete(1, inc="a", **call),
}
OVER: Final = [*(name for name in REPEATED if name != "create"), "put over nothing", "create"]


@pytest.fixture(params=["valkey_url", "redis_url"])
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[WaitScriptRunner]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield WaitScriptRunner(harness)


class TestScripts:
    async def prepared(self, runner: ScriptRunner, name: str) -> Callable[..., Awaitable[Any]]:
        """Return the call of that name, on a record if it needs one."""
        if name not in ("create", "put over nothing"):
            assert (await runner.create(inc="a"))[0] == 1
        verb = REPEATED[name.removesuffix(" over nothing")]
        return lambda **call: verb(runner, {"op": "the call", **call})

    @pytest.mark.parametrize("age", ["", 50])
    @pytest.mark.parametrize("name", OVER)
    async def test_a_repeated_call_is_answered_and_changes_nothing(
        self, runner: ScriptRunner, name: str, age: object
    ) -> None:
        call = await self.prepared(runner, name)
        first = await call()
        assert first[0] == 1
        before = await runner.everything()
        again = await call(age=age)
        # A delete keeps no token to return, and no caller needs one.
        assert (again[0], again[3]) == (1, first[3]) if name[:6] == "delete" else again == first
        assert await runner.everything() == before

    @pytest.mark.parametrize("name", OVER)
    async def test_a_repeated_call_is_answered_after_others_have_written(
        self, runner: ScriptRunner, name: str
    ) -> None:
        call = await self.prepared(runner, name)
        first = await call()
        await runner.others(6)
        before = await runner.everything()
        again = await call(age=50)
        if name[:6] == "delete" or name[:5] == "touch":
            assert (again[0], again[3]) == (1, first[3])
        else:
            assert again == first
        assert await runner.everything() == before

    @pytest.mark.parametrize("name", OVER)
    async def test_a_call_that_the_ring_has_forgotten_is_unknown(
        self, runner: ScriptRunner, name: str
    ) -> None:
        call = await self.prepared(runner, name)
        assert (await call())[0] == 1
        if name == "update_cas":  # only entries of the same kind push it out
            for version in range(2, 14):
                assert (await runner.update(version))[0] == 1
        else:
            await runner.others(12)
        before = await runner.everything()
        assert await call(age=60_000) == [-5]
        assert await runner.everything() == before

    @pytest.mark.parametrize("name", ["put", "touch", "delete"])
    async def test_a_call_that_the_operation_log_would_know_was_not_executed(
        self, runner: ScriptRunner, name: str
    ) -> None:
        call = await self.prepared(runner, name)
        await runner.others(12)
        await runner.age()
        # All entries of the log are older than the first attempt, so that attempt never arrived.
        assert (await call(age=5))[0] == 1

    async def test_a_refusal_is_certain_while_the_operation_log_would_know(
        self, runner: ScriptRunner
    ) -> None:
        await runner.create()
        await runner.update(1)
        await runner.update(2)
        before = await runner.everything()
        assert await runner.create(age=50) == [-1]
        assert await runner.update(2, age=50) == [-2, b"3", b"a" * 32]
        assert await runner.update(3, inc="z", age=50) == [-2, b"3", b"a" * 32]
        assert await runner.delete(2, inc="a", age=50) == [-2, b"3", b"a" * 32]
        assert await runner.everything() == before
        await runner.others(12)
        before = await runner.everything()
        assert await runner.update(2, age=50) == [-2, b"15", b"a" * 32]
        # The log no longer shows which call made version 4. It may have been the first attempt.
        assert await runner.update(3) == [-2, b"15", b"a" * 32]
        assert await runner.update(3, age=50) == [-5]
        assert await runner.everything() == before

    async def test_an_earlier_attempt_on_a_record_that_is_gone_is_unknown(
        self, runner: ScriptRunner
    ) -> None:
        assert await runner.update(1) == [-2, b"0", b""]
        assert (await runner.update(1, age=50))[0] == -5
        # A session created by the earlier attempt could have expired since.
        assert await runner.create(ttl=50, age=50) == [-5]
        assert await runner.put(ttl=49, age=50) == [-5]
        assert await runner.everything() == {}
        assert (await runner.create(ttl=60_000, age=50))[0] == 1
        await runner.delete()
        assert (await runner.put(ttl=0, age=50))[0] == 1

    async def test_a_repeated_delete_spares_the_next_record(self, runner: ScriptRunner) -> None:
        await runner.create(inc="a")
        deleted = await runner.delete(1, inc="a", op="delete")
        assert await runner.create(inc="n") == [1, b"1", b"n" * 32, (await runner.fields())[b"at"]]
        before = await runner.everything()
        assert await runner.delete(1, inc="a", op="delete", age=50) == [1, b"0", b"", deleted[3]]
        assert await runner.everything() == before

    async def test_a_delete_leaves_a_tombstone_that_is_not_read_and_expires(
        self, runner: ScriptRunner
    ) -> None:
        await runner.create()
        await runner.delete()
        assert set(await runner.fields()) == {b"ops"}
        assert 0 < await runner.left_ms() <= 60_000
        assert set(await runner.everything()) == {runner.record.encode()}
        assert await runner.touch() == [0]
        assert await runner.delete() == [0]
        assert await runner.update(1) == [-2, b"0", b""]
        assert set(await runner.fields()) == {b"ops"}
        assert (await runner.create(inc="n"))[:3] == [1, b"1", b"n" * 32]
        assert await runner.left_ms() == -1

    async def test_a_repeated_put_answers_with_its_own_incarnation_or_not_at_all(
        self, runner: ScriptRunner
    ) -> None:
        born = await runner.put(inc="b", op="born")
        assert born[:3] == [1, b"1", b"b" * 32]
        over = await runner.put(inc="x", op="over")
        assert over[:3] == [1, b"2", b"b" * 32]
        await runner.delete()
        assert await runner.put(inc="b", op="born", age=50) == born
        # The record that it wrote to is gone, and so is the incarnation.
        assert await runner.put(inc="x", op="over", age=50) == [-5]
        await runner.create(inc="n")
        before = await runner.everything()
        assert await runner.put(inc="b", op="born", age=50) == born
        assert await runner.put(inc="x", op="over", age=50) == [-5]
        assert await runner.everything() == before

    async def test_refusals_change_nothing(self, runner: ScriptRunner) -> None:
        await runner.create()
        before = await runner.everything()
        mine, token = "blue/", (b"1", b"a" * 32)
        strangers = [("blue/ann", "blue/"), ("red/bob", "red/"), ("/ann", "/"), ("red/", "red/")]
        assert await runner.create() == [-1]
        assert await runner.create(owner=mine) == [-3]
        assert await runner.put(owner=mine) == [-3]
        assert await runner.update(1, owner=mine) == [-3]
        assert await runner.update(9, owner=mine) == [-3]
        assert await runner.update(2) == [-2, *token]
        assert await runner.update(1, inc="z") == [-2, *token]
        assert await runner.delete(2, inc="a") == [-2, *token]
        assert await runner.delete(1, inc="z") == [-2, *token]
        for who in strangers:
            assert await runner.touch(who=who) == [-3]
            assert await runner.delete(who=who) == [-3]
        assert await runner.everything() == before

    async def test_a_call_without_a_caller_chooses_between_no_tenants(
        self, runner: ScriptRunner
    ) -> None:
        await runner.create()
        await runner.client.read("HSET", runner.lookup, "default/globex", "0")
        before = await runner.everything()
        assert await runner.touch(5000, ANYBODY) == [-4]
        assert await runner.delete(who=ANYBODY) == [-4]
        assert await runner.everything() == before
        # The other tenant's record has expired, so its field is only a trace.
        await runner.client.read("HSET", runner.lookup, "default/globex", "1")
        assert (await runner.touch(5000, ANYBODY))[0] == 1
        assert await runner.client.read("HKEYS", runner.lookup) == [FIELD.encode()]
        assert (await runner.delete(who=ANYBODY))[0] == 1

    async def test_an_expired_record_is_absent_though_the_server_still_has_it(
        self, runner: ScriptRunner
    ) -> None:
        async def expire() -> None:
            await runner.pretend(at=1, ttl=5000)
            await runner.client.read("PERSIST", runner.record)

        await runner.create(inc="a")
        await expire()
        assert await runner.update(1) == [-2, b"0", b""]
        assert await runner.touch() == [0]
        assert await runner.delete() == [0]
        assert (await runner.create(inc="n", owner="blue/"))[:3] == [1, b"1", b"n" * 32]
        await expire()
        assert (await runner.put(inc="m", ttl=5000))[:3] == [1, b"1", b"m" * 32]
        assert 0 < await runner.left_ms() <= 5000

    @pytest.mark.parametrize("name", ["create", "put", "update_cas", "touch"])
    async def test_the_shortest_life_leaves_nothing_behind(
        self, runner: ScriptRunner, name: str
    ) -> None:
        if name != "create":
            await runner.create()
        match name:
            case "create":
                reply = await runner.create(ttl=1)
            case "put":
                reply = await runner.put(ttl=1)
            case "update_cas":
                reply = await runner.update(1, ttl=1)
            case _:
                reply = await runner.touch(1)
        assert reply[0] == 1

        async def gone() -> bool:
            return not {*await runner.everything()} - {runner.token.encode()}

        await until_async(gone)


class TestSessionsThatWait:
    """The effect of the plain scripts on waits, claims and claimed records."""

    @pytest.mark.parametrize("name", ["put", "update_cas", "touch"])
    async def test_a_write_tells_where_the_session_waits_and_leaves_it_there(
        self, runner: WaitScriptRunner, name: str
    ) -> None:
        await runner.arrange("claimed", ttl=50_000)
        before = await runner.fields()
        reply = await (runner.update(2) if name == "update_cas" else REPEATED[name](runner, {}))
        assert reply[0] == 1
        assert reply[4:6] == [SCOPE.encode(), OWNER.encode()]
        assert int(reply[6]) == await expires_ms(runner)
        after = await runner.fields()
        kept = (b"wait", b"since", b"fence", b"lease", b"attempt")
        assert [after[field] for field in kept] == [before[field] for field in kept]

    @pytest.mark.parametrize("name", ["delete", "clear"])
    async def test_a_removal_takes_everything_along(
        self, runner: WaitScriptRunner, name: str
    ) -> None:
        turn = await runner.arrange("claimed")
        await runner.settle("wait", turn, event=EVENT)
        turn = await runner.taken()
        since = str(turn.since).encode()
        if name == "delete":
            assert (await runner.delete())[4:] == [SCOPE.encode(), OWNER.encode(), since]
        else:
            assert len(await runner.clear()) == 4
        assert set(await runner.everything()) == {runner.record.encode(), runner.token.encode()}
        assert set(await runner.fields()) == {b"ops"}
        await runner.pause(0)
        assert (await runner.claim("first", event=EVENT))[0] == 1

    async def test_life_counts_from_the_end_of_the_lease_while_a_claim_is_held(
        self, runner: WaitScriptRunner
    ) -> None:
        async def lease_ms() -> int:
            return int((await runner.fields())[b"lease"])

        async def at_ms() -> int:
            return int((await runner.fields())[b"at"])

        turn = await runner.arrange("claimed", ttl=50_000)
        assert await expires_ms(runner) == await lease_ms() + 50_000
        await runner.renew(turn.fence, 60_000)
        assert await expires_ms(runner) == await lease_ms() + 50_000
        await runner.touch(20_000)
        assert await expires_ms(runner) == await lease_ms() + 20_000
        await runner.put(ttl=40_000)
        assert await expires_ms(runner) == await lease_ms() + 40_000
        await runner.settle("save", turn._replace(version=3), ttl=10_000)
        assert await expires_ms(runner) == await lease_ms() + 10_000
        await runner.supersede(turn.since)
        assert await expires_ms(runner) == await lease_ms() + 10_000
        await runner.settle("wait", turn._replace(version=4), ttl=70_000)
        assert await expires_ms(runner) == await at_ms() + 70_000
        turn = await runner.taken()
        assert await expires_ms(runner) == await lease_ms() + 70_000
        await runner.release(turn.fence)
        assert await expires_ms(runner) == await at_ms() + 70_000
        await runner.taken()
        await runner.pause(ttl=80_000)
        assert await expires_ms(runner) == await at_ms() + 80_000
        turn = await runner.taken()
        await runner.run_out()
        await runner.touch(30_000)
        assert await expires_ms(runner) == await at_ms() + 30_000
        await runner.settle("complete", turn, ttl=0)
        assert await expires_ms(runner) == 0
        await runner.pause()
        await runner.taken()
        assert await expires_ms(runner) == 0

    async def test_a_claimed_record_lives_by_its_lease(self, runner: WaitScriptRunner) -> None:
        turn = await runner.arrange("claimed", ttl=50_000)
        await runner.pretend(at=1)
        assert (await runner.renew(turn.fence))[0] == 1
        assert (await runner.claim("second"))[0] == -6
        assert await runner.create() == [-1]
        assert (await runner.settle("save", turn, ttl=50_000))[:2] == [1, b"3"]
        await runner.pretend(at=1)
        await runner.run_out()
        await runner.client.read("PERSIST", runner.record)
        # It has expired as well, although the server still has it.
        before = await runner.everything()
        assert await runner.claim("second") == [0]
        assert await runner.clear() == [0]
        assert await runner.supersede(turn.since) == [0]
        assert await runner.renew(turn.fence) == [-8]
        assert await runner.release(turn.fence) == [-8]
        assert await runner.settle("complete", turn._replace(version=3)) == [-8]
        assert await runner.update(3) == [-2, b"0", b""]
        assert await runner.everything() == before

    @pytest.mark.parametrize("name", ["create", "put", "pause"])
    async def test_what_is_written_over_an_expired_session_inherits_nothing(
        self, runner: WaitScriptRunner, name: str
    ) -> None:
        turn = await runner.arrange("claimed", ttl=50_000)
        await runner.pretend(at=1)
        await runner.run_out()
        call: dict[str, Any] = {"owner": "blue/", "ttl": 5000}
        if name == "pause":
            reply = await runner.pause(0, new="n", **call)
            assert reply[5] == b""
        else:
            write = runner.create if name == "create" else runner.put
            reply = await write(inc="n", **call)
            assert len(reply) == 4
        assert reply[:3] == [1, b"1", b"n" * 32]
        assert await expires_ms(runner) == int(reply[3]) + 5000
        fields = await runner.fields()
        waits = {b"wait", b"since"} if name == "pause" else set()
        assert set(fields) & {b"wait", b"since", b"lease", b"attempt"} == waits
        assert await runner.renew(turn.fence) == [-8]

    @pytest.mark.parametrize("name", ["pause", "complete", "wait", "save", "release"])
    async def test_the_shortest_life_leaves_nothing_behind(
        self, runner: WaitScriptRunner, name: str
    ) -> None:
        if name == "pause":
            assert (await runner.pause(0, ttl=1))[0] == 1
        else:
            turn = await runner.arrange("claimed")
            if name == "save":
                await runner.run_out()
            if name == "release":
                await runner.pretend(ttl=1)
                reply = await runner.release(turn.fence)
            else:
                reply = await runner.settle(name, turn, ttl=1)
            assert reply[0] == 1

        async def gone() -> bool:
            return not {*await runner.everything()} - {runner.token.encode()}

        await until_async(gone)


async def expires_ms(runner: ScriptRunner) -> int:
    """Return the record's expiry, as the server, the lookup and the lookup's own expiry have it."""
    field = int(await runner.client.read("HGET", runner.lookup, FIELD))
    for name in (runner.record, runner.lookup):
        at_ms = int(await runner.client.read("PEXPIRETIME", name))
        assert at_ms == (field or -1)
    return field and field + 1
