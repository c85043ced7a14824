"""Tests of the operation log: entries that update_cas stores in separate fields are found later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.testing.harness import RedisHarness

from ..support.scripts import WaitScriptRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["valkey_url", "redis_url"])
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[WaitScriptRunner]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield WaitScriptRunner(harness)


async def expire(runner: WaitScriptRunner) -> None:
    """Let the record expire, although the server still has it."""
    await runner.pretend(at=1, ttl=5000)
    await runner.client.read("PERSIST", runner.record)


@pytest.mark.parametrize("then", ["delete", "delete, create", "expire", "expire, put", "clear"])
async def test_a_repeated_call_is_answered_when_its_record_has_ended(
    runner: WaitScriptRunner, then: str
) -> None:
    await runner.create()
    await runner.update(1)
    first = await runner.update(2, op="the call")
    for version in range(3, 6):
        await runner.update(version)
    for step in then.split(", "):
        match step:
            case "delete":
                assert (await runner.delete())[0] == 1
            case "expire":
                await expire(runner)
            case "clear":
                assert (await runner.pause())[0] == 1
                assert (await runner.clear())[0] == 1
            case "create":
                assert (await runner.create(inc="n"))[0] == 1
            case _:
                assert (await runner.put(inc="n"))[:3] == [1, b"1", b"n" * 32]
    before = await runner.everything()
    assert await runner.update(2, op="the call", age=50) == first
    assert await runner.update(2, op="the call") == first
    assert await runner.everything() == before


@pytest.mark.parametrize("end", ["delete", "expire"])
async def test_an_earlier_record_is_no_witness(runner: WaitScriptRunner, end: str) -> None:
    await runner.create()
    for version in range(1, 6):
        await runner.update(version)
    await (runner.delete() if end == "delete" else expire(runner))
    assert (await runner.create(inc="n"))[0] == 1
    assert not any(field[:2] == b"op" and field != b"ops" for field in await runner.fields())
    for _ in range(3):
        await runner.put()
    await runner.client.read("HSET", runner.record, "ops", "")  # the log has lost its entries
    assert await runner.update(2, inc="n", age=50) == [-5]
    assert await runner.update(2, inc="n") == [-2, b"4", b"n" * 32]


async def test_a_rival_known_by_its_log_field_is_a_conflict_to_others(
    runner: WaitScriptRunner,
) -> None:
    await runner.create()
    assert (await runner.update(1))[0] == 1
    await runner.others(12)  # these push the rest out of the operation log
    token = [b"14", b"a" * 32]
    assert await runner.update(1, age=50) == [-2, *token]
    assert await runner.pause(1, age=50) == [-2, *token]
    assert await runner.pause(2, age=50) == [-5]


async def test_a_late_first_attempt_is_answered_like_its_retry(runner: WaitScriptRunner) -> None:
    await runner.create()
    retry = await runner.update(1, op="the call", age=50)
    assert retry[:2] == [1, b"2"]
    before = await runner.everything()
    assert await runner.update(1, op="the call") == retry
    assert await runner.everything() == before


GONE: Final = "+1700000000000.000"
"""Time since which an attempt may have been executed. Tombstones from then have expired."""


@pytest.mark.parametrize("state", ["nothing", "session", "waiting"])
@pytest.mark.parametrize("verb", ["create", "put", "touch", "delete", "register", "clear"])
async def test_a_repeat_after_its_tombstone_has_expired_is_unknown_and_changes_nothing(
    runner: WaitScriptRunner, verb: str, state: str
) -> None:
    at = await runner.arrange(state)
    before = await runner.everything()
    call: dict[str, Any] = {"doubt": GONE}
    match verb:
        case "create":
            reply = await runner.create(**call)
        case "put":
            reply = await runner.put(**call)
        case "touch":
            reply = await runner.touch(**call)
        case "delete":
            reply = await runner.delete(**call)
        case "register":
            reply = await runner.pause(**call)
        case _:
            reply = await runner.clear(**call)
    assert reply == [-5]
    assert await runner.everything() == before
    if state == "session":  # the version proves that no attempt was executed
        assert (await runner.update(at.version, **call))[0] == 1


async def test_a_repeat_that_finds_its_attempt_returns_its_result_however_long_ago(
    runner: WaitScriptRunner,
) -> None:
    first = await runner.put(op="the call")
    assert await runner.put(op="the call", doubt=GONE) == first


@pytest.mark.parametrize("step", ["save", "release"])
async def test_a_repeat_on_an_expired_record_names_no_scope_and_no_expiry(
    runner: WaitScriptRunner, step: str
) -> None:
    """Otherwise its caller would add it to the index without an expiry."""
    at = await runner.arrange("claimed", ttl=5000)

    async def repeat(**call: Any) -> Any:
        if step == "save":
            return await runner.settle("save", at, ttl=5000, op="the call", **call)
        return await runner.release(at.fence, op="the call", **call)

    first = await repeat()
    assert first[5] != b""
    await runner.pretend(at=1, lease=1)
    await runner.client.read("PERSIST", runner.record)
    again = await repeat(age=50)
    assert again[:4] == first[:4]
    assert again[5] == b""
