"""The wait of a worker for the next turn of an inbox."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, final

import anyio

from ..._core.leases import RELEASE_SECS
from ..._core.tasks import run_to_completion
from ...abc.inbox import GrantedTurn
from ...errors import DecodeError, LeaseLostError, SessionError
from ...model import C
from .turn import InboxTurn, TurnTerms

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...abc.inbox import TakeRequest

__all__ = ["TurnTaker"]

_POLL_SECS: Final = 30.0
"""Limit on the sleep of a waiting worker, because a notification may be lost."""


@final
class TurnTaker(Generic[C]):
    """Takes turns for the workers of one inbox object.

    :param terms: the terms of the turns.
    :param check_open: raises :class:`StoreUnavailableError` if the store was closed.
    :ivar turns: turns that were taken.
    :ivar dropped: dead letters that were dropped.
    """

    def __init__(self, terms: TurnTerms[C], check_open: Callable[[], None]) -> None:
        self._terms: Final = terms
        self._check_open: Final = check_open
        self.turns = self.dropped = 0

    async def next(self, request: TakeRequest, ends_at: float) -> InboxTurn[C] | None:
        """Return a turn, waiting for it until a time on the loop's clock.

        :returns: ``None`` if there was none.
        """
        turn, due_secs = await self._poll(request)
        if turn is not None or anyio.current_time() >= ends_at:
            return turn
        async with self._terms.backend.subscribe(request.inbox, request.scope) as subscription:
            while True:
                left_secs = ends_at - anyio.current_time()
                if turn is not None or left_secs <= 0:
                    return turn
                await subscription.wait(min(left_secs, _POLL_SECS), due_secs)
                self._check_open()
                turn, due_secs = await self._poll(request)

    async def _poll(self, request: TakeRequest) -> tuple[InboxTurn[C] | None, float]:
        """Return a turn if there is one now, and the seconds until the next poll."""
        while True:
            sent_at = anyio.current_time()
            taken = await self._terms.backend.call().take(request)
            self.dropped += taken.dropped
            if isinstance(taken, GrantedTurn):
                turn = await self._accept(taken, sent_at)
                if turn is not None:
                    return turn, 0
                continue
            if taken.due_secs is None:
                return None, _POLL_SECS
            if taken.due_secs > 0:
                return None, min(taken.due_secs, _POLL_SECS)

    async def _accept(self, taken: GrantedTurn, sent_at: float) -> InboxTurn[C] | None:
        """Return the turn, ``None`` if another worker may have had it before the reply came."""
        try:
            turn = InboxTurn(self._terms, taken, sent_at)
        except DecodeError:
            backoff_ms = self._terms.backoff_after(taken.attempt)
            with suppress(SessionError):  # without a release, the turn ends with its lease
                await self._terms.backend.call().release(taken.ref, backoff_ms)
            raise
        if anyio.current_time() >= sent_at + taken.left_ms / 1000:
            # A grant may wait for replicas for longer than its lease. Then another worker may have
            # handled the messages.
            try:
                await turn.renew()
            except LeaseLostError:
                return None
            except (SessionError, anyio.get_cancelled_exc_class()):
                await run_to_completion(
                    partial(self._give_back, taken), "greentic_session late turn", RELEASE_SECS
                )
                raise
        self.turns += 1
        return turn

    async def _give_back(self, taken: GrantedTurn) -> None:
        with suppress(SessionError):  # without a release, the turn ends with its lease
            await self._terms.backend.call().release(taken.ref, None)
