"""Assertions of the contract suite: on stored sessions, refusals and error texts."""

from __future__ import annotations

import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio

from ...errors import InvalidInputError
from .samples import KEY, ctx

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from ...model import SessionKey, TenantCtx, Versioned
    from ...store import AsyncSessionStore

__all__ = ["asleep", "everything", "kept", "refusal", "require", "told"]

_PATIENCE_SECS: Final = 20
"""Limit in seconds for other tasks, so that every test ends even on a busy machine."""


async def require(
    store: AsyncSessionStore[Any], key: SessionKey = KEY, caller: TenantCtx | None = None
) -> Versioned[Any]:
    """Return a session that must exist. The default caller is the tenant ``acme``."""
    found = await store.get(key, ctx=ctx() if caller is None else caller)
    assert found is not None, f"no session under {key!r}"
    return found


async def everything(
    store: AsyncSessionStore[Any], caller: TenantCtx | None = None
) -> dict[SessionKey, Versioned[Any]]:
    """Return all live sessions of a caller's tenant, for any team and user."""
    whole = ctx() if caller is None else ctx(caller.tenant_id, env=caller.env)
    found: dict[SessionKey, Versioned[Any]] = {}
    async for one in store.scan(whole):
        assert one.session.key not in found, "scan gave a session twice"
        found[one.session.key] = one
    return found


@asynccontextmanager
async def kept(store: AsyncSessionStore[Any], *owners: TenantCtx) -> AsyncGenerator[None]:
    """Check that a block leaves the tenants' sessions unchanged: token, lifetime, time and content.

    The default is the tenant ``acme``.
    """
    tenants = owners or (ctx(),)
    before = [await everything(store, owner) for owner in tenants]
    yield
    assert [await everything(store, owner) for owner in tenants] == before


async def asleep(store: AsyncSessionStore[Any]) -> None:
    """Wait until all waiters on a store sleep and no call is in progress or about to start.

    The caller's next step, up to its first await, runs while no waiter polls the server.
    """
    await anyio.wait_all_tasks_blocked()
    with anyio.fail_after(_PATIENCE_SECS):
        while store.statistics().in_flight:  # noqa: ASYNC110 - there is no notification
            await anyio.sleep(0.001)


async def refusal(call: Awaitable[object]) -> InvalidInputError:
    """Return the error of a call that must be refused before any I/O."""
    refused: InvalidInputError | None = None
    with anyio.CancelScope() as scope:
        scope.cancel()  # so the first wait for a server would end the call without the error
        try:
            await call
        except InvalidInputError as error:
            refused = error
    assert refused is not None, "the call was not refused, or not before any I/O"
    assert refused.code == "invalid_input"
    assert isinstance(refused, ValueError)
    assert refused.reason
    assert refused.field in str(refused)
    return refused


def told(error: BaseException) -> str:
    """Return the full text of an error: its messages, and its traceback as in a log."""
    return "\n".join((str(error), repr(error), *traceback.format_exception(error)))
