"""Tests of ``rediss://``: certificates are verified, unless configured otherwise."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from greentic_session import StoreUnavailableError, create_session_store, new_session_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def tls_in_front_of(socket_url: str, authority: trustme.CA) -> AsyncIterator[int]:
    """Terminate TLS on a loopback port and forward the bytes to a unix socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # either side may disconnect first
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside = await asyncio.open_unix_connection(socket_url.removeprefix("unix://"))
        await asyncio.gather(pump(reader, inside[1]), pump(inside[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.mark.anyio
async def test_a_trusted_server_is_spoken_to(
    valkey_url: str, authority: trustme.CA, ca_file: Path
) -> None:
    async with tls_in_front_of(valkey_url, authority) as port:
        url = f"rediss://localhost:{port}?tls_ca_file={ca_file}&deadline=20"
        async with create_session_store(url) as store:
            assert await store.ping()
            assert await store.get(new_session_key()) is None


@pytest.mark.anyio
async def test_an_unknown_authority_is_refused(valkey_url: str, authority: trustme.CA) -> None:
    async with tls_in_front_of(valkey_url, authority) as port:
        url = f"rediss://localhost:{port}?deadline=10"
        async with create_session_store(url) as store:
            with pytest.raises(StoreUnavailableError, match="certificate") as caught:
                await store.ping()
            assert caught.value.code == "unauthenticated"


@pytest.mark.anyio
async def test_another_host_name_is_refused(
    valkey_url: str, authority: trustme.CA, ca_file: Path
) -> None:
    async with tls_in_front_of(valkey_url, authority) as port:
        url = f"rediss://127.0.0.1:{port}?tls_ca_file={ca_file}&deadline=10"
        async with create_session_store(url) as store:
            with pytest.raises(StoreUnavailableError, match="certificate") as caught:
                await store.ping()
            assert caught.value.code == "unauthenticated"


@pytest.mark.anyio
async def test_checking_can_be_switched_off(valkey_url: str, authority: trustme.CA) -> None:
    async with tls_in_front_of(valkey_url, authority) as port:
        url = f"rediss://localhost:{port}?tls_verify=no&deadline=20"
        async with create_session_store(url) as store:
            assert await store.ping()
