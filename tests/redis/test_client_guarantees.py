"""Tests of guarantees to callers when the server is strict, slow, or abandoned during a call."""

from __future__ import annotations

import asyncio
import re
import traceback
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import msgspec
import pytest

from greentic_session import (
    AmbiguousKeyError,
    DecodeError,
    DuplicateEventError,
    LockHeldError,
    OutcomeUnknownError,
    RedisConfig,
    ReplyScope,
    Session,
    SessionCursor,
    SessionError,
    SessionMeta,
    StoreUnavailableError,
    TenantCtx,
    WaitRegistry,
    create_session_store,
    new_session_key,
)
from greentic_session.ordering import InboxLimits, SessionAffinity, SessionInbox, SessionLocks
from greentic_session.redis.transport.client import RedisClient
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.servers import LocalServer, valkey_binary
from greentic_session.testing.topologies import ClusterRig, SentinelRig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session import AsyncSessionStore

pytestmark = pytest.mark.anyio

CTX = TenantCtx(tenant_id="acme")
SECRET = "correct-horse-battery"


def make(ttl_secs: float = 60) -> Session[dict[str, Any]]:
    return Session(
        key=new_session_key(),
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta.of(CTX),
        ttl_secs=ttl_secs,
    )


@pytest.mark.parametrize(
    ("renamed", "protocol"), [("HELLO", 3), ("AUTH", 2)], ids=["HELLO", "AUTH"]
)
async def test_a_server_that_quotes_what_it_refuses_does_not_spread_the_password(
    renamed: str, protocol: int
) -> None:
    options = ("--rename-command", renamed, "", "--requirepass", SECRET)
    with LocalServer(valkey_binary(), options) as server:
        url = server.url.replace("unix://", f"unix://:{SECRET}@")
        async with create_session_store(f"{url}?deadline=1&protocol={protocol}") as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.get(make().key, ctx=CTX)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown + repr(caught.value.__context__)


async def test_closing_ends_calls_in_flight_and_leaves_no_connection(valkey_url: str) -> None:
    url = f"{valkey_url}?namespace=test:{uuid4().hex}&deadline=20&max_connections=4&close_timeout=0"
    store = create_session_store(url)
    await store.ping()
    calls = [asyncio.create_task(store.put(make(ttl_secs=5))) for _ in range(100)]
    while store.statistics().in_flight < 100:  # noqa: ASYNC110 - statistics do not notify
        await asyncio.sleep(0)
    await store.aclose()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    failed = [end for end in ends if isinstance(end, BaseException)]
    assert failed, "some calls were still to be sent"
    assert all(isinstance(end, (StoreUnavailableError, OutcomeUnknownError)) for end in failed)
    assert all("closed" in str(end) for end in failed)
    assert (store.statistics().connections, store.statistics().in_flight) == (0, 0)


