"""A model, the memory backend and a server side by side, driven by random steps.

The model is a plain dictionary written from the contract alone. Time moves by hand in whole steps
of 100 s, so that expiry exactly at the boundary happens often, and the few seconds that a run takes
on a server, whose clock goes on by itself, decide nothing.

The last test plants faults into the memory backend, and asks of the machine to notice each.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

import greentic_session.memory.store as memory_store
from greentic_session import drafting, fence
from greentic_session.errors import SessionError
from greentic_session.memory import InMemorySessionStore
from greentic_session.memory.expiry import ExpiryIndex, Name
from greentic_session.model import (
    Cas,
    OutboxEntry,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    Versioned,
)
from greentic_session.record import Admission, Draft, Verdict
from greentic_session.testing.harness import MemoryHarness, RedisHarness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from greentic_session.store import AsyncSessionStore

    Store = InMemorySessionStore[Any]

SEED: Final = int(os.environ.get("GREENTIC_SESSION_TEST_SEED", "20240229"))

ENVS: Final = ("prod", "dev")
TENANTS: Final = ("acme", "globex")
KEYS: Final = ("a:b{c}%7B", "*?[x]\\{}", "ключ é🙂%")
TEAMS: Final = (None, "red", "blue")
USERS: Final = (None, "ann", "b/ob:{%}")
TTLS: Final = (0, 100, 200, 300)
CONTEXTS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"n": 1},
    {"n": 2**60, "list": [], "half": 1.0},
    {"text": "é\x00\u2028", "none": None},
)
FAR_SECS: Final = 100_000
MADE_UP: Final = Cas(value=1, incarnation="0" * 32)


class Address(NamedTuple):
    env: str
    tenant_id: str
    key: str


class Owner(NamedTuple):
    team_id: str | None
    user_id: str | None


class Caller(NamedTuple):
    """Who makes a step: the owner of what lives there or a teammate; else, the one drawn."""

    drawn: Owner
    role: str


class Content(NamedTuple):
    ttl: int
    context: dict[str, Any]
    outbox: tuple[int, ...]


class Token(NamedTuple):
    """What a ``Cas`` is in the model: the incarnations are numbered."""

    value: int
    incarnation: int


class Ident(NamedTuple):
    """What a session's ``id`` is in the model."""

    incarnation: int


class Stamp(NamedTuple):
    """A time, comparable only where the test owns the clock."""

    ms: int | None


NO_TOKEN: Final = Token(0, 0)


@dataclass(frozen=True)
class Fields:
    owner: Owner
    token: Token
    ttl: int
    at_ms: int
    context: dict[str, Any]
    outbox: tuple[int, ...]

    @property
    def expires_ms(self) -> int | None:
        return self.at_ms + self.ttl * 1000 if self.ttl else None


class Refused(Exception):  # noqa: N818 - a result of the model, not a fault of the test
    def __init__(self, *outcome: object) -> None:
        self.outcome = outcome


