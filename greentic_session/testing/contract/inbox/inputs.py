"""Contract tests of invalid arguments to inboxes: each is refused by name, before any I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from ...._validation import MAX_TTL_SECS
from ....errors import InvalidInputError, PayloadTooLargeError, StoreUnavailableError
from ....model import ReplyScope
from ....ordering import DeadLetter, InboxLimits, SessionInbox
from ....store import AsyncSessionStore
from ..assertions import refusal, told
from ..samples import KEY, SECRET, ctx
from ..store.bad_inputs import BAD_KEYS, BAD_LIVES
from .helpers import OWNER, desk

if TYPE_CHECKING:
    from ...harness import StoreHarness

# Any in these: values of every wrong type.
_BAD_IDS: Final[dict[str, Any]] = {
    "empty": "",
    "line break": f"{SECRET}\n",
    "NUL": f"{SECRET}\0",
    "lone surrogate": f"{SECRET}\ud800",
    "too long": "x" * 513,
    "number": 7,
    "bytes": SECRET.encode(),
}
_BAD_COUNTS: Final = (0, -1, 1.0, True, "3", None, 1_000_001)
_BAD_FIELDS: Final[dict[str, tuple[Any, ...]]] = {
    "ctx": (None, SECRET),
    "key": ("", None, 7),
    "event_id": tuple(_BAD_IDS.values()),
    "payload": (None, SECRET),
    "admitted_at": (None, SECRET, datetime(2026, 1, 1), timedelta(0)),  # noqa: DTZ001
    "died_at": (None, SECRET, datetime(2026, 1, 1), 7),  # noqa: DTZ001
    "attempts": (None, SECRET, -1, 1.0, True),
}
_FIT_TO_WAIT: Final = ("none", "timedelta", "below a millisecond", "least of all")
_BAD_NAMES: Final = ("", "a:b", "{a}", "ä", "x" * 129, 7, None, "a b")

_BAD_OPTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "name": _BAD_NAMES,
    "lease": (None, 0, -1, "30", True, MAX_TTL_SECS + 1, float("nan")),
    "retry_delay": (None, 0, -1, "30", True, timedelta(0)),
    "attempts": (*_BAD_COUNTS, 1001),
    "limits": (SECRET, {}, InboxLimits),
    "waits": (SECRET, {}),
    "ctx": (None, SECRET),
}


@pytest.mark.anyio
class InboxInputContract:
    """Invalid arguments are refused by name, and nothing is written."""

    async def test_bad_messages_are_refused(self, harness: StoreHarness) -> None:
        at = await desk(harness, limits=InboxLimits(payload_bytes=100))
        key: Any
        for name, key in BAD_KEYS.items():
            error = await refusal(at.inbox.admit(key, "e1", b""))
            assert error.field == "key", name
        for name, event_id in _BAD_IDS.items():
            error = await refusal(at.inbox.admit(KEY, event_id, b""))
            assert error.field == "event_id", name
            assert SECRET not in told(error)
        payload: Any
        for payload in (None, SECRET, bytearray(b"x")):
            error = await refusal(at.inbox.admit(KEY, "e1", payload))
            assert error.field == "payload"
            assert SECRET not in told(error)
        scope = ReplyScope(conversation="c")
        for call in (
            at.inbox.admit(KEY, "e1", b"x" * 101),
            at.inbox.deliver(ctx(), "ann", scope, "e1", b"x" * 101),
        ):
            error = await refusal(call)
            assert isinstance(error, PayloadTooLargeError)
            assert (error.field, error.size, error.limit) == ("payload", 101, 100)
            assert str(error) == "payload: 101 bytes, over the limit of 100"
        for wrong, field in ((SECRET, "ctx"), (ctx(""), "tenant_id"), (ctx(env="a b"), "env")):
            caller: Any = wrong
            assert (await refusal(at.inbox.admit(KEY, "e1", b"", ctx=caller))).field == field
        assert await harness.residue() == []
        assert (await at.admit("e" * 512, key="k" * 512, payload=b"x" * 100)).is_new
        await at.drain()

    async def test_bad_takers_are_refused(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        for name, worker in {**_BAD_IDS, "long": "x" * 129}.items():
            error = await refusal(at.inbox.take(worker).__aenter__())
            assert error.field == "worker", name
        for most in (*_BAD_COUNTS, 10_001):
            wrong: Any = most
            assert (await refusal(at.inbox.take("w", most=wrong).__aenter__())).field == "most"
        waits = {name: life for name, life in BAD_LIVES.items() if name not in _FIT_TO_WAIT}
        for name, wait in {**waits, "negative timedelta": timedelta(seconds=-1)}.items():
            error = await refusal(at.inbox.take("w", wait=wait).__aenter__())
            assert error.field == "wait", name
        assert await harness.residue() == []
        # A waiting time that is too short causes no wait.
        for short in (0, 0.0, 5e-324, 0.0004, timedelta(0), timedelta(microseconds=1)):
            async with at.inbox.take("w", wait=short) as turn:
                assert turn is None

    async def test_bad_events_for_waits_are_refused(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        scope = ReplyScope(conversation="c")
        wrong: Any
        for wrong, field in ((None, "ctx"), (ctx(team_id=""), "team_id")):
            assert (await refusal(at.inbox.deliver(wrong, "ann", scope, "e", b""))).field == field
            assert (await refusal(at.inbox.collect(wrong, "ann", scope))).field == field
        for wrong in ("", "a\n", 7, None):
            error = await refusal(at.inbox.deliver(ctx(), wrong, scope, "e", b""))
            assert error.field == "user_id"
        for wrong in (None, SECRET, ReplyScope(conversation="")):
            error = await refusal(at.inbox.deliver(ctx(), "ann", wrong, "e", b""))
            assert error.field in ("scope", "conversation")
        for name, event_id in _BAD_IDS.items():
            error = await refusal(at.inbox.deliver(ctx(), "ann", scope, event_id, b""))
            assert error.field == "event_id", name
        wrong = SECRET
        assert (await refusal(at.inbox.deliver(ctx(), "ann", scope, "e", wrong))).field == "payload"
        assert await harness.residue() == []

    async def test_bad_letters_are_refused(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        wrong: Any
        for wrong in (None, SECRET, KEY):
            for call in (at.inbox.replay, at.inbox.discard):
                assert (await refusal(call(wrong))).field == "letter"
        now = datetime.now(UTC)
        letter = DeadLetter(
            ctx=OWNER,
            key=KEY,
            event_id="e1",
            payload=b"",
            admitted_at=now,
            died_at=now,
            attempts=1,
        )
        for field, values in _BAD_FIELDS.items():
            for wrong in values:
                bad = msgspec.structs.replace(letter, **{field: wrong})
                for call in (at.inbox.replay, at.inbox.discard):
                    error = await refusal(call(bad))
                    assert error.field == field, wrong
                    assert SECRET not in told(error)
        assert await at.inbox.discard(letter) is False

    @pytest.mark.parametrize("field", _BAD_OPTIONS)
    async def test_a_bad_inbox_is_refused(self, harness: StoreHarness, field: str) -> None:
        store = await harness.open()
        for value in _BAD_OPTIONS[field]:
            options: Any = {"ctx": OWNER, field: value}
            with pytest.raises(InvalidInputError) as caught:
                SessionInbox(store, **options)
            assert caught.value.field == field, value
            assert SECRET not in told(caught.value)

    @pytest.mark.parametrize(
        "field",
        [
            *("mail", "payload_bytes", "events", "events_ttl_secs"),
            *("dead_ttl_secs", "early", "early_ttl_secs"),
        ],
    )
    async def test_bad_limits_are_refused(self, harness: StoreHarness, field: str) -> None:
        store = await harness.open()
        for value in (0, -1, "3", None, True):
            options: Any = {field: value}
            with pytest.raises(InvalidInputError) as caught:
                SessionInbox(store, OWNER, limits=InboxLimits(**options))
            assert caught.value.field == field, value
        with pytest.raises(InvalidInputError) as caught:
            SessionInbox(store, OWNER, limits=InboxLimits(mail=11, events=10))
        assert caught.value.field == "mail"

    async def test_a_store_that_cannot_keep_inboxes_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        members = dict.fromkeys(AsyncSessionStore.__abstractmethods__)
        boxless: Any = type("Boxless", (AsyncSessionStore,), members)
        others: list[Any] = [None, SECRET, type(store), boxless(dict)]
        for given in others:
            with pytest.raises(InvalidInputError) as caught:
                SessionInbox(given, OWNER)
            assert caught.value.field == "store"

    async def test_a_closed_store_serves_no_inbox(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.store.aclose()
        scope = ReplyScope(conversation="c")
        for call in (
            at.inbox.admit(KEY, "e1", b""),
            at.inbox.take("w").__aenter__(),
            at.inbox.depth(),
            at.inbox.deliver(ctx(), "ann", scope, "e", b""),
            at.inbox.collect(ctx(), "ann", scope),
            at.dead(),
        ):
            with pytest.raises(StoreUnavailableError):
                await call
