"""The message that a flow gets, and the results that it returns."""

from __future__ import annotations

from datetime import timedelta  # noqa: TC003 - public hints can be evaluated
from typing import Generic

import msgspec

from ..model import C, OutboxEntry, ReplyScope, Session, SessionCursor, SessionKey, SessionMeta
from ..ordering import Mail  # noqa: TC001 - msgspec reads it

__all__ = ["End", "FlowMessage", "Pause", "Reply"]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply to send.

    :ivar key: the session's key.
    :ivar entry: the outbox entry of the reply. With ``key``, its ``seq`` and ``payload_sha256`` are
        an idempotency key, the same each time the reply is sent.
    :ivar payload: the JSON value that the flow replied.
    """

    key: SessionKey
    entry: OutboxEntry
    payload: object


class Pause(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """The flow waits for the next message.

    :ivar session: the new state.
    :ivar replies: JSON values to send, in order.
    :ivar scope: the reply scope where the next message is expected, for
        :meth:`SessionInbox.deliver`. The session needs a user. ``None`` leaves the session's wait
        as it is. A message for its key arrives in both cases.
    """

    session: Session[C]
    replies: tuple[object, ...] = ()
    scope: ReplyScope | None = None


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The flow ends, and its session is removed.

    :ivar replies: JSON values to send before. They need a session.
    """

    replies: tuple[object, ...] = ()


class FlowMessage(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """A message for a flow.

    :ivar key: the session's key.
    :ivar session: the session, ``None`` if no flow is running.
    :ivar mail: the message.
    """

    key: SessionKey
    session: Session[C] | None
    mail: Mail

    def start(
        self, flow_id: str, node_id: str, context: C, *, ttl_secs: timedelta | float = 0
    ) -> Session[C]:
        """Return a new session of the message's caller.

        :param flow_id: the flow.
        :param node_id: its first node.
        :param context: its first state.
        :param ttl_secs: lifetime, a :class:`datetime.timedelta` or seconds. 0 never expires.
        """
        return Session(
            key=self.key,
            cursor=SessionCursor(flow_id=flow_id, node_id=node_id),
            meta=SessionMeta.of(self.mail.ctx),
            context=context,
            ttl_secs=ttl_secs,
        )