@dataclass
class Model:
    """What the contract says, in one dictionary."""

    now_ms: int
    fields: dict[Address, Fields] = field(default_factory=dict)
    born: int = 0

    def live(self, address: Address) -> Fields | None:
        found = self.fields.get(address)
        if found is None or (found.expires_ms is not None and self.now_ms >= found.expires_ms):
            return None
        return found

    def everything(self) -> dict[Address, Fields]:
        return {a: found for a in self.fields if (found := self.live(a)) is not None}

    def visible(self, address: Address, caller: Owner) -> Fields | None:
        found = self.live(address)
        if found is not None and not may_act(caller, found.owner):
            raise Refused("TenantMismatchError", address.key)
        return found

    def find(self, address: Address, caller: Owner | None) -> tuple[Address, Fields] | None:
        """``caller`` None: a call without ctx, which finds the key in whatever tenant has it."""
        if caller is not None:
            found = self.visible(address, caller)
            return None if found is None else (address, found)
        holders = [(a, f) for a, f in self.everything().items() if a.key == address.key]
        if len(holders) > 1:
            raise Refused("AmbiguousKeyError", address.key)
        return holders[0] if holders else None

    def write(self, address: Address, new: Fields) -> Token:
        """``new.token`` is of no account: the record's own grows, or a new one is born."""
        found = self.live(address)
        if found is None:
            self.born += 1
            token = Token(1, self.born)
        else:
            token = Token(found.token.value + 1, found.token.incarnation)
        outbox = tuple(dict.fromkeys(new.outbox))
        self.fields[address] = replace(new, token=token, at_ms=self.now_ms, outbox=outbox)
        return token

    def owned(self, address: Address, owner: Owner) -> Fields | None:
        found = self.live(address)
        if found is not None and found.owner != owner:
            raise Refused("TenantMismatchError", address.key)
        return found

    def create(self, address: Address, new: Fields) -> Token:
        if self.owned(address, new.owner) is not None:
            raise Refused("SessionExistsError", address.key)
        return self.write(address, new)

    def put(self, address: Address, new: Fields) -> Token:
        self.owned(address, new.owner)
        return self.write(address, new)

    def update_cas(self, address: Address, new: Fields, expected: Token | None) -> Token:
        """``expected`` None: a token that was never given out."""
        found = self.owned(address, new.owner)
        if found is None or found.token != expected:
            current = NO_TOKEN if found is None else found.token
            raise Refused("CasConflictError", address.key, expected, current)
        return self.write(address, new)

    def change(
        self, address: Address, caller: Owner | None, *, steals: bool
    ) -> tuple[Address, Fields]:
        target = self.find(address, caller)
        if target is None:
            raise Refused("SessionNotFoundError", address.key)
        if steals:
            raise Refused("TenantMismatchError", address.key)
        address, found = target
        self.write(address, replace(found, context=counted(found.context)))
        return address, self.fields[address]

    def touch(self, address: Address, ttl: int | None, caller: Owner | None) -> bool:
        target = self.find(address, caller)
        if target is None:
            return False
        address, found = target
        ttl = found.ttl if ttl is None else ttl
        self.fields[address] = replace(found, ttl=ttl, at_ms=self.now_ms)
        return True

    def delete(
        self, address: Address, caller: Owner | None, expected: tuple[Token | None] | None
    ) -> bool:
        target = self.find(address, caller)
        if target is None:
            return False
        address, found = target
        if expected is not None and found.token != expected[0]:
            raise Refused("CasConflictError", address.key, expected[0], found.token)
        del self.fields[address]
        return True

    def scan(self, env: str, tenant_id: str, caller: Owner) -> list[tuple[Address, Fields]]:
        seen = []
        for address, found in self.everything().items():
            if (address.env, address.tenant_id) != (env, tenant_id):
                continue
            if caller.user_id is not None:
                shown = may_act(caller, found.owner)
            elif caller.team_id is not None:
                shown = caller.team_id == found.owner.team_id
            else:
                shown = True
            if shown:
                seen.append((address, found))
        return sorted(seen, key=lambda pair: pair[0].key)


def answer(call: Callable[[], object]) -> object:
    """What the model answers, a refusal as a value like any other."""
    try:
        return call()
    except Refused as refused:
        return tuple(MADE_UP if part is None else part for part in refused.outcome)


def may_act(caller: Owner, owner: Owner) -> bool:
    same_team = caller.team_id == owner.team_id
    return same_team and (owner.user_id is None or owner.user_id == caller.user_id)


def counted(context: dict[str, Any]) -> dict[str, Any]:
    return {**context, "count": context.get("count", 0) + 1}


# --- from the model's words to the library's and back --------------------------------------------


def entry(number: int, position: int) -> OutboxEntry:
    # The time differs where the pair is the same, so that it shows which of two was kept.
    at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=position)
    return OutboxEntry(
        seq=number % 2, payload_sha256=hashlib.sha256(bytes([number])).digest(), created_at=at
    )


def entries(numbers: Sequence[int]) -> tuple[OutboxEntry, ...]:
    return tuple(entry(number, position) for position, number in enumerate(numbers))


def session_of(address: Address, new: Fields) -> Session[Any]:
    return Session(
        key=SessionKey(address.key),
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta(
            tenant_id=address.tenant_id,
            env=address.env,
            team_id=new.owner.team_id,
            user_id=new.owner.user_id,
        ),
        context=new.context,
        outbox=entries(new.outbox),
        ttl_secs=new.ttl,
    )


def ctx_of(env: str, tenant_id: str, caller: Owner) -> TenantCtx:
    return TenantCtx(tenant_id=tenant_id, env=env, team_id=caller.team_id, user_id=caller.user_id)


