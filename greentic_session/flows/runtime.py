"""A runtime of flows: a connector's loop over an inbox, with replies that are sent at least once.

A flow takes one message at a time. It answers, and then pauses for the next message or ends.
"""

from __future__ import annotations

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Generic, cast

import anyio
import msgspec
from msgspec.structs import replace

from .._core.verbs.base import services_of
from ..errors import (
    CasConflictError,
    DecodeError,
    InvalidInputError,
    LeaseLostError,
    OutcomeUnknownError,
    StoreUnavailableError,
)
from ..model import (
    C,
    OutboxEntry,
    ReplyScope,
    Session,
    SessionKey,
    TenantCtx,
)
from ..ordering import SessionInbox
from ..scoped import unscoped
from ..waits import WaitRegistry
from .messages import FlowMessage, Pause, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..ordering import InboxTurn
    from ..scoped import ScopedSessionStore
    from ..store import AsyncSessionStore
    from .messages import End

__all__ = ["FlowRuntime"]

_LOG: Final = logging.getLogger(__name__)
_LABEL: Final = "greentic.flow"
"""The label of a session that holds the progress of its flow."""
_SEEN: Final = 8
"""How many answered messages a session knows. The inbox knows many more, but not a replay."""
_RETRY_SECS: Final = 1.0
"""Pause of a worker after the store was unavailable."""


