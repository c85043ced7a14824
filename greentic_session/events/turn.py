"""The turn of an event: the session as the event's handler sees and changes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Generic, final

from .._compat import override
from ..errors import CasConflictError, LeaseLostError, SessionNotFoundError
from ..model import C, Session, SessionKey, Versioned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..ordering import InboxTurn
    from ..waits import Claim

__all__ = ["EventTurn", "InboxCommit", "WaitCommit"]

_ATTEMPTS: Final = 1000
"""Limit on the writes of one turn that lose against other writers."""


class TurnCommit(ABC, Generic[C]):
    """The end of an event's turn, which writes the session."""

    @abstractmethod
    async def commit(self, change: Callable[[Session[C]], Session[C]]) -> None:
        """Write the changed session and remove the event."""

    @abstractmethod
    async def finish(self) -> None:
        """Remove the event."""


@final
class EventTurn(Generic[C]):
    """The exclusive right to handle an event, with the session that it belongs to.

    Changes by :meth:`update` are written when the handler returns, in one step with the end of the
    event. If the handler raises, nothing is written, and the event is tried again.

    :ivar is_active: whether the session of the event still exists. It is false if the session
        expired, was deleted, or was replaced by another incarnation, except with ``follow=True``.
        It is true for an event without a session.
    :ivar timed_out: whether the event is the timeout of a wait. Then the wait is claimed.
    :ivar claim: the claim of a wait that timed out, otherwise ``None``. If the handler ends it by
        :meth:`Claim.wait_again` or :meth:`Claim.finish`, it may not use :meth:`update`.
    :ivar fence: fencing token of the turn, for other systems that it writes to.
    """

    def __init__(
        self,
        session: Session[C] | None,
        commit: TurnCommit[C],
        *,
        key: SessionKey,
        is_active: bool,
        fence: int,
        claim: Claim[C] | None = None,
    ) -> None:
        self._session = session
        self._commit: Final = commit
        self._key: Final = key
        self._changes: Final[list[Callable[[Session[C]], Session[C]]]] = []
        self.is_active: Final = is_active
        self.timed_out: Final = claim is not None
        self.claim: Final = claim
        self.fence: Final = fence

    @property
    def session(self) -> Session[C] | None:
        """The session with the changes so far, ``None`` if there is none."""
        return self._session

    async def update(self, change: Callable[[C], C]) -> Session[C]:
        """Change the state of the session.

        The function runs now, and once more for each write of another caller that came first. So it
        should have no effects but its result.

        :param change: plain function from state to state.
        :returns: the changed session.
        :raises SessionNotFoundError: the event is not active, or has no session.
        """
        return await self.update_session(lambda session: session.update_context(change))

    async def update_session(self, change: Callable[[Session[C]], Session[C]]) -> Session[C]:
        """Change the session, as :meth:`update`. The key and the owner must stay.

        :param change: plain function from session to session.
        """
        session = self._session
        if session is None or not self.is_active:
            raise SessionNotFoundError(self._key)
        self._session = session = change(session)
        self._changes.append(change)
        return session

    async def end(self) -> None:
        """Write the changes and end the event. The loop of :class:`SessionEvents` calls this."""
        if self._changes:
            await self._commit.commit(self._apply)
        else:
            await self._commit.finish()

    def _apply(self, session: Session[C]) -> Session[C]:
        for change in self._changes:
            session = change(session)
        return session


@final
class InboxCommit(TurnCommit[C]):
    """Ends an event by its inbox turn, in one step with the session.

    :param turn: the inbox turn.
    :param read: reads the session again. ``None`` if it is no longer the event's.
    """

    def __init__(
        self, turn: InboxTurn[C], read: Callable[[], Awaitable[Versioned[C] | None]]
    ) -> None:
        self._turn: Final = turn
        self._read: Final = read

    @override
    async def commit(self, change: Callable[[Session[C]], Session[C]]) -> None:
        turn = self._turn
        session, cas = turn.session, turn.cas
        for attempt in range(_ATTEMPTS):
            if session is None:  # the session ended meanwhile, and its changes with it
                break
            try:
                await turn.finish(change(session), expected=cas)
            except CasConflictError:
                if attempt == _ATTEMPTS - 1:
                    raise
                session = None
                if (found := await self._read()) is not None:
                    session, cas = found
            else:
                return
        await turn.finish()

    @override
    async def finish(self) -> None:
        await self._turn.finish()


@final
class WaitCommit(TurnCommit[C]):
    """Ends a timeout by the claim of its wait, and then removes the message.

    If the worker dies between the two, the next one finds that the wait is over.

    :param turn: the inbox turn of the message.
    :param claim: the claim of the wait.
    :param claim_again: claims the wait again, after another write. ``None`` if it is over.
    """

    def __init__(
        self,
        turn: InboxTurn[C],
        claim: Claim[C],
        claim_again: Callable[[], Awaitable[Claim[C] | None]],
    ) -> None:
        self._turn: Final = turn
        self._claim: Final = claim
        self._claim_again: Final = claim_again

    @override
    async def commit(self, change: Callable[[Session[C]], Session[C]]) -> None:
        claim: Claim[C] | None = self._claim
        if self._claim.ended:
            raise LeaseLostError("the handler ended the claim, and then changed the session")
        for attempt in range(_ATTEMPTS):
            if claim is None:
                break
            try:
                await claim.complete(change(claim.session))
            except CasConflictError:
                if attempt == _ATTEMPTS - 1:
                    raise
                await claim.release()
                claim = await self._claim_again()
            else:
                break
        await self._turn.finish()

    @override
    async def finish(self) -> None:
        if not self._claim.ended:
            await self.commit(lambda session: session)
            return
        await self._turn.finish()
