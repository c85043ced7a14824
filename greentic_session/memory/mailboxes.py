"""Mailboxes, early events and dead letters of a memory store."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from ..abc.inbox import MailboxRef, StoredDeadLetter, StoredMessage
    from ..model import SessionKey

__all__ = ["EarlyEvent", "InboxDeadLetter", "Mailbox"]


@final
class Mailbox:
    """A mailbox that has messages, or whose turn is held.

    :ivar ref: reference to the mailbox.
    :ivar mail: messages in order.
    :ivar fence: fencing token of the newest turn.
    :ivar lease_ms: when the lease of the turn ends, 0 after a release.
    :ivar worker: the worker that holds the turn, empty for none.
    :ivar tries: number of attempts at the head, including that of a held turn.
    :ivar backoff_ms: time of the next attempt at the head, in milliseconds since the epoch.
    :ivar done: number of messages of the newest turn that were removed.
    :ivar hand: number of messages that the newest turn returned.
    """

    __slots__ = (
        *("backoff_ms", "done", "fence", "hand", "lease_ms", "mail", "ref", "tries", "worker"),
    )

    def __init__(self, ref: MailboxRef) -> None:
        self.ref: Final = ref
        self.mail: Final[deque[StoredMessage]] = deque()
        self.fence: int = 0
        self.lease_ms: int = 0
        self.worker: str = ""
        self.tries: int = 0
        self.backoff_ms: int = 0
        self.done: int = 0
        self.hand: int = 0


@final
class EarlyEvent:
    """An early event.

    :ivar message: the event.
    :ivar key: key of the session that the event is assigned to, ``None`` before that.
    """

    __slots__ = ("key", "message")

    def __init__(self, message: StoredMessage) -> None:
        self.message: Final = message
        self.key: SessionKey | None = None


class InboxDeadLetter(NamedTuple):
    """A dead letter and the inbox in which it became one."""

    inbox: str
    mail: StoredDeadLetter
