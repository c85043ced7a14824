"""The session that handlers of requests and WebSockets work with."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, cast, final

from .._core.times import datetime_of
from .._validation import duration_to_ms, require_clean_text
from ..abc.fencing import UNFENCED
from ..errors import InvalidInputError, ReauthenticationRequiredError
from ..model import C
from ..ordering.locks import SessionLocks
from . import csrf, entering, saving
from .ending import SessionEnd
from .stamp import Stamp
from .tokens import new_nonce

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import datetime, timedelta

    from ..model import Versioned
    from .bound import BoundSession

__all__ = ["WebSession"]

_MAX_LABEL_CHARS: Final = 256


@final
class WebSession(Generic[C]):
    """The session of one request or WebSocket. :meth:`WebSessions.of` returns it.

    The state belongs to this request. A change to it is saved before the head of the response is
    sent. If a parallel request changed other fields, both changes are kept.

    * There is no record before the first change.
    * A response with a 5xx status saves nothing.
    * A delete beats every save. The changes of a request that runs meanwhile are dropped.
    * In a WebSocket, :meth:`save` and :meth:`mutate` are the save points.

    Verbs that write may raise what the store's verbs raise.

    :param bound: the session as the library's own modules see it.
    """

    __slots__ = ("bound",)

    def __init__(self, bound: BoundSession[C]) -> None:
        self.bound: Final = bound

    def __repr__(self) -> str:
        """Return a text without the state and without ids."""
        return f"<WebSession {'new' if self.is_new else 'live'}>"

    # --- what it holds ---------------------------------------------------------------------------

    @property
    def state(self) -> C:
        """The application's state. Change it, or assign another one."""
        return self.bound.state

    @state.setter
    def state(self, state: C) -> None:
        self.bound.state = state

    @property
    def versioned(self) -> Versioned[C] | None:
        """The stored session and its token, as last read or written. ``None`` if it is new."""
        return self.bound.record

    @property
    def is_new(self) -> bool:
        """Whether there is no record."""
        return self.bound.record is None

    @property
    def user_id(self) -> str | None:
        """The user that logged in, ``None`` for an anonymous session."""
        return self.bound.user_id

    @property
    def created_at(self) -> datetime | None:
        """Time of creation, by the store's clock. ``None`` if it is new."""
        stamp = self.bound.stamp
        return datetime_of(stamp.c) if stamp is not None and stamp.c else None

    @property
    def authenticated_at(self) -> datetime | None:
        """Time of the login, by the store's clock. ``None`` for an anonymous session."""
        stamp = self.bound.stamp
        return datetime_of(stamp.a) if stamp is not None and stamp.a else None

    @property
    def expires_at(self) -> datetime | None:
        """The time from which the session is absent. ``None`` if it is new."""
        return datetime_of(self.bound.ends_ms) if self.bound.ends_ms else None

    @property
    def label(self) -> str:
        """Name of the device, for the user's list of devices. It is saved with the state."""
        return self.bound.label

    @label.setter
    def label(self, label: str) -> None:
        self.bound.label = require_clean_text(label, "label", _MAX_LABEL_CHARS) if label else ""

    @property
    def ended(self) -> SessionEnd[C]:
        """Can be awaited: returns when the session has ended, within 10 seconds."""
        return SessionEnd(self.bound)

    # --- save points -----------------------------------------------------------------------------

    async def save(self) -> None:
        """Save the changes now, if there are any.

        :raises SessionEndedError: the session ended while the request ran. Nothing was saved.
        :raises SessionConflictError: a parallel request changed the same plain field, and the
            policy rejects that.
        :raises InvalidInputError: the session is new, and no cookie can be sent any more.
        """
        with self.bound.exchange.noting():
            await saving.save(self.bound)

    async def refresh(self) -> None:
        """Read the stored state again. Unsaved changes are dropped.

        A new session gets a new state.

        :raises SessionEndedError: the session has ended.
        """
        with self.bound.exchange.noting():
            if self.bound.record is None:
                self.bound.state = self.bound.sessions.new()
            else:
                await saving.refresh(self.bound)

    async def mutate(self, change: Callable[[C], C]) -> C:
        """Apply a function to the stored state, at once. On conflict, it runs again.

        Unsaved changes of the request are saved with it.

        :param change: function that returns the new state. It must have no side effects.
        :returns: the new state, which is also :attr:`state`.
        :raises SessionEndedError: the session has ended.
        """
        if not callable(cast("object", change)):
            raise InvalidInputError("change", f"expected a function, got {type(change).__name__}")
        with self.bound.exchange.noting():
            await saving.mutate(self.bound, change)
        return self.bound.state

    @asynccontextmanager
    async def exclusive(
        self, wait: timedelta | float | None = None
    ) -> AsyncGenerator[WebSession[C]]:
        """Run one request of the session at a time, inside the block.

        The block begins with the newest state, and its end saves the changes. The lock's lease
        guards each save. So a request whose lease has ended saves nothing.

        A new session is not locked, because no other request has its token.

        :param wait: longest time to wait for the lock, in seconds or as a
            :class:`datetime.timedelta`. ``None`` waits without a limit.
        :raises LockHeldError: another request held the lock for all of ``wait``.
        :raises LeaseLostError: the lease ended inside the block.
        :raises SessionEndedError: the session has ended.
        """
        bound = self.bound
        if bound.record is None:
            yield self
            await self.save()
            return
        key = bound.record.session.key
        locks = SessionLocks(cast("Any", bound.sessions.store))  # Any: locks do not use contexts
        async with locks.hold(key, wait=wait, ctx=bound.ctx) as lease:
            with bound.exchange.noting():
                await saving.refresh(bound, keeps_changes=True)
            bound.fence = lease
            try:
                yield self
                await self.save()
            finally:
                bound.fence = UNFENCED

    # --- login and logout ------------------------------------------------------------------------

    async def login(self, user_id: str, state: C | None = None) -> None:
        """Give the session to a user: a new token, a new incarnation, the same key.

        The token from before opens nothing any more (OWASP Session Management, "Renew the Session
        ID After Any Privilege Level Change"; ASVS 5.0 7.2.4). Requests that run with it save
        nothing. The lifetime restarts.

        If a password is checked, use :meth:`WebSessions.signing_in` around the check.

        :param user_id: the user.
        :param state: the state to begin with. By default, the state of an anonymous session, or of
            the same user, is kept. From one user to another, the state is a new one.
        :raises SessionRevokedError: the user's sessions were revoked meanwhile.
        :raises SessionLimitError: the user has too many sessions.
        :raises SessionEndedError: the session ended while the request ran.
        :raises InvalidInputError: no cookie can be sent any more.
        """
        with self.bound.exchange.noting():
            await entering.login(self.bound, user_id, state)

    async def regenerate(self) -> None:
        """Replace token and incarnation, with the same state, user and lifetime.

        Use this when rights change. A new session needs no other token.

        :raises SessionEndedError: the session ended while the request ran.
        :raises InvalidInputError: no cookie can be sent any more.
        """
        if self.bound.record is not None or self.bound.is_over:
            with self.bound.exchange.noting():
                await entering.regenerate(self.bound)

    async def logout(self) -> bool:
        """Delete the session, and remove the cookie (ASVS 5.0 7.4.1).

        The state is a new one after that. A change to it creates another session.

        :returns: whether there was a session to delete.
        """
        with self.bound.exchange.noting():
            return await entering.logout(self.bound)

    def require_recent_login(self, secs: timedelta | float) -> None:
        """Check that the login is recent (ASVS 5.0 7.5.1).

        :param secs: the longest age of the login, in seconds or as a :class:`datetime.timedelta`.
        :raises ReauthenticationRequiredError: the login is older, or there was none.
        """
        limit_ms = duration_to_ms(secs, "secs")
        stamp = self.bound.stamp
        with self.bound.exchange.noting():
            if (
                stamp is None
                or not stamp.a
                or self.bound.is_over
                or self.bound.sessions.clock.last_ms() - stamp.a > limit_ms
            ):
                raise ReauthenticationRequiredError

    def csrf_token(self) -> str:
        """Return a masked token for the field ``csrf_token`` of a form.

        A new session gets a record, because the token belongs to it.

        :raises InvalidInputError: the policy has no CSRF tokens.
        """
        bound = self.bound
        csrf.require_tokens(bound.sessions.policy.csrf)
        token = bound.require_token()
        if bound.stamp is None:
            bound.stamp = Stamp(h="", c=0, i=0, r=0, k=new_nonce())
            bound.is_wanted = True
        return csrf.masked(token.csrf_key(bound.stamp.k))
