"""Contract tests of headers: they travel with a message through all its places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import InvalidInputError, PayloadTooLargeError
from ....model import ReplyScope, SessionKey, TenantCtx
from ....ordering import InboxLimits
from ....waits import WaitRegistry
from ..samples import ACME, KEY, SECRET, ctx, session
from .helpers import desk

if TYPE_CHECKING:
    from ...harness import StoreHarness

_HEADERS: Final = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "é": "\n",
}
_CALLER: Final = TenantCtx(tenant_id=ACME, attributes={"channel": "chat"})
_ANN: Final = ctx(user_id="ann")
_CHAT: Final = ReplyScope(conversation="chat")


@pytest.mark.anyio
class InboxHeaderContract:
    """A message keeps its headers and the attributes of its caller until it is handled."""

    async def test_headers_reach_the_worker_on_every_attempt(self, harness: StoreHarness) -> None:
        at = await desk(harness, retry_delay=0.001)
        key = SessionKey(KEY)
        await at.inbox.admit(key, "e1", b"1", ctx=_CALLER, headers=_HEADERS)
        await at.inbox.admit(key, "e2", b"2", headers={"n": "2"})
        await at.inbox.admit(key, "e3", b"3")
        async with at.turn() as turn:
            assert [mail.headers for mail in turn.mail] == [_HEADERS, {"n": "2"}, {}]
            assert [mail.ctx for mail in turn.mail] == [_CALLER, ctx(), ctx()]
            assert [mail.payload for mail in turn.mail] == [b"1", b"2", b"3"]
            await turn.commit(None, 1)
            assert turn.mail[0].headers == {"n": "2"}
        async with at.turn() as turn:
            assert [mail.headers for mail in turn.mail] == [{"n": "2"}, {}]
            await turn.finish()
        assert await harness.residue() != []  # the known events
        await harness.advance(1_000_000)
        assert await harness.residue() == []

    async def test_headers_survive_death_and_replay(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1)
        await at.inbox.admit(SessionKey(KEY), "e1", b"1", ctx=_CALLER, headers=_HEADERS)
        await at.fail()
        assert await at.is_idle()
        (letter,) = await at.dead()
        assert (letter.headers, letter.ctx) == (_HEADERS, _CALLER)
        assert await at.inbox.replay(letter) is True
        async with at.turn() as turn:
            assert (turn.mail[0].headers, turn.mail[0].ctx) == (_HEADERS, _CALLER)
        await at.fail()
        assert await at.is_idle()
        (letter,) = await at.dead()
        assert await at.inbox.discard(letter) is True
        assert await at.dead() == []

    async def test_headers_of_an_early_event_travel_with_it(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        waits: WaitRegistry[Any] = WaitRegistry(at.store, inbox=at.inbox)
        for event_id, headers in (("e1", _HEADERS), ("e2", None)):
            await at.inbox.deliver(_ANN, "ann", _CHAT, event_id, b"", headers=headers)
        await waits.register_wait(_ANN, "ann", _CHAT, session(owner=_ANN))
        await at.inbox.deliver(_ANN, "ann", _CHAT, "e3", b"", headers={"n": "3"})
        async with at.turn() as turn:
            assert [mail.headers for mail in turn.mail] == [_HEADERS, {}, {"n": "3"}]
            await turn.finish()

    async def test_repeat_of_a_message_keeps_the_first_headers(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        for text in ("first", "second"):
            await at.inbox.admit(SessionKey(KEY), "e1", b"", headers={"n": text})
        async with at.turn() as turn:
            assert [mail.headers for mail in turn.mail] == [{"n": "first"}]
            await turn.finish()

    @pytest.mark.parametrize("headers", [{"n": 1}, {1: "n"}, "n", [("n", "1")], {"n": "\ud800"}])
    async def test_bad_headers_are_refused(self, harness: StoreHarness, headers: Any) -> None:
        at = await desk(harness)
        with pytest.raises(InvalidInputError, match="headers"):
            await at.inbox.admit(SessionKey(KEY), "e1", b"", headers=headers)
        with pytest.raises(InvalidInputError, match="headers"):
            await at.inbox.deliver(_ANN, "ann", _CHAT, "e1", b"", headers=headers)
        assert await harness.residue() == []

    async def test_large_headers_are_refused(self, harness: StoreHarness) -> None:
        at = await desk(harness, limits=InboxLimits(payload_bytes=50))
        with pytest.raises(PayloadTooLargeError) as caught:
            await at.inbox.admit(SessionKey(KEY), "e1", b"", headers={"n": SECRET * 10})
        assert caught.value.field == "headers"
        assert SECRET not in str(caught.value)
        assert await harness.residue() == []
