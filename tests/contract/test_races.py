"""Tests of races between two processes on one server, with exact numbers of winners.

The test process prepares the records and checks the result. The workers are this file, run as a
script. They start together, on a line of standard input, and print the tokens that they won as
JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from greentic_session import Cas, CasConflictError, SessionExistsError, SessionKey
from greentic_session.factory import create_session_store
from greentic_session.testing.contract.samples import ctx, session
from greentic_session.testing.harness import RedisHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session.model import Session
    from greentic_session.store import AsyncSessionStore

PROCESSES: Final = 2
TASKS: Final = 4
KEYS: Final = [SessionKey(f"race-{number}") for number in range(200)]
COUNTED: Final = KEYS[0]
INCREMENTS: Final = 40
ROUNDS: Final = 50

Wins = dict[str, list[str]]
"""The tokens won per key (for a delete: the expected token)."""


# --- the worker's side ----------------------------------------------------------------------------


async def race_create(store: AsyncSessionStore[Any], wins: Wins, _tokens: list[Cas]) -> None:
    for key in KEYS:
        try:
            cas = await store.create(session(key))
        except SessionExistsError:
            continue
        wins.setdefault(key, []).append(str(cas))


async def race_update(store: AsyncSessionStore[Any], wins: Wins, tokens: list[Cas]) -> None:
    for key, expected in zip(KEYS, tokens, strict=True):
        try:
            cas = await store.update_cas(session(key), expected)
        except CasConflictError as conflict:
            # The loser gets the winner's token: the next version of the same incarnation.
            if conflict.current != next_of(expected):
                raise
            continue
        wins.setdefault(key, []).append(str(cas))


async def race_delete(store: AsyncSessionStore[Any], wins: Wins, tokens: list[Cas]) -> None:
    for key, expected in zip(KEYS, tokens, strict=True):
        if await store.delete(key, ctx=ctx(), expected=expected):
            wins.setdefault(key, []).append(str(expected))


async def race_update_or_delete(
    store: AsyncSessionStore[Any], wins: Wins, tokens: list[Cas]
) -> None:
    for number, (key, expected) in enumerate(zip(KEYS, tokens, strict=True)):
        try:
            if number % 2:
                if not await store.delete(key, ctx=ctx(), expected=expected):
                    continue
            else:
                await store.update_cas(session(key), expected)
        except CasConflictError:
            continue
        wins.setdefault(key, []).append(str(expected))


async def race_put(store: AsyncSessionStore[Any], wins: Wins, _tokens: list[Cas]) -> None:
    for key in KEYS[:20]:
        wins.setdefault(key, []).append(str(await store.put(session(key))))


async def race_rounds(store: AsyncSessionStore[Any], wins: Wins, _tokens: list[Cas]) -> None:
    """Race for one token after the other, always for the stored one."""
    while True:
        found = await store.get(COUNTED, ctx=ctx())
        assert found is not None
        if found.cas.value > ROUNDS:
            return
        try:
            cas = await store.update_cas(found.session, found.cas)
        except CasConflictError:
            continue
        wins.setdefault(COUNTED, []).append(str(cas))


async def race_mutate(store: AsyncSessionStore[Any], wins: Wins, _tokens: list[Cas]) -> None:
    for _ in range(INCREMENTS):
        written = await store.mutate(COUNTED, increment, ctx=ctx(), attempts=10_000)
        wins.setdefault(COUNTED, []).append(str(written.cas))


def increment(before: Session[Any]) -> Session[Any]:
    context = {**before.context, "count": before.context.get("count", 0) + 1}
    return msgspec.structs.replace(before, context=context)


def next_of(cas: Cas) -> Cas:
    return Cas(value=cas.value + 1, incarnation=cas.incarnation)


RACES: Final = {
    race.__name__: race
    for race in (
        race_create,
        race_update,
        race_delete,
        race_update_or_delete,
        race_put,
        race_rounds,
        race_mutate,
    )
}


async def work(url: str, name: str) -> None:
    race = RACES[name]
    wins: Wins = {}
    async with create_session_store(url) as store:
        await asyncio.gather(*(store.ping() for _ in range(TASKS)))  # connected before the start
        print("ready", flush=True)  # noqa: T201 - the worker's output
        tokens = [Cas.parse(text) for text in json.loads(sys.stdin.readline())]
        await asyncio.gather(*(race(store, wins, tokens) for _ in range(TASKS)))
    print(json.dumps(wins))  # noqa: T201 - as above


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))


# --- the test's side ------------------------------------------------------------------------------


def run_workers(url: str, name: str, tokens: list[Cas]) -> list[Wins]:
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", __file__, url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        start = json.dumps([str(cas) for cas in tokens]) + "\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(start)
            worker.stdin.flush()
        said = [worker.communicate(timeout=50)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * PROCESSES
        return [json.loads(line) for line in said]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


async def race(harness: RedisHarness, name: str, tokens: list[Cas] | None = None) -> Wins:
    """Run a race, and return the tokens that all workers won."""
    assert harness.config.unix_path is not None
    url = f"unix://{harness.config.unix_path}?namespace={harness.config.namespace}&deadline=20"
    # In a thread, because the harness's connections stay on this loop.
    won = await asyncio.to_thread(run_workers, url, name, tokens or [])
    wins: Wins = {}
    for part in won:
        for key, cas in part.items():
            wins.setdefault(key, []).extend(cas)
    return wins


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


@pytest.fixture
async def store(harness: RedisHarness) -> AsyncSessionStore[Any]:
    return await harness.open()


async def stored(store: AsyncSessionStore[Any], keys: list[SessionKey]) -> dict[str, str]:
    found = await store.get_many(keys, ctx=ctx())
    return {key: str(one.cas) for key, one in zip(keys, found, strict=True) if one is not None}


@pytest.mark.anyio
class TestRaces:
    async def test_one_creator_per_key(
        self, harness: RedisHarness, store: AsyncSessionStore[Any]
    ) -> None:
        wins = await race(harness, "race_create")
        # One winner each, and the record is that winner's.
        assert {key: [cas] for key, cas in (await stored(store, KEYS)).items()} == wins
        assert len(wins) == len(KEYS)
        assert {Cas.parse(cas).value for won in wins.values() for cas in won} == {1}

    async def test_one_updater_per_token(
        self, harness: RedisHarness, store: AsyncSessionStore[Any]
    ) -> None:
        tokens = [await store.create(session(key)) for key in KEYS]
        wins = await race(harness, "race_update", tokens)
        assert wins == {key: [str(next_of(cas))] for key, cas in zip(KEYS, tokens, strict=True)}
        assert await stored(store, KEYS) == {key: won[0] for key, won in wins.items()}

    async def test_one_deleter_per_token(
        self, harness: RedisHarness, store: AsyncSessionStore[Any]
    ) -> None:
        tokens = [await store.create(session(key)) for key in KEYS]
        wins = await race(harness, "race_delete", tokens)
        assert wins == {key: [str(cas)] for key, cas in zip(KEYS, tokens, strict=True)}
        assert await stored(store, KEYS) == {}

    async def test_a_token_is_good_for_one_update_or_one_delete(
        self, harness: RedisHarness, store: AsyncSessionStore[Any]
    ) -> None:
        tokens = [await store.create(session(key)) for key in KEYS]
        wins = await race(harness, "race_update_or_delete", tokens)
        assert wins == {key: [str(cas)] for key, cas in zip(KEYS, tokens, strict=True)}
        left = await stored(store, KEYS)
        assert {Cas.parse(cas).value for cas in left.values()} == {2}

    async def test_each_put_is_a_version_of_its_own(
        self, harness: RedisHarness, store: AsyncSessionStore[Any]
    ) -> None:
        wins = await race(harness, "race_put")
        versions = list(range(1, PROCESSES * TASKS + 1))
        for key in KEYS[:20]:
            won = [Cas.parse(cas) for cas in wins[key]]
            assert sorted(cas.value for cas in won) == versions
            assert len({cas.incarnation for cas in won}) == 1
        assert {Cas.parse(cas).value for cas in (await stored(store, KEYS)).values()} == {
            versions[-1]
        }

    async def test_successes_reported_are_versions_grown(
        self, harness: RedisHarness, store: AsyncSessionStore[Any]
    ) -> None:
        first = await store.create(session(COUNTED))
        wins = await race(harness, "race_rounds")
        won = [Cas.parse(cas) for cas in wins[COUNTED]]
        # One winner in each round.
        assert Counter(cas.value for cas in won) == Counter(range(2, ROUNDS + 2))
        assert {cas.incarnation for cas in won} == {first.incarnation}
        final = Cas.parse((await stored(store, [COUNTED]))[COUNTED])
        assert final.value == 1 + len(won)

    async def test_no_increment_is_lost_or_made_twice(
        self, harness: RedisHarness, store: AsyncSessionStore[Any]
    ) -> None:
        await store.create(session(COUNTED))
        wins = await race(harness, "race_mutate")
        total = PROCESSES * TASKS * INCREMENTS
        won = [Cas.parse(cas).value for cas in wins[COUNTED]]
        assert sorted(won) == list(range(2, total + 2))
        found = await store.get(COUNTED)
        assert found is not None
        assert found.session.context == {"count": total}
        assert found.cas.value == 1 + total
