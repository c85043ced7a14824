"""A model of streams: a reader gets every message once and in order, or learns of the gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
from hypothesis import example, given
from hypothesis import strategies as st

from greentic_session import SessionKey
from greentic_session.abc.streams import (
    StreamLimits,
    StreamRef,
    continues,
    stream_backend_of,
)
from greentic_session.clock import ManualClock
from greentic_session.memory import InMemorySessionStore
from greentic_session.testing.contract.samples import session

if TYPE_CHECKING:
    from greentic_session.abc.streams import EntryId, StreamBackend, StreamEntry

LIMITS: Final = StreamLimits(length=4, keep_ms=1000)
REF: Final = StreamRef("default/acme", "conversation-1")

Step = tuple[str, int]
STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 5)),
        st.tuples(st.just("advance"), st.sampled_from([0, 1, 300, 999, 1000, 1001, 2500])),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("lose"), st.integers(1, 3)),
        st.tuples(st.just("replace"), st.just(0)),
    ),
    max_size=40,
)


class Reader:
    """A reader with published entries, which loses some of them and reads the stream instead.

    :ivar got: numbers of the messages since the last reset.
    :ivar base: number of messages that were sent before the last reset.
    """

    def __init__(self, incarnation: str, position: EntryId) -> None:
        self.incarnation: Final = incarnation
        self.position = position
        self.got: list[int] = []
        self.base = 0
        self.has_gap = False
        self.losing = 0

    def receive(self, entry: StreamEntry | None) -> None:
        """Accept a published entry, unless an earlier one is missing."""
        if entry is None:
            return
        if self.losing:
            self.losing -= 1
        elif not self.has_gap and continues(self.position, entry, LIMITS.keep_ms):
            self.accept(entry)
        elif entry.entry_id > self.position:
            self.has_gap = True

    def accept(self, entry: StreamEntry) -> None:
        """Take an entry as the next one."""
        self.got.append(int(entry.body))
        self.position = entry.entry_id

    async def read(self, streams: StreamBackend, sent: int) -> None:
        """Repair a gap, or begin again if the stream does not hold the position."""
        page = await streams.read(REF, self.incarnation, self.position, LIMITS)
        self.has_gap = False
        if page.entries is None:
            self.base, self.got, self.position = sent, [], page.head.position
        for entry in page.entries or ():
            self.accept(entry)


async def _run(steps: list[Step]) -> None:
    clock = ManualClock()
    async with InMemorySessionStore(clock=clock) as store:
        streams = stream_backend_of(store)
        cas = await store.create(session())
        (head,) = await streams.heads((REF,))
        reader = Reader(cas.incarnation, head.position)
        sent = mark = 0
        is_over = False
        async with streams.listen(REF, reader.receive):
            for verb, number in steps:
                if verb == "send":
                    for _ in range(number):
                        mark = mark % 3 + 1
                        await streams.send(REF, b"%d" % sent, mark, LIMITS)
                        sent += 1
                elif verb == "advance":
                    clock.set_ms(clock.now_ms() + number)
                elif verb == "lose":
                    reader.losing = number
                elif verb == "replace":
                    found = await store.get(SessionKey(REF.key))
                    assert found is not None
                    await store.replace_incarnation(session(), found.cas)
                    is_over = True
                    break
                else:
                    reader.losing = 0
                    await reader.read(streams, sent)
                    assert reader.got == list(range(reader.base, sent))
                # What was accepted has no gap, at any time.
                assert reader.got == list(range(reader.base, reader.base + len(reader.got)))
        if is_over:
            await streams.send(REF, b"0", 1, LIMITS)
            page = await streams.read(REF, reader.incarnation, reader.position, LIMITS)
            assert page.entries is None


@example([("lose", 1), ("send", 1), ("advance", 1000), ("send", 1), ("read", 0)])
@given(STEPS)
def test_a_reader_gets_every_message_or_a_reset(steps: list[Step]) -> None:
    anyio.run(_run, steps)
