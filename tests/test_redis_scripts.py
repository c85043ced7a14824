"""The scripts by themselves: a call made again under its operation id is answered, not repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.testing.harness import RedisHarness

from .redis_rig import until_async
from .script_rig import ANYBODY, EVENT, FIELD, OWNER, SCOPE, Bench, WaitBench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.anyio


REPEATED: Final[dict[str, Callable[[Bench, dict[str, Any]], Awaitable[Any]]]] = {
    "create": lambda bench, call: bench.create(inc="c", **call),
    "put": lambda bench, call: bench.put(inc="c", **call),
    "update_cas": lambda bench, call: bench.update(1, **call),
    "touch": lambda bench, call: bench.touch(50_000, **call),
    "touch of nobody": lambda bench, call: bench.touch(50_000, ANYBODY, **call),
    "delete": lambda bench, call: bench.delete(**call),
    "delete of a token": lambda bench, call: bench.delete(1, inc="a", **call),
}
OVER: Final = [*(name for name in REPEATED if name != "create"), "put over nothing", "create"]


@pytest.fixture(params=["valkey_url", "redis_url"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[WaitBench]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield WaitBench(harness)


class TestScripts:
    async def prepared(self, bench: Bench, name: str) -> Callable[..., Awaitable[Any]]:
        """The call of that name, on a record if it needs one."""
        if name not in ("create", "put over nothing"):
            assert (await bench.create(inc="a"))[0] == 1
        verb = REPEATED[name.removesuffix(" over nothing")]
        return lambda **call: verb(bench, {"op": "the call", **call})

    @pytest.mark.parametrize("age", ["", 50])
    @pytest.mark.parametrize("name", OVER)
    async def test_a_repeated_call_is_answered_and_changes_nothing(
        self, bench: Bench, name: str, age: object
    ) -> None:
        call = await self.prepared(bench, name)
        first = await call()
        assert first[0] == 1
        before = await bench.everything()
        again = await call(age=age)
        # A delete keeps no token to answer with, and nobody asks for one.
        assert (again[0], again[3]) == (1, first[3]) if name[:6] == "delete" else again == first
        assert await bench.everything() == before

    @pytest.mark.parametrize("name", OVER)
    async def test_a_repeated_call_is_answered_after_others_have_written(
        self, bench: Bench, name: str
    ) -> None:
        call = await self.prepared(bench, name)
        first = await call()
        await bench.others(6)
        before = await bench.everything()
        again = await call(age=50)
        if name[:6] == "delete" or name[:5] == "touch":
            assert (again[0], again[3]) == (1, first[3])
        else:
            assert again == first
        assert await bench.everything() == before

    @pytest.mark.parametrize("name", OVER)
    async def test_a_call_that_the_ring_has_forgotten_is_unknown(
        self, bench: Bench, name: str
    ) -> None:
        call = await self.prepared(bench, name)
        assert (await call())[0] == 1
        if name == "update_cas":  # which only its like push out
            for version in range(2, 14):
                assert (await bench.update(version))[0] == 1
        else:
            await bench.others(12)
        before = await bench.everything()
        assert await call(age=60_000) == [-5]
        assert await bench.everything() == before

    @pytest.mark.parametrize("name", ["put", "touch", "delete"])
    async def test_a_call_that_the_ring_would_know_was_not_executed(
        self, bench: Bench, name: str
    ) -> None:
        call = await self.prepared(bench, name)
        await bench.others(12)
        await bench.age()
        # Everything in the ring is older than the first attempt: that one never arrived.
        assert (await call(age=5))[0] == 1

    async def test_a_refusal_is_certain_while_the_ring_would_know(self, bench: Bench) -> None:
        await bench.create()
        await bench.update(1)
        await bench.update(2)
        before = await bench.everything()
        assert await bench.create(age=50) == [-1]
        assert await bench.update(2, age=50) == [-2, b"3", b"a" * 32]
        assert await bench.update(3, inc="z", age=50) == [-2, b"3", b"a" * 32]
        assert await bench.delete(2, inc="a", age=50) == [-2, b"3", b"a" * 32]
        assert await bench.everything() == before
        await bench.others(12)
        before = await bench.everything()
        assert await bench.update(2, age=50) == [-2, b"15", b"a" * 32]
        # Who made version 4 nobody remembers: it may have been the first attempt.
        assert await bench.update(3) == [-2, b"15", b"a" * 32]
        assert await bench.update(3, age=50) == [-5]
        assert await bench.everything() == before

    async def test_an_earlier_attempt_on_a_record_that_is_gone_is_unknown(
        self, bench: Bench
    ) -> None:
        assert await bench.update(1) == [-2, b"0", b""]
        assert (await bench.update(1, age=50))[0] == -5
        # Had it been created by the earlier attempt, it could have lived and died since.
        assert await bench.create(ttl=50, age=50) == [-5]
        assert await bench.put(ttl=49, age=50) == [-5]
        assert await bench.everything() == {}
        assert (await bench.create(ttl=60_000, age=50))[0] == 1
        await bench.delete()
        assert (await bench.put(ttl=0, age=50))[0] == 1

    async def test_a_repeated_delete_spares_the_next_record(self, bench: Bench) -> None:
        await bench.create(inc="a")
        deleted = await bench.delete(1, inc="a", op="delete")
        assert await bench.create(inc="n") == [1, b"1", b"n" * 32, (await bench.fields())[b"at"]]
        before = await bench.everything()
        assert await bench.delete(1, inc="a", op="delete", age=50) == [1, b"0", b"", deleted[3]]
        assert await bench.everything() == before

    async def test_a_delete_leaves_a_trace_that_nobody_reads_and_that_ends(
        self, bench: Bench
    ) -> None:
        await bench.create()
        await bench.delete()
        assert set(await bench.fields()) == {b"ops"}
        assert 0 < await bench.left_ms() <= 60_000
        assert set(await bench.everything()) == {bench.record.encode()}
        assert await bench.touch() == [0]
        assert await bench.delete() == [0]
        assert await bench.update(1) == [-2, b"0", b""]
        assert set(await bench.fields()) == {b"ops"}
        assert (await bench.create(inc="n"))[:3] == [1, b"1", b"n" * 32]
        assert await bench.left_ms() == -1

    async def test_a_repeated_put_answers_with_its_own_incarnation_or_not_at_all(
        self, bench: Bench
    ) -> None:
        born = await bench.put(inc="b", op="born")
        assert born[:3] == [1, b"1", b"b" * 32]
        over = await bench.put(inc="x", op="over")
        assert over[:3] == [1, b"2", b"b" * 32]
        await bench.delete()
        assert await bench.put(inc="b", op="born", age=50) == born
        # The record it wrote to is gone, and with it the incarnation.
        assert await bench.put(inc="x", op="over", age=50) == [-5]
        await bench.create(inc="n")
        before = await bench.everything()
        assert await bench.put(inc="b", op="born", age=50) == born
        assert await bench.put(inc="x", op="over", age=50) == [-5]
        assert await bench.everything() == before

    async def test_refusals_change_nothing(self, bench: Bench) -> None:
        await bench.create()
        before = await bench.everything()
        mine, token = "blue/", (b"1", b"a" * 32)
        strangers = [("blue/ann", "blue/"), ("red/bob", "red/"), ("/ann", "/"), ("red/", "red/")]
        assert await bench.create() == [-1]
        assert await bench.create(owner=mine) == [-3]
        assert await bench.put(owner=mine) == [-3]
        assert await bench.update(1, owner=mine) == [-3]
        assert await bench.update(9, owner=mine) == [-3]
        assert await bench.update(2) == [-2, *token]
        assert await bench.update(1, inc="z") == [-2, *token]
        assert await bench.delete(2, inc="a") == [-2, *token]
        assert await bench.delete(1, inc="z") == [-2, *token]
        for who in strangers:
            assert await bench.touch(who=who) == [-3]
            assert await bench.delete(who=who) == [-3]
        assert await bench.everything() == before

    async def test_a_call_without_a_caller_chooses_between_no_tenants(self, bench: Bench) -> None:
        await bench.create()
        await bench.client.read("HSET", bench.lookup, "default/globex", "0")
        before = await bench.everything()
        assert await bench.touch(5000, ANYBODY) == [-4]
        assert await bench.delete(who=ANYBODY) == [-4]
        assert await bench.everything() == before
        # The other tenant's record has expired: its field is no more than a trace.
        await bench.client.read("HSET", bench.lookup, "default/globex", "1")
        assert (await bench.touch(5000, ANYBODY))[0] == 1
        assert await bench.client.read("HKEYS", bench.lookup) == [FIELD.encode()]
        assert (await bench.delete(who=ANYBODY))[0] == 1

    async def test_an_expired_record_is_absent_though_the_server_still_has_it(
        self, bench: Bench
    ) -> None:
        async def expire() -> None:
            await bench.pretend(at=1, ttl=5000)
            await bench.client.read("PERSIST", bench.record)

        await bench.create(inc="a")
        await expire()
        assert await bench.update(1) == [-2, b"0", b""]
        assert await bench.touch() == [0]
        assert await bench.delete() == [0]
        assert (await bench.create(inc="n", owner="blue/"))[:3] == [1, b"1", b"n" * 32]
        await expire()
        assert (await bench.put(inc="m", ttl=5000))[:3] == [1, b"1", b"m" * 32]
        assert 0 < await bench.left_ms() <= 5000

    @pytest.mark.parametrize("name", ["create", "put", "update_cas", "touch"])
    async def test_the_shortest_life_leaves_nothing_behind(self, bench: Bench, name: str) -> None:
        if name != "create":
            await bench.create()
        match name:
            case "create":
                reply = await bench.create(ttl=1)
            case "put":
                reply = await bench.put(ttl=1)
            case "update_cas":
                reply = await bench.update(1, ttl=1)
            case _:
                reply = await bench.touch(1)
        assert reply[0] == 1

        async def gone() -> bool:
            return not await bench.everything()

        await until_async(gone)


class TestSessionsThatWait:
    """What the plain scripts do to a wait and a claim, and what becomes of a claimed record."""

    @pytest.mark.parametrize("name", ["put", "update_cas", "touch"])
    async def test_a_write_tells_where_the_session_waits_and_leaves_it_there(
        self, bench: WaitBench, name: str
    ) -> None:
        await bench.arrange("claimed", ttl=50_000)
        before = await bench.fields()
        reply = await (bench.update(2) if name == "update_cas" else REPEATED[name](bench, {}))
        assert reply[0] == 1
        assert reply[4:6] == [SCOPE.encode(), OWNER.encode()]
        assert int(reply[6]) == await expires_ms(bench)
        after = await bench.fields()
        kept = (b"wait", b"since", b"fence", b"lease", b"attempt")
        assert [after[field] for field in kept] == [before[field] for field in kept]

    @pytest.mark.parametrize("name", ["delete", "clear"])
    async def test_a_removal_takes_everything_along(self, bench: WaitBench, name: str) -> None:
        turn = await bench.arrange("claimed")
        await bench.settle("wait", turn, event=EVENT)
        turn = await bench.taken()
        since = str(turn.since).encode()
        if name == "delete":
            assert (await bench.delete())[4:] == [SCOPE.encode(), OWNER.encode(), since]
        else:
            assert len(await bench.clear()) == 4
        assert set(await bench.everything()) == {bench.record.encode()}
        assert set(await bench.fields()) == {b"ops"}
        await bench.pause(0)
        assert (await bench.claim("first", event=EVENT))[0] == 1

    async def test_life_counts_from_the_end_of_the_lease_while_a_claim_is_held(
        self, bench: WaitBench
    ) -> None:
        async def lease_ms() -> int:
            return int((await bench.fields())[b"lease"])

        async def at_ms() -> int:
            return int((await bench.fields())[b"at"])

        turn = await bench.arrange("claimed", ttl=50_000)
        assert await expires_ms(bench) == await lease_ms() + 50_000
        await bench.renew(turn.fence, 60_000)
        assert await expires_ms(bench) == await lease_ms() + 50_000
        await bench.touch(20_000)
        assert await expires_ms(bench) == await lease_ms() + 20_000
        await bench.put(ttl=40_000)
        assert await expires_ms(bench) == await lease_ms() + 40_000
        await bench.settle("save", turn._replace(version=3), ttl=10_000)
        assert await expires_ms(bench) == await lease_ms() + 10_000
        await bench.displace(turn.since)
        assert await expires_ms(bench) == await lease_ms() + 10_000
        await bench.settle("wait", turn._replace(version=4), ttl=70_000)
        assert await expires_ms(bench) == await at_ms() + 70_000
        turn = await bench.taken()
        assert await expires_ms(bench) == await lease_ms() + 70_000
        await bench.release(turn.fence)
        assert await expires_ms(bench) == await at_ms() + 70_000
        await bench.taken()
        await bench.pause(ttl=80_000)
        assert await expires_ms(bench) == await at_ms() + 80_000
        turn = await bench.taken()
        await bench.run_out()
        await bench.touch(30_000)
        assert await expires_ms(bench) == await at_ms() + 30_000
        await bench.settle("complete", turn, ttl=0)
        assert await expires_ms(bench) == 0
        await bench.pause()
        await bench.taken()
        assert await expires_ms(bench) == 0

    async def test_a_claimed_record_lives_by_its_lease(self, bench: WaitBench) -> None:
        turn = await bench.arrange("claimed", ttl=50_000)
        await bench.pretend(at=1)
        assert (await bench.renew(turn.fence))[0] == 1
        assert (await bench.claim("second"))[0] == -6
        assert await bench.create() == [-1]
        assert (await bench.settle("save", turn, ttl=50_000))[:2] == [1, b"3"]
        await bench.pretend(at=1)
        await bench.run_out()
        await bench.client.read("PERSIST", bench.record)
        # Its life is over as well, though the server still has it.
        before = await bench.everything()
        assert await bench.claim("second") == [0]
        assert await bench.clear() == [0]
        assert await bench.displace(turn.since) == [0]
        assert await bench.renew(turn.fence) == [-8]
        assert await bench.release(turn.fence) == [-8]
        assert await bench.settle("complete", turn._replace(version=3)) == [-8]
        assert await bench.update(3) == [-2, b"0", b""]
        assert await bench.everything() == before

    @pytest.mark.parametrize("name", ["create", "put", "pause"])
    async def test_what_is_written_over_an_expired_session_inherits_nothing(
        self, bench: WaitBench, name: str
    ) -> None:
        turn = await bench.arrange("claimed", ttl=50_000)
        await bench.pretend(at=1)
        await bench.run_out()
        call: dict[str, Any] = {"owner": "blue/", "ttl": 5000}
        if name == "pause":
            reply = await bench.pause(0, new="n", **call)
            assert reply[5] == b""
        else:
            write = bench.create if name == "create" else bench.put
            reply = await write(inc="n", **call)
            assert len(reply) == 4
        assert reply[:3] == [1, b"1", b"n" * 32]
        assert await expires_ms(bench) == int(reply[3]) + 5000
        fields = await bench.fields()
        waits = {b"wait", b"since"} if name == "pause" else set()
        assert set(fields) & {b"wait", b"since", b"lease", b"attempt"} == waits
        assert await bench.renew(turn.fence) == [-8]

    @pytest.mark.parametrize("name", ["pause", "complete", "wait", "save", "release"])
    async def test_the_shortest_life_leaves_nothing_behind(
        self, bench: WaitBench, name: str
    ) -> None:
        if name == "pause":
            assert (await bench.pause(0, ttl=1))[0] == 1
        else:
            turn = await bench.arrange("claimed")
            if name == "save":
                await bench.run_out()
            if name == "release":
                await bench.pretend(ttl=1)
                reply = await bench.release(turn.fence)
            else:
                reply = await bench.settle(name, turn, ttl=1)
            assert reply[0] == 1

        async def gone() -> bool:
            return not await bench.everything()

        await until_async(gone)


async def expires_ms(bench: Bench) -> int:
    """When the record expires, as the server, the lookup and the lookup's own life have it."""
    field = int(await bench.client.read("HGET", bench.lookup, FIELD))
    for name in (bench.record, bench.lookup):
        at_ms = int(await bench.client.read("PEXPIRETIME", name))
        assert at_ms == (field or -1)
    return field and field + 1
