"""The scripts by themselves: a call made again under its operation id is answered, not repeated."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.redis.scripts import CREATE, DELETE, PUT, TOUCH, UPDATE_CAS, Script
from greentic_session.testing.harness import RedisHarness

from .redis_rig import KEY, snapshot, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore

    Store = AsyncSessionStore[Any]
    Call = Callable[[Store], Awaitable[object]]

pytestmark = pytest.mark.anyio


FIELD: Final = "default/acme"
OWNER: Final = "red/ann"
ANYBODY: Final = ("", "")


class Bench:
    """Runs the scripts by hand: the operation's id and age are the test's to choose."""

    def __init__(self, harness: RedisHarness) -> None:
        self._client = harness.client
        self._namespace = harness.config.namespace
        self.record = f"{self._namespace}:default:acme:{{{KEY}}}"
        self.lookup = f"{self._namespace}:lookup:{{{KEY}}}"
        self._calls = 0

    async def run(self, script: Script, *arguments: object, op: str = "", age: object = "") -> Any:
        """Call a script.

        :param op: name of the call; every call has its own unless told otherwise.
        :param age: ms since an earlier attempt, empty if there was none.
        """
        self._calls += 1
        name = op or f"other {self._calls}"
        operation = hashlib.sha256(name.encode()).hexdigest()[:16]
        reply = await self._client.read(
            *("EVAL", script.source, 2, self.record, self.lookup, operation),
            *(str(part) for part in (age, FIELD, *arguments)),
        )
        # Integers and bulk strings only: RESP2 and RESP3 carry these alike.
        assert type(reply[0]) is int
        assert all(type(part) is bytes for part in reply[1:])
        return reply

    async def create(self, *, inc: str = "a", ttl: int = 0, owner: str = OWNER, **call: Any) -> Any:
        return await self.run(CREATE, owner, ttl, "{}", inc * 32, **call)

    async def put(self, *, inc: str = "b", ttl: int = 0, owner: str = OWNER, **call: Any) -> Any:
        return await self.run(PUT, owner, ttl, "{}", inc * 32, **call)

    async def update(
        self, version: object, *, inc: str = "a", ttl: int = 0, owner: str = OWNER, **call: Any
    ) -> Any:
        return await self.run(UPDATE_CAS, owner, ttl, "{}", inc * 32, version, **call)

    async def touch(
        self, ttl: object = "", who: tuple[str, str] = (OWNER, "red/"), **call: Any
    ) -> Any:
        return await self.run(TOUCH, *who, ttl, **call)

    async def delete(
        self,
        version: object = "",
        *,
        inc: str = "",
        who: tuple[str, str] = (OWNER, "red/"),
        **call: Any,
    ) -> Any:
        return await self.run(DELETE, *who, inc * 32, version, 60_000, **call)

    async def others(self, count: int) -> None:
        """Let somebody else write."""
        for _ in range(count):
            assert (await self.put())[0] == 1

    async def age(self) -> None:
        """Let the server's clock move on, so that what was written is older than 5 ms."""
        then = await self._client.read("TIME")

        async def moved_on() -> bool:
            now = await self._client.read("TIME")
            passed = (int(now[0]) - int(then[0])) * 1_000_000 + int(now[1]) - int(then[1])
            return passed > 20_000

        await until_async(moved_on)

    async def everything(self) -> dict[bytes, object]:
        return await snapshot(self._client, self._namespace)

    async def fields(self) -> dict[bytes, bytes]:
        fields: dict[bytes, bytes] = await self._client.read("HGETALL", self.record)
        return fields

    async def left_ms(self) -> int:
        return int(await self._client.read("PTTL", self.record))

    async def pretend(self, **fields: object) -> None:
        """Write fields of the record behind the scripts' back."""
        pairs = [str(part) for pair in fields.items() for part in pair]
        await self._client.read("HSET", self.record, *pairs)


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
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield Bench(harness)


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
        # Who made version 2 nobody remembers: it may have been the first attempt.
        assert await bench.update(1) == [-2, b"15", b"a" * 32]
        assert await bench.update(1, age=50) == [-5]
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
        await bench._client.read("HSET", bench.lookup, "default/globex", "0")
        before = await bench.everything()
        assert await bench.touch(5000, ANYBODY) == [-4]
        assert await bench.delete(who=ANYBODY) == [-4]
        assert await bench.everything() == before
        # The other tenant's record has expired: its field is no more than a trace.
        await bench._client.read("HSET", bench.lookup, "default/globex", "1")
        assert (await bench.touch(5000, ANYBODY))[0] == 1
        assert await bench._client.read("HKEYS", bench.lookup) == [FIELD.encode()]
        assert (await bench.delete(who=ANYBODY))[0] == 1

    async def test_an_expired_record_is_absent_though_the_server_still_has_it(
        self, bench: Bench
    ) -> None:
        async def expire() -> None:
            await bench.pretend(at=1, ttl=5000)
            await bench._client.read("PERSIST", bench.record)

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