def distinct(numbers: Sequence[int]) -> tuple[OutboxEntry, ...]:
    """The entries that stay, each with the time of its first appearance."""
    return tuple(entry(number, tuple(numbers).index(number)) for number in dict.fromkeys(numbers))


def as_read(address: Address, found: Fields, outbox: tuple[OutboxEntry, ...]) -> tuple[object, ...]:
    session = session_of(address, found)
    return (
        address.key,
        session.meta,
        session.cursor,
        found.context,
        outbox,
        float(found.ttl),
        found.token,
        Ident(found.token.incarnation),
        Stamp(found.at_ms),
        Stamp(found.expires_ms),
    )


def as_returned(versioned: Versioned[Any], *, own_clock: bool) -> tuple[object, ...]:
    session, cas = versioned
    updated: int | None = None
    expires: int | None = None
    if own_clock:
        updated = round(session.updated_at.timestamp() * 1000)
        if session.expires_at is not None:
            expires = round(session.expires_at.timestamp() * 1000)
    return (
        session.key,
        session.meta,
        session.cursor,
        session.context,
        session.outbox,
        session.ttl_secs,
        cas,
        session.id,
        Stamp(updated),
        Stamp(expires),
    )


class DisagreementError(AssertionError):
    """A backend answered what the model does not."""


@dataclass
class Backend:
    """A store, and which of its random incarnations and ids is which of the model's numbers."""

    name: str
    harness: MemoryHarness | RedisHarness
    store: AsyncSessionStore[Any]
    own_clock: bool
    incarnations: dict[int, str] = field(default_factory=dict)
    idents: dict[int, Any] = field(default_factory=dict)

    def cas(self, token: Token | None) -> Cas:
        if token is None:
            return MADE_UP
        if token == NO_TOKEN:
            return Cas.none()
        return Cas(value=token.value, incarnation=self.incarnations[token.incarnation])

    def matches(self, expected: object, got: object) -> bool:
        """Compare, learning on the way what an incarnation is called here: one name for each."""
        if isinstance(expected, Token):
            if not isinstance(got, Cas) or got.value != expected.value:
                return False
            if expected == NO_TOKEN:
                return got == Cas.none()
            return _same(self.incarnations, expected.incarnation, got.incarnation)
        if isinstance(expected, Ident):
            return _same(self.idents, expected.incarnation, got)
        if isinstance(expected, Stamp):
            return not self.own_clock or expected == got
        if isinstance(expected, (tuple, list)) and isinstance(got, (tuple, list)):
            return len(expected) == len(got) and all(
                self.matches(one, other) for one, other in zip(expected, got, strict=True)
            )
        # Types as well: 1 is not 1.0 to an application that stored it.
        return expected == got and repr(expected) == repr(got)


def _same(known: dict[int, Any], number: int, value: Any) -> bool:
    if number not in known and value not in known.values():
        known[number] = value
    return bool(known.get(number) == value)


async def told(call: Awaitable[object]) -> object:
    """An outcome as a value: what came back, or the error's class and fields."""
    try:
        return await call
    except SessionError as error:
        fields = tuple(
            getattr(error, name) for name in ("key", "expected", "current") if hasattr(error, name)
        )
        return (type(error).__name__, *fields)


# --- the machine ---------------------------------------------------------------------------------

# A few places come up most, so that steps meet the same record often enough; the second of them
# shares its key with the first, and only its tenant with the third.
addresses: Final = st.one_of(
    st.just(Address(ENVS[0], TENANTS[0], KEYS[0])),
    st.just(Address(ENVS[0], TENANTS[0], KEYS[0])),
    st.sampled_from((Address(ENVS[0], TENANTS[1], KEYS[0]), Address(ENVS[0], TENANTS[1], KEYS[1]))),
    st.builds(Address, st.sampled_from(ENVS), st.sampled_from(TENANTS), st.sampled_from(KEYS)),
)
owners: Final = st.builds(Owner, st.sampled_from(TEAMS), st.sampled_from(USERS))
# Most steps should pass the fence, and of the others most should fail by the user alone.
callers: Final = st.builds(
    Caller, owners, st.sampled_from(("owner", "owner", "owner", "teammate", "anybody"))
)
contents: Final = st.builds(
    Content,
    st.sampled_from(TTLS),
    st.sampled_from(CONTEXTS),
    st.lists(st.integers(0, 3), max_size=4).map(tuple),
)
tokens: Final = st.sampled_from(("current", "current", "stale", "reborn", "foreign", "none", "new"))


