"""An inbox on a store, and the callers and messages that the inbox contract uses."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, final

import anyio
import pytest

from ....abc.inbox import inbox_backend_of
from ....errors import LeaseLostError
from ....model import Session, SessionKey, SessionMeta
from ....ordering import SessionInbox
from ..samples import KEY, ctx, evolve, session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from ....model import TenantCtx, Versioned
    from ....ordering import Admitted, DeadLetter, InboxTurn
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

__all__ = [
    "LEASE",
    "OWNER",
    "PATIENCE",
    "REST",
    "FailedError",
    "InboxHarness",
    "counted",
    "desk",
    "fail",
]

OWNER: Final = ctx()
LEASE: Final = 60.0
REST: Final = 10.0
"""Backoff of a session after its first failure, in seconds. It is longer than a test."""
PATIENCE: Final = 20.0
"""Limit in seconds for an expected event, generous because the machine may be busy."""


class FailedError(Exception):
    """The handler of a message failed."""


def fail() -> None:
    """Fail as a handler does."""
    raise FailedError


def counted(turn: InboxTurn[Any], **fields: Any) -> Session[Any]:
    """Return the state after a turn. It lists the event ids that the session received."""
    base = turn.session or session(turn.key, owner=turn.tenant)
    told = [*base.context.get("told", ()), *(mail.event_id for mail in turn.mail)]
    return evolve(base, context={**base.context, "told": told}, **fields)


@final
class InboxHarness:
    """An inbox with short verbs, for the session ``KEY`` of the tenant ``acme``.

    :ivar harness: the test's harness.
    :ivar store: the store.
    :ivar backend: the store's inbox backend.
    :ivar inbox: the inbox.
    """

    def __init__(
        self, harness: StoreHarness, store: AsyncSessionStore[Any], **options: Any
    ) -> None:
        given: dict[str, Any] = {"ctx": OWNER, "lease": LEASE, "retry_delay": REST, **options}
        self.harness: Final = harness
        self.store: Final = store
        self.backend: Final = inbox_backend_of(store)
        self.inbox: Final[SessionInbox[Any]] = SessionInbox(store, **given)

    async def peer(self, **options: Any) -> InboxHarness:
        """Return another process's inbox, on a store of its own if stores share sessions."""
        shared = self.store.statistics().sessions is None  # otherwise the store is in this process
        store = await self.harness.open() if shared else self.store
        return InboxHarness(self.harness, store, **options)

    async def admit(
        self,
        *event_ids: str,
        key: str = KEY,
        payload: bytes = b"hello",
        owner: TenantCtx | None = None,
    ) -> Admitted:
        """Admit messages one by one and return the result of the last."""
        told = None
        for event_id in event_ids:
            told = await self.inbox.admit(SessionKey(key), event_id, payload, ctx=owner)
        assert told is not None
        return told

    def take(
        self, worker: str = "worker-1", *, most: int = 100, wait: float | None = 0
    ) -> AbstractAsyncContextManager[InboxTurn[Any] | None]:
        """Take a turn, if there is one."""
        return self.inbox.take(worker, most=most, wait=wait)

    def turn(
        self, worker: str = "worker-1", *, most: int = 100
    ) -> AbstractAsyncContextManager[InboxTurn[Any]]:
        """Take a turn, which must exist."""
        taken: Any = self.inbox.take(worker, most=most, wait=PATIENCE)
        return taken  # type: ignore[no-any-return] # or the test fails at its first use

    @asynccontextmanager
    async def doomed(self, worker: str = "worker-1") -> AsyncGenerator[InboxTurn[Any]]:
        """Take a turn whose lease expires in the block, and expect the error at the end."""
        with pytest.raises(LeaseLostError):
            async with self.turn(worker) as turn:
                yield turn

    async def is_idle(self) -> bool:
        """Return whether there is no turn to take."""
        async with self.take() as turn:
            return turn is None

    async def handle(
        self, *, worker: str = "worker-1", most: int = 100, owner: TenantCtx | None = None
    ) -> list[str]:
        """Take a turn, finish it, and return its event ids.

        :param owner: the owner that the session must have.
        """
        async with self.turn(worker, most=most) as turn:
            if owner is not None:
                assert turn.session is not None
                assert turn.session.meta == SessionMeta.of(owner)
            told = [mail.event_id for mail in turn.mail]
            await turn.finish(counted(turn))
        return told

    async def fail(self) -> tuple[list[str], int]:
        """Take a turn and fail. Return its event ids and the attempt number."""
        told: list[str] = []
        attempt = 0
        with suppress(FailedError):
            async with self.turn() as turn:
                told += [mail.event_id for mail in turn.mail]
                attempt = turn.mail[0].attempt
                fail()
        return told, attempt

    async def fail_for_good(self, attempts: int) -> None:
        """Fail the head of the mailbox for all its attempts."""
        for _ in range(attempts):
            await self.fail()
            await self.harness.advance(100 * REST)

    async def die(self, turn: InboxTurn[Any]) -> None:
        """Let the lease of a turn expire, as after a worker's crash."""
        assert not turn.ended
        await self.harness.advance(2 * LEASE)

    async def told(self, key: str = KEY, owner: TenantCtx = OWNER) -> list[str]:
        """Return the event ids that the session received, from its state."""
        found = await self.record(key, owner)
        told: list[str] = found.session.context["told"]
        return told

    async def record(self, key: str = KEY, owner: TenantCtx = OWNER) -> Versioned[Any]:
        """Return a session that must exist."""
        found = await self.store.get(SessionKey(key), ctx=owner)
        assert found is not None, f"no session under {key!r}"
        return found

    async def dead(self) -> list[DeadLetter]:
        """Return the dead letters."""
        return [letter async for letter in self.inbox.dead_letters()]

    async def drain(self) -> list[tuple[str, list[str]]]:
        """Take and finish turns until there are none, and return them."""
        turns: list[tuple[str, list[str]]] = []
        with anyio.fail_after(PATIENCE):
            while True:
                async with self.take() as turn:
                    if turn is None:
                        return turns
                    turns.append((turn.key, [mail.event_id for mail in turn.mail]))
                    await turn.finish(counted(turn))


async def desk(harness: StoreHarness, **options: Any) -> InboxHarness:
    """Return an inbox with these options on a fresh store."""
    return InboxHarness(harness, await harness.open(), **options)
