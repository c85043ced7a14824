"""What update_cas remembers in fields of its own is found wherever it has gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.harness import RedisHarness

from .script_rig import WaitBench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["valkey_url", "redis_url"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[WaitBench]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield WaitBench(harness)


async def expire(bench: WaitBench) -> None:
    """Let the record's life end, though the server still has it."""
    await bench.pretend(at=1, ttl=5000)
    await bench.client.read("PERSIST", bench.record)


@pytest.mark.parametrize("then", ["delete", "delete, create", "expire", "expire, put", "clear"])
async def test_a_repeated_call_is_answered_when_its_record_has_ended(
    bench: WaitBench, then: str
) -> None:
    await bench.create()
    await bench.update(1)
    first = await bench.update(2, op="the call")
    for version in range(3, 6):
        await bench.update(version)
    for step in then.split(", "):
        match step:
            case "delete":
                assert (await bench.delete())[0] == 1
            case "expire":
                await expire(bench)
            case "clear":
                assert (await bench.pause())[0] == 1
                assert (await bench.clear())[0] == 1
            case "create":
                assert (await bench.create(inc="n"))[0] == 1
            case _:
                assert (await bench.put(inc="n"))[:3] == [1, b"1", b"n" * 32]
    before = await bench.everything()
    assert await bench.update(2, op="the call", age=50) == first
    assert await bench.update(2, op="the call") == first
    assert await bench.everything() == before


@pytest.mark.parametrize("end", ["delete", "expire"])
async def test_an_earlier_record_is_no_witness(bench: WaitBench, end: str) -> None:
    await bench.create()
    for version in range(1, 6):
        await bench.update(version)
    await (bench.delete() if end == "delete" else expire(bench))
    assert (await bench.create(inc="n"))[0] == 1
    assert not any(field[:2] == b"op" and field != b"ops" for field in await bench.fields())
    for _ in range(3):
        await bench.put()
    await bench.client.read("HSET", bench.record, "ops", "")  # who made its versions is forgotten
    assert await bench.update(2, inc="n", age=50) == [-5]
    assert await bench.update(2, inc="n") == [-2, b"4", b"n" * 32]


async def test_a_rival_known_by_its_slot_is_a_conflict_to_others(bench: WaitBench) -> None:
    await bench.create()
    assert (await bench.update(1))[0] == 1
    await bench.others(12)  # which push the rest out of the ring
    token = [b"14", b"a" * 32]
    assert await bench.update(1, age=50) == [-2, *token]
    assert await bench.pause(1, age=50) == [-2, *token]
    assert await bench.pause(2, age=50) == [-5]


async def test_a_late_first_attempt_is_answered_like_its_retry(bench: WaitBench) -> None:
    await bench.create()
    retry = await bench.update(1, op="the call", age=50)
    assert retry[:2] == [1, b"2"]
    before = await bench.everything()
    assert await bench.update(1, op="the call") == retry
    assert await bench.everything() == before
