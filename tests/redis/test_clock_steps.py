"""Tests of servers whose clock is set forward or back, or whose successor is behind."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

import anyio
import pytest

from greentic_session import (
    LockHeldError,
    OutcomeUnknownError,
    SessionKey,
    WaitClaimedError,
    WaitRegistry,
)
from greentic_session.abc.inbox import GrantedTurn, SupportsInbox, TakeRequest
from greentic_session.abc.locks import LockRef, LockRequest, SupportsLocks
from greentic_session.ordering import SessionAffinity, SessionInbox, SessionLocks
from greentic_session.testing.proxy import Fate, FaultProxy

from ..support.redis import CTX, KEY, control, session, store_at, until_async
from ..support.steered import SteeredServer, faketime_library
from ..support.waits import CTX as ACME
from ..support.waits import USER, chat, paused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from greentic_session import AsyncSessionStore

    Store = AsyncSessionStore[Any]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(150),
    pytest.mark.skipif(
        faketime_library() is None, reason="libfaketime is not installed: no clock can be steered"
    ),
]

HOUR: Final = 3600
NEARLY_AN_HOUR: Final = HOUR - 60
PATIENCE_SECS: Final = 30
MORE_THAN_A_RECORD_REMEMBERS: Final = 12


@pytest.fixture
def steered() -> Iterator[SteeredServer]:
    with SteeredServer() as server:
        yield server


# --- fencing tokens ----------------------------------------------------------------------------


async def _token_of_lock(store: Store) -> int:
    async with SessionLocks(store).hold(KEY, 1) as lease:
        return lease.fence


async def _token_of_turn(store: Store) -> int:
    inbox: SessionInbox[Any] = SessionInbox(store, CTX)
    await inbox.admit(KEY, uuid4().hex, b"hello")
    async with inbox.take("worker", wait=PATIENCE_SECS) as turn:
        assert turn is not None
        await turn.finish()
        return turn.fence


async def _token_of_member(store: Store) -> int:
    async with SessionAffinity(store, "group").member("worker") as member:
        return member.fence


async def _token_of_claim(store: Store) -> int:
    waits: WaitRegistry[Any] = WaitRegistry(store)
    await waits.register_wait(ACME, USER, chat(), paused("form"))
    turn = await waits.claim(ACME, USER, chat())
    await turn.finish()
    return turn.fence


GRANTS: Final[dict[str, Callable[[Store], Awaitable[int]]]] = {
    "lock": _token_of_lock,
    "turn": _token_of_turn,
    "member": _token_of_member,
    "claim": _token_of_claim,
}
each_grant = pytest.mark.parametrize("grant", GRANTS)


@each_grant
async def test_a_fencing_token_does_not_go_back_with_the_clock(
    steered: SteeredServer, grant: str
) -> None:
    namespace = f"test:{uuid4().hex}"
    tokens = []
    # The operation logs are gone by then, and a token has an expiry of its own.
    for ahead in (0, 60, 60 - NEARLY_AN_HOUR, 0, -HOUR // 2):
        await steered.set_ahead(ahead)
        async with store_at(steered.server.url, namespace=namespace) as store:
            tokens.append(await GRANTS[grant](store))
    assert tokens == sorted(set(tokens))


@each_grant
async def test_a_fencing_token_does_not_go_back_when_a_server_that_is_behind_takes_over(
    steered: SteeredServer, grant: str
) -> None:
    namespace = f"test:{uuid4().hex}"
    with SteeredServer(-NEARLY_AN_HOUR) as other:
        async with control(other.server) as replica:
            await replica.read("REPLICAOF", "127.0.0.1", steered.server.port)

            async def is_linked() -> bool:
                return b"master_link_status:up" in await replica.read("INFO", "replication")

            await until_async(is_linked)
            async with store_at(steered.server.tcp_url, namespace=namespace, acks=1) as store:
                first = await GRANTS[grant](store)
                await store.put(session(SessionKey("last")))  # confirmed, with the writes before
            await replica.read("REPLICAOF", "NO", "ONE")
        async with store_at(other.server.url, namespace=namespace) as store:
            assert await GRANTS[grant](store) > first


@each_grant
async def test_a_fencing_token_is_forgotten_when_the_clock_is_past_it_by_two_hours(
    steered: SteeredServer, grant: str
) -> None:
    namespace = f"test:{uuid4().hex}"
    async with store_at(steered.server.url, namespace=namespace) as store:
        await GRANTS[grant](store)
        await store.delete(KEY, ctx=CTX)
    async with control(steered.server) as client:
        assert await client.read("KEYS", f"{namespace}:*") != []
        await steered.set_ahead(2 * HOUR + 10)
        left: list[bytes] = await client.read("KEYS", f"{namespace}:*")
        assert [name for name in left if b":events" not in name and b":seen" not in name] == []


# --- leases ------------------------------------------------------------------------------------


async def _until_granted(take: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(PATIENCE_SECS):
        while not await take():  # noqa: ASYNC110 - the end of a lease is not notified
            await anyio.sleep(0.05)


async def test_a_dead_workers_leases_end_though_the_clock_is_set_back(
    steered: SteeredServer,
) -> None:
    namespace = f"test:{uuid4().hex}"
    async with (
        store_at(steered.server.url, namespace=namespace) as gone,
        store_at(steered.server.url, namespace=namespace) as store,
    ):
        waits: WaitRegistry[Any] = WaitRegistry(store)
        await waits.register_wait(ACME, USER, chat(), paused("form"))
        await WaitRegistry[Any](gone).claim(ACME, USER, chat(), lease=1)
        assert isinstance(gone, SupportsLocks)
        request = LockRequest(LockRef("", KEY, "dead"), "dead", 1000, 1000, queues=False)
        await gone._lock_backend().call().acquire(request)
        inbox: SessionInbox[Any] = SessionInbox(store, CTX)
        await inbox.admit(KEY, "one", b"hello")
        assert isinstance(gone, SupportsInbox)
        take = TakeRequest("inbox", "dead", 1000, 10, 5, 60_000, 100)
        assert isinstance(await gone._inbox_backend().call().take(take), GrantedTurn)
        await steered.set_ahead(-HOUR)

        async def locked() -> bool:
            try:
                async with SessionLocks(store).hold(KEY, 1, wait=0):
                    return True
            except LockHeldError:
                return False

        async def claimed() -> bool:
            try:
                await waits.claim(ACME, USER, chat())
            except WaitClaimedError:
                return False
            return True

        await _until_granted(locked)
        await _until_granted(claimed)
        async with inbox.take("worker", wait=PATIENCE_SECS) as turn:
            assert turn is not None


# --- the operation log -------------------------------------------------------------------------

STEPS: Final = (-86_400, -HOUR, -30, -5, 0, 5, 30, HOUR, 86_400)
VICTIM: Final = SessionKey("victim")


class Stores(NamedTuple):
    """Two stores of one namespace.

    :ivar direct: connected to the server.
    :ivar lossy: connected through the proxy, with time for a retry.
    """

    direct: Store
    lossy: Store
    proxy: FaultProxy


@pytest.fixture
async def stores(steered: SteeredServer) -> AsyncIterator[Stores]:
    namespace = f"test:{uuid4().hex}"
    async with (
        FaultProxy(steered.server.port, lambda _: Fate.PASS) as proxy,
        store_at(steered.server.url, namespace=namespace) as direct,
        store_at(proxy.url, namespace=namespace, deadline=20) as lossy,
    ):
        yield Stores(direct, lossy, proxy)


def losing_once(key: str) -> Callable[[bytes], Fate]:
    """Return a schedule that loses the reply to the first script that names the key."""
    left = [Fate.LOSE]

    def choose(request: bytes) -> Fate:
        return left.pop() if left and key.encode() in request and b"EVAL" in request else Fate.PASS

    return choose


@pytest.mark.parametrize("steps_first", [True, False], ids=["step, writes", "writes, step"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_put_is_executed_once_or_unknown_though_the_clock_is_set_before_its_retry(
    stores: Stores, steered: SteeredServer, step: int, *, steps_first: bool
) -> None:
    direct, store, proxy = stores
    for one in (direct, store):
        await one.put(session(SessionKey("other")))
    proxy.schedule = losing_once(VICTIM)

    async def meanwhile() -> None:
        if steps_first:
            await steered.set_ahead(step)
        for number in range(MORE_THAN_A_RECORD_REMEMBERS):
            await direct.put(session(VICTIM, number=number))
        await steered.set_ahead(step)

    proxy.before_loss = meanwhile
    with suppress(OutcomeUnknownError):
        await store.put(session(VICTIM, number=-1))
    assert proxy.met[Fate.LOSE] == 1
    found = await direct.get(VICTIM, ctx=CTX)
    assert found is not None
    assert found.session.context["number"] == MORE_THAN_A_RECORD_REMEMBERS - 1


@pytest.mark.parametrize("step", STEPS)
async def test_a_delete_is_not_executed_over_a_session_created_since_though_the_clock_is_set(
    stores: Stores, steered: SteeredServer, step: int
) -> None:
    direct, store, proxy = stores
    await store.put(session(VICTIM))
    await store.delete(VICTIM, ctx=CTX)
    await store.put(session(VICTIM))
    proxy.schedule = losing_once(VICTIM)

    async def meanwhile() -> None:
        await steered.set_ahead(step)
        await direct.create(session(VICTIM))

    proxy.before_loss = meanwhile
    with suppress(OutcomeUnknownError):
        assert await store.delete(VICTIM, ctx=CTX) is True
    assert await direct.get(VICTIM, ctx=CTX) is not None


async def test_a_put_does_not_bring_back_a_session_whose_tombstone_has_expired(
    stores: Stores, steered: SteeredServer
) -> None:
    direct, store, proxy = stores
    await store.put(session(SessionKey("other")))
    await direct.put(session(VICTIM))
    proxy.schedule = losing_once(VICTIM)

    async def meanwhile() -> None:
        await direct.delete(VICTIM, ctx=CTX)
        await steered.set_ahead(HOUR)

    proxy.before_loss = meanwhile
    with pytest.raises(OutcomeUnknownError):
        await store.put(session(VICTIM))
    assert await direct.get(VICTIM, ctx=CTX) is None


async def test_a_compare_and_set_is_certain_whatever_the_clock_does(
    stores: Stores, steered: SteeredServer
) -> None:
    direct, store, proxy = stores
    cas = await store.put(session(VICTIM))
    for step in STEPS:
        proxy.schedule = losing_once(VICTIM)

        async def meanwhile(step: int = step) -> None:
            await steered.set_ahead(step)

        proxy.before_loss = meanwhile
        cas = await store.update_cas(session(VICTIM), cas)
    found = await direct.get(VICTIM, ctx=CTX)
    assert found is not None
    assert found.cas == cas
    assert cas.value == 1 + len(STEPS)


async def test_a_message_is_admitted_once_or_unknown_though_its_event_is_forgotten(
    stores: Stores, steered: SteeredServer
) -> None:
    direct, store, proxy = stores
    far: SessionInbox[Any] = SessionInbox(store, CTX)
    near: SessionInbox[Any] = SessionInbox(direct, CTX)
    await far.admit(SessionKey("other"), "e", b"")
    async with near.take("worker", wait=PATIENCE_SECS) as turn:
        assert turn is not None
        await turn.finish()
    proxy.schedule = losing_once("{victim}:inbox")

    async def meanwhile() -> None:
        await near.admit(VICTIM, "another", b"")  # and the session is due
        async with near.take("worker", wait=PATIENCE_SECS) as turn:
            assert turn is not None
            assert [mail.event_id for mail in turn.mail] == ["e", "another"]
            await turn.finish()
        await steered.set_ahead(400 * 86_400)

    proxy.before_loss = meanwhile
    with pytest.raises(OutcomeUnknownError):
        await far.admit(VICTIM, "e", b"")
    assert proxy.met[Fate.LOSE] == 1
    async with near.take("worker", wait=0) as turn:
        assert turn is None
