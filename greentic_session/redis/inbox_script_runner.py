"""The runner of the inbox scripts on mailboxes, indexes and early events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .message_format import member_of
from .replies import wrong_type, wrong_type_of
from .scripts.inbox import (
    ADMIT,
    COMMIT_TURN,
    DISCARD_DEAD_LETTER,
    INDEX_SET_DUE,
    RELEASE_TURN,
    RENEW_TURN,
    TAKE_TURN,
    WITHDRAW,
    index_set_due_arguments,
)
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from ..abc.inbox import MailboxRef
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Argument, Arguments, Reply
    from .transport.script import Script

__all__ = ["InboxScriptRunner", "topic_of"]


class InboxScriptRunner:
    """Runs inbox scripts, each in one slot, under one deadline.

    :param client: the client of the store.
    :param names: the key names of the store.
    :ivar until: the deadline, on the loop's clock.
    """

    def __init__(self, client: RedisClient, names: KeyNames, until: float) -> None:
        self._client: Final = client
        self._names: Final = names
        self.until: Final = until

    @property
    def confirms_apart(self) -> bool:
        """As :attr:`.RedisClient.confirms_apart`."""
        return self._client.confirms_apart

    async def set_due(
        self,
        inbox: str,
        mailbox: MailboxRef,
        known_score: str | bytes,
        delay_ms: Argument,
        *,
        pending_token: str = "",
        notifies: bool = True,
    ) -> None:
        """Set when a session is due and notify the waiters, or remove its index entry.

        :param known_score: the score that the caller set last, empty for none.
        :param delay_ms: milliseconds until the session is due. If empty, the entry is removed
            unless another caller has changed it.
        :param pending_token: token of the caller's pending entry, which is removed.
        :param notifies: whether to notify the waiters.
        """
        is_due = delay_ms not in ("", b"")
        arguments = index_set_due_arguments(
            member=member_of(mailbox),
            known_score=known_score,
            delay_ms=delay_ms,
            channel=self._names.channel(topic_of(inbox)) if notifies and is_due else "",
            pending_token=pending_token,
            tenant_channel=self._names.channel(topic_of(inbox, mailbox.scope)),
        )
        # A replica that has the message also has the pending entry, which was written before it.
        skips_acks = not pending_token or not self.confirms_apart
        await self.on_index(
            INDEX_SET_DUE,
            *self._names.inbox_indexes(inbox, mailbox.scope),
            arguments=arguments,
            skips_acks=skips_acks,
        )

    async def on_index(
        self,
        script: Script,
        *names: str,
        arguments: Arguments,
        skips_acks: bool = True,
        grants: str = "",
        ends: str = "",
    ) -> Reply:
        """Run a script on an index, or on the early events of a reply scope and their heads.

        :param skips_acks: as in :meth:`.RedisClient.run`, like ``grants`` and ``ends``.
        :raises StoreUnavailableError: the key holds another type of value.
        """
        try:
            return await self._client.run(
                script,
                names,
                arguments,
                until=self.until,
                skips_acks=skips_acks,
                grants=grants,
                ends=ends,
            )
        except ForeignValueError:
            raise wrong_type_of("an inbox's index") from None
        except UnconfirmedError as error:
            raise error.plain() from None

    async def on_mailbox(
        self,
        script: Script,
        mailbox: MailboxRef,
        suffix: str,
        arguments: Arguments,
        *,
        indexes: tuple[str, ...] = (),
        grants: str = "",
        ends: str = "",
    ) -> Reply:
        """Run a script on a mailbox.

        :param suffix: suffix of the fifth key after the mailbox's name, empty for no fifth key.
            A key for headers follows where the script uses it.
        :param arguments: the arguments after the scope, which is ARGV 3.
        :param indexes: names of the indexes of sessions that ``COMMIT_TURN`` writes.
        :raises DecodeError: a key holds another type of value.
        :raises UnconfirmedError: only from ``COMMIT_TURN``, in place of :class:`DurabilityError`.
        """
        names = self._names.mailbox_keys(*mailbox)
        if script is TAKE_TURN:
            names = (*names, f"{names[2]}{suffix}", f"{names[2]}:fence")
        elif suffix:
            names = (*names, f"{names[2]}{suffix}")
        elif script is COMMIT_TURN:
            names = (*names, self._names.events(names[0]))
        if script in (ADMIT, TAKE_TURN, COMMIT_TURN, DISCARD_DEAD_LETTER, WITHDRAW):
            names = (*names, f"{names[2]}:headers")
        names = (*names, *indexes)
        try:
            return await self._client.run(
                script,
                names,
                (mailbox.scope, *arguments),
                until=self.until,
                # If a failover loses a release, the lease ends at its time. If it loses a renewal,
                # the lease ends earlier. The mailbox refuses a stale worker.
                skips_acks=script in (RELEASE_TURN, RENEW_TURN),
                grants=grants,
                ends=ends,
            )
        except ForeignValueError:
            raise wrong_type(mailbox.key) from None
        except UnconfirmedError as error:
            if script is COMMIT_TURN:
                raise
            raise error.plain() from None


def topic_of(inbox: str, scope: str = "") -> str:
    """Return the notification topic of an inbox's new messages.

    :param scope: ``env/tenant``, empty for the messages of all tenants.
    """
    return f"inbox:{inbox}:{scope}" if scope else f"inbox:{inbox}"
