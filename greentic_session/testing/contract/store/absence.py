"""Contract tests of absent sessions: never written, deleted, expired, or of another tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....model import Cas, TenantCtx
from ..assertions import everything, kept, require
from ..samples import GLOBEX, KEY, LIFE, ctx, session
from .verbs import ABSENCES, WRITES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

    Way = Callable[[StoreHarness, AsyncSessionStore[Any]], Awaitable[Cas]]

_FOREIGN: Final = Cas(value=1, incarnation="0123456789abcdef" * 2)


async def _never_written(_harness: StoreHarness, _store: AsyncSessionStore[Any]) -> Cas:
    return _FOREIGN


async def _deleted(_harness: StoreHarness, store: AsyncSessionStore[Any]) -> Cas:
    cas = await store.create(session())
    assert await store.delete(KEY, ctx=ctx()) is True
    return cas


async def _expired(harness: StoreHarness, store: AsyncSessionStore[Any]) -> Cas:
    cas = await store.create(session(ttl_secs=LIFE))
    await harness.advance(LIFE)
    return cas


async def _of_another_tenant(_harness: StoreHarness, store: AsyncSessionStore[Any]) -> Cas:
    return await store.create(session(owner=_OTHER_TENANT))


async def _of_another_env(_harness: StoreHarness, store: AsyncSessionStore[Any]) -> Cas:
    return await store.create(session(owner=_OTHER_ENV))


_OTHER_TENANT: Final[TenantCtx] = ctx(GLOBEX)
_OTHER_ENV: Final[TenantCtx] = ctx(env="staging")
_WAYS: Final[dict[str, Way]] = {
    "never written": _never_written,
    "deleted": _deleted,
    "expired": _expired,
    "of another tenant": _of_another_tenant,
    "of another env": _of_another_env,
}


@pytest.mark.anyio
class AbsenceContract:
    """A session is absent to every verb alike, for whatever reason."""

    @pytest.mark.parametrize("way", _WAYS)
    @pytest.mark.parametrize("verb", ABSENCES)
    async def test_an_absent_session_is_absent_to_every_verb(
        self, harness: StoreHarness, way: str, verb: str
    ) -> None:
        store = await harness.open()
        token = await _WAYS[way](harness, store)
        async with kept(store, ctx(), _OTHER_TENANT, _OTHER_ENV):
            await ABSENCES[verb](store, KEY, ctx(), token)
        assert await everything(store) == {}

    @pytest.mark.parametrize("way", _WAYS)
    @pytest.mark.parametrize("verb", ["create", "put"])
    async def test_writing_an_absent_session_makes_a_new_one(
        self, harness: StoreHarness, way: str, verb: str
    ) -> None:
        store = await harness.open()
        token = await _WAYS[way](harness, store)
        async with kept(store, _OTHER_TENANT, _OTHER_ENV):
            cas = await WRITES[verb](store, session(context={"new": True}), Cas.none())
        assert cas.value == 1
        assert cas.incarnation != token.incarnation
        found = await require(store)
        assert found.cas == cas
        assert found.session.context == {"new": True}
        assert found.session.id.hex != token.incarnation

    @pytest.mark.parametrize("way", _WAYS)
    async def test_a_session_created_again_has_its_own_lifetime(
        self, harness: StoreHarness, way: str
    ) -> None:
        store = await harness.open()
        await _WAYS[way](harness, store)
        await store.create(session())
        await harness.advance(100 * LIFE)
        assert (await require(store)).session.expires_at is None
