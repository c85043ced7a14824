"""Early events on a Redis or Valkey server: replies stored until a session waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..abc.inbox import EarlyPage
from ..abc.records import Outcome, Verdict
from ..model import SessionKey
from .message_format import decode, encode, encode_new
from .replies import parsing_write_reply
from .scripts.inbox import (
    ASSIGN_EARLY,
    DELETE_EARLY,
    STORE_EARLY,
    assign_early_arguments,
    delete_early_arguments,
    store_early_arguments,
)

if TYPE_CHECKING:
    from ..abc.inbox import EarlyEventQueue, StoredMessage
    from ..abc.waits import EventMemory
    from .inbox_script_runner import InboxScriptRunner
    from .key_names import KeyNames

__all__ = ["EarlyEvents"]


class EarlyEvents:
    """Runs the steps on early events for :class:`.RedisInbox`. See :class:`.InboxBackend`.

    :param scripts: the runner of the inbox scripts.
    :param names: the key names of the store.
    """

    def __init__(self, scripts: InboxScriptRunner, names: KeyNames) -> None:
        self._scripts: Final = scripts
        self._names: Final = names

    async def store(
        self,
        queue: EarlyEventQueue,
        event_id: str,
        payload: bytes,
        *,
        events: EventMemory,
        headers: bytes,
    ) -> Outcome:
        """Store an event at the end of a queue."""
        arguments = store_early_arguments(
            encode_new(queue.wait_owner.owner, event_id, b""),
            payload,
            limit=events.most,
            retention_ms=events.ttl_ms,
            headers=headers,
        )
        reply = await self._scripts.on_index(
            STORE_EARLY, *self._names_of(queue), arguments=arguments, skips_acks=False
        )
        with parsing_write_reply():
            return Outcome(Verdict(reply[0]))

    async def assign(
        self, queue: EarlyEventQueue, key: SessionKey, gone: str, events: EventMemory, position: int
    ) -> EarlyPage:
        """Assign a page of a queue's events to a session, and return each with its session."""
        arguments = assign_early_arguments(key, events.ttl_ms, gone, position)
        # A replica that has a message also has the assignment, which was written before it.
        reply = await self._scripts.on_index(
            ASSIGN_EARLY,
            *self._names_of(queue),
            arguments=arguments,
            skips_acks=not self._scripts.confirms_apart,
        )
        with parsing_write_reply():
            _, following, *assigned = reply
            found = [
                (SessionKey(key.decode()), decode(event)._replace(headers=headers))
                for key, event, headers in zip(
                    assigned[::3], assigned[1::3], assigned[2::3], strict=True
                )
            ]
            return EarlyPage(found, int(following) if following else None)

    async def delete(self, queue: EarlyEventQueue, key: SessionKey, message: StoredMessage) -> None:
        """Delete an event that is assigned to a session."""
        arguments = delete_early_arguments(key, encode(message))
        await self._scripts.on_index(DELETE_EARLY, *self._names_of(queue), arguments=arguments)

    def _names_of(self, queue: EarlyEventQueue) -> tuple[str, str, str]:
        env, tenant_id = queue.wait_owner.scope.split("/")
        team_id, user_id = queue.wait_owner.owner.split("/", 1)
        name = self._names.early_events(env, tenant_id, team_id, user_id, queue.scope_hash)
        return name, f"{name}:heads", f"{name}:headers"
