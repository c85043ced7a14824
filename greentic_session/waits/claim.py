"""A claim on a wait: the exclusive right of one worker to the next turn."""

from __future__ import annotations

from datetime import datetime, timedelta  # noqa: TC003 - public hints can be evaluated
from typing import TYPE_CHECKING, ClassVar, Final, Generic, NamedTuple, final

from .._compat import override
from .._core.encoding import as_versioned
from .._core.leases import LeaseEnd, LeaseHandle
from ..abc.records import EncodedSession, Record, Verdict, error_for
from ..abc.waits import ClaimEnding, ClaimRef, EndingMode, IndexRemoval, SeenEvent
from ..errors import CasConflictError, InvalidInputError, TenantMismatchError
from ..model import C, Cas, ReplyScope, Session, SessionKey
from .arguments import hash_of, with_ttl
from .index import WaitAddress, WaitIndex

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._core.encoding import SessionEncoder
    from ..abc.waits import EventMemory, WaitBackend, WaitOutcome

__all__ = ["Claim", "ClaimTerms"]

_ENDINGS: Final[dict[EndingMode, str | None]] = {
    EndingMode.COMPLETE: "complete()",
    EndingMode.FINISH: "finish()",
    EndingMode.SAVE: None,
}
"""Names the call in errors, if it ends the turn."""


class ClaimTerms(NamedTuple):
    """The arguments of a claim.

    :ivar backend: the store's wait backend.
    :ivar events: how long completed events are known.
    :ivar check_open: raises :class:`StoreUnavailableError` if the store was closed.
    :ivar address: where the session waited.
    :ivar ref: the claim, as the record contains it.
    :ivar event_id: the event's id, as passed by the caller.
    :ivar event: digest of the event, empty for none.
    :ivar lease_ms: length of the lease, in milliseconds.
    :ivar sent_at: time at which the claim was sent, on the event loop's clock.
    :ivar scope: the reply scope where the session waited.
    :ivar collect: admits the early events of a reply scope, after a session was registered there.
    """

    backend: WaitBackend
    events: EventMemory
    check_open: Callable[[], None]
    address: WaitAddress
    ref: ClaimRef
    event_id: str | None
    event: str
    lease_ms: int
    sent_at: float
    scope: ReplyScope
    collect: Callable[[ReplyScope], Awaitable[None]]