class StoreMachine(RuleBasedStateMachine):
    """One model, any number of backends."""

    def __init__(self, valkey_url: str | None) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        memory = MemoryHarness()
        harnesses: list[tuple[str, MemoryHarness | RedisHarness]] = [("memory", memory)]
        if valkey_url is not None:
            harnesses.append(("valkey", RedisHarness(valkey_url)))
        self.backends = [
            Backend(name, harness, self.runner.run(self._opened(harness)), name == "memory")
            for name, harness in harnesses
        ]
        self.memory = memory
        self.model = Model(now_ms=memory.clock.now_ms())
        self.issued: dict[Address, list[Token]] = {}
        self.kept_outbox: dict[Address, tuple[OutboxEntry, ...]] = {}
        self.in_order = True

    @staticmethod
    async def _opened(harness: MemoryHarness | RedisHarness) -> AsyncSessionStore[Any]:
        return await (await harness.__aenter__()).open()

    # --- one step on everything ---

    def check(
        self, expected: object, call: Callable[[Backend], Coroutine[Any, Any, object]]
    ) -> None:
        for backend in self.backends:
            self.in_order = False  # an exception from here on: nothing more to learn at the end
            got = self.runner.run(told(call(backend)))
            if not backend.matches(expected, got):
                message = f"{backend.name}: expected {expected!r}, got {got!r}"
                raise DisagreementError(message)
            self.in_order = True

    def as_read(self, target: tuple[Address, Fields] | None) -> tuple[object, ...] | None:
        if target is None:
            return None
        address, found = target
        return as_read(address, found, self.kept_outbox[address])

    def wrote(self, address: Address, new: Fields, call: Callable[[], Token]) -> object:
        token = answer(call)
        if isinstance(token, Token):
            self.kept_outbox[address] = distinct(new.outbox)
            self.issued.setdefault(address, []).append(token)
        return token

    def owner(self, address: Address, caller: Caller) -> Owner:
        found = self.model.live(address)
        if found is None or caller.role == "anybody":
            return caller.drawn
        if caller.role == "teammate":
            return Owner(found.owner.team_id, caller.drawn.user_id)
        return found.owner

    def token(self, address: Address, kind: str) -> Token | None:
        found = self.model.live(address)
        if kind == "none":
            return NO_TOKEN
        if kind == "current" and found is not None:
            return found.token
        if kind == "stale" and found is not None:
            # Before the first version there is none: then the next, which is not given out yet.
            value = found.token.value - 1 or found.token.value + 1
            return Token(value, found.token.incarnation)
        if kind == "reborn":
            # Of the same version, where there is one: nothing but the incarnation tells them apart.
            gone = [
                token
                for token in self.issued.get(address, ())
                if found is None or token.incarnation != found.token.incarnation
            ]
            same = [token for token in gone if found and token.value == found.token.value]
            return next(reversed(same or gone), None)
        if kind == "foreign":
            others = (self.model.live(other) for other in self.model.fields if other != address)
            return next((other.token for other in others if other is not None), None)
        return None

    def new(self, address: Address, caller: Caller, content: Content) -> Fields:
        return Fields(self.owner(address, caller), NO_TOKEN, at_ms=0, **content._asdict())

    # --- writes ---

    @rule(address=addresses, caller=callers, content=contents)
    def create(self, address: Address, caller: Caller, content: Content) -> None:
        new = self.new(address, caller, content)
        expected = self.wrote(address, new, lambda: self.model.create(address, new))
        self.check(expected, lambda backend: backend.store.create(session_of(address, new)))

    @rule(address=addresses, caller=callers, content=contents)
    def put(self, address: Address, caller: Caller, content: Content) -> None:
        new = self.new(address, caller, content)
        expected = self.wrote(address, new, lambda: self.model.put(address, new))
        self.check(expected, lambda backend: backend.store.put(session_of(address, new)))

    @rule(address=addresses, caller=callers, content=contents, kind=tokens)
    def update_cas(self, address: Address, caller: Caller, content: Content, kind: str) -> None:
        new = self.new(address, caller, content)
        token = self.token(address, kind)
        expected = self.wrote(address, new, lambda: self.model.update_cas(address, new, token))
        self.check(
            expected,
            lambda backend: backend.store.update_cas(session_of(address, new), backend.cas(token)),
        )

    @rule(address=addresses, caller=callers, with_ctx=st.booleans(), steals=st.booleans())
    def mutate(self, address: Address, caller: Caller, with_ctx: bool, steals: bool) -> None:
        owner = self.owner(address, caller) if with_ctx else None

        def model() -> object:
            target, found = self.model.change(address, owner, steals=steals)
            self.issued[target].append(found.token)
            return self.as_read((target, found))

        def change(session: Session[Any]) -> Session[Any]:
            if steals:
                meta = msgspec.structs.replace(session.meta, user_id="mallory")
                return msgspec.structs.replace(session, meta=meta)
            return msgspec.structs.replace(session, context=counted(session.context))

        async def call(backend: Backend) -> object:
            written = await backend.store.mutate(
                SessionKey(address.key), change, ctx=self.ctx(address, owner)
            )
            return as_returned(written, own_clock=backend.own_clock)

        self.check(answer(model), call)

    @staticmethod
    def ctx(address: Address, owner: Owner | None) -> TenantCtx | None:
        return None if owner is None else ctx_of(address.env, address.tenant_id, owner)

    @rule(
        address=addresses,
        caller=callers,
        with_ctx=st.booleans(),
        ttl=st.sampled_from((None, *TTLS)),
    )
    def touch(self, address: Address, caller: Caller, with_ctx: bool, ttl: int | None) -> None:
        owner = self.owner(address, caller) if with_ctx else None
        expected = answer(lambda: self.model.touch(address, ttl, owner))
        self.check(
            expected,
            lambda backend: backend.store.touch(
                SessionKey(address.key), ttl, ctx=self.ctx(address, owner)
            ),
        )

    @rule(
        address=addresses,
        caller=callers,
        with_ctx=st.booleans(),
        kind=st.one_of(st.none(), tokens),
    )
    def delete(self, address: Address, caller: Caller, with_ctx: bool, kind: str | None) -> None:
        owner = self.owner(address, caller) if with_ctx else None
        token = None if kind is None else (self.token(address, kind),)
        expected = answer(lambda: self.model.delete(address, owner, token))
        self.check(
            expected,
            lambda backend: backend.store.delete(
                SessionKey(address.key),
                ctx=self.ctx(address, owner),
                expected=None if token is None else backend.cas(token[0]),
            ),
        )

    # --- reads ---

    @rule(address=addresses, caller=callers, with_ctx=st.booleans())
    def get(self, address: Address, caller: Caller, with_ctx: bool) -> None:
        owner = self.owner(address, caller) if with_ctx else None
        expected = answer(lambda: self.as_read(self.model.find(address, owner)))

        async def call(backend: Backend) -> object:
            found = await backend.store.get(SessionKey(address.key), ctx=self.ctx(address, owner))
            return found and as_returned(found, own_clock=backend.own_clock)

        self.check(expected, call)

    @rule(address=addresses, caller=callers, keys=st.lists(st.sampled_from(KEYS), max_size=4))
    def get_many(self, address: Address, caller: Caller, keys: list[str]) -> None:
        owner = self.owner(address, caller)
        ctx = ctx_of(address.env, address.tenant_id, owner)
        expected = answer(
            lambda: [
                self.as_read(self.model.find(address._replace(key=key), owner)) for key in keys
            ]
        )

        async def call(backend: Backend) -> object:
            many = await backend.store.get_many([SessionKey(key) for key in keys], ctx=ctx)
            return [one and as_returned(one, own_clock=backend.own_clock) for one in many]

        self.check(expected, call)

    @rule(
        address=addresses,
        caller=st.one_of(st.just(Owner(None, None)), owners),
        batch_size=st.sampled_from((1, 2, 256)),
    )
    def scan(self, address: Address, caller: Owner, batch_size: int) -> None:
        ctx = ctx_of(address.env, address.tenant_id, caller)
        seen = self.model.scan(address.env, address.tenant_id, caller)
        expected = [self.as_read(target) for target in seen]

        async def call(backend: Backend) -> object:
            got = [
                as_returned(found, own_clock=backend.own_clock)
                async for found in backend.store.scan(ctx, batch_size=batch_size)
            ]
            return sorted(got, key=lambda read: str(read[0]))

        self.check(expected, call)

    # --- time ---

    @rule(secs=st.sampled_from((100, 100, 200, 300)), sweeps=st.booleans())
    def advance(self, secs: int, sweeps: bool) -> None:
        self.model.now_ms += secs * 1000
        for backend in self.backends:
            self.runner.run(backend.harness.advance(secs))
        if sweeps:
            self.runner.run(self._sweep())

    async def _sweep(self) -> None:
        store = self.backends[0].store
        assert isinstance(store, InMemorySessionStore)
        await store.sweep()
        seen = store.statistics()
        live = self.model.everything()
        sizes = (
            len(live),
            sum(1 for found in live.values() if found.ttl),
            len({(address.env, address.tenant_id) for address in live}),
            len({address.key for address in live}),
        )
        got = (seen.sessions, seen.expiring, seen.tenants, seen.lookups)
        if got != sizes:
            self.in_order = False
            message = f"after a sweep: expected {sizes}, got {got}"
            raise DisagreementError(message)

    # --- the end ---

    def teardown(self) -> None:
        try:
            if self.in_order:
                self.runner.run(self._ends())
        finally:
            for backend in self.backends:
                self.runner.run(_left(backend.harness))
            self.runner.close()

    async def _ends(self) -> None:
        """When every life has ended nothing is left."""
        for backend in self.backends:
            for address, found in self.model.everything().items():
                ctx = ctx_of(address.env, address.tenant_id, found.owner)
                if found.ttl == 0 and not await backend.store.delete(
                    SessionKey(address.key), ctx=ctx
                ):
                    message = f"{backend.name}: {address} was absent at the end"
                    raise DisagreementError(message)
            await backend.harness.advance(FAR_SECS)
            left = await backend.harness.residue()
            if left:
                message = f"{backend.name}: left behind {left}"
                raise DisagreementError(message)


