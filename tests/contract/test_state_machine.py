"""Tests of the state machine on every backend, and of its ability to detect a wrong one."""

from __future__ import annotations

from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import Phase

import greentic_session.memory.records as memory_records
from greentic_session._core import encoding, tenancy
from greentic_session.abc.records import AllowedOwners, EncodedSession, Verdict
from greentic_session.memory import InMemorySessionStore
from greentic_session.memory.expiry import ExpiryIndex, Name
from greentic_session.memory.records import Records

from ..support.store_machine import drive
from ..support.store_model import DisagreementError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from greentic_session.memory.records import StoredRecord
    from greentic_session.model import Cas, OutboxEntry, SessionMeta, TenantCtx

    Store = InMemorySessionStore[Any]


@pytest.mark.timeout(300)
def test_every_backend_does_what_the_model_does(
    valkey_url: str, scaled: Callable[[int], int]
) -> None:
    drive(valkey_url, examples=scaled(150), phases=[Phase.generate, Phase.shrink])


# --- detection -----------------------------------------------------------------------------------


def plant(patch: pytest.MonkeyPatch, name: str, primitive: Callable[..., Awaitable[Any]]) -> None:
    """Replace a primitive of the memory backend by a wrong one, which gets the original."""
    primitive_there = getattr(InMemorySessionStore, name)

    async def right(self: Store, *args: Any) -> Any:
        answer = primitive_there(self, *args)
        return await answer if isawaitable(answer) else answer

    async def planted(self: Store, *args: Any) -> Any:
        return await primitive(self, partial(right, self), *args)

    patch.setattr(InMemorySessionStore, name, planted)


def _live(store: Store, encoded: EncodedSession) -> StoredRecord | None:
    records = store._records
    return records.live(encoded.scope, encoded.key, records.clock.now_ms())


def late_expiry(patch: pytest.MonkeyPatch) -> None:
    pop_due = ExpiryIndex.pop_due

    def expired(held: Any, now_ms: int) -> bool:
        return held.ttl_ms != 0 and bool(now_ms > held.at_ms + held.ttl_ms)

    def popped(self: ExpiryIndex, now_ms: int) -> Name | None:
        return pop_due(self, now_ms - 1)  # otherwise a sweep would visit such a record without end

    patch.setattr(memory_records, "_expired", expired)
    patch.setattr(ExpiryIndex, "pop_due", popped)


def kept_incarnation(patch: pytest.MonkeyPatch) -> None:
    async def put(self: Store, right: Any, encoded: EncodedSession, *rest: Any) -> Any:
        records = self._records
        now_ms = records.clock.now_ms()
        held = records._tenants.get(encoded.scope, {}).get(encoded.key)
        if held is None or records.live(encoded.scope, encoded.key, now_ms) is not None:
            return await right(encoded, *rest)
        return records.write(encoded, held.value + 1, held.incarnation, now_ms)

    plant(patch, "_put", put)


def moving_touch(patch: pytest.MonkeyPatch) -> None:
    async def touch(self: Store, right: Any, scope: str, key: str, *rest: Any) -> Any:
        outcome = await right(scope, key, *rest)
        if outcome.verdict is Verdict.DONE:
            tenant = self._records._tenants[scope]
            held = tenant[key]
            tenant[key] = msgspec.structs.replace(held, value=held.value + 1)
        return outcome

    plant(patch, "_touch", touch)


def lifeless_touch(patch: pytest.MonkeyPatch) -> None:
    async def touch(_: Store, right: Any, scope: str, key: str, _ttl_ms: Any, *rest: Any) -> Any:
        return await right(scope, key, None, *rest)

    plant(patch, "_touch", touch)


def open_fence(patch: pytest.MonkeyPatch) -> None:
    def admits(allowed: AllowedOwners | None, owner: str) -> bool:
        return allowed is None or owner.startswith(allowed.shared)

    patch.setattr(tenancy, "allows", admits)


def open_owner(patch: pytest.MonkeyPatch) -> None:
    owner_of = tenancy.owner_of

    def without_user(who: SessionMeta | TenantCtx) -> tenancy.Owner:
        return msgspec.structs.replace(owner_of(who), owner=f"{who.team_id or ''}/")

    patch.setattr(tenancy, "owner_of", without_user)


def kept_lookup(patch: pytest.MonkeyPatch) -> None:
    def forget(self: Records, scope: str, key: str) -> None:
        tenant = self._tenants[scope]
        del tenant[key]
        if not tenant:
            del self._tenants[scope]

    patch.setattr(Records, "_forget", forget)


def blind_to(field_name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def blind(patch: pytest.MonkeyPatch) -> None:
        async def update(
            self: Store, right: Any, encoded: EncodedSession, cas: Cas, *rest: Any
        ) -> Any:
            live = _live(self, encoded)
            if live is not None:
                seen = {field_name: getattr(live, field_name)}
                cas = msgspec.structs.replace(cas, **seen)
            return await right(encoded, cas, *rest)

        plant(patch, "_update_cas", update)

    return blind


def creating_update(patch: pytest.MonkeyPatch) -> None:
    async def update(self: Store, right: Any, encoded: EncodedSession, cas: Cas, *rest: Any) -> Any:
        if _live(self, encoded) is None:
            return await self._create(encoded)
        return await right(encoded, cas, *rest)

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
    async def create(self: Store, _right: Any, encoded: EncodedSession, *_rest: Any) -> Any:
        return self._put(encoded, None)

    plant(patch, "_create", create)


def repeated_outbox(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(encoding, "distinct_entries", tuple)


def last_of_outbox(patch: pytest.MonkeyPatch) -> None:
    def last(outbox: Sequence[OutboxEntry]) -> tuple[OutboxEntry, ...]:
        return tuple({(e.seq, e.payload_sha256): e for e in outbox}.values())

    patch.setattr(encoding, "distinct_entries", last)


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
