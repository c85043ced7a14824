"""The turn of an event: the session as the event's handler sees and changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, final

from ..errors import CasConflictError, SessionNotFoundError
from ..model import C, Session, SessionKey, Versioned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..ordering import InboxTurn

__all__ = ["EventTurn", "InboxCommit"]

_ATTEMPTS: Final = 1000
"""Limit on the writes of one turn that lose against other writers."""


@final
class EventTurn(Generic[C]):
    """The exclusive right to handle an event, with the session that it belongs to.

    Changes by :meth:`update` are written when the handler returns, in one step with the end of the
    event. If the handler raises, nothing is written, and the event is tried again.

    :ivar is_active: whether the session of the event still exists. It is false if the session
        expired, was deleted, or was replaced by another incarnation, except with ``follow=True``.
        It is true for an event without a session.
    :ivar fence: fencing token of the turn, for other systems that it writes to.
    """

    def __init__(
        self,
        session: Session[C] | None,
        commit: InboxCommit[C],
        *,
        key: SessionKey,
        is_active: bool,
        fence: int,
    ) -> None:
        self._session = session
        self._commit: Final = commit
        self._key: Final = key
        self._changes: Final[list[Callable[[Session[C]], Session[C]]]] = []
        self.is_active: Final = is_active
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
class InboxCommit(Generic[C]):
    """Ends an event by its inbox turn, in one step with the session.

    :param turn: the inbox turn.
    :param read: reads the session again. ``None`` if it is no longer the event's.
    """

    def __init__(
        self, turn: InboxTurn[C], read: Callable[[], Awaitable[Versioned[C] | None]]
    ) -> None:
        self._turn: Final = turn
        self._read: Final = read

    async def commit(self, change: Callable[[Session[C]], Session[C]]) -> None:
        """Write the changed session and remove the event."""
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

    async def finish(self) -> None:
        """Remove the event."""
        await self._turn.finish()
