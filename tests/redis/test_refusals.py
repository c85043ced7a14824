"""Tests of a server that replies with errors: the caller's error, and the state left."""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from greentic_session import OutcomeUnknownError, SessionError, StoreUnavailableError

from ..support.redis import (
    KEY,
    READS,
    WRITES,
    control,
    counted,
    ended,
    session,
    snapshot,
    store_at,
    until,
    until_async,
    url_of,
    warmed_up,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.redis.transport.client import RedisClient
    from greentic_session.testing.servers import LocalServer

    Store = AsyncSessionStore[Any]
    Call = Callable[[Store], Awaitable[object]]

pytestmark = pytest.mark.anyio


class TestServerRefuses:
    async def test_a_flushed_script_causes_no_error(self, server: LocalServer) -> None:
        async with store_at(server.url) as store, control(server) as client:
            steps: list[tuple[Callable[[], Awaitable[Any]], Callable[[Any], bool]]] = [
                (lambda: store.create(session()), lambda cas: bool(cas.value == 1)),
                (lambda: store.put(session()), lambda cas: bool(cas.value == 2)),
                (lambda: store.mutate(KEY, counted), lambda found: bool(found.cas.value == 3)),
                (lambda: store.touch(KEY, 50), bool),
                (lambda: store.get(KEY), lambda found: found.session.ttl_secs == 50),
                (lambda: store.delete(KEY), bool),
                (lambda: store.delete(KEY), lambda deleted: deleted is False),
            ]
            for call, is_right in steps:
                await client.read("SCRIPT", "FLUSH")
                assert is_right(await call())

    @pytest.mark.parametrize(
        ("rules", "password", "code"),
        [
            pytest.param("~* +@all -evalsha -eval", "s3cret", "permission_denied", id="no-script"),
            pytest.param("~other:* +@all", "s3cret", "permission_denied", id="no-such-names"),
            pytest.param("~* +@all", "wr0ng", "unauthenticated", id="wrong-password"),
        ],
    )
    @pytest.mark.parametrize("protocol", [2, 3])
    @pytest.mark.parametrize("transport", ["unix", "redis"])
    async def test_a_refused_account_is_reported_at_once(
        self,
        server: LocalServer,
        rules: str,
        password: str,
        code: str,
        *,
        protocol: int,
        transport: str,
    ) -> None:
        async with control(server) as client:
            await client.read("ACL", "SETUSER", "ann", "on", ">s3cret", *rules.split())
            url = url_of(server, transport).replace("://", f"://ann:{password}@")
            async with store_at(url, protocol=protocol, deadline=1) as store:
                with pytest.raises(StoreUnavailableError) as caught:
                    await store.put(session())
                assert caught.value.code == code
                shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
                assert password not in shown
                assert store.statistics().retries == 0
            assert await client.read("DBSIZE") == 0

    async def test_an_account_that_may_not_write_stores_no_session(
        self, server: LocalServer
    ) -> None:
        async with control(server) as client:
            rules = ("on", ">s3cret", "~*", "+@all", "-hset")
            await client.read("ACL", "SETUSER", "ann", *rules)
            url = server.url.replace("://", "://ann:s3cret@")
            async with store_at(url) as store:
                # From inside a script. It could have come from half-way through another one.
                with pytest.raises(OutcomeUnknownError):
                    await store.put(session())
            # An entry precedes its record. A reader removes one without a record.
            (left,) = await client.read("KEYS", "*")
            assert b":find:{" in left

    @pytest.mark.parametrize("protocol", [2, 3])
    @pytest.mark.parametrize("transport", ["unix", "redis"])
    async def test_a_missing_password_is_reported_at_once(
        self, server: LocalServer, protocol: int, transport: str
    ) -> None:
        async with control(server) as client:
            await client.read("CONFIG", "SET", "requirepass", "s3cret")
            url = url_of(server, transport)
            async with store_at(url, protocol=protocol, deadline=1) as store:
                for call in (store.ping, lambda: store.put(session())):
                    with pytest.raises(StoreUnavailableError) as caught:
                        await call()
                    assert caught.value.code == "unauthenticated"
                assert store.statistics().retries == 0

    @pytest.mark.parametrize(
        ("word", "begin", "end"),
        [
            ("READONLY", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
            (
                "NOREPLICAS",
                "CONFIG SET min-replicas-to-write 1",
                "CONFIG SET min-replicas-to-write 0",
            ),
            ("MISCONF", "CONFIG SET save 3600|1000000", "CONFIG SET save |"),
        ],
    )
    async def test_a_server_that_takes_no_writes_is_asked_again(
        self, server: LocalServer, word: str, begin: str, end: str
    ) -> None:
        def command(text: str) -> tuple[str, ...]:
            return tuple(part.replace("|", " ").rstrip() for part in text.split(" "))

        namespace = f"test:{uuid4().hex}"
        quick = store_at(server.url, namespace=namespace, deadline=1)
        patient = store_at(server.url, namespace=namespace)
        async with quick, patient, control(server) as client, AsyncExitStack() as afterwards:
            await patient.put(session())
            if word == "MISCONF":
                await fail_to_save(server, client)
                # Otherwise the server would try to save at its end again, and refuse to end.
                afterwards.push_async_callback(client.read, *command(end))
            await client.read(*command(begin))
            before = await snapshot(client, namespace)
            calls = {"put": WRITES["put"], "touch": WRITES["scoped touch"]}
            many = {f"{name} {n}": call for n in range(8) for name, call in calls.items()}
            await refused_for_certain(quick, many, word)
            assert quick.statistics().retries > 0
            assert await quick.get(KEY) is not None
            assert await snapshot(client, namespace) == before
            call = asyncio.create_task(patient.put(session()))
            await until(lambda: patient.statistics().retries > 0)
            await client.read(*command(end))
            assert (await call).value == 2

    async def test_no_attempt_begins_after_the_deadline(
        self, server: LocalServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Attempts at 0, 0.1, 0.2, 0.3 and 0.4 s. The loop is too busy to begin the last one.
        monkeypatch.setattr(
            "greentic_session.redis.transport.attempts._pause", lambda _attempt: 0.1
        )
        async with store_at(server.url, deadline=0.45) as store, control(server) as client:
            await client.read("CONFIG", "SET", "min-replicas-to-write", "1")
            await warmed_up(store)
            puts = {f"put {number}": WRITES["put"] for number in range(8)}
            call_later = asyncio.get_running_loop().call_later
            # Refused each time, and not sent once more with an unknown outcome.
            await refused_for_certain(
                store, puts, "NOREPLICAS", before=lambda: call_later(0.39, time.sleep, 0.07)
            )

    async def test_a_busy_server_is_asked_again(self, server: LocalServer) -> None:
        quick = store_at(server.url, deadline=1)
        patient = store_at(server.url)
        async with quick, patient, control(server) as client, control(server) as hog:
            await patient.put(session())
            await quick.put(session())
            endless = asyncio.create_task(hog.read("EVAL", "while true do end", 0))
            try:
                while True:  # until a call hangs, so the server is executing it
                    call = asyncio.create_task(patient.put(session()))
                    if not (await asyncio.wait([call], timeout=0.05))[0]:
                        break
                puts = {f"put {number}": WRITES["put"] for number in range(8)}
                await refused_for_certain(quick, puts, "BUSY")
                error = (await ended(quick, {"get": READS["get"]}, deadline=1))["get"]
                assert type(error) is StoreUnavailableError
                await until(lambda: patient.statistics().retries > 0)
            finally:
                await client.read("SCRIPT", "KILL")
            with pytest.raises(SessionError):
                await endless
            cas = await call
            found = await patient.get(KEY)
            assert found is not None
            assert found.cas == cas


async def refused_for_certain(
    store: Store, calls: dict[str, Call], word: str, before: Callable[[], object] = bool
) -> None:
    """Check that writes to a server that replies ``word`` fail with a certain outcome.

    An attempt that the deadline interrupts has an unknown outcome. A busy machine may cause that
    for all of them at once, but not repeatedly.
    """
    for _ in range(5):
        before()
        certain = 0
        for error in (await ended(store, calls)).values():
            assert type(error) in (StoreUnavailableError, OutcomeUnknownError)
            certain += type(error) is StoreUnavailableError and word in str(error)
        if certain >= len(calls) // 2:
            return
    pytest.fail("most callers were left to wonder whether their write had happened")


async def fail_to_save(server: LocalServer, client: RedisClient) -> None:
    """Make the last snapshot fail: there is a folder at the path of its file."""
    (server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
    await client.read("BGSAVE")
    await until_async(lambda: saving_failed(client))


async def saving_failed(client: RedisClient) -> bool:
    return b"rdb_last_bgsave_status:err" in await client.read("INFO", "persistence")


# --- requests and replies are lost ---------------------------------------------------------------
