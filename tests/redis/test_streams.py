"""Tests of streams whose replies or subscriptions are lost: no message is sent twice or skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest

from greentic_session import SessionKey
from greentic_session.abc.streams import StreamLimits, StreamRef, continues, stream_backend_of
from greentic_session.testing.proxy import always

from ..support.redis import session, store_at, until
from ..support.redis_proxy import LOSSES, Fate, Proxy, first_script_of_each_key

if TYPE_CHECKING:
    from greentic_session.abc.streams import StreamBackend, StreamEntry
    from greentic_session.testing.servers import LocalServer

pytestmark = pytest.mark.anyio

LIMITS: Final = StreamLimits()
VICTIM: Final = SessionKey("victim-send")
OTHER: Final = SessionKey("other")


def _ref(key: str) -> StreamRef:
    return StreamRef("default/acme", key)


async def _bodies(streams: StreamBackend, *, key: str) -> list[bytes]:
    (head,) = await streams.heads((_ref(key),))
    assert head.incarnation is not None
    assert head.last is not None
    # A position of just before the first entry.
    begin = head.position._replace(ms=head.last.ms - 1000, mark=0)
    page = await streams.read(_ref(key), head.incarnation, begin, LIMITS)
    assert page.entries is not None
    assert page.entries[-1].entry_id == head.last
    return [entry.body for entry in page.entries]


@pytest.mark.parametrize("fate", LOSSES, ids=lambda fate: fate.name.lower())
async def test_a_send_whose_reply_is_lost_appends_one_entry(
    server: LocalServer, fate: Fate
) -> None:
    namespace = f"test:{uuid4().hex}"
    async with (
        Proxy(server.port, first_script_of_each_key(fate)) as proxy,
        store_at(server.url, namespace=namespace) as direct,
        store_at(proxy.url, namespace=namespace, deadline=5) as store,
    ):
        await direct.create(session(VICTIM))
        await direct.create(session(OTHER))
        # The server has the script, so that the first request executes it.
        await stream_backend_of(direct).send(_ref(OTHER), b"m", 7, LIMITS)
        streams = stream_backend_of(store)
        sent = await streams.send(_ref(VICTIM), b"m", 7, LIMITS)
        assert proxy.met[fate] == 1
        assert sent is not None
        assert await _bodies(streams, key=VICTIM) == [b"m"]
        (head,) = await streams.heads((_ref(VICTIM),))
        assert head.last == sent.entry_id


async def test_a_listener_learns_that_messages_may_be_lost_and_reads_them(
    server: LocalServer,
) -> None:
    namespace = f"test:{uuid4().hex}"
    received: list[StreamEntry | None] = []
    async with (
        Proxy(server.port, always(Fate.PASS)) as proxy,
        store_at(server.url, namespace=namespace) as direct,
        store_at(proxy.url, namespace=namespace, deadline=5) as store,
    ):
        await direct.create(session(OTHER))
        sender, streams = stream_backend_of(direct), stream_backend_of(store)
        async with streams.listen(_ref(OTHER), received.append):
            await until(lambda: received == [None])
            (head,) = await streams.heads((_ref(OTHER),))
            assert head.incarnation is not None
            assert proxy.sever()
            for body in (b"1", b"2", b"3"):
                await sender.send(_ref(OTHER), body, 7, LIMITS)
            await until(lambda: received.count(None) == 2)
            page = await streams.read(_ref(OTHER), head.incarnation, head.position, LIMITS)
            assert page.entries is not None
            assert [entry.body for entry in page.entries] == [b"1", b"2", b"3"]
            await sender.send(_ref(OTHER), b"4", 7, LIMITS)
            await until(lambda: received[-1] is not None and received[-1].body == b"4")
            last = received[-1]
            assert last is not None
            assert continues(page.entries[-1].entry_id, last, LIMITS.keep_ms)
