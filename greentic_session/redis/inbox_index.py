"""The index of an inbox on a Redis or Valkey server: the search for a due session, and its size."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, final

import anyio

from .._core.tasks import start_background
from ..abc.inbox import InboxSize, NothingDue
from ..errors import SessionError
from .inbox_script_runner import topic_of
from .replies import parsing_write_reply, wrong_type_of
from .scripts.inbox import (
    INDEX_NEXT_DUE,
    INDEX_REQUEUE,
    index_next_due_arguments,
    index_requeue_arguments,
)
from .transport.failures import ForeignValueError, malformed_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..abc.inbox import TakeRequest
    from .inbox_script_runner import InboxScriptRunner
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Arguments, Reply

__all__ = ["CopyPasses", "DueSession", "InboxIndex"]

_MARGIN_MS: Final = 250
"""Limit on the time that a requeue takes to the server. After it, the entry stays deferred."""
_PASS_SECS: Final = 1.0
"""Time between the passes that copy entries to a tenant's index."""
_MIXED_SECS: Final = 60.0
"""How long a waiting worker polls after each pass, since one of them found a missing entry."""
_TENANTS: Final = 1024
"""Limit on the tenants of which the passes are known. Above it, all passes start again."""


class DueSession(NamedTuple):
    """A session that is due, and deferred for the caller.

    :ivar member: its member of the index.
    :ivar score: its new score.
    """

    member: bytes
    score: bytes


@final
class CopyPasses:
    """When and where a process copies entries to the indexes of tenants.

    Workers of earlier releases only write the index of all tenants. So a process that takes turns
    of a tenant reads through it, page by page, and starts again after a while.
    """

    def __init__(self) -> None:
        self._passes: dict[tuple[str, str], _Pass] = {}

    def restart(self) -> None:
        """Start all passes again, as after a long time."""
        self._passes.clear()

    def of(self, inbox: str, scope: str) -> _Pass:
        """Return the pass for a tenant's part of an inbox."""
        if len(self._passes) > _TENANTS:
            self.restart()
        return self._passes.setdefault((inbox, scope), _Pass())


class _Pass:
    __slots__ = ("_mixed_until", "_next_at", "_position")

    def __init__(self) -> None:
        self._position: int | None = 0
        self._next_at = self._mixed_until = 0.0

    @property
    def position(self) -> int | None:
        """Position of the next page in the index, ``None`` if no page is due."""
        if self._position is None and anyio.current_time() >= self._next_at:
            self._position = 0
        return self._position

    def advance(self, following: bytes, copied: bytes) -> None:
        """Note the position of the next page, and how many entries were copied."""
        now = anyio.current_time()
        self._position = int(following) if following else None
        if self._position is None:
            self._next_at = now + _PASS_SECS
        if int(copied):
            self._mixed_until = now + _MIXED_SECS

    def limit(self, due_secs: float | None) -> float | None:
        """Return the seconds until the next poll, early if workers of an earlier release write."""
        now = anyio.current_time()
        if now >= self._mixed_until:
            return due_secs
        left_secs = max(0.001, self._next_at - now)
        return left_secs if due_secs is None else min(due_secs, left_secs)


@final
class InboxIndex:
    """Runs the scripts that search an index, for one call.

    :param client: the client of the store.
    :param names: the key names of the store.
    :param scripts: the runner of the scripts, with the deadline of the call.
    :param passes: the passes of the store.
    :param new_scripts: returns a runner whose deadline starts then.
    """

    def __init__(
        self,
        client: RedisClient,
        names: KeyNames,
        scripts: InboxScriptRunner,
        passes: CopyPasses,
        new_scripts: Callable[[], InboxScriptRunner],
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._scripts: Final = scripts
        self._passes: Final = passes
        self._new_scripts: Final = new_scripts

    async def next_due(
        self, request: TakeRequest, attempt: str, defer_ms: int, longest_ms: int
    ) -> DueSession | NothingDue:
        """Defer the first due session, and return it.

        :param attempt: names the attempt to take its turn.
        :param defer_ms: how long to defer it, in milliseconds.
        :param longest_ms: longest time for which this worker defers a session.
        """
        copying = self._passes.of(request.inbox, request.scope) if request.scope else None
        prefix = f"{request.scope}/" if request.scope else ""
        while True:
            position = None if copying is None else copying.position
            arguments = index_next_due_arguments(defer_ms, longest_ms, prefix, position)
            reply: Reply = await self._run(request, attempt, defer_ms, arguments)
            with parsing_write_reply():
                following, copied = reply[-2:]
                if copying is not None and position is not None:
                    copying.advance(following, copied)
                if reply[0] == 1:
                    return DueSession(*reply[1:3])
                due_secs = int(reply[1]) / 1000 if reply[1] else None
            if not following:
                return NothingDue(due_secs if copying is None else copying.limit(due_secs))

    async def _run(
        self,
        request: TakeRequest,
        attempt: str,
        defer_ms: int,
        arguments: Arguments,
    ) -> Reply:
        inbox, scope = request.inbox, request.scope
        indexes = self._names.inbox_indexes(inbox, scope)
        asked_at = anyio.current_time()
        try:
            return await self._scripts.on_index(
                INDEX_NEXT_DUE, *indexes, arguments=arguments, grants=attempt
            )
        except anyio.get_cancelled_exc_class():
            # Without a requeue no worker would get the session for `defer_ms`.
            if self._client.may_still_arrive(attempt):
                channel = self._names.channel
                requeued = index_requeue_arguments(
                    defer_ms,
                    age_ms=round((anyio.current_time() - asked_at) * 1000) + _MARGIN_MS,
                    channel=channel(topic_of(inbox)),
                    tenant_channel=channel(topic_of(inbox, scope)) if scope else "",
                )

                async def requeue() -> None:
                    with suppress(SessionError):
                        await self._new_scripts().on_index(
                            INDEX_REQUEUE, *indexes, arguments=requeued, ends=attempt
                        )

                start_background(requeue, "greentic_session inbox requeue")
            raise

    async def size(self, inbox: str, scope: str) -> InboxSize:
        """As :meth:`InboxCall.size`."""
        index = self._names.inbox_indexes(inbox, scope)[-1]
        try:
            sessions, (secs, us) = await self._client.read_many(
                [("ZCARD", index), ("TIME",)], key=index, until=self._scripts.until
            )
            now_ms = f"{int(secs) * 1000 + int(us) / 1000:.3f}"
            due = await self._client.read(
                "ZCOUNT", index, "-inf", now_ms, key=index, until=self._scripts.until
            )
            return InboxSize(int(sessions), min(int(sessions), int(due)))
        except ForeignValueError:
            raise wrong_type_of("an inbox's index") from None
        except (TypeError, ValueError):
            raise malformed_reply() from None
