"""A model of the store as a plain dictionary, and its comparison with a store.

The model is written from the contract alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from greentic_session.errors import SessionError
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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from greentic_session.memory import InMemorySessionStore
    from greentic_session.store import AsyncSessionStore
    from greentic_session.testing.harness import MemoryHarness, RedisHarness

    Store = InMemorySessionStore[Any]


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
    """The caller of a step: the stored session's owner, a teammate, or the drawn owner."""

    drawn: Owner
    role: str


class Content(NamedTuple):
    ttl: int
    context: dict[str, Any]
    outbox: tuple[int, ...]


class Token(NamedTuple):
    """A ``Cas`` in the model. Incarnations are numbered."""

    value: int
    incarnation: int


class Ident(NamedTuple):
    """A session's ``id`` in the model."""

    incarnation: int


class Stamp(NamedTuple):
    """A time, comparable only if the test controls the clock."""

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


class Refused(Exception):  # noqa: N818 - a result of the model, not an error of the test
    def __init__(self, *outcome: object) -> None:
        self.outcome = outcome


@dataclass
class Model:
    """The contract in one dictionary."""

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
        """Return a record. Without a caller, find the key in any tenant."""
        if caller is not None:
            found = self.visible(address, caller)
            return None if found is None else (address, found)
        holders = [(a, f) for a, f in self.everything().items() if a.key == address.key]
        if len(holders) > 1:
            raise Refused("AmbiguousKeyError", address.key)
        return holders[0] if holders else None

    def write(self, address: Address, new: Fields) -> Token:
        """Write a record. ``new.token`` is ignored.

        The record's own token increases, or a new one is created.
        """
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
        """Write over a token. ``expected`` None is a token that was never issued."""
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
    """Return the model's answer, with a refusal as a value."""
    try:
        return call()
    except Refused as refused:
        return tuple(MADE_UP if part is None else part for part in refused.outcome)


def may_act(caller: Owner, owner: Owner) -> bool:
    same_team = caller.team_id == owner.team_id
    return same_team and (owner.user_id is None or owner.user_id == caller.user_id)


def counted(context: dict[str, Any]) -> dict[str, Any]:
    return {**context, "count": context.get("count", 0) + 1}


# --- between the model's values and the library's ------------------------------------------------


def entry(number: int, position: int) -> OutboxEntry:
    # The time differs if the pair is the same, to show which of two was kept.
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
    """Return the entries that stay, each with the time of its first occurrence."""
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
    """A backend's answer differs from the model's."""


@dataclass
class Backend:
    """A store, and the mapping of its random incarnations and ids to the model's numbers."""

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
        """Compare, and learn the backend's name for each incarnation."""
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
        # Types count as well: 1 is not 1.0 to the application that stored it.
        return expected == got and repr(expected) == repr(got)


def _same(known: dict[int, Any], number: int, value: Any) -> bool:
    if number not in known and value not in known.values():
        known[number] = value
    return bool(known.get(number) == value)


async def told(call: Awaitable[object]) -> object:
    """Return an outcome as a value: the result, or the error's class and fields."""
    try:
        return await call
    except SessionError as error:
        fields = tuple(
            getattr(error, name) for name in ("key", "expected", "current") if hasattr(error, name)
        )
        return (type(error).__name__, *fields)