@asynccontextmanager
async def slow_replies(socket_url: str, delay_secs: float) -> AsyncIterator[str]:
    """Forward bytes to a server, and its replies with a delay."""
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secs: float) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(secs)  # this is the fault
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside = await asyncio.open_unix_connection(socket_url.removeprefix("unix://"))
        writers.extend((writer, inside[1]))
        tasks.append(asyncio.create_task(pump(reader, inside[1], 0)))
        tasks.append(asyncio.create_task(pump(inside[0], writer, delay_secs)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def test_a_verb_of_several_steps_has_one_deadline(valkey_url: str) -> None:
    namespace = f"namespace=test:{uuid4().hex}"
    async with create_session_store(f"{valkey_url}?{namespace}") as quick:
        session = make()
        await quick.create(session)
        async with (
            slow_replies(valkey_url, 0.045) as url,
            create_session_store(f"{url}?{namespace}&deadline=1&protocol=2") as store,
        ):
            assert await store.get(session.key) is not None  # the connect takes two steps
        async with (
            slow_replies(valkey_url, 0.4) as url,
            create_session_store(f"{url}?{namespace}&deadline=1&protocol=2") as store,
        ):
            loop = asyncio.get_running_loop()
            started = loop.time()
            with pytest.raises(SessionError):
                await store.mutate(session.key, lambda found: found)
            # Each of its three steps alone would have had a second.
            assert loop.time() - started < 1.6
        await quick.delete(session.key, ctx=CTX)


@pytest.mark.parametrize("command", ["pexpireat", "hdel"])
async def test_a_right_that_a_script_lacks_half_way_leaves_the_outcome_unknown(
    command: str,
) -> None:
    with LocalServer(valkey_binary()) as server:
        async with RedisHarness(server.url) as harness:
            rule = ("on", ">pw", "~*", "+@all", f"-{command}")
            await harness.client.read("ACL", "SETUSER", "worker", *rule)
            owner, session = await harness.open(), make()
            url = server.url.replace("unix://", "unix://worker:pw@")
            async with create_session_store(
                f"{url}?namespace={harness.config.namespace}&deadline=2"
            ) as store:
                if command == "pexpireat":
                    cas = await owner.put(session)  # its index entries are sufficient for the next
                    with pytest.raises(OutcomeUnknownError, match="lacks permissions"):
                        await store.update_cas(session, cas)
                    found = await owner.get(session.key, ctx=CTX)
                    assert found is not None
                    assert found.cas.value == cas.value + 1
                else:
                    await store.put(session)
                    with pytest.raises(OutcomeUnknownError, match="lacks permissions"):
                        await store.delete(session.key, ctx=CTX)
                    assert await owner.get(session.key, ctx=CTX) is None


GUIDE = Path(__file__).parents[2] / "greentic_session" / "redis" / "README.md"


def account_of_the_guide(*setups: str) -> list[str]:
    """Return the guide's ACL line after the user's name, and the rights of some setups."""
    text = GUIDE.read_text("utf-8")
    line = re.search(r"^ACL SETUSER bots (on >secret .+)$", text, re.MULTILINE)
    assert line is not None
    rules = line[1].split()
    for setup in setups:
        row = re.search(rf"^\| {setup} \| `([^`]+)` \|", text, re.MULTILINE)
        assert row is not None, setup
        rules += row[1].replace("\\|", "|").split()
    return rules


@pytest.mark.timeout(120)
async def test_the_account_of_the_guide_is_enough_for_a_cluster() -> None:
    rules = account_of_the_guide("a cluster", "`acks`")
    async with ClusterRig(valkey_binary()) as rig:
        for node in rig.nodes:
            await node.ask("ACL", "SETUSER", "bots", *rules)
        url = rig.url.replace("redis+cluster://", "redis+cluster://bots:secret@")
        async with create_session_store(f"{url}?deadline=20&acks=1") as store:
            first = make()
            cas = await store.create(first)
            slot = rig.slot_of(f"{{{first.key}}}")
            owner = await rig.master_of(slot)
            target = next(node for node in await rig.masters() if node is not owner)

            async def between(_: str) -> None:
                assert await store.get(first.key, ctx=CTX) is not None

            await rig.move_slot(slot, target, between)
            assert (await store.update_cas(first, cas)).value == 2
            assert await store.delete(first.key, ctx=CTX)
            await _wait(store)
            await _order(store)


@pytest.mark.timeout(120)
async def test_the_accounts_of_the_guide_are_enough_for_sentinel() -> None:
    rules = account_of_the_guide("Sentinel", "`acks`")
    asking = re.search(
        r"account\s+on\s+the\s+sentinels\s+needs\s+`([^`]+)`", GUIDE.read_text("utf-8")
    )
    assert asking is not None
    on_sentinels = ("on", ">pw", "~*", "-@all", *asking[1].split())
    async with SentinelRig(valkey_binary(), replicas=1) as rig:
        for node in rig.nodes:
            await node.ask("ACL", "SETUSER", "bots", *rules)
        for sentinel in rig.sentinels:
            await sentinel.ask("ACL", "SETUSER", "asker", *on_sentinels)
        url = rig.url.replace("redis+sentinel://", "redis+sentinel://bots:secret@")
        account = "sentinel_username=asker&sentinel_password="
        async with create_session_store(f"{url}?{account}pw&deadline=20&acks=1") as store:
            assert (await store.create(make())).value == 1
        async with create_session_store(f"{url}?{account}wrong&deadline=1") as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.ping()
            assert caught.value.code == "unauthenticated"


@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_account_of_the_guide_can_run_every_verb(protocol: int) -> None:
    with LocalServer(valkey_binary()) as server:
        async with RedisHarness(server.url) as admin:
            await admin.client.read("ACL", "SETUSER", "bots", *account_of_the_guide())
            url = server.url.replace("unix://", "unix://bots:secret@")
            async with create_session_store(f"{url}?deadline=20&protocol={protocol}") as store:
                first, second = make(), make(ttl_secs=0)
                await store.ping()
                cas = await store.create(first)
                cas = await store.update_cas(first, cas)
                await store.put(second)
                other = SessionMeta(tenant_id="globex")
                await store.put(msgspec.structs.replace(first, meta=other))
                assert await store.get(second.key) is not None
                with pytest.raises(AmbiguousKeyError):
                    await store.get(first.key)
                assert await store.touch(first.key, 0, ctx=CTX)
                assert await store.touch(first.key, 9, ctx=CTX)
                await store.mutate(first.key, lambda found: found, ctx=CTX)
                assert None not in await store.get_many([first.key, second.key], ctx=CTX)
                assert len([found async for found in store.scan(CTX)]) == 2
                assert await store.delete(first.key, ctx=CTX)
                assert await store.delete(second.key)
                await _wait(store)
                await _order(store)
            log = cast("list[dict[bytes, bytes]]", await admin.client.read("ACL", "LOG"))
            # The driver sends its name. Servers before Redis 7.2 have no such right.
            assert {entry[b"object"] for entry in log} <= {b"client|setinfo"}


@pytest.mark.parametrize(
    "command", [("HGET", "other:app", "field"), ("DEL", "other:app"), ("PUBLISH", "other", "x")]
)
async def test_the_account_of_the_guide_reaches_no_other_keys(command: tuple[str, ...]) -> None:
    with LocalServer(valkey_binary()) as server:
        async with RedisHarness(server.url) as admin:
            await admin.client.read("ACL", "SETUSER", "bots", *account_of_the_guide())
            await admin.client.read("HSET", "other:app", "field", "secret")
            config = RedisConfig.from_url(server.url.replace("unix://", "unix://bots:secret@"))
            client = RedisClient(config)
            try:
                with pytest.raises(StoreUnavailableError) as caught:
                    await client.read(*command)
            finally:
                await client.aclose()
            assert caught.value.code == "permission_denied"
            assert await admin.client.read("HGET", "other:app", "field") == b"secret"


async def _wait(store: AsyncSessionStore[dict[str, Any]]) -> None:
    """Run every step of waits."""
    waits, ann = WaitRegistry(store, max_events=1), TenantCtx(tenant_id="acme", user_id="ann")
    here, there = ReplyScope(conversation="here"), ReplyScope(conversation="there")
    first, second = (
        msgspec.structs.replace(make(ttl_secs=ttl), meta=SessionMeta.of(ann)) for ttl in (0, 9)
    )
    await waits.register_wait(ann, "ann", here, first)
    assert await waits.find_wait_by_scope(ann, "ann", here) == first.key
    async with waits.resume(ann, "ann", here, event_id="1") as turn:
        await turn.renew()
        await turn.save(first)
        await turn.wait_again(first, there, 9)
    with pytest.raises(DuplicateEventError):
        await waits.claim(ann, "ann", here, event_id="1")
    await waits.register_wait(ann, "ann", there, second)  # supersedes the first
    assert await waits.list_waits_for_user(ann, "ann") == [second.key]
    assert await waits.rebuild_index(ann) == 1
    await (await waits.claim(ann, "ann", there)).release()
    await (await waits.claim(ann, "ann", there, event_id="2")).complete(second)
    await waits.register_wait(ann, "ann", there, first)
    assert await waits.clear_wait(ann, "ann", there)
    await waits.register_wait(ann, "ann", there, second)
    await (await waits.claim(ann, "ann", there, event_id="3")).finish()


async def _order(store: AsyncSessionStore[dict[str, Any]]) -> None:
    """Run every step of locks, affinity and inboxes."""
    key, session = new_session_key(), make(ttl_secs=9)
    locks, affinity = SessionLocks(store), SessionAffinity(store)
    async with locks.hold(key, ctx=CTX) as lease:
        with pytest.raises(LockHeldError):
            async with locks.hold(key, wait=0.02, ctx=CTX):
                pass
        await lease.renew()
        await store.put(msgspec.structs.replace(session, key=key), fence=lease)
        await lease.release()
    async with affinity.member("one"):
        assert await affinity.worker_for(key) is not None
        await affinity.pin(key, "two")
        assert await affinity.unpin(key)
        assert await affinity.touch(key)
        assert [found async for found in affinity.keys_of("one")] == [key]
        assert await affinity.placement(key) is not None
        assert len(await affinity.members()) == 1
        assert await affinity.forget(key)
    limits = InboxLimits(mail=3, events=3)
    inbox = SessionInbox(store, CTX, attempts=1, retry_delay=0.001, limits=limits)
    for number in range(2):
        await inbox.admit(session.key, f"{number}", b"")
    assert (await inbox.depth()).sessions == 1
    async with inbox.take("w", most=1) as turn:
        await turn.renew()
        await turn.commit(session, 1)
        for number in range(2, 4):
            await inbox.admit(session.key, f"{number}", b"")
        await turn.release()
    with pytest.raises(ZeroDivisionError):
        async with inbox.take("w"):
            raise ZeroDivisionError
    async with inbox.take("w") as turn:
        await turn.remove()
    (letter,) = [found async for found in inbox.dead_letters()]
    assert await inbox.replay(letter)
    assert not await inbox.discard(letter)
    ann, here = TenantCtx(tenant_id="acme", user_id="ann"), ReplyScope(conversation="here")
    assert await inbox.deliver(ann, "ann", here, "early", b"") is None
    waiting = msgspec.structs.replace(make(ttl_secs=9), meta=SessionMeta.of(ann))
    await WaitRegistry(store).register_wait(ann, "ann", here, waiting)
    assert await inbox.collect(ann, "ann", here) == 1


async def test_a_right_to_scripts_that_is_lacking_is_clean() -> None:
    with LocalServer(valkey_binary()) as server:
        async with RedisHarness(server.url) as harness:
            rule = ("on", ">pw", "~*", "+@all", "-evalsha")
            await harness.client.read("ACL", "SETUSER", "worker", *rule)
            owner, session = await harness.open(), make()
            url = server.url.replace("unix://", "unix://worker:pw@")
            async with create_session_store(
                f"{url}?namespace={harness.config.namespace}&deadline=2"
            ) as store:
                with pytest.raises(StoreUnavailableError) as caught:
                    await store.put(session)
            assert caught.value.code == "permission_denied"
            assert await owner.get(session.key, ctx=CTX) is None


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


async def test_a_foreign_value_in_the_lookup_counts_as_expired(harness: RedisHarness) -> None:
    store, session = await harness.open(), make()
    lookup = f"{harness.config.namespace}:lookup:{{{session.key}}}"
    await harness.client.read("HSET", lookup, "default/other", "soon", "\xff", "1")
    cas = await store.put(session)
    found = await store.get(session.key)
    assert found is not None
    assert found.cas == cas
    assert await harness.client.read("HLEN", lookup) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("at", "9" * 18), ("at", "9" * 400), ("inc", "\xff"), ("cas", "one")]
)
async def test_a_record_of_foreign_making_is_named_not_raised_through(
    harness: RedisHarness, field: str, value: str
) -> None:
    store, session = await harness.open(), make(ttl_secs=0)
    await store.put(session)
    record = f"{harness.config.namespace}:default:acme:{{{session.key}}}"
    await harness.client.read("HSET", record, field, value)
    with pytest.raises(DecodeError) as caught:
        await store.get(session.key, ctx=CTX)
    assert caught.value.key == session.key
    with pytest.raises(DecodeError):
        await store.get_many([new_session_key(), session.key], ctx=CTX)


async def test_a_squatted_name_among_several_is_named(harness: RedisHarness) -> None:
    store, keys = await harness.open(), [new_session_key() for _ in range(3)]
    squatted = f"{harness.config.namespace}:default:acme:{{{keys[1]}}}"
    await harness.client.read("RPUSH", squatted, "x")
    with pytest.raises(DecodeError) as caught:
        await store.get_many(keys, ctx=CTX)
    assert caught.value.key == keys[1]