async def _left(harness: MemoryHarness | RedisHarness) -> None:
    await harness.__aexit__(None, None, None)


def drive(valkey_url: str | None, *, examples: int, phases: Sequence[Phase]) -> None:
    """Run the machine under the suite's seed, which a failure prints."""
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure

    @seed(SEED)
    class Seeded(StoreMachine):
        def __init__(self) -> None:
            super().__init__(valkey_url)

    run_state_machine_as_test(
        Seeded,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
            print_blob=False,
        ),
    )


@pytest.mark.timeout(300)
def test_every_backend_does_what_the_model_does(valkey_url: str) -> None:
    drive(valkey_url, examples=150, phases=[Phase.generate, Phase.shrink])


# --- does it notice? -----------------------------------------------------------------------------


def plant(patch: pytest.MonkeyPatch, name: str, primitive: Callable[..., Awaitable[Any]]) -> None:
    """Put a wrong primitive in the place of the memory backend's, which it gets to call."""
    right = getattr(InMemorySessionStore, name)

    async def planted(self: Store, *args: Any) -> Any:
        return await primitive(self, partial(right, self), *args)

    patch.setattr(InMemorySessionStore, name, planted)


def late_expiry(patch: pytest.MonkeyPatch) -> None:
    pop_due = ExpiryIndex.pop_due

    def expired(held: Any, now_ms: int) -> bool:
        return held.ttl_ms != 0 and bool(now_ms > held.at_ms + held.ttl_ms)

    def popped(self: ExpiryIndex, now_ms: int) -> Name | None:
        return pop_due(self, now_ms - 1)  # or a sweep would visit such a record for ever

    patch.setattr(memory_store, "_expired", expired)
    patch.setattr(ExpiryIndex, "pop_due", popped)


