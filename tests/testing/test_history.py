"""Tests of the recorder: the record of each call, even of one that never ended."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from greentic_session import (
    Cas,
    CasConflictError,
    DurabilityError,
    OutcomeUnknownError,
    SessionExistsError,
    SessionKey,
    SessionNotFoundError,
    StoreFullError,
    StoreUnavailableError,
    TenantCtx,
    TenantMismatchError,
    create_session_store,
)
from greentic_session.testing.history import MARK_LABEL, Ending, History, Operation, Verb, merged
from greentic_session.testing.linearizability import check_history
from greentic_session.testing.version_order import check_versions

from ..support.histories import another
from ..support.redis import CTX, KEY, MADE_UP, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from greentic_session import AsyncSessionStore

    Store = AsyncSessionStore[Any]

pytestmark = pytest.mark.anyio

SECRET = "correct-horse-battery-staple"


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with create_session_store("memory://") as store:
        yield store


async def test_each_verb_is_recorded_with_its_answer(store: Store) -> None:
    history = History()
    client = history.client(store, "ann")
    assert await client.get(KEY, ctx=CTX) is None
    first = await client.create(session())
    found = await client.get(KEY, ctx=CTX)
    assert found is not None
    second = await client.update_cas(session(), first)
    third = (await client.mutate(KEY, another, ctx=CTX)).cas
    fourth = await client.put(session())
    assert await client.touch(KEY, ctx=CTX)
    with pytest.raises(CasConflictError):
        await client.update_cas(session(), first)
    with pytest.raises(SessionExistsError):
        await client.create(session())
    with pytest.raises(CasConflictError):
        await client.delete(KEY, ctx=CTX, expected=first)
    assert await client.delete(KEY, ctx=CTX, expected=fourth)
    assert not await client.delete(KEY, ctx=CTX)
    with pytest.raises(SessionNotFoundError):
        await client.mutate(KEY, another, ctx=CTX)

    done, refused, none = Ending.DONE, Ending.REFUSED, Cas.none()
    assert [
        (one.verb, one.ending, one.mark, one.before, one.expected, one.token, one.found)
        for one in history.operations()
    ] == [
        (Verb.GET, done, "", "", None, none, True),
        (Verb.CREATE, done, "ann.0", "", None, first, True),
        (Verb.GET, done, "ann.0", "", None, first, True),
        (Verb.UPDATE_CAS, done, "ann.1", "", first, second, True),
        (Verb.MUTATE, done, "ann.2", "ann.1", None, third, True),
        (Verb.PUT, done, "ann.3", "", None, fourth, True),
        (Verb.TOUCH, done, "", "", None, None, True),
        (Verb.UPDATE_CAS, refused, "ann.4", "", first, fourth, True),
        (Verb.CREATE, refused, "ann.5", "", None, None, True),
        (Verb.DELETE, refused, "", "", first, fourth, True),
        (Verb.DELETE, done, "", "", fourth, None, True),
        (Verb.DELETE, done, "", "", None, None, False),
        (Verb.MUTATE, refused, "", "", None, None, True),
    ]
    stamps = [(one.invoked_at, one.returned_at) for one in history.operations()]
    assert stamps == [(1 + 2 * n, 2 + 2 * n) for n in range(13)]
    assert {one.key for one in history.operations()} == {f"default/acme/{KEY}"}
    assert {one.client for one in history.operations()} == {"ann"}
    assert check_history(history.operations()).holds
    assert check_versions(history.operations()).holds


async def test_the_state_stays_the_callers_own(store: Store) -> None:
    history = History()
    client = history.client(store, "ann")
    await client.create(session(secret=SECRET))
    await client.mutate(KEY, another, ctx=CTX)
    found = await client.get(KEY, ctx=CTX)
    assert found is not None
    assert found.session.context == {"secret": SECRET, "count": 1}
    assert found.session.meta.labels == {MARK_LABEL: "ann.1"}
    assert SECRET not in repr(history.operations())
    assert SECRET not in "".join(map(str, history.operations()))


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (StoreUnavailableError("gone"), Ending.FAILED),
        (StoreFullError(), Ending.FAILED),
        (TenantMismatchError(KEY), Ending.FAILED),
        (SessionExistsError(KEY), Ending.REFUSED),
        (CasConflictError(KEY, MADE_UP, Cas.none()), Ending.REFUSED),
        (OutcomeUnknownError("silence"), Ending.UNKNOWN),
        (asyncio.CancelledError(), Ending.UNKNOWN),
        (KeyboardInterrupt(), Ending.UNKNOWN),
        (RuntimeError("anything else"), Ending.UNKNOWN),
        (DurabilityError(0, 1), Ending.DONE),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else each.value,
)
def test_an_error_says_what_is_known(error: BaseException, ending: Ending) -> None:
    history = History()
    history.fail(history.begin("ann", KEY, Verb.PUT, mark="ann.0"), error)
    (operation,) = history.operations()
    assert operation.ending is ending
    assert operation.error == type(error).__name__
    assert (operation.returned_at is None) is (ending is Ending.UNKNOWN)
    assert operation.token == getattr(error, "current", None)


async def test_a_cancelled_call_may_still_happen(store: Store) -> None:
    history = History()
    client = history.client(store, "ann")
    await client.create(session())

    def interrupted(_before: object) -> Any:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await client.mutate(KEY, interrupted, ctx=CTX)
    operation = history.operations()[-1]
    assert (operation.ending, operation.returned_at) == (Ending.UNKNOWN, None)
    assert operation.mark == ""  # it had no mark yet


async def test_tenants_are_told_apart(store: Store) -> None:
    history = History()
    client = history.client(store, "ann")
    await client.get(KEY, ctx=CTX)
    await client.get(KEY, ctx=TenantCtx(tenant_id="globex", env="staging"))
    keys = [one.key for one in history.operations()]
    assert keys == [f"default/acme/{KEY}", f"staging/globex/{KEY}"]


def test_a_call_that_runs_is_of_unknown_outcome() -> None:
    history = History()
    history.begin("ann", KEY, Verb.PUT, mark="ann.0")
    (operation,) = history.operations()
    assert (operation.ending, operation.returned_at) == (Ending.UNKNOWN, None)


# --- several processes ----------------------------------------------------------------------------

WORKER = """\
import asyncio, os, signal, sys
from pathlib import Path
from greentic_session import TenantCtx, create_session_store
from greentic_session.testing.history import History
from tests.support.histories import another
from tests.support.redis import CTX, session

