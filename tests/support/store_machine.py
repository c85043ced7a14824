"""A model, the memory backend and a server in parallel, driven by random steps.

The test moves time in whole steps of 100 s, so that an expiry exactly at the boundary is frequent.
The server's clock runs too, but the few seconds of a run make no difference.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

import msgspec
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from greentic_session.memory import InMemorySessionStore
from greentic_session.model import OutboxEntry, Session, SessionKey, TenantCtx
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from .store_model import (
    CONTEXTS,
    ENVS,
    FAR_SECS,
    KEYS,
    NO_TOKEN,
    TEAMS,
    TENANTS,
    TTLS,
    USERS,
    Address,
    Backend,
    Caller,
    Content,
    DisagreementError,
    Fields,
    Model,
    Owner,
    Token,
    answer,
    as_read,
    as_returned,
    counted,
    ctx_of,
    distinct,
    session_of,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from greentic_session.store import AsyncSessionStore

    Store = InMemorySessionStore[Any]


SEED: Final = int(os.environ.get("GREENTIC_SESSION_TEST_SEED", "20240229"))

# --- the machine ---------------------------------------------------------------------------------

# A few addresses are frequent, so that steps hit the same record often enough. The second one
# shares its key with the first, and differs from the third only in the tenant.
addresses: Final = st.one_of(
    st.just(Address(ENVS[0], TENANTS[0], KEYS[0])),
    st.just(Address(ENVS[0], TENANTS[0], KEYS[0])),
    st.sampled_from((Address(ENVS[0], TENANTS[1], KEYS[0]), Address(ENVS[0], TENANTS[1], KEYS[1]))),
    st.builds(Address, st.sampled_from(ENVS), st.sampled_from(TENANTS), st.sampled_from(KEYS)),
)
owners: Final = st.builds(Owner, st.sampled_from(TEAMS), st.sampled_from(USERS))
# Most steps must pass the access check. Most of the others must fail only by the user.
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
            self.in_order = False  # an exception from here on, so the end adds nothing
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
            # The first version has none before it. Then take the next one, which is not in use yet.
            value = found.token.value - 1 or found.token.value + 1
            return Token(value, found.token.incarnation)
        if kind == "reborn":
            # Of the same version if possible, so that only the incarnation differs.
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
        """Check that nothing is left when every session has ended."""
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