def kept_incarnation(patch: pytest.MonkeyPatch) -> None:
    async def put(self: Store, right: Any, draft: Draft, *rest: Any) -> Any:
        now_ms = self._clock.now_ms()
        held = self._tenants.get(draft.scope, {}).get(draft.key)
        if held is None or self._live(draft.scope, draft.key, now_ms) is not None:
            return await right(draft, *rest)
        return self._write(draft, held.value + 1, held.incarnation, now_ms)

    plant(patch, "_put", put)


def moving_touch(patch: pytest.MonkeyPatch) -> None:
    async def touch(self: Store, right: Any, scope: str, key: str, *rest: Any) -> Any:
        outcome = await right(scope, key, *rest)
        if outcome.verdict is Verdict.DONE:
            held = self._tenants[scope][key]
            self._tenants[scope][key] = msgspec.structs.replace(held, value=held.value + 1)
        return outcome

    plant(patch, "_touch", touch)


def lifeless_touch(patch: pytest.MonkeyPatch) -> None:
    async def touch(_: Store, right: Any, scope: str, key: str, _ttl_ms: Any, *rest: Any) -> Any:
        return await right(scope, key, None, *rest)

    plant(patch, "_touch", touch)


def open_fence(patch: pytest.MonkeyPatch) -> None:
    def admits(admission: Admission | None, owner: str) -> bool:
        return admission is None or owner.startswith(admission.shared)

    patch.setattr(fence, "admits", admits)


