"""A port behind which something else answers: every call ends with an error of this library."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hiredis
import pytest

from greentic_session import (
    DecodeError,
    OutcomeUnknownError,
    StoreUnavailableError,
    create_session_store,
)
from greentic_session.redis.replies import outcome_of

from .redis_rig import KEY, READS, WRITES, ended, store_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """URL of a server that says the same to whatever is asked of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        try:
            while received := await reader.read(1 << 16):
                commands.feed(received)
                while (command := commands.gets()) is not False:
                    writer.write(greeting_of(command) or answer)
        except ConnectionError:
            pass  # the client has left
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
async def test_an_answer_of_another_shape(answer: bytes) -> None:
    async with answering(answer) as url, store_at(url, deadline=1) as store:
        reads = await ended(store, {name: READS[name] for name in OURS})
        writes = await ended(store, WRITES)
    for name, error in reads.items():
        assert isinstance(error, StoreUnavailableError | DecodeError), name
        assert error.code == "internal", name
        assert error.__cause__ is None
    for name, error in writes.items():
        if answer == b":1\r\n" and "update_cas" in name:
            continue  # that is the answer to it
        assert isinstance(error, OutcomeUnknownError | DecodeError), name


@pytest.mark.parametrize("body", [1, None, [b"{}"]])
def test_a_body_that_is_no_bytes(body: Any) -> None:
    with pytest.raises(DecodeError):
        create_session_store("memory://").drafter.body(KEY, body)


@pytest.mark.parametrize("reply", [b"OK", b"", 1, None, [], [99], [[1]], [None], {1: 2}, [1, b"1"]])
def test_what_no_script_answers_tells_nothing_of_a_write(reply: Any) -> None:
    with pytest.raises(OutcomeUnknownError, match="cannot be read"):
        outcome_of("key", reply)


@pytest.mark.parametrize("token", [[b"x", b"i"], [None, b"i"], [b"1", 5], [b"1", b"i", b"x"]])
def test_a_token_that_is_none_is_the_records_fault(token: list[Any]) -> None:
    with pytest.raises(DecodeError):
        outcome_of("key", [1, *token])
