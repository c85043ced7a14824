"""Contract tests of the outbox: each effect once, in order, across every write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from ....codec import CodecFactory, JsonCodec, MessagePackCodec
from ....model import Cas, OutboxEntry
from ..assertions import require
from ..samples import KEY, ctx, session
from .verbs import CHANGES, WRITES

if TYPE_CHECKING:
    from ....model import Session
    from ...harness import StoreHarness

_CODECS: Final[dict[str, CodecFactory]] = {"json": JsonCodec, "msgpack": MessagePackCodec}
_NOON: Final = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)


def _entry(seq: int, payload: bytes, created_at: datetime) -> OutboxEntry:
    entry = OutboxEntry.for_payload(seq, payload)
    return msgspec.structs.replace(entry, created_at=created_at)


def _outbox(*pairs: tuple[int, bytes]) -> tuple[OutboxEntry, ...]:
    """Return entries one second apart, to distinguish a repeated pair from the first one."""
    return tuple(
        _entry(seq, payload, _NOON + timedelta(seconds=place))
        for place, (seq, payload) in enumerate(pairs)
    )


@pytest.mark.anyio
class OutboxContract:
    """Writes keep the outbox of a session."""

    @pytest.mark.parametrize("verb", ["create", *CHANGES])
    async def test_the_first_of_each_pair_is_kept_in_order(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        cas = Cas.none() if verb == "create" else await store.create(session())
        given = _outbox((2, b"b"), (1, b"a"), (2, b"b"), (1, b"b"), (1, b"a"), (2, b"a"), (2, b"b"))
        write = WRITES["create"] if verb == "create" else CHANGES[verb]
        await write(store, session(outbox=given), cas)
        assert (await require(store)).session.outbox == (given[0], given[1], given[3], given[5])

    @pytest.mark.parametrize("codec", _CODECS)
    async def test_entries_come_back_equal(self, harness: StoreHarness, codec: str) -> None:
        store = await harness.open(codec=_CODECS[codec])
        given = _outbox((0, b""), (-1, b"x"), (2**53 + 1, bytes(range(256))))
        await store.create(session(outbox=given))
        found = (await require(store)).session.outbox
        assert found == given
        assert [entry.created_at.utcoffset() for entry in found] == [timedelta(0)] * 3

    @pytest.mark.parametrize("codec", _CODECS)
    @pytest.mark.parametrize("hours", [-9.5, 2, 5.75])
    async def test_a_time_of_another_zone_comes_back_as_the_same_instant(
        self, harness: StoreHarness, hours: float, codec: str
    ) -> None:
        store = await harness.open(codec=_CODECS[codec])
        local = _NOON.astimezone(timezone(timedelta(hours=hours)))
        await store.create(session(outbox=(_entry(1, b"a", local),)))
        [found] = (await require(store)).session.outbox
        assert found.created_at == _NOON

    @pytest.mark.parametrize("verb", CHANGES)
    async def test_a_write_replaces_the_outbox(self, harness: StoreHarness, verb: str) -> None:
        store = await harness.open()
        cas = await store.create(session(outbox=_outbox((1, b"a"), (2, b"b"))))
        cas = await CHANGES[verb](store, session(outbox=_outbox((3, b"c"))), cas)
        assert (await require(store)).session.outbox == _outbox((3, b"c"))
        await CHANGES[verb](store, session(), cas)
        assert (await require(store)).session.outbox == ()

    async def test_a_thousand_entries_come_back_equal(self, harness: StoreHarness) -> None:
        store = await harness.open()
        given = _outbox(*((seq, b"x") for seq in range(1000)))
        await store.create(session(outbox=given + given))
        assert (await require(store)).session.outbox == given

    async def test_an_effect_recorded_before_is_known_after_a_read(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        recorded, is_new = session().with_outbox(b"hello")
        assert is_new
        await store.create(recorded)
        found = (await require(store)).session
        again, is_new = found.with_outbox(b"hello")
        assert not is_new
        assert again is found
        changed = await store.mutate(KEY, lambda now: now.advance("next"), ctx=ctx())
        _, is_new = changed.session.with_outbox(b"hello")
        assert is_new

    async def test_a_session_that_records_an_effect_at_every_step_stays_small(
        self, harness: StoreHarness
    ) -> None:
        # 200 entries exceed this limit, and each later write would raise.
        store = await harness.open(max_payload_bytes=20_000)
        await store.create(session())

        def act(found: Session[Any]) -> Session[Any]:
            for _ in range(50):
                found, is_new = found.with_outbox(b"hello")
                assert is_new
                found = found.advance("next")
            return found

        for _ in range(4):
            await store.mutate(KEY, act, ctx=ctx())
        recorded = (await require(store)).session.outbox
        assert [entry.seq for entry in recorded] == [*range(200 - 128, 200)]
        confirmed = await store.mutate(KEY, lambda now: now.without_outbox(198), ctx=ctx())
        assert [entry.seq for entry in confirmed.session.outbox] == [199]