def open_owner(patch: pytest.MonkeyPatch) -> None:
    owner_of = fence.owner_of

    def without_user(who: SessionMeta | TenantCtx) -> fence.Owner:
        return owner_of(who)._replace(owner=f"{who.team_id or ''}/")

    patch.setattr(fence, "owner_of", without_user)


def kept_lookup(patch: pytest.MonkeyPatch) -> None:
    def forget(self: Store, scope: str, key: str) -> None:
        tenant = self._tenants[scope]
        del tenant[key]
        if not tenant:
            del self._tenants[scope]

    patch.setattr(InMemorySessionStore, "_forget", forget)


def blind_to(field_name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def blind(patch: pytest.MonkeyPatch) -> None:
        async def update(self: Store, right: Any, draft: Draft, cas: Cas, *rest: Any) -> Any:
            live = self._live(draft.scope, draft.key, self._clock.now_ms())
            if live is not None:
                seen = {field_name: getattr(live, field_name)}
                cas = msgspec.structs.replace(cas, **seen)
            return await right(draft, cas, *rest)

        plant(patch, "_update_cas", update)

    return blind


def creating_update(patch: pytest.MonkeyPatch) -> None:
    async def update(self: Store, right: Any, draft: Draft, cas: Cas, *rest: Any) -> Any:
        if self._live(draft.scope, draft.key, self._clock.now_ms()) is None:
            return await self._create(draft)
        return await right(draft, cas, *rest)

    plant(patch, "_update_cas", update)


def unexpecting_delete(patch: pytest.MonkeyPatch) -> None:
    async def delete(
        _: Store, right: Any, scope: str, key: str, who: Any, _expected: Any, *rest: Any
    ) -> Any:
        return await right(scope, key, who, None, *rest)

    plant(patch, "_delete", delete)


def one_tenant_of_many(patch: pytest.MonkeyPatch) -> None:
    async def holders(_: Store, right: Any, *args: Any) -> Any:
        return (await right(*args))[:1]

    plant(patch, "_holders", holders)


def replacing_create(patch: pytest.MonkeyPatch) -> None:
    async def create(self: Store, _right: Any, draft: Draft, *_rest: Any) -> Any:
        return await self._put(draft)

    plant(patch, "_create", create)


def repeated_outbox(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(drafting, "distinct_entries", tuple)


def last_of_outbox(patch: pytest.MonkeyPatch) -> None:
    def last(outbox: Sequence[OutboxEntry]) -> tuple[OutboxEntry, ...]:
        return tuple({(e.seq, e.payload_sha256): e for e in outbox}.values())

    patch.setattr(drafting, "distinct_entries", last)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "planted",
    [
        late_expiry,
        kept_incarnation,
        moving_touch,
        lifeless_touch,
        open_fence,
        open_owner,
        kept_lookup,
        pytest.param(blind_to("incarnation"), id="blind_to_incarnation"),
        pytest.param(blind_to("value"), id="blind_to_version"),
        creating_update,
        unexpecting_delete,
        one_tenant_of_many,
        replacing_create,
        repeated_outbox,
        last_of_outbox,
    ],
)
def test_machine_notices_a_planted_fault(
    planted: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch)
    with pytest.raises(DisagreementError):
        drive(None, examples=1000, phases=[Phase.generate])
