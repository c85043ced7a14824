"""The contract suite on streams: inherit :class:`StreamContract`, give it a ``harness`` fixture.

For stores that keep streams (:class:`greentic_session.abc.streams.SupportsStreams`). The fixture
and the rest are as for :class:`SessionStoreContract`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from ....abc.streams import (
    START,
    EntryId,
    StreamEntry,
    StreamLimits,
    StreamRef,
    continues,
    stream_backend_of,
)
from ....model import SessionKey
from ..samples import ACME, GLOBEX, KEY, LIFE, PART, session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ....abc.streams import StreamBackend
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

__all__ = ["StreamContract"]

REF: Final = StreamRef(f"default/{ACME}", KEY)
TENANT: Final = StreamRef(f"default/{ACME}", "")
LIMITS: Final = StreamLimits(length=10, keep_ms=round(LIFE * 1000))
_PATIENCE_SECS: Final = 20
"""Limit in seconds, generous because the machine may be busy."""


async def _backend(harness: StoreHarness) -> tuple[AsyncSessionStore[Any], StreamBackend]:
    store = await harness.open()
    return store, stream_backend_of(store)


async def _send(streams: StreamBackend, *bodies: bytes, ref: StreamRef = REF) -> list[EntryId]:
    ids: list[EntryId] = []
    for body in bodies:
        sent = await streams.send(ref, body, 7, LIMITS)
        assert sent is not None
        ids.append(sent.entry_id)
    return ids


async def _position(streams: StreamBackend, ref: StreamRef = REF) -> tuple[str, EntryId]:
    (head,) = await streams.heads((ref,))
    assert head.incarnation is not None
    return head.incarnation, head.position


async def _bodies(
    streams: StreamBackend, incarnation: str, after: EntryId, ref: StreamRef = REF
) -> list[bytes] | None:
    page = await streams.read(ref, incarnation, after, LIMITS)
    return None if page.entries is None else [entry.body for entry in page.entries]


class _Heard:
    """What a listener received."""

    def __init__(self) -> None:
        self.received: Final[list[StreamEntry | None]] = []
        self._changed = anyio.Event()

    def __call__(self, entry: StreamEntry | None) -> None:
        self.received.append(entry)
        self._changed.set()

    async def until(self, count: int) -> list[StreamEntry | None]:
        """Wait until so many calls were received, and return them."""
        with anyio.fail_after(_PATIENCE_SECS):
            while len(self.received) < count:
                self._changed = anyio.Event()
                await self._changed.wait()
        return self.received


@asynccontextmanager
async def _listening(streams: StreamBackend, ref: StreamRef) -> AsyncGenerator[_Heard]:
    heard = _Heard()
    async with streams.listen(ref, heard):
        assert await heard.until(1) == [None]
        yield heard


@pytest.mark.anyio
class StreamContract:
    """Requirements for streams on every store that supports them."""

    # --- sending -----------------------------------------------------------------------------

    async def test_a_message_to_no_live_session_is_not_sent(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        assert await streams.send(REF, b"m", 7, LIMITS) is None
        await store.create(session(ttl_secs=LIFE))
        assert await streams.send(REF, b"m", 7, LIMITS) is not None
        assert await streams.send(StreamRef(f"default/{GLOBEX}", KEY), b"m", 7, LIMITS) is None
        await harness.advance(2 * PART)
        assert await streams.send(REF, b"m", 7, LIMITS) is None

    async def test_sent_messages_are_read_in_order(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        cas = await store.create(session())
        incarnation, start = await _position(streams)
        assert incarnation == cas.incarnation
        assert await _bodies(streams, incarnation, start) == []
        ids = await _send(streams, b"1", bytes(range(256)), b"3")
        assert ids == sorted(set(ids))
        assert await _bodies(streams, incarnation, start) == [b"1", bytes(range(256)), b"3"]
        assert await _bodies(streams, incarnation, ids[0]) == [bytes(range(256)), b"3"]
        assert await _bodies(streams, incarnation, ids[2]) == []

    async def test_each_entry_names_its_predecessor(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        incarnation, start = await _position(streams)
        ids = await _send(streams, b"1", b"2", b"3")
        page = await streams.read(REF, incarnation, start, LIMITS)
        assert page.entries is not None
        assert [entry.previous for entry in page.entries] == [START, *ids[:2]]
        assert page.head.last == ids[2]

    async def test_ids_ascend_after_the_clock_was_set_back(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        incarnation, start = await _position(streams)
        await _send(streams, b"1")
        await harness.advance(-PART)
        await _send(streams, b"2")
        page = await streams.read(REF, incarnation, EntryId(start.ms, 0), LIMITS)
        (head,) = await streams.heads((REF,))
        assert head.last is not None
        assert await _bodies(streams, incarnation, head.last) == []
        if page.entries is not None:
            assert [entry.body for entry in page.entries] == [b"1", b"2"]

    # --- history -----------------------------------------------------------------------------

    async def test_a_position_that_was_trimmed_is_not_held(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        incarnation, start = await _position(streams)
        ids = await _send(streams, *(b"%d" % number for number in range(12)))
        assert await _bodies(streams, incarnation, start) is None
        assert await _bodies(streams, incarnation, ids[0]) is None
        held = await _bodies(streams, incarnation, ids[1])
        assert held == [b"%d" % number for number in range(2, 12)]

    async def test_entries_are_removed_when_they_are_old(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        incarnation, start = await _position(streams)
        await _send(streams, b"old")
        await harness.advance(PART)
        await _send(streams, b"newer")
        await harness.advance(PART)
        before = EntryId(start.ms - 4 * LIMITS.keep_ms, 0)
        assert await _bodies(streams, incarnation, before) is None
        (sent,) = await _send(streams, b"new")
        assert await _bodies(streams, incarnation, before) is None
        assert await _bodies(streams, incarnation, sent) == []
        await harness.advance(2 * PART)
        assert (await streams.heads((REF,)))[0].last is None
        position = (await streams.heads((REF,)))[0].position
        await _send(streams, b"again")
        assert await _bodies(streams, incarnation, position) == [b"again"]

    async def test_a_position_that_no_entry_has_is_not_held(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        incarnation, start = await _position(streams)
        assert await _bodies(streams, incarnation, EntryId(start.ms, 5)) is None
        (sent,) = await _send(streams, b"m")
        assert await _bodies(streams, incarnation, EntryId(sent.ms, sent.mark + 1)) is None
        assert await _bodies(streams, incarnation, EntryId(sent.ms - 1, 1)) is None

    async def test_nothing_is_left_when_the_history_has_ended(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        await _send(streams, b"m")
        await _send(streams, b"m", ref=TENANT)
        await store.delete(KEY)
        await harness.advance(2 * PART)
        assert [name for name in await harness.residue() if "out" in name] == []

    # --- incarnations ------------------------------------------------------------------------

    async def test_a_new_incarnation_begins_an_empty_stream(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        cas = await store.create(session())
        incarnation, start = await _position(streams)
        (last,) = await _send(streams, b"before")
        new = await store.replace_incarnation(session(), cas)
        assert await _bodies(streams, incarnation, start) is None
        assert (await streams.heads((REF,)))[0].incarnation == new.incarnation
        assert (await streams.heads((REF,)))[0].last is None
        assert await _bodies(streams, new.incarnation, last) is None
        _, position = await _position(streams)
        (after,) = await _send(streams, b"after")
        assert await _bodies(streams, incarnation, last) is None
        assert await _bodies(streams, new.incarnation, position) == [b"after"]
        assert (await streams.heads((REF,)))[0].last == after

    async def test_an_ended_session_has_no_incarnation(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        incarnation, start = await _position(streams)
        await _send(streams, b"m")
        await store.delete(KEY)
        page = await streams.read(REF, incarnation, start, LIMITS)
        assert (page.head.incarnation, page.entries) == (None, None)
        assert (await streams.heads((REF,)))[0].incarnation is None

    # --- tenants -----------------------------------------------------------------------------

    async def test_a_tenant_has_a_stream_of_its_own(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        other = StreamRef(f"default/{GLOBEX}", "")
        positions = {ref: await _position(streams, ref) for ref in (REF, TENANT, other)}
        await _send(streams, b"all", ref=TENANT)
        found = {ref: await _bodies(streams, *position, ref) for ref, position in positions.items()}
        assert found == {REF: [], TENANT: [b"all"], other: []}

    async def test_heads_of_many_streams_are_read_at_once(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        keys = [SessionKey(f"s{number}") for number in range(20)]
        for key in keys[::2]:
            await store.create(session(key))
        refs = [StreamRef(f"default/{ACME}", key) for key in keys]
        (sent,) = await _send(streams, b"m", ref=refs[4])
        heads = await streams.heads((*refs, TENANT))
        assert [head.incarnation is not None for head in heads] == [*[True, False] * 10, True]
        assert [head.last for head in heads] == [*[None] * 4, sent, *[None] * 16]
        assert list(await streams.heads(())) == []

    async def test_keys_of_any_form_have_streams_of_their_own(self, harness: StoreHarness) -> None:
        store, streams = await _backend(harness)
        keys = [SessionKey(key) for key in ("a:b", "{a}", "%7B", "a|b", "\N{SNOWMAN}", "x" * 128)]
        refs = [StreamRef(f"default/{ACME}", key) for key in keys]
        for key, ref in zip(keys, refs, strict=True):
            await store.create(session(key))
            async with _listening(streams, ref) as heard:
                await _send(streams, key.encode(), ref=ref)
                (entry,) = (await heard.until(2))[1:]
            assert entry is not None
            assert entry.body == key.encode()

    # --- listening ---------------------------------------------------------------------------

    async def test_listeners_receive_every_entry_with_its_predecessor(
        self, harness: StoreHarness
    ) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        others = stream_backend_of(await harness.open(beside=store))
        async with _listening(streams, REF) as one, _listening(streams, REF) as two:
            _, position = await _position(streams)
            await _send(others, b"1", b"|2|", b"3")
            received = (await one.until(4))[1:]
            assert (await two.until(4))[1:] == received
        for entry, body in zip(received, (b"1", b"|2|", b"3"), strict=True):
            assert entry is not None
            assert entry.body == body
            assert continues(position, entry, LIMITS.keep_ms)
            position = entry.entry_id

    async def test_a_listener_receives_nothing_of_other_streams(
        self, harness: StoreHarness
    ) -> None:
        store, streams = await _backend(harness)
        await store.create(session())
        await store.create(session(SessionKey("other")))
        async with _listening(streams, REF) as heard:
            await _send(streams, b"other", ref=StreamRef(REF.scope, "other"))
            await _send(streams, b"all", ref=TENANT)
            await _send(streams, b"mine")
            (entry,) = (await heard.until(2))[1:]
        assert entry is not None
        assert entry.body == b"mine"
        await _send(streams, b"later")
        assert len(heard.received) == 2