@final
class Claim(LeaseHandle, Generic[C]):
    """The exclusive right to take the next turn of a session that waits.

    :meth:`WaitRegistry.resume` and :meth:`WaitRegistry.claim` make it.

    One of :meth:`complete`, :meth:`wait_again` and :meth:`finish` ends the turn. Each is one step,
    with the session's new state, its outbox and the completed event. :meth:`release` ends the claim
    and leaves the wait unchanged. After that, and after another worker has claimed the wait, each
    of them raises :class:`LeaseLostError` and changes nothing. When the lease has expired, another
    worker may claim the wait. Until then, the claim is still held.

    Any of them may raise:

    * :class:`StoreUnavailableError`: nothing was written, and the claim continues.
    * :class:`OutcomeUnknownError`: it is unknown whether the write happened. Either the wait is
      over, or it can be claimed again when the lease ends.
    * :class:`DurabilityError`, with ``acks``: it was written, on fewer replicas. An ending has
      ended the claim. After :meth:`save`, the claim continues, and :attr:`session` and :attr:`cas`
      are the saved ones.
    """

    _KIND: ClassVar[str] = "claimed wait"
    _SUBJECT: ClassVar[str] = "the turn"

    def __init__(self, terms: ClaimTerms, encoder: SessionEncoder[C], outcome: WaitOutcome) -> None:
        end = LeaseEnd(outcome.lease_ms, outcome.left_ms)
        super().__init__(terms.check_open, terms.lease_ms, end, terms.sent_at)
        self._encoder: Final = encoder
        self._terms: Final = terms
        self._since_us: Final = outcome.since_us
        record = Record(
            value=outcome.value,
            incarnation=outcome.incarnation,
            owner=terms.ref.owner,
            ttl_ms=outcome.ttl_ms,
            at_ms=outcome.at_ms,
            body=outcome.body,
        )
        self._session, self._cas = encoder.decode(terms.ref.key, record)

    @property
    def key(self) -> SessionKey:
        """The session's key."""
        return self._terms.ref.key

    @property
    def session(self) -> Session[C]:
        """The session as it was claimed or last saved."""
        return self._session

    @property
    def cas(self) -> Cas:
        """The session's token. The claim changed it, so a write over an older token is refused."""
        return self._cas

    @property
    def fence(self) -> int:
        """Fencing token of this claim, higher than that of every earlier claim on the session.

        Pass the token to other systems that the turn writes to. They should refuse lower tokens.
        """
        return self._terms.ref.fence

    @property
    def event_id(self) -> str | None:
        """The id of the event that this turn answers, if one was given."""
        return self._terms.event_id

    @property
    def lease_until(self) -> datetime:
        """End of the lease unless renewed: aware UTC, by the store's clock."""
        return self._until

    async def complete(self, session: Session[C]) -> Cas:
        """Write the session and end its wait.

        :param session: the new state, under the same key.
        :returns: the new token.
        :raises LeaseLostError: another worker has claimed the wait, or it is gone.
        :raises CasConflictError: another write changed the session meanwhile. The claim continues.
        :raises TenantMismatchError: the session has another owner.
        :raises PayloadTooLargeError: over the store's limit.
        """
        self._require_held()
        return (await self._end(EndingMode.COMPLETE, self._encode(session))).token

    async def wait_again(
        self,
        session: Session[C],
        scope: ReplyScope | None = None,
        ttl: timedelta | float | None = None,
    ) -> Cas:
        """Write the session and pause it again, under the same reply scope or another.

        If the registry has an inbox, its early events for the reply scope are then collected, as
        after :meth:`WaitRegistry.register_wait`.

        :param session: the new state, under the same key.
        :param scope: the reply scope of the next reply. ``None`` keeps the current one. Another
            session that waits there is superseded.
        :param ttl: the session's new lifetime, as in :meth:`WaitRegistry.register_wait`.
        :returns: the new token.
        :raises InboxFullError: the session waits. Its mailbox is full, and other early events stay
            stored.
        :raises: as :meth:`complete`.
        """
        self._require_held()
        encoded = self._encode(with_ttl(session, ttl))
        address = self._terms.address
        if scope is not None:
            address = WaitAddress(address.wait_owner, hash_of(scope))
        index = self._index()
        expected = self._cas

        async def write(floor_us: int) -> WaitOutcome:
            ending = ClaimEnding(
                ref=self._terms.ref,
                how=EndingMode.WAIT,
                encoded=encoded,
                expected=expected,
                event=self._terms.event,
                scope_hash=address.scope_hash,
                floor_us=floor_us,
            )
            return await index.call.end_claim(ending, self._terms.events)

        left = (
            ()
            if address == self._terms.address
            else (IndexRemoval(self._terms.address.scope_hash, self.key, self._since_us),)
        )
        with self._renewer.ending("wait_again()"):
            outcome = await index.enter(address, encoded, write, event=self._terms.event, left=left)
            self._raise_unless_done(outcome)
            self._renewer.end("wait_again()")
        await self._terms.collect(self._terms.scope if scope is None else scope)
        return outcome.token

    async def finish(self) -> None:
        """Remove the session and end its wait. Its completed events stay known for a while.

        :raises LeaseLostError: another worker has claimed the wait, or it is gone.
        :raises CasConflictError: another write changed the session meanwhile. The claim continues.
        """
        self._require_held()
        await self._end(EndingMode.FINISH, None)

    async def save(self, session: Session[C]) -> Cas:
        """Write the session. The claim continues.

        :returns: the new token, which is :attr:`cas` from now on.
        :raises: as :meth:`complete`.
        """
        self._require_held()
        # The body is decoded first, because a body that cannot be decoded must not be written.
        encoded, body = self._encoder.encode_with_body(session, self._check_same)
        outcome = await self._end(EndingMode.SAVE, encoded)
        self._session, self._cas = as_versioned(
            self.key, body, outcome.token, encoded.ttl_ms, outcome.at_ms, unknown=session.unknown
        )
        outcome.raise_shortfall()
        return self._cas

    async def renew(self, lease: timedelta | float | None = None) -> datetime:
        """Renew the lease. A renewal never shortens it.

        Replicas need not confirm a renewal: see :attr:`RedisConfig.acks`.

        :param lease: length of the lease from now. ``None`` is the length of the claim's lease.
        :returns: :attr:`lease_until`.
        :raises LeaseLostError: another worker has claimed the wait, or it is gone.
        """
        self._require_held()
        return await self._renew(lease)

    async def release(self) -> bool:
        """Release the claim. The wait stays as it was, and the session's lifetime restarts.

        :returns: ``False`` if the claim was lost.
        """
        return await self._release()

    # --- the lease ---------------------------------------------------------------------------

    @override
    async def _send_renew(self, lease_ms: int) -> LeaseEnd:
        outcome = await self._terms.backend.call().renew(self._terms.ref, lease_ms)
        self._raise_unless_done(outcome)
        return LeaseEnd(outcome.lease_ms, outcome.left_ms)

    @override
    async def _send_release(self) -> bool:
        self._check_open()
        outcome = await self._terms.backend.call().release(self._terms.ref, "")
        if outcome.verdict is Verdict.LOST:
            return False
        self._raise_unless_done(outcome)
        return True

    # --- shared steps ------------------------------------------------------------------------

    def _encode(self, session: Session[C]) -> EncodedSession:
        encoded = self._encoder.encode(session)
        self._check_same(encoded)
        return encoded

    def _check_same(self, encoded: EncodedSession) -> None:
        if encoded.key != self.key:
            raise InvalidInputError("session", "has another key than the one claimed")
        if (encoded.scope, encoded.owner) != self._terms.address.wait_owner:
            raise TenantMismatchError(self.key)

    def _index(self) -> WaitIndex:
        return WaitIndex(self._terms.backend, self._terms.events)

    async def _end(self, how: EndingMode, encoded: EncodedSession | None) -> WaitOutcome:
        """End the claim and its wait, or save under it."""
        index = self._index()
        ending = ClaimEnding(
            ref=self._terms.ref,
            how=how,
            encoded=encoded,
            expected=self._cas,
            event=self._terms.event,
        )
        by = _ENDINGS[how]
        with self._renewer.ending(by):
            outcome = await index.call.end_claim(ending, self._terms.events)
            self._raise_unless_done(outcome)
            if by is not None:
                self._renewer.end(by)
        if by is not None:
            event = SeenEvent(self._terms.event, outcome.at_ms) if self._terms.event else None
            await index.leave(self._terms.address, self.key, self._since_us, event)
            outcome.raise_shortfall()
        return outcome

    def _raise_unless_done(self, outcome: WaitOutcome) -> None:
        if outcome.verdict is Verdict.DONE:
            return
        if outcome.verdict is Verdict.LOST:
            self._lose()
        if outcome.verdict is Verdict.CONFLICT:
            raise CasConflictError(self.key, self._cas, outcome.token)
        raise error_for(self.key, outcome)
