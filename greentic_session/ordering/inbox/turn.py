"""A turn: the exclusive work of one worker on a session and its messages."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Final, Generic, NamedTuple, cast, final

import anyio

from ..._compat import override
from ..._core.encoding import as_versioned
from ..._core.leases import LeaseEnd, LeaseHandle
from ..._core.tenancy import ctx_of
from ...abc.fencing import LeaseKind, LeaseRef
from ...abc.inbox import TurnCommit
from ...abc.records import Verdict, error_for
from ...errors import CasConflictError, InvalidInputError, TenantMismatchError
from ...model import C, Cas, Session, SessionKey, TenantCtx
from .messages import Mail, message_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import datetime
    from typing import Self

    from ..._core.encoding import SessionEncoder
    from ...abc.inbox import GrantedTurn, InboxBackend
    from ...abc.records import EncodedSession, Outcome

__all__ = ["InboxTurn", "TurnTerms"]

_MAX_BACKOFF_MS: Final = 60_000


class TurnTerms(NamedTuple, Generic[C]):
    """The arguments that the turns of an inbox have in common.

    :ivar backend: the store's inbox backend.
    :ivar encoder: the store's encoder.
    :ivar check_open: raises :class:`StoreUnavailableError` if the store was closed.
    :ivar lease_ms: length of the lease, in milliseconds.
    :ivar attempts: limit on the attempts at a message.
    :ivar backoff_ms: the backoff after the first failed attempt, in milliseconds.
    """

    backend: InboxBackend
    encoder: SessionEncoder[C]
    check_open: Callable[[], None]
    lease_ms: int
    attempts: int
    backoff_ms: int

    def backoff_after(self, attempt: int) -> int:
        """Return the backoff of a session after a failed attempt, in milliseconds."""
        if attempt >= self.attempts:
            return 0  # the message becomes a dead letter next, and those behind it follow
        return int(min(_MAX_BACKOFF_MS, self.backoff_ms * 2 ** min(attempt - 1, 30)))


@final
class InboxTurn(LeaseHandle, Generic[C]):
    """The exclusive right to work on a session and its messages.

    It lasts until the turn or its lease ends. :meth:`SessionInbox.take` makes it.

    :meth:`finish` and :meth:`remove` end the turn, each in one step with the session's new state,
    its outbox and the handled messages. :meth:`commit` does the same for some of the messages,
    and the turn continues. :meth:`release` ends the turn and writes nothing. After that, and
    when the lease has ended, each of them raises :class:`LeaseLostError` and changes nothing.

    Any of them may raise:

    * :class:`StoreUnavailableError`: nothing was written, and the turn continues.
    * :class:`OutcomeUnknownError`: it is unknown whether the write happened. Read the session, or
      leave the block by the exception. Then the remaining messages are retried.
    * :class:`DurabilityError`, with ``acks``: it was written, on fewer replicas. :attr:`session`,
      :attr:`cas` and :attr:`mail` are as after success.
    """

    _KIND: ClassVar[str] = "inbox turn"
    _SUBJECT: ClassVar[str] = "the turn"

    def __init__(self, terms: TurnTerms[C], turn: GrantedTurn, sent_at: float) -> None:
        end = LeaseEnd(turn.lease_ms, turn.left_ms)
        super().__init__(terms.check_open, terms.lease_ms, end, sent_at)
        self._terms: Final = terms
        self._ref: Final = turn.ref
        self._session: Session[C] | None = None
        self._cas = Cas.none()
        if turn.record is not None:
            self._session, self._cas = terms.encoder.decode(turn.ref.mailbox.key, turn.record)
        head, *others = turn.messages
        scope = turn.ref.mailbox.scope
        self._mail = (
            message_of(scope, head, turn.attempt),
            *(message_of(scope, message, 1) for message in others),
        )
        self._handled = 0
        self._has_failed = False

    @property
    def key(self) -> SessionKey:
        """The session's key."""
        return self._ref.mailbox.key

    @property
    def tenant(self) -> TenantCtx:
        """Env and tenant of the session, without team and user."""
        return ctx_of(self._ref.mailbox.scope, "/")

    @property
    def session(self) -> Session[C] | None:
        """The session as it was taken or last committed, ``None`` if there is none."""
        return self._session

    @property
    def cas(self) -> Cas:
        """The session's token, ``Cas.none()`` if there is no session."""
        return self._cas

    @property
    def mail(self) -> tuple[Mail, ...]:
        """The messages of this turn that are not handled yet, in order."""
        return self._mail

    @property
    def fence(self) -> int:
        """Fencing token of this turn, higher than that of every earlier turn of the session.

        Pass the token to other systems that the turn writes to. They should refuse lower tokens.
        """
        return self._ref.fence

    @property
    def guard(self) -> LeaseRef:
        """The lease of this turn, which guards writes by the store's verbs: ``put(…, fence=turn)``.

        Such a write changes the token. So :meth:`commit` over the earlier token is refused.
        """
        scope, key = self._ref.mailbox
        return LeaseRef(kind=LeaseKind.INBOX, scope=scope, key=key, fence=self._ref.fence)

    @property
    def lease_until(self) -> datetime:
        """End of the lease unless renewed: aware UTC, by the store's clock."""
        return self._until

    async def commit(self, session: Session[C] | None, handled: int) -> Cas:
        """Write the session and remove handled messages, in one step. The turn continues.

        :param session: the new state, under the same key, written over :attr:`cas`. If there was no
            session, it is created. ``None`` does not change the session.
        :param handled: how many messages of :attr:`mail`, from its head, were handled.
        :returns: the token, which is :attr:`cas` from now on.
        :raises LeaseLostError: the turn or its lease has ended.
        :raises CasConflictError: another write changed the session meanwhile. The turn continues.
        :raises TenantMismatchError: the session has another tenant, or a live session of another
            team or user is stored.
        :raises PayloadTooLargeError: over the store's limit.
        """
        self._require_held()
        return await self._commit(session, self._checked(handled), ends_by=None)

    async def finish(
        self, session: Session[C] | None = None, *, expected: Cas | None = None
    ) -> Cas:
        """Write the session, remove all messages of the turn and end the turn, in one step.

        :param session: as in :meth:`commit`.
        :param expected: token of a newer read, over which the session is written. ``None`` is
            :attr:`cas`.
        :returns: the session's token.
        :raises: as :meth:`commit`.
        """
        self._require_held()
        if expected is not None and session is not None:
            self._cas = expected
        return await self._commit(session, len(self._mail), ends_by="finish()")

    async def remove(self, handled: int | None = None) -> None:
        """Remove the session, remove handled messages and end the turn, in one step.

        The other messages stay, and the next turn gets them, without a session. This does not count
        as an attempt at them.

        :param handled: how many messages of :attr:`mail`, from its head, were handled. ``None`` is
            all of them. Those behind them may be for the next session of the key.
        :raises LeaseLostError: the turn or its lease has ended.
        :raises CasConflictError: another write changed the session meanwhile. The turn continues.
        """
        self._require_held()
        count = len(self._mail) if handled is None else self._checked(handled)
        outcome = await self._end(None, count, removes=True, ends_by="remove()")
        self._session, self._cas = None, Cas.none()
        outcome.raise_shortfall()

    async def renew(self) -> datetime:
        """Renew the lease. The block of :meth:`SessionInbox.take` does this automatically.

        Replicas need not confirm a renewal: see :attr:`RedisConfig.acks`.

        :returns: :attr:`lease_until`.
        :raises LeaseLostError: the turn or its lease has ended.
        """
        return await self._renew()

    async def release(self) -> bool:
        """Release the turn immediately. Its messages stay, and this does not count as an attempt.

        :returns: ``False`` if the turn was lost.
        """
        if not self.ended:
            self._check_open()
        self._has_failed = False
        return await self._release()

    @override
    @asynccontextmanager
    async def auto_renew(self) -> AsyncGenerator[Self]:
        """Renew the lease while the block runs, and release it at the end if it is still held.

        If the block raises, that was a failed attempt at the head of the messages.

        :raises LeaseLostError: on leaving, if the lease was lost and the block raised nothing else.
        """
        async with super().auto_renew():
            task = _task()
            cancellations = task.cancelling() if task else 0
            try:
                yield self
            except BaseException as error:
                is_cancelled = task is None or task.cancelling() > cancellations
                self._has_failed = _is_failure(error, is_cancelled=is_cancelled)
                raise

    # --- the lease ---------------------------------------------------------------------------

    @override
    async def _send_renew(self, lease_ms: int) -> LeaseEnd | None:
        ends_ms, left_ms = await self._terms.backend.call().renew(self._ref, lease_ms)
        return LeaseEnd(ends_ms, left_ms) if ends_ms else None

    @override
    async def _send_release(self) -> bool:
        backoff_ms = None
        if self._has_failed and self._mail:
            backoff_ms = self._terms.backoff_after(self._mail[0].attempt)
        return await self._terms.backend.call().release(self._ref, backoff_ms)

    # --- shared steps ------------------------------------------------------------------------

    def _checked(self, handled: int) -> int:
        if type(handled) is not int or not 0 <= handled <= len(self._mail):
            raise InvalidInputError("handled", f"expected an int from 0 to {len(self._mail)}")
        return handled

    def _check_same(self, encoded: EncodedSession) -> None:
        if encoded.key != self.key:
            raise InvalidInputError("session", "has another key than the turn")
        if encoded.scope != self._ref.mailbox.scope:
            raise TenantMismatchError(self.key)

    async def _commit(
        self, session: Session[C] | None, handled: int, *, ends_by: str | None
    ) -> Cas:
        if session is None:
            outcome = await self._end(None, handled, removes=False, ends_by=ends_by)
            outcome.raise_shortfall()
            return self._cas
        # The body is decoded first, because a body that cannot be decoded must not be written.
        encoded, body = self._terms.encoder.encode_with_body(session, self._check_same)
        outcome = await self._end(encoded, handled, removes=False, ends_by=ends_by)
        self._session, self._cas = as_versioned(
            self.key, body, outcome.token, encoded.ttl_ms, outcome.at_ms, unknown=session.unknown
        )
        outcome.raise_shortfall()
        return self._cas

    async def _end(
        self, encoded: EncodedSession | None, handled: int, *, removes: bool, ends_by: str | None
    ) -> Outcome:
        result = TurnCommit(
            ref=self._ref,
            encoded=encoded,
            removes=removes,
            expected=self._cas,
            handled=self._handled + handled,
            in_hand=len(self._mail) - handled,
            ends=ends_by is not None,
        )
        with self._renewer.ending(ends_by):
            outcome = await self._terms.backend.call().commit(result)
            if outcome.verdict is Verdict.LOST:
                self._lose()
            if outcome.verdict is Verdict.CONFLICT:
                raise CasConflictError(self.key, self._cas, outcome.token)
            if outcome.verdict is not Verdict.DONE:
                raise error_for(self.key, outcome)
            self._drop_handled(handled)
            if ends_by is not None:
                self._renewer.end(ends_by)
        return outcome

    def _drop_handled(self, handled: int) -> None:
        self._mail = self._mail[handled:]
        self._handled += handled


def _task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # on trio, where a cancellation reaches only the cancelled task
        return None


def _is_failure(error: BaseException, *, is_cancelled: bool) -> bool:
    """Tell whether an error counts as a failed attempt at the messages.

    :param is_cancelled: whether the task was cancelled. If not, a call that it awaited was.
    """
    if isinstance(error, BaseExceptionGroup):
        several = cast("BaseExceptionGroup[BaseException]", error)
        return any(_is_failure(one, is_cancelled=is_cancelled) for one in several.exceptions)
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return not is_cancelled
    return not isinstance(error, (KeyboardInterrupt, GeneratorExit))
