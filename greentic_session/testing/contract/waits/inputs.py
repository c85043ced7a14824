"""Contract tests of invalid arguments to a registry: each is refused by name, before any I/O."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from ...._validation import MAX_TTL_SECS
from ....errors import InvalidInputError
from ....model import Cas, ReplyScope, SessionMeta, TenantCtx
from ....store import AsyncSessionStore
from ....waits import WaitRegistry
from ..assertions import refusal, told
from ..samples import ACME, SECRET, ctx, session
from ..store.bad_inputs import BAD_IDENTIFIERS, BAD_LIVES, BAD_SESSIONS, BAD_USERS
from .helpers import ANN, CHAT, WAYS_TO_WRITE, evolve_ctx, wait_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ...harness import StoreHarness

    Call = Callable[[WaitRegistry[Any], Any, Any, Any], Awaitable[object]]

# Any in these: values of every wrong type.

_VERBS: Final[dict[str, Call]] = {
    "register": lambda waits, caller, user, scope: waits.register_wait(
        caller, user, scope, session(owner=ANN)
    ),
    "find": lambda waits, caller, user, scope: waits.find_wait_by_scope(caller, user, scope),
    "list": lambda waits, caller, user, _scope: waits.list_waits_for_user(caller, user),
    "clear": lambda waits, caller, user, scope: waits.clear_wait(caller, user, scope),
    "claim": lambda waits, caller, user, scope: waits.claim(caller, user, scope),
    "resume": lambda waits, caller, user, scope: waits.resume(caller, user, scope).__aenter__(),
    "rebuild": lambda waits, caller, _user, _scope: waits.rebuild_index(caller),
}
_USER_VERBS: Final = {name: verb for name, verb in _VERBS.items() if name != "rebuild"}
_SCOPE_VERBS: Final = {name: verb for name, verb in _USER_VERBS.items() if name != "list"}

_BAD_CALLERS: Final[dict[str, tuple[str, Any]]] = {
    "ctx none": ("ctx", None),
    "ctx text": ("ctx", SECRET),
    "ctx meta": ("ctx", SessionMeta(tenant_id=ACME)),
    "ctx class": ("ctx", TenantCtx),
    **{
        f"{field} {name}": (field, evolve_ctx(ANN, **{field: value}))
        for field in ("tenant_id", "env", "team_id")
        for name, value in BAD_IDENTIFIERS.items()
    },
    "tenant_id none": ("tenant_id", evolve_ctx(ANN, tenant_id=None)),
    "env none": ("env", evolve_ctx(ANN, env=None)),
    **{f"user_id {name}": ("user_id", ctx(user_id=value)) for name, value in BAD_USERS.items()},
}


def _scope(**parts: Any) -> ReplyScope:
    return ReplyScope(**{"conversation": "chat-1", **parts})


_PARTS: Final = ("conversation", "thread", "reply_to", "correlation")
_BAD_PARTS: Final[dict[str, Any]] = {
    "line break": f"{SECRET}\n",
    "line break alone": "\n",
    "NUL": f"{SECRET}\0",
    "lone surrogate": f"{SECRET}\ud800",
    "too long": "x" * 1025,
    "number": 7,
    "bytes": SECRET.encode(),
}
_BAD_SCOPES: Final[dict[str, dict[str, Any]]] = {
    "scope": {
        "none": None,
        "text": SECRET,
        "dict": {"conversation": SECRET},
        "class": ReplyScope,
    },
    **{
        part: {name: _scope(**{part: value}) for name, value in _BAD_PARTS.items()}
        for part in _PARTS
    },
}
_BAD_SCOPES["conversation"].update(
    {"empty": _scope(conversation=""), "absent": _scope(conversation=None)}
)
_BAD_LEASES: Final[dict[str, Any]] = {
    **BAD_LIVES,
    "zero": 0,
    "zero fraction": 0.0,
    "timedelta": timedelta(0),
    "negative timedelta": timedelta(seconds=-1),
    "short timedelta": timedelta(microseconds=1),
    "long timedelta": timedelta(seconds=MAX_TTL_SECS + 1),
}
_BAD_TTLS: Final[dict[str, Any]] = {
    **{name: life for name, life in BAD_LIVES.items() if name not in ("none", "timedelta")},
    "negative timedelta": timedelta(seconds=-1),
    "short timedelta": timedelta(microseconds=1),
    "long timedelta": timedelta(seconds=MAX_TTL_SECS + 1),
}
_BAD_IDS: Final[dict[str, Any]] = {
    "empty": "",
    "line break": f"{SECRET}\n",
    "NUL": f"{SECRET}\0",
    "control of C1": f"{SECRET}\x85",
    "lone surrogate": f"{SECRET}\ud800",
    "too long": "x" * 513,
    "number": 7,
    "bytes": SECRET.encode(),
}
_BAD_TOKENS: Final[dict[str, Any]] = {
    "text": f"1-{'a' * 32}",
    "number": 1,
    "value true": Cas(value=True, incarnation="a" * 32),
    "incarnation none": Cas(value=1, incarnation=None),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
}
_BAD_COUNTS: Final = (0, -1, 1.0, 1.5, True, "3", None, 10_001)
_SESSIONS: Final = (
    *("session none", "session dict", "session class", "key empty", "key with a line break"),
    *("ttl_secs negative", "ttl_secs text", "meta none", "tenant_id empty", "labels none"),
    *("cursor dict", "outbox list", "context list", "context with an object"),
)


@pytest.mark.anyio
class WaitInputContract:
    """An invalid argument is refused by every verb, and is never quoted."""

    @pytest.mark.parametrize("verb", _VERBS)
    async def test_a_bad_caller_is_refused_by_name(self, harness: StoreHarness, verb: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.kept():
            for name, (field, caller) in _BAD_CALLERS.items():
                if verb == "rebuild" and field == "user_id":
                    continue
                error = await refusal(_VERBS[verb](at.waits, caller, "ann", CHAT))
                assert error.field == field, name
                assert SECRET not in told(error), name

    @pytest.mark.parametrize("verb", _USER_VERBS)
    async def test_a_bad_user_is_refused(self, harness: StoreHarness, verb: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.kept():
            for name, user in {**BAD_USERS, "none": None}.items():
                for caller in (ANN, ctx(team_id="red")):
                    error = await refusal(_USER_VERBS[verb](at.waits, caller, user, CHAT))
                    assert error.field == "user_id", name
                    assert SECRET not in told(error), name

    @pytest.mark.parametrize("field", _BAD_SCOPES)
    async def test_a_bad_reply_scope_is_refused(self, harness: StoreHarness, field: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.kept():
            for name, scope in _BAD_SCOPES[field].items():
                for verb, act in _SCOPE_VERBS.items():
                    error = await refusal(act(at.waits, ANN, "ann", scope))
                    assert error.field == field, (name, verb)
                    assert SECRET not in told(error), (name, verb)
        turn = await at.claim()
        async with at.kept():
            for name, scope in _BAD_SCOPES[field].items():
                if scope is None:
                    continue  # the scope in which it waits already
                error = await refusal(turn.wait_again(turn.session, scope))
                assert error.field == field, name
                assert SECRET not in told(error), name
        await turn.wait_again(turn.session, CHAT)

    @pytest.mark.parametrize("field", _PARTS)
    async def test_what_is_false_but_no_text_is_no_absent_part(
        self, harness: StoreHarness, field: str
    ) -> None:
        at = await wait_harness(harness)
        for value in (0, False, b"", ()):
            error = await refusal(at.find(_scope(**{field: value})))
            assert error.field == field, value

    async def test_a_bad_lease_is_refused(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.kept():
            for name, lease in _BAD_LEASES.items():
                assert (await refusal(at.claim(lease=lease))).field == "lease", name
                assert (await refusal(at.resume(lease=lease).__aenter__())).field == "lease", name
        turn = await at.claim()
        for name, lease in _BAD_LEASES.items():
            if lease is not None:  # the claim's own lease
                assert (await refusal(turn.renew(lease))).field == "lease", name
        assert await at.claimed_until() == turn.lease_until
        await turn.complete(turn.session)

    async def test_a_bad_ttl_is_refused(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        for name, ttl in _BAD_TTLS.items():
            assert (await refusal(at.register(ttl=ttl))).field == "ttl", name
        assert await harness.residue() == []
        await at.register()
        turn = await at.claim()
        async with at.kept():
            for name, ttl in _BAD_TTLS.items():
                error = await refusal(turn.wait_again(turn.session, CHAT, ttl))
                assert error.field == "ttl", name
        await turn.complete(turn.session)

    @pytest.mark.parametrize("bad", _BAD_IDS)
    async def test_a_bad_id_is_refused(self, harness: StoreHarness, bad: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        given = _BAD_IDS[bad]
        async with at.kept():
            for field, call in (
                ("event_id", at.claim(event_id=given)),
                ("event_id", at.resume(event_id=given).__aenter__()),
                ("attempt_id", at.claim(attempt_id=given)),
            ):
                error = await refusal(call)
                assert error.field == field
                assert SECRET not in told(error)
        await at.claim(event_id="e" * 512, attempt_id="a" * 512)

    @pytest.mark.parametrize("way", ["register", *WAYS_TO_WRITE])
    async def test_a_bad_session_is_not_paused(self, harness: StoreHarness, way: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        async with at.kept():
            for name in _SESSIONS:
                spoiled = BAD_SESSIONS[name].spoil(session(owner=ANN, context={"note": SECRET}))
                if way == "register":
                    error = await refusal(at.waits.register_wait(ANN, "ann", CHAT, spoiled))
                else:
                    error = await refusal(WAYS_TO_WRITE[way](turn, spoiled))
                assert error.field == BAD_SESSIONS[name].field, name
                assert SECRET not in told(error), name
        assert turn.ended is False
        await turn.complete(turn.session)

    @pytest.mark.parametrize("bad", ["session none", "session dict", "session class"])
    async def test_with_a_ttl_what_is_no_session_is_refused(
        self, harness: StoreHarness, bad: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        spoiled = BAD_SESSIONS[bad].spoil(session(owner=ANN))
        async with at.kept():
            error = await refusal(at.waits.register_wait(ANN, "ann", CHAT, spoiled, 60))
            assert error.field == "session"
            error = await refusal(turn.wait_again(spoiled, CHAT, timedelta(seconds=60)))
            assert error.field == "session"

    async def test_a_bad_token_to_register_over_is_refused(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.kept():
            for name, token in _BAD_TOKENS.items():
                error = await refusal(at.register(expected=token))
                assert error.field == "expected", name

    async def test_a_bad_memory_of_events_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for name, values in (
            ("max_events", _BAD_COUNTS),
            ("events_ttl", _BAD_LEASES.values()),
        ):
            for value in values:
                options: Any = {name: value}
                with pytest.raises(InvalidInputError) as caught:
                    WaitRegistry(store, **options)
                assert caught.value.field == name, value

    async def test_a_store_that_cannot_keep_waits_is_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        members = dict.fromkeys(AsyncSessionStore.__abstractmethods__)
        waitless: Any = type("Waitless", (AsyncSessionStore,), members)
        others: list[Any] = [None, SECRET, type(store), waitless(dict)]
        for given in others:
            with pytest.raises(InvalidInputError) as caught:
                WaitRegistry(given)
            assert caught.value.field == "store"
            assert SECRET not in told(caught.value)

    async def test_what_is_at_the_limit_is_taken(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, max_events=10_000, events_ttl=timedelta(milliseconds=1))
        longest = _scope(**dict.fromkeys(_PARTS, "😀" * 1024))
        owner = evolve_ctx(ANN, user_id="u" * 256)
        await at.register(longest, "k" * 512, MAX_TTL_SECS, owner=owner)
        turn = await at.claim(longest, owner=owner, lease=0.001, event_id="😀" * 512)
        await turn.renew(MAX_TTL_SECS)
        assert await at.find(longest, owner) == "k" * 512
        await turn.finish()
