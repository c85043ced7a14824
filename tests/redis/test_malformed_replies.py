"""Tests of a port with another program: every call ends with an error of this library."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import hiredis
import msgspec
import pytest

from greentic_session import (
    DecodeError,
    OutcomeUnknownError,
    ReplyScope,
    SessionError,
    SessionMeta,
    StoreUnavailableError,
    TenantCtx,
    WaitRegistry,
    create_session_store,
)
from greentic_session.ordering import SessionAffinity, SessionInbox, SessionLocks
from greentic_session.redis.replies import outcome_of

from ..support.redis import CTX, KEY, READS, WRITES, ended, session, store_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..support.redis import Call, Store

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Yield the URL of a server that sends the same reply to every command."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        try:
            while received := await reader.read(1 << 16):
                commands.feed(received)
                while (command := commands.gets()) is not False:
                    writer.write(greeting_of(command) or answer)
        except ConnectionError:
            pass  # the client has disconnected
        finally:
            writer.close()

    def greeting_of(command: list[bytes]) -> bytes:
        word, *more = [part.upper() for part in command]
        if word == b"HELLO":
            return b"%1\r\n+server\r\n+redis\r\n"
        return b"+OK\r\n" if word == b"CLIENT" and more[0] != b"ID" else b""

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


SIX: bytes = b"*6\r\n"
OURS = ("get", "get of a caller", "get_many", "scoped get", "scoped get_many", "touch", "delete")


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b":1\r\n",
        b"*1\r\n*1\r\n:1\r\n",
        SIX + b":1\r\n" * 6,
        SIX + b"*0\r\n" * 6,
    ],
)
async def test_an_answer_of_another_shape_raises_internal_or_unknown(answer: bytes) -> None:
    async with answering(answer) as url, store_at(url, deadline=1) as store:
        reads = await ended(store, {name: READS[name] for name in OURS})
        writes = await ended(store, WRITES)
    for name, error in reads.items():
        assert isinstance(error, StoreUnavailableError | DecodeError), name
        assert error.code == "internal", name
        assert error.__cause__ is None
    for name, error in writes.items():
        if answer == b":1\r\n" and "update_cas" in name:
            continue  # the right reply to it
        assert isinstance(error, OutcomeUnknownError | DecodeError), name


@pytest.mark.parametrize("body", [1, None, [b"{}"]])
def test_a_body_that_is_no_bytes(body: Any) -> None:
    with pytest.raises(DecodeError):
        create_session_store("memory://")._encoder.decode_body(KEY, body)


@pytest.mark.parametrize("reply", [b"OK", b"", 1, None, [], [99], [[1]], [None], {1: 2}, [1, b"1"]])
def test_what_no_script_answers_tells_nothing_of_a_write(reply: Any) -> None:
    with pytest.raises(OutcomeUnknownError, match="cannot be read"):
        outcome_of("key", reply)


@pytest.mark.parametrize("token", [[b"x", b"i"], [None, b"i"], [b"1", 5], [b"1", b"i", b"x"]])
def test_a_token_that_is_none_is_the_records_fault(token: list[Any]) -> None:
    with pytest.raises(DecodeError):
        outcome_of("key", [1, *token])


ANN = TenantCtx(tenant_id="acme", user_id="ann")
HERE = ReplyScope(conversation="here")
ANNS = msgspec.structs.replace(session(ttl_secs=9), meta=SessionMeta.of(ANN))


async def _take(inbox: SessionInbox[Any]) -> None:
    async with inbox.take("worker", wait=0):
        pass


async def _join(affinity: SessionAffinity) -> None:
    async with affinity.member("worker"):
        pass


async def _listed(found: AsyncIterator[object]) -> None:
    async for _ in found:
        pass


async def _lock(store: Store) -> None:
    async with SessionLocks(store).hold(KEY, wait=0):
        pass


SERVICES: dict[str, Call] = {
    "register_wait": lambda store: WaitRegistry(store).register_wait(ANN, "ann", HERE, ANNS),
    "find_wait_by_scope": lambda store: WaitRegistry(store).find_wait_by_scope(ANN, "ann", HERE),
    "list_waits_for_user": lambda store: WaitRegistry(store).list_waits_for_user(ANN, "ann"),
    "clear_wait": lambda store: WaitRegistry(store).clear_wait(ANN, "ann", HERE),
    "claim": lambda store: WaitRegistry(store).claim(ANN, "ann", HERE, event_id="1"),
    "rebuild_index": lambda store: WaitRegistry(store).rebuild_index(ANN),
    "hold": _lock,
    "holder": lambda store: SessionLocks(store).holder(KEY),
    "member": lambda store: _join(SessionAffinity(store)),
    "members": lambda store: SessionAffinity(store).members(),
    "worker_for": lambda store: SessionAffinity(store).worker_for(KEY),
    "placement": lambda store: SessionAffinity(store).placement(KEY),
    "pin": lambda store: SessionAffinity(store).pin(KEY, "worker"),
    "keys_of": lambda store: _listed(SessionAffinity(store).keys_of("worker")),
    "admit": lambda store: SessionInbox(store, CTX).admit(KEY, "1", b""),
    "take": lambda store: _take(SessionInbox(store, CTX)),
    "depth": lambda store: SessionInbox(store, CTX).depth(),
    "dead_letters": lambda store: _listed(SessionInbox(store, CTX).dead_letters()),
    "deliver": lambda store: SessionInbox(store, CTX).deliver(ANN, "ann", HERE, "1", b""),
    "collect": lambda store: SessionInbox(store, CTX).collect(ANN, "ann", HERE),
}


@pytest.mark.parametrize(
    "answer",
    [b"+OK\r\n", b"*1\r\n*1\r\n:1\r\n", SIX + b":1\r\n" * 6, SIX + b"*0\r\n" * 6],
    ids=["text", "nested", "numbers", "empty"],
)
@pytest.mark.parametrize("name", SERVICES)
async def test_an_answer_of_another_shape_to_a_service(name: str, answer: bytes) -> None:
    """The result is an error of this library, or some result."""
    async with answering(answer) as url, store_at(url, deadline=0.5) as store:
        with suppress(SessionError):
            await SERVICES[name](store)
