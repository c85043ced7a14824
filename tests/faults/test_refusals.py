"""Tests of servers that reply with errors, or accept no more clients."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from greentic_session import (
    DecodeError,
    OutcomeUnknownError,
    SessionKey,
    StoreFullError,
    StoreUnavailableError,
    WaitRegistry,
)
from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies import RefusedError, StandaloneRig

from ..support.redis import (
    CTX,
    KEY,
    control,
    counted,
    ended,
    session,
    snapshot,
    store_at,
    until,
    until_async,
)
from ..support.waits import CTX as ACME
from ..support.waits import USER, answered, chat, paused
from .invariants import at_work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.topologies import Node

    from ..support.redis import Call
    from ..support.waits import Registry

    Store = AsyncSessionStore[Any]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


async def test_script_flush_storm_causes_no_error(standalone: StandaloneRig) -> None:
    async with at_work(standalone.url, nodes=standalone.nodes) as company:
        calls, forgotten = company.clients.met["done"], 0
        while company.clients.met["done"] < calls + 600 or forgotten < 100:
            await standalone.node.ask("SCRIPT", "FLUSH")
            forgotten += 1
        await company.waits.has_completed(5)
    assert company.retries > 0
    company.assert_unseen()


# --- out of memory --------------------------------------------------------------------------------


async def test_oom_with_noeviction_refuses_writes_and_keeps_reads(
    standalone: StandaloneRig,
) -> None:
    node = standalone.node
    await node.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    namespace = f"test:{uuid4().hex}"
    async with (
        at_work(standalone.url, nodes=standalone.nodes) as company,
        store_at(standalone.node.server.url, namespace=namespace) as store,
        control(standalone.node.server) as client,
    ):
        waits: Registry = WaitRegistry(store)
        cas = await store.put(session(answer=42))
        await waits.register_wait(ACME, USER, chat(), paused("form"))
        await waits.register_wait(ACME, USER, chat("held"), paused("held"))
        turn = await waits.claim(ACME, USER, chat("held"))
        await node.ask("CONFIG", "SET", "maxmemory", "1")
        before = await snapshot(client, namespace)
        for call in (
            lambda: store.put(session()),
            lambda: store.put(session("new", ttl_secs=5)),
            lambda: store.create(session("new")),
            lambda: store.update_cas(session(), cas),
            lambda: store.mutate(KEY, counted),
            lambda: waits.register_wait(ACME, USER, chat("new"), paused("new")),
            lambda: turn.save(turn.session),
        ):
            with pytest.raises(StoreFullError):
                await call()
        assert await snapshot(client, namespace) == before
        found = await store.get(KEY, ctx=CTX)
        assert found is not None
        assert found.cas == cas
        assert await store.touch(KEY, 50, ctx=CTX)
        assert await store.delete(KEY, ctx=CTX, expected=cas)
        await turn.complete(answered(turn.session, "a turn"))
        again = await waits.claim(ACME, USER, chat())
        await again.complete(answered(again.session, "a turn"))
        await company.clients.has_met("StoreFullError", 30)
        await node.ask("CONFIG", "SET", "maxmemory", "0")
        assert (await store.create(session())).value == 1
    # The working clients get this error, and no outcome is unknown.
    assert not company.clients.met["OutcomeUnknownError"]
    assert not company.clients.met["StoreUnavailableError"]


# --- temporary errors -----------------------------------------------------------------------------


@asynccontextmanager
async def readonly(node: Node) -> AsyncIterator[None]:
    await node.ask("REPLICAOF", "127.0.0.1", 1)
    yield
    await node.ask("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def noreplicas(node: Node) -> AsyncIterator[None]:
    await node.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    await node.ask("CONFIG", "SET", "min-replicas-to-write", 0)


@asynccontextmanager
async def misconf(node: Node) -> AsyncIterator[None]:
    # There is a folder at the path of the snapshot's file.
    (node.server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
    await node.ask("BGSAVE")

    async def has_failed() -> bool:
        return (await node.info("persistence"))["rdb_last_bgsave_status"] == "err"

    await until_async(has_failed)
    await node.ask("CONFIG", "SET", "save", "3600 1000000")
    yield
    await node.ask("CONFIG", "SET", "save", "")


@asynccontextmanager
async def busy(node: Node) -> AsyncIterator[None]:
    async def hog() -> None:
        with suppress(RefusedError):  # it is killed
            await node.ask("EVAL", "while true do end", 0, secs=60)

    endless = asyncio.create_task(hog())

    async def is_busy() -> bool:
        try:
            await node.ask("PING")
        except RefusedError as error:
            return str(error).startswith("BUSY")
        return False

    await until_async(is_busy)
    yield
    await node.ask("SCRIPT", "KILL")
    await endless


@asynccontextmanager
async def loading(node: Node) -> AsyncIterator[None]:
    async def is_written() -> bool:
        told = await node.info("persistence")
        return told["aof_rewrite_in_progress"] == told["aof_rewrite_scheduled"] == "0"

    # A snapshot, which is read key by key. The commands after it are read one by one.
    await node.ask("DEBUG", "POPULATE", 400)
    await node.ask("BGREWRITEAOF")
    await until_async(is_written)
    node.kill()
    node.server.launch()

    async def is_loading() -> bool:
        try:
            await node.ask("PING")
        except RefusedError as error:
            return str(error).startswith("LOADING")
        except OSError:
            return False
        return False

    await until_async(is_loading)
    yield

    async def is_loaded() -> bool:
        with suppress(RefusedError, OSError):  # slow with its reply, too
            return bool(await node.ask("PING") == b"PONG")
        return False

    await until_async(is_loaded, secs=40)


SLOW_START: Final = (
    *("--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024"),
    *("--lua-time-limit", "50", "--enable-debug-command", "yes"),
)


@pytest.mark.parametrize(
    "refusal",
    [loading, busy, readonly, misconf, noreplicas],
    ids=lambda refusal: refusal.__name__,
)
async def test_loading_busy_readonly_misconf_noreplicas(
    refusal: Callable[[Node], Any],
) -> None:
    """A caller with enough time sees no error. Another caller gets it by the deadline."""
    async with StandaloneRig(valkey_binary(), durable=True, options=SLOW_START) as rig:
        namespace = f"test:{uuid4().hex}"
        async with (
            store_at(rig.url, namespace=namespace, deadline=0.3) as hasty,
            at_work(rig.url, deadline_secs=20, namespace=namespace) as company,
        ):
            await hasty.ping()
            async with refusal(rig.node):
                retries = company.retries
                key = await refused(hasty)
                await until(lambda: company.retries > retries)
            # The error is true: nothing was written.
            assert await company.stores[0].get(key, ctx=CTX) is None
            await company.clients.has_done(100)
        assert not company.clients.met["StoreUnavailableError"]
        if refusal is not loading:  # it begins with a kill, see that row
            company.assert_unseen()


async def refused(store: Store) -> SessionKey:
    """Return the error of a write that was refused.

    An attempt that the deadline interrupts has an unknown outcome. A busy machine may cause that,
    but not repeatedly.
    """
    for number in range(9):
        key = SessionKey(f"hasty {number}")
        with suppress(OutcomeUnknownError):
            with pytest.raises(StoreUnavailableError):
                await store.create(session(key))
            return key
    pytest.fail("the caller was left to wonder whether its write had happened")


# --- permanent errors -----------------------------------------------------------------------------


async def test_noperm_wrongtype_a_squatted_key_noperm(standalone: StandaloneRig) -> None:
    node = standalone.node
    await node.ask("ACL", "SETUSER", "ann", "on", ">s3cret", "~*", "+@all")
    url = standalone.url.replace("://", "://ann:s3cret@")
    namespace = f"test:{uuid4().hex}"
    async with (
        store_at(standalone.url, namespace=namespace) as owner,
        at_work(url, standalone.url, namespace=namespace) as company,
    ):
        await node.ask("ACL", "SETUSER", "ann", "-evalsha", "-eval")
        retries = company.retries
        for number, store in enumerate(company.stores):
            with pytest.raises(StoreUnavailableError) as caught:
                await store.put(session(f"squat {number}"))
            assert caught.value.code == "permission_denied"
            assert await owner.get(SessionKey(f"squat {number}"), ctx=CTX) is None
        await company.clients.has_met("StoreUnavailableError", 30)
        assert company.retries == retries  # a retry is of no use
        await node.ask("ACL", "SETUSER", "ann", "+@all")
        await company.clients.has_done(50)
    assert not company.clients.met["OutcomeUnknownError"]


@pytest.mark.parametrize("squatted", ["record", "lookup"])
async def test_noperm_wrongtype_a_squatted_key_wrongtype(
    standalone: StandaloneRig, squatted: str
) -> None:
    namespace = f"test:{uuid4().hex}"
    name = {
        "record": f"{namespace}:default:acme:{{{KEY}}}",
        "lookup": f"{namespace}:lookup:{{{KEY}}}",
    }[squatted]
    async with (
        at_work(standalone.url, nodes=standalone.nodes) as company,
        store_at(standalone.node.server.url, namespace=namespace) as store,
        control(standalone.node.server) as client,
    ):
        token = await store.put(session())
        await client.read("DEL", name)
        await client.read("RPUSH", name, "somebody else's")
        before = await snapshot(client, namespace)
        calls: dict[str, Call] = {
            "put": lambda store: store.put(session()),
            "put of a life": lambda store: store.put(session(ttl_secs=5)),
            "update_cas": lambda store: store.update_cas(session(), token),
            "mutate": lambda store: store.mutate(KEY, counted, ctx=CTX),
            "touch": lambda store: store.touch(KEY, ctx=CTX),
            "touch to a life": lambda store: store.touch(KEY, 5, ctx=CTX),
            "delete": lambda store: store.delete(KEY, ctx=CTX),
            "touch by lookup": lambda store: store.touch(KEY),
            "delete by lookup": lambda store: store.delete(KEY),
            "get by lookup": lambda store: store.get(KEY),
        }
        if squatted == "record":
            calls |= {
                "get": lambda store: store.get(KEY, ctx=CTX),
                "get_many": lambda store: store.get_many([KEY], ctx=CTX),
                "create": lambda store: store.create(session()),
            }
        for verb, call in calls.items():
            outcome = (await ended(store, {verb: call}))[verb]
            assert isinstance(outcome, DecodeError), (verb, outcome)
            assert outcome.key == KEY
            assert await snapshot(client, namespace) == before, verb
        # The same without a record.
        if squatted == "lookup":
            await client.read("DEL", f"{namespace}:default:acme:{{{KEY}}}")
            before = await snapshot(client, namespace)
            with pytest.raises(DecodeError):
                await store.create(session())
            assert await snapshot(client, namespace) == before
        await company.clients.has_done(50)
    company.assert_unseen()