url, journal, name = sys.argv[1:]

async def main():
    history = History(f"{name}.", journal=Path(journal))
    async with create_session_store(url) as store:
        client = history.client(store, "worker")
        await client.put(session("shared"))

        def last(before):
            if name == "doomed":
                os.kill(os.getpid(), signal.SIGKILL)
            return another(before)

        for _ in range(20):
            await client.mutate(session("shared").key, another, ctx=CTX, attempts=1000)
        await client.mutate(session("shared").key, last, ctx=CTX, attempts=1000)

asyncio.run(main())
"""


def test_journals_of_processes_are_one_history(valkey_url: str, tmp_path: Path) -> None:
    url = f"{valkey_url}?namespace=test:{tmp_path.name}.{id(tmp_path)}&deadline=20"
    names = ("one", "other", "doomed")
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, url, tmp_path / name, name],
        )
        for name in names
    ]
    try:
        codes = [worker.wait(timeout=50) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert codes == [0, 0, -signal.SIGKILL]
    histories = [History.of_journal(tmp_path / name) for name in names]
    operations = merged(histories)
    assert [one.number for one in operations] == list(range(3 * 22))
    killed = [one for one in operations if one.ending is Ending.UNKNOWN]
    assert [(one.verb, one.client) for one in killed] == [(Verb.MUTATE, "doomed.worker")]
    assert check_history(operations).holds
    assert check_versions(operations).holds
    # All stamps come from one clock: without the shift of the first process's stamps, there is no
    # order.
    first = next(
        each for each in histories if any(one.token and one.token.value == 1 for one in each)
    )
    others = [each for each in histories if each is not first]
    wrong = merged([[shifted(one, 10**15) for one in first], *others])
    assert check_versions(wrong).is_violation


def shifted(operation: Operation, by: int) -> Operation:
    returned_at = None if operation.returned_at is None else operation.returned_at + by
    return msgspec.structs.replace(
        operation, invoked_at=operation.invoked_at + by, returned_at=returned_at
    )


async def test_a_journal_with_half_a_line_is_read(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with History("one.", journal=path) as history:
        await history.client(store, "ann").put(session(SessionKey("a")))
        expected = history.operations()
    with path.open("ab") as journal:
        journal.write(path.read_bytes()[:25])
    assert History.of_journal(path) == expected
