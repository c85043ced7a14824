"""The session of one request, as the library's own modules see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, final

import msgspec

from .._core.times import ms_of
from ..abc.fencing import UNFENCED
from ..errors import InvalidInputError, SessionEndedError
from ..model import C, Session, SessionCursor, SessionMeta, TenantCtx, Versioned
from .stamp import OVERLAP_MS, Presented, Stamp, renewed
from .tokens import Token

if TYPE_CHECKING:
    from ..abc.fencing import Fenced
    from ..model import Cas
    from .exchange import Exchange
    from .sessions import WebSessions

__all__ = ["BoundSession"]

# A web session is no flow, so its cursor never moves.
_CURSOR: Final = SessionCursor(flow_id="web", node_id="session")
_RESEND_MS: Final = 10_000
"""How long a response with a renewed secret may be under way before it counts as lost."""


@final
class BoundSession(Generic[C]):
    """A session with the token of its request. It has a record or none yet.

    :ivar state: the application's state. It belongs to this request.
    :ivar record: what was read or written last, ``None`` without a record.
    :ivar stamp: the stamp of ``record``.
    :ivar token: the token of the request, or the one that the response sends.
    :ivar base: the encoded state at the last read or write.
    :ivar sent: the token that the response sends, if any.
    :ivar clears: whether the response removes the cookie.
    :ivar is_over: whether the session ended while the request ran.
    :ivar is_wanted: whether to create a record although the state is that of a new session.
    :ivar label: name of the device.
    :ivar ends_ms: end of the lifetime by the store's clock, 0 without a record.
    :ivar presented: a stamp, and what the token of the request is to it. It saves two digests.
    :ivar fence: a lock that guards each save, if the request holds one.
    """

    __slots__ = (
        "base",
        "clears",
        "ends_ms",
        "exchange",
        "fence",
        "is_over",
        "is_wanted",
        "label",
        "presented",
        "record",
        "sent",
        "sessions",
        "stamp",
        "state",
        "token",
    )

    def __init__(self, exchange: Exchange[C]) -> None:
        self.exchange: Final = exchange
        self.sessions: Final[WebSessions[C]] = exchange.sessions
        self.sent: Token | None = None
        self.clears = False
        self.is_over = False
        self.fence: Fenced = UNFENCED
        self.presented: tuple[Stamp, Presented] | None = None
        self.is_wanted = False

    def begin_again(self, state: C) -> None:
        """Forget the record. The next change creates another one, with another token."""
        self.record: Versioned[C] | None = None
        self.stamp: Stamp | None = None
        self.token: Token | None = None
        self.state = state
        self.base = self.encoded()
        self.is_wanted = False
        self.label = ""
        self.ends_ms = 0

    def adopt(self, record: Versioned[C], stamp: Stamp) -> None:
        """Take a record that was read or written as the current one."""
        self.record, self.stamp = record, stamp
        self.state = record.session.context
        self.base = self.encoded()
        self.label = stamp.d
        session = record.session
        self.ends_ms = ms_of(session.updated_at) + round(session.ttl_secs * 1000)

    def wrote(self, session: Session[C], cas: Cas, stamp: Stamp, now_ms: int) -> None:
        """Take a session that was just written as the current one. The state stays the object."""
        self.record, self.stamp = Versioned(session, cas), stamp
        self.base = self.encoded()
        self.ends_ms = now_ms + round(session.ttl_secs * 1000)

    # --- what the request sees -----------------------------------------------------------------

    @property
    def ctx(self) -> TenantCtx:
        """The tenant of the request, without a user."""
        if self.exchange.ctx is None:
            raise InvalidInputError("scope", "the request has no tenant")
        return self.exchange.ctx

    @property
    def owner_ctx(self) -> TenantCtx:
        """The tenant, and the user of the record."""
        return msgspec.structs.replace(self.ctx, user_id=self.user_id)

    @property
    def user_id(self) -> str | None:
        """The user of the record."""
        return None if self.record is None else self.record.session.meta.user_id

    def encoded(self) -> bytes | None:
        """Return the encoded state, ``None`` if it cannot be encoded."""
        return self.sessions.encoder.context_bytes(self.state)

    @property
    def is_changed(self) -> bool:
        """Whether there is something to save."""
        data = self.encoded()
        name = "" if self.stamp is None else self.stamp.d
        return self.is_wanted or data is None or data != self.base or self.label != name

    def require_record(self) -> Versioned[C]:
        """Return the record.

        :raises SessionEndedError: there is none, or the session has ended.
        """
        if self.record is None or self.is_over:
            raise SessionEndedError
        return self.record

    def end(self) -> SessionEndedError:
        """Note that the session has ended, and return the error to raise."""
        if not self.is_over:
            self.is_over = True
            self.sessions.counters.reject("ended")
        return SessionEndedError()

    def require_cookie(self) -> None:
        """Check that a cookie can still be sent.

        :raises InvalidInputError: the head of the response was sent, or this is a WebSocket.
        """
        if not self.exchange.can_set_cookie:
            raise InvalidInputError(
                "session", "a cookie can no longer be sent: expected an HTTP response to come"
            )

    # --- what a write contains -----------------------------------------------------------------

    def built(
        self, stamp: Stamp, state: C, ends_ms: int, now_ms: int, *, user_id: str | None = None
    ) -> Session[C]:
        """Return a session for the first write of an incarnation."""
        before = self.record
        ctx = msgspec.structs.replace(self.ctx, user_id=user_id)
        others = {} if before is None else before.session.meta.labels
        return Session(
            key=self.require_token().key,
            cursor=_CURSOR if before is None else before.session.cursor,
            meta=SessionMeta.of(ctx, labels=stamp.labels(others)),
            context=state,
            outbox=() if before is None else before.session.outbox,
            ttl_secs=_secs(ends_ms, now_ms),
        )

    def rebuilt(
        self, session: Session[C], stamp: Stamp, state: C, ends_ms: int, now_ms: int
    ) -> Session[C]:
        """Return a session for a later write of the same incarnation."""
        stamp = msgspec.structs.replace(stamp, d=self.label)
        meta = msgspec.structs.replace(session.meta, labels=stamp.labels(session.meta.labels))
        return msgspec.structs.replace(
            session, meta=meta, context=state, ttl_secs=_secs(ends_ms, now_ms)
        )

    def require_token(self) -> Token:
        """Return the token of the request, or a new one."""
        if self.token is None:
            self.token = Token.mint()
        return self.token

    def end_after(self, stamp: Stamp, now_ms: int) -> int:
        """Return the end of the lifetime after a write now.

        Only requests are activity. A save of a socket, or after the head of a response, is none.
        """
        policy = self.sessions.policy
        if self.exchange.can_set_cookie or (
            self.exchange.is_socket and policy.sockets_are_activity
        ):
            return stamp.end_ms(policy, now_ms)
        return self.ends_ms

    def refreshed(self, stamp: Stamp, now_ms: int) -> tuple[Stamp, Token | None]:
        """Return the stamp with what this request has to change in it, and the token to send.

        :param stamp: the stamp in the store.
        """
        token, policy = self.token, self.sessions.policy
        if token is None or not self.exchange.can_set_cookie or self.sent is not None:
            return stamp, None
        known = self.presented
        is_known = known is not None and known[0] is stamp
        is_current = known[1] if known and is_known else stamp.presented(token, now_ms)
        if is_current is None:
            return stamp, None
        if not is_current:
            if stamp.s or now_ms - stamp.r < _RESEND_MS:
                return stamp, None
            # The response with the successor was lost. It is the same successor each time.
            stamp = msgspec.structs.replace(stamp, r=now_ms, m=now_ms)
            return stamp, token.successor(stamp.n)
        if stamp.p and not stamp.s:
            until = min(stamp.u, now_ms + OVERLAP_MS)
            stamp = msgspec.structs.replace(stamp, s=True, u=until)
        if policy.renew_after_ms and now_ms - stamp.r >= policy.renew_after_ms:
            return renewed(stamp, token, now_ms)
        is_rolling = policy.cookie.persistent and policy.rolling
        if is_rolling and now_ms - stamp.m >= policy.idle_ms // 10:
            return msgspec.structs.replace(stamp, m=now_ms), token
        return stamp, None


def _secs(ends_ms: int, now_ms: int) -> float:
    return max(1, ends_ms - now_ms) / 1000
