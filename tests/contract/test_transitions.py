"""Tests of the published transition table, row by row, on memory and on a server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from greentic_session import (
    Cas,
    Claim,
    LeaseLostError,
    ReplyScope,
    Session,
    SessionCursor,
    SessionError,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitClaimedError,
    WaitRegistry,
)
from greentic_session.testing.harness import MemoryHarness, RedisHarness
from greentic_session.waits.transitions import (
    CALLERS,
    STATES,
    TRANSITIONS,
    VERBS,
    Transition,
    transition_table,
)

if TYPE_CHECKING:
    from greentic_session.testing.harness import StoreHarness

pytestmark = pytest.mark.anyio

MINE, ANOTHER = SessionKey("mine"), SessionKey("another")
HERE, ELSEWHERE = ReplyScope(conversation="here"), ReplyScope(conversation="elsewhere")
OWNER = TenantCtx(tenant_id="acme", team_id="red", user_id="ann")
LEASE, LIFE = 60.0, 1000.0
LATER = 61.0
CTX = {
    "the owner": OWNER,
    "another tenant": TenantCtx(tenant_id="globex", team_id="red", user_id="ann"),
    "another team": TenantCtx(tenant_id="acme", team_id="blue", user_id="ann"),
    "another user": TenantCtx(tenant_id="acme", team_id="red", user_id="bob"),
}


def session(key: SessionKey, by: str, ttl_secs: float = 0) -> Session[dict[str, Any]]:
    return Session(
        key=key,
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta.of(OWNER),
        context={"by": by},
        ttl_secs=ttl_secs,
    )


class Play:
    """Brings the session into a state, plays a verb, and reads the result."""

    def __init__(self, harness: StoreHarness) -> None:
        self.harness = harness
        self.other: Claim[Any] | None = None

    async def begin(self, state: str) -> None:
        self.store = await self.harness.open()
        self.waits: WaitRegistry[Any] = WaitRegistry(self.store)
        ttl = LIFE if state == "expired" else 0
        self.old = await self._register(MINE, ttl)
        before = await self._claim("before", event_id="seen")
        await before.wait_again(session(MINE, "setting", ttl), HERE)
        self.own = await self._claim("a")
        self.twin = await self._claim("a")
        if state in ("waiting", "displaced", "expired"):
            await self._register(MINE, ttl)  # supersedes the own session
        if state in ("lease run out", "claimed (other)"):
            await self.harness.advance(LATER)
        if state == "claimed (other)":
            self.other = await self._claim("b")
        if state in ("displaced", "displaced, claimed"):
            await self._register(ANOTHER)
        if state == "expired":
            await self.harness.advance(LIFE)
        if state == "absent":
            assert await self.store.delete(MINE, ctx=OWNER)
        if state == "completed":
            await self.twin.complete(session(MINE, "setting"))

    async def _register(self, key: SessionKey, ttl: float = 0) -> Cas:
        return await self.waits.register_wait(OWNER, "ann", HERE, session(key, "setting", ttl))

    async def _claim(self, attempt: str, event_id: str | None = None) -> Claim[Any]:
        return await self.waits.claim(
            OWNER, "ann", HERE, attempt_id=attempt, event_id=event_id, lease=LEASE
        )

    async def play(self, verb: str, caller: str) -> str:
        try:
            return await self._call(verb, CTX[caller])
        except SessionError as error:
            return type(error).__name__

    async def _call(self, verb: str, ctx: TenantCtx) -> str:
        who = ctx, ctx.user_id or ""
        new = session(MINE, "verb")
        told: object
        match verb:
            case "register here":
                told = await self.waits.register_wait(*who, HERE, new)
            case "register elsewhere":
                told = await self.waits.register_wait(*who, ELSEWHERE, new)
            case "register another here":
                told = await self.waits.register_wait(*who, HERE, session(ANOTHER, "verb"))
            case "register over an old token":
                told = await self.waits.register_wait(*who, HERE, new, expected=self.old)
            case "register, seen event":
                told = await self.waits.register_wait(*who, HERE, new, event_id="seen")
            case "find here":
                told = await self.waits.find_wait_by_scope(*who, HERE)
            case "list":
                return f"[{', '.join(await self.waits.list_waits_for_user(*who))}]"
            case "claim, same attempt":
                return await self._claimed(ctx, attempt_id="a")
            case "claim, other attempt":
                return await self._claimed(ctx, attempt_id="c")
            case "claim, seen event":
                return await self._claimed(ctx, attempt_id="a", event_id="seen")
            case "renew":
                assert await self.own.renew() == self.own.lease_until
                return "time"
            case "complete":
                told = await self.own.complete(new)
            case "wait again elsewhere":
                told = await self.own.wait_again(new, ELSEWHERE)
            case "finish":
                await self.own.finish()
                return "None"
            case "save":
                told = await self.own.save(new)
            case "release":
                told = await self.own.release()
            case "clear here":
                told = await self.waits.clear_wait(*who, HERE)
            case "delete mine":
                told = await self.store.delete(MINE, ctx=ctx)
            case "touch mine":
                told = await self.store.touch(MINE, ctx=ctx)
            case _:
                pytest.fail(f"no such verb: {verb}")
        if isinstance(told, Cas):
            assert told != self.old
            return "token"
        return str(told)

    async def _claimed(self, ctx: TenantCtx, **fields: str) -> str:
        claim = await self.waits.claim(ctx, ctx.user_id or "", HERE, lease=LEASE, **fields)
        if claim.key == ANOTHER:
            return "claim on another"
        if (claim.fence, claim.cas) == (self.own.fence, self.own.cas):
            return "same claim"
        assert claim.fence > self.own.fence
        assert claim.cas.value > self.own.cas.value
        return "claim"

    async def record(self, *, ask_holder: bool) -> str:
        """Return the state of the session.

        A query of the holder changes the result of a claim, so one call makes only one of the two.
        """
        if await self.store.get(MINE, ctx=OWNER) is None:
            assert await self._where() is None
            assert MINE not in await self.waits.list_waits_for_user(OWNER, "ann")
            return "absent"
        where = await self._where()
        listed = MINE in await self.waits.list_waits_for_user(OWNER, "ann")
        assert listed == (where is not None)
        if ask_holder:
            own, other = await _holds(self.own), await _holds(self.other)
            assert not (own and other)
            if where is None:
                return "claimed only" if own or other else "resting"
            if where == ELSEWHERE:
                assert not own
                assert not other
                return "elsewhere"
            if own:
                return "claimed|run out"
            return "held by another" if other else "waiting|held by another"
        if where is None:
            return "resting|claimed only"
        try:
            claim = await self.waits.claim(OWNER, "ann", where)
        except WaitClaimedError:
            return "claimed|held by another"
        assert claim.key == MINE
        return "elsewhere" if where == ELSEWHERE else "waiting|run out"

    async def _where(self) -> ReplyScope | None:
        found = [
            scope
            for scope in (HERE, ELSEWHERE)
            if await self.waits.find_wait_by_scope(OWNER, "ann", scope) == MINE
        ]
        assert len(found) < 2
        return found[0] if found else None


async def _holds(claim: Claim[Any] | None) -> bool:
    if claim is None:
        return False
    try:
        await claim.renew()
    except LeaseLostError:
        return False
    return True


async def _check(play: Play, row: Transition, *, ask_holder: bool) -> None:
    await play.begin(row.state)
    before = await play.store.get(MINE, ctx=OWNER)
    result = await play.play(row.verb, row.caller)
    after = await play.store.get(MINE, ctx=OWNER)
    assert result == row.result
    assert row.record in (await play.record(ask_holder=ask_holder)).split("|")
    if after is None:
        assert row.record == "absent"
    elif row.written:
        assert after.session.context == {"by": "verb"}
    else:
        assert before is not None
        assert after.session.context == {"by": "setting"}
        # Only a claim changes the token without a write of the state.
        moved = row.result == "claim"
        assert after.cas.value == before.cas.value + moved
        assert after.cas.incarnation == before.cas.incarnation


ROWS = pytest.mark.parametrize(
    "row", TRANSITIONS, ids=[f"{row.state}-{row.verb}-{row.caller}" for row in TRANSITIONS]
)


@ROWS
async def test_row_of_the_transition_table_holds_in_memory(row: Transition) -> None:
    for ask_holder in (False, True):
        async with MemoryHarness() as harness:
            await _check(Play(harness), row, ask_holder=ask_holder)


@ROWS
async def test_row_of_the_transition_table_holds_on_a_server(
    row: Transition, valkey_url: str, *, is_full_run: bool
) -> None:
    # They differ in the look at the record afterwards. In memory each row has both of them.
    for ask_holder in (False, True) if is_full_run else (TRANSITIONS.index(row) % 2 == 1,):
        async with RedisHarness(valkey_url) as harness:
            await _check(Play(harness), row, ask_holder=ask_holder)


def test_the_table_is_whole() -> None:
    counts = Counter((row.state, row.verb) for row in TRANSITIONS)
    assert set(counts) == {(state, verb) for state in STATES for verb in VERBS}
    assert set(counts.values()) == {1, len(CALLERS)}
    assert len(set(TRANSITIONS)) == len(TRANSITIONS) >= 200


def test_the_guide_shows_the_table_and_defines_its_states() -> None:
    path = Path(__file__).parents[2] / "greentic_session" / "waits" / "README.md"
    guide = path.read_text("utf-8")
    assert transition_table() in guide
    assert [state for state in STATES if f"\n| {state} | " not in guide] == []
    others = {*STATES.values()} - {*STATES} - {"claimed", "run out"}
    assert [state for state in others if f"*{state}*" not in guide.lower()] == []
