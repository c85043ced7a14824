"""Tests of an unusable server: the error has the cause and a code, and no secret."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import traceback
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from greentic_session import OutcomeUnknownError, SessionError, StoreUnavailableError

from ..support.redis import control, session, store_at, warmed_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from greentic_session.testing.servers import LocalServer

    from ..support.redis import Store

pytestmark = pytest.mark.anyio

SECRET = "s3cret-word"
LOGIN = f"ann:{SECRET}"


async def failure_of(store: Store, *, size: int = 10) -> SessionError:
    with pytest.raises((StoreUnavailableError, OutcomeUnknownError)) as caught:
        await store.put(session(text="x" * size))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown
    return caught.value


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """Yield a TLS endpoint of OpenSSL, alerts included. The loop's own servers send none."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain:
                plain.settimeout(5)
                try:
                    with context.wrap_socket(plain, server_side=True) as connection:
                        connection.recv(1)
                except OSError:
                    while plain.fileno() >= 0 and plain.recv(1 << 16):
                        pass  # otherwise the alert would be lost with the connection

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def server_context(authority: trustme.CA, *, wants_certificate: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    if wants_certificate:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_missing_client_certificate_is_named(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = server_context(authority, wants_certificate=True)
    context.maximum_version = version
    with tls_server(context) as port:
        url = f"rediss://{LOGIN}@localhost:{port}?tls_ca_file={tmp_path}/ca.pem&deadline=10"
        async with store_of(url) as store:
            error = await failure_of(store)
    assert "client certificate" in str(error)
    assert error.code == "unauthenticated"


async def test_a_client_certificate_of_another_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine = trustme.CA().issue_cert("client")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "mine.pem")
    with tls_server(server_context(authority, wants_certificate=True)) as port:
        files = f"tls_ca_file={tmp_path}/ca.pem&tls_cert_file={tmp_path}/mine.pem"
        url = f"rediss://localhost:{port}?{files}&tls_key_file={tmp_path}/mine.pem&deadline=10"
        async with store_of(url) as store:
            error = await failure_of(store)
    assert str(error) == "the server refused the client certificate"
    assert error.code == "unauthenticated"


@asynccontextmanager
async def store_of(url: str) -> AsyncIterator[Store]:
    from greentic_session import create_session_store

    async with create_session_store(url) as store:
        yield store


async def test_tls_to_a_plain_port_is_named(server: LocalServer) -> None:
    url = server.tcp_url.replace("redis://", f"rediss://{LOGIN}@")
    async with store_at(url, deadline=6) as store:
        error = await failure_of(store)
    assert str(error) == "the server does not answer the TLS handshake: does it speak TLS?"


async def test_no_tls_to_a_port_of_tls() -> None:
    with tls_server(server_context(trustme.CA(), wants_certificate=False)) as port:
        async with store_at(f"redis://{LOGIN}@127.0.0.1:{port}", deadline=2) as store:
            error = await failure_of(store)
    # It sends an alert or just ends the connection, depending on its library.
    assert str(error) in (
        "the server speaks TLS on this port: use rediss://",
        "the server closed the connection before it answered",
    )


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("redis", "the server is an HTTP server: expected Redis or Valkey"),
        ("rediss", "the server does not speak TLS on this port"),
    ],
)
async def test_an_http_server_is_named(scheme: str, reason: str, protocol: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            await reader.read(1 << 16)
        except OSError:
            pass  # the client may disconnect first
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"{scheme}://{LOGIN}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with store_at(url, deadline=2, protocol=protocol) as store:
            error = await failure_of(store)
    assert str(error) == reason
    assert error.code == "unavailable"


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("transport", ["unix", "tcp"])
async def test_a_rotated_password_is_named(
    server: LocalServer, transport: str, protocol: int
) -> None:
    base = server.url if transport == "unix" else server.tcp_url
    async with control(server) as client:
        await client.read("CONFIG", "SET", "requirepass", SECRET)
        async with store_at(base.replace("://", f"://:{SECRET}@"), protocol=protocol) as store:
            await warmed_up(store)
            await client.read("CONFIG", "SET", "requirepass", "another")
            await client.read("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            error = await failure_of(store)
        assert "the server refused the password" in str(error)
        assert error.code == "unauthenticated"


@pytest.mark.parametrize("transport", ["unix", "tcp"])
async def test_a_request_that_is_larger_than_the_server_accepts(
    server: LocalServer, transport: str
) -> None:
    url = server.url if transport == "unix" else server.tcp_url
    async with control(server) as client:
        await client.read("CONFIG", "SET", "proto-max-bulk-len", "1mb")
        async with store_at(url, max_payload=20_000_000) as store:
            for size in (1_100_000, 9_000_000):
                error = await failure_of(store, size=size)
                assert "larger than the server accepts" in str(error)
                assert error.code == "invalid_input"
            assert store.statistics().retries == 0
            await store.put(session())


async def test_a_request_on_which_the_server_closes_without_a_word(server: LocalServer) -> None:
    async with control(server) as client:
        await client.read("CONFIG", "SET", "client-query-buffer-limit", "1mb")
        async with store_at(server.url, max_payload=20_000_000, deadline=1) as store:
            error = await failure_of(store, size=5_000_000)
            assert "on a request of 50" in str(error)
            assert "may be above its limit" in str(error)
