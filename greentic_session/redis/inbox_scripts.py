"""Running the scripts of inboxes: on a mailbox, and on the indexes that lead to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .message_format import member_of
from .replies import wrong_type, wrong_type_of
from .scripts import COMMIT_TURN, INDEX_SET_DUE, RELEASE_TURN
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..abc.inbox import MailboxRef
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Argument, Reply
    from .transport.script import Script

__all__ = ["InboxScripts", "topic_of"]


class InboxScripts:
    """Runs them, each in one slot.

    :param client: of the store.
    :param names: of the store.
    """

    def __init__(self, client: RedisClient, names: KeyNames) -> None:
        self._client: Final = client
        self._names: Final = names

    async def _index_set_due(
        self,
        inbox: str,
        mailbox: MailboxRef,
        mark: str | bytes,
        delay_ms: Argument,
        until: float | None,
        *,
        token: str = "",
        rings: bool = True,
    ) -> None:
        """Say in how many ms a session is due, and ring; or, empty, that it need not be."""
        channel = (
            self._names.channel(topic_of(inbox)) if rings and delay_ms not in ("", b"") else ""
        )
        terms = (member_of(mailbox), mark, delay_ms, channel, token)
        # On one server, whoever has the mail has what was written before it: its expectation.
        is_hint = not token or not self._client.confirms_apart
        await self._on_index(
            INDEX_SET_DUE, self._names.agenda(inbox), terms, until, is_hint=is_hint
        )

    async def _on_index(
        self,
        script: Script,
        name: str,
        arguments: Sequence[Argument],
        until: float | None,
        *,
        is_hint: bool = True,
        grants: str = "",
        ends: str = "",
    ) -> Reply:
        try:
            return await self._client.run(
                *(script, (name,), arguments),
                until=until,
                is_hint=is_hint,
                grants=grants,
                ends=ends,
            )
        except ForeignValueError:
            raise wrong_type_of("an inbox's index") from None

    async def _on_mailbox(
        self,
        script: Script,
        mailbox: MailboxRef,
        suffix: str,
        arguments: Sequence[Argument],
        until: float | None,
        *,
        grants: str = "",
        ends: str = "",
    ) -> Reply:
        names = self._names.of_mailbox(*mailbox)
        if suffix:
            names = (*names, f"{names[2]}{suffix}")
        elif script is COMMIT_TURN:
            names = (*names, self._names.events(names[0]))
        try:
            return await self._client.run(
                *(script, names, (mailbox.scope, *arguments)),
                until=until,
                # Should giving back be lost with its server, the lease ends by itself.
                is_hint=script is RELEASE_TURN,
                grants=grants,
                ends=ends,
            )
        except ForeignValueError:
            raise wrong_type(mailbox.key) from None


def topic_of(inbox: str) -> str:
    """Return for what those listen who wait for mail."""
    return f"inbox:{inbox}"