class _Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a session's flow has done, stored with the session.

    :ivar seen: digests of the newest messages that the state answers.
    :ivar replies: replies that may not have been sent.
    :ivar scope: the reply scope to register.
    :ivar ends: whether the flow has ended.
    """

    seen: tuple[str, ...] = ()
    replies: tuple[object, ...] = ()
    scope: ReplyScope | None = None
    ends: bool = False

    @property
    def is_settled(self) -> bool:
        return not self.replies and self.scope is None and not self.ends


class FlowRuntime(ABC, Generic[C]):
    """Runs flows on the messages of an inbox: takes a turn, calls :meth:`step`, sends its replies.

    * The state is written once for each message, before its replies are sent.
    * A reply is sent at least once. If a worker dies after it saved the state, the next worker of
      the session sends the replies before it does anything else.
    * A message whose :meth:`step` or :meth:`send` fails is retried by the inbox, and becomes a dead
      letter in the end. Replies that were saved with the state are sent with the next message.

    Any number of runtimes, in any number of processes, may share an inbox. The caller opens and
    closes the store.

    :param store: the store of the inbox, or a scoped view of it.
    :param inbox: the inbox whose messages are handled.
    :ivar inbox: the same inbox. Admit messages by it.
    :ivar waits: a registry of waits that collects the inbox's early events.
    """

    def __init__(
        self, store: AsyncSessionStore[C] | ScopedSessionStore[C], inbox: SessionInbox[C]
    ) -> None:
        if not isinstance(cast("object", inbox), SessionInbox):
            raise InvalidInputError("inbox", f"expected SessionInbox, got {type(inbox).__name__}")
        self.waits: Final[WaitRegistry[C]] = WaitRegistry(store, inbox=inbox)
        self.inbox: Final = inbox
        self._check_open: Final = services_of(unscoped(store)[0]).check_open

    # --- the flow ----------------------------------------------------------------------------

    @abstractmethod
    async def step(self, message: FlowMessage[C]) -> Pause[C] | End | None:
        """Handle a message.

        This may run again for a message whose worker died. So it should have no effects but its
        result.

        :returns: :class:`Pause` or :class:`End`. ``None`` ignores the message.
        """

    @abstractmethod
    async def send(self, reply: Reply) -> None:
        """Send a reply. This may be repeated after a failure or the death of a worker."""

    async def failed(self, key: SessionKey | None, error: Exception) -> None:
        """Note a failure. The default logs its type. The worker goes on afterwards.

        :param key: key of the session whose message failed, ``None`` if no turn could be taken.
        """
        _LOG.warning("a turn failed with %s: session %r", type(error).__name__, key)

    # --- working -----------------------------------------------------------------------------

    @asynccontextmanager
    async def working(self, workers: int = 4) -> AsyncGenerator[None]:
        """Run workers while the block runs. At its end, turns in progress are released.

        :param workers: how many turns are handled at a time.
        """
        if type(workers) is not int or workers < 1:
            raise InvalidInputError("workers", "expected an int from 1")
        async with anyio.create_task_group() as tasks:
            for number in range(workers):
                tasks.start_soon(self._work, f"{os.getpid()}-{number}")
            yield
            tasks.cancel_scope.cancel()

    async def run(self, workers: int = 4) -> None:
        """Run workers until this call is cancelled."""
        async with self.working(workers):
            await anyio.sleep_forever()

    async def _work(self, name: str) -> None:
        while True:
            key: SessionKey | None = None
            try:
                async with self.inbox.take(name, most=1) as turn:
                    key = turn.key
                    await self.handle(turn)
            except (LeaseLostError, OutcomeUnknownError, CasConflictError):
                pass  # the message comes again
            except Exception as error:  # noqa: BLE001 - one message must not end the worker
                self._check_open()
                await self.failed(key, error)
                if isinstance(error, StoreUnavailableError):
                    await anyio.sleep(_RETRY_SECS)

    async def handle(self, turn: InboxTurn[C]) -> None:
        """Handle the message of a turn, and end the turn.

        :raises InvalidInputError: the turn has several messages. Take it with ``most=1``.
        """
        if len(turn.mail) != 1:
            raise InvalidInputError("turn", "expected one message: take the turn with most=1")
        (mail,) = turn.mail
        event = hashlib.sha256(mail.event_id.encode()).hexdigest()[:16]
        session, progress = turn.session, _progress_of(turn.session)
        is_seen = event in progress.seen
        if session is not None and not progress.is_settled:  # left by a worker that died
            if progress.ends or progress.scope is not None or is_seen:
                await self._settle(turn, session, progress, handled=int(is_seen))
                return
            await self._send(session, progress)
            known, progress = progress, _Progress(seen=progress.seen)
            session = _with_progress(session, progress, drops=len(known.replies))
        if is_seen:
            await turn.finish()
            return
        result = await self.step(FlowMessage(key=turn.key, session=session, mail=mail))
        if result is None:
            await turn.finish(session)
            return
        seen = (*progress.seen, event)[-_SEEN:]
        if isinstance(result, Pause):
            following = _Progress(seen=seen, replies=result.replies, scope=result.scope)
            session = result.session
            if result.scope is not None and session.meta.user_id is None:
                raise InvalidInputError("scope", "a session that waits needs a user")
        else:
            following = _Progress(seen=seen, replies=result.replies, ends=True)
            if session is None and result.replies:
                raise InvalidInputError("replies", "need a session that records them")
        if session is None or (following.ends and not following.replies):
            await (turn.finish() if session is None else turn.remove())
            return
        step = 0 if turn.session is None else turn.session.cursor.outbox_seq
        session = _with_replies(session, following, mail.event_id, step)
        if following.is_settled:
            await turn.finish(session)
            return
        await turn.commit(session, handled=0)
        await self._settle(turn, session, following, handled=1)

    async def _settle(
        self, turn: InboxTurn[C], session: Session[C], progress: _Progress, handled: int
    ) -> None:
        """Send the replies, then register or remove the session, and end the turn.

        :param handled: 1 if the state answers the turn's message, otherwise 0.
        """
        await self._send(session, progress)
        if progress.ends:
            await turn.remove(handled)
            return
        session = _with_progress(
            session, _Progress(seen=progress.seen), drops=len(progress.replies)
        )
        if progress.scope is None:
            await turn.finish(session)
            return
        meta = session.meta
        ctx = TenantCtx(tenant_id=meta.tenant_id, env=meta.env, team_id=meta.team_id)
        user_id = cast("str", meta.user_id)
        await self.waits.register_wait(ctx, user_id, progress.scope, session, expected=turn.cas)
        if handled:
            await turn.finish()
        else:
            await turn.release()  # the next turn has the new token

    async def _send(self, session: Session[C], progress: _Progress) -> None:
        first = len(session.outbox) - len(progress.replies)
        for entry, payload in zip(session.outbox[first:], progress.replies, strict=True):
            await self.send(Reply(key=session.key, entry=entry, payload=payload))


def _progress_of(session: Session[C] | None) -> _Progress:
    if session is None or _LABEL not in session.meta.labels:
        return _Progress()
    try:
        return msgspec.convert(session.meta.labels[_LABEL], _Progress)
    except msgspec.ValidationError:
        raise DecodeError(session.key, "the label of its flow has another form") from None


def _with_progress(session: Session[C], progress: _Progress, *, drops: int = 0) -> Session[C]:
    """Return the session with its progress.

    :param drops: number of its newest outbox entries that are dropped, because they were sent.
    """
    labels = {**session.meta.labels, _LABEL: msgspec.to_builtins(progress)}
    outbox = session.outbox[: len(session.outbox) - drops]
    return replace(session, meta=replace(session.meta, labels=labels), outbox=outbox)


def _with_replies(session: Session[C], progress: _Progress, event_id: str, step: int) -> Session[C]:
    """Return the session with its progress, and with an outbox entry for each reply.

    :param event_id: the message that is answered.
    :param step: the step of the flow that answers it.
    """
    # The entry names the reply, so its hash includes the message.
    entries = (
        OutboxEntry.for_payload(
            step, f"{event_id} {number} ".encode() + msgspec.json.encode(payload)
        )
        for number, payload in enumerate(progress.replies)
    )
    session = replace(session, outbox=(*session.outbox, *entries))
    return _with_progress(session, progress)
