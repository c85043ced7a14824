"""Connections that carry the commands of many callers.

Commands that coroutines issue in the same tick of the loop are sent in one write. The server
replies in order, because RESP allows pipelining (Redis protocol specification, "Request-response
model").
The driver opens the connection and handles TLS, ACL and RESP3. Then this protocol takes over its
transport. hiredis packs commands and parses replies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, final

import hiredis
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import ResponseError

from ..._compat import override
from .driver import close_without_loop, take_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection

    from .protocol import Command

__all__ = ["Connection", "ConnectionId", "ConnectionLostError", "PendingRequest", "pack"]

# hiredis declares its parameter as a tuple of one part.
pack: Final = cast("Callable[[Command], bytes]", getattr(hiredis, "pack_command"))  # noqa: B009

_EARLY: Final = 8
"""How many more commands are collected before an early write within a tick.

If no reply is pending, the first command is sent immediately. Then one write of this many follows,
and the rest at the end of the tick. With one write only, client and server would work in turns."""
_BUFFER_BYTES: Final = 1 << 20
"""Bytes that may wait for the socket before the connection counts as full."""
_SILENT_AFTER_SECS: Final = 0.25
_SILENCE_CHECK_SECS: Final = 0.3
"""Interval of the checks for a silent server, which may have been replaced."""
_WAIT_SHARE: Final = 0.8
"""Share of a confirmation's time that the server may wait. The rest is for its reply."""
_WAIT_MS: Final = 25
"""Limit on one wait of the server, in milliseconds. ``WAIT`` blocks the connection's commands."""
_ANSWER_SECS: Final = 0.05
"""Time for the server's reply after that."""
_NOTHING: Final = object()


class ConnectionLostError(OSError):
    """The connection was lost, or no reply came in time.

    :ivar sent: whether bytes of the command may have been sent.
    :ivar is_late: whether the connection timed out.
    """

    def __init__(self, *, sent: bool, is_late: bool = False) -> None:
        super().__init__("the connection did not answer" if is_late else "the connection was lost")
        self.sent = sent
        self.is_late = is_late


class ConnectionId(NamedTuple):
    """The identity of a connection on its server.

    :ivar run: the run id of the server's process.
    :ivar number: the client id, which is unique within that process.
    """

    run: str
    number: int


@final
class PendingRequest:
    """Some commands of one call, and the future of their replies.

    :ivar future: the future of the reply, or of the list of replies. An error reply is a value.
    :ivar left: number of replies that are missing.
    :ivar replies: the replies so far, ``None`` for a single command.
    :ivar size: size of the commands, in bytes.
    :ivar sent_at: when the attempt began, on the loop's clock.
    :ivar times_out_at: when the request times out, on the loop's clock.
    """

    __slots__ = ("future", "left", "replies", "sent_at", "size", "times_out_at")

    def __init__(
        self,
        future: asyncio.Future[Any],  # Any: as in `Reply`
        count: int,
        size: int,
        sent_at: float,
        give_up_at: float,
    ) -> None:
        self.future: asyncio.Future[Any] = future  # Any: as in `Reply`
        self.left: int = count
        self.replies: list[Any] | None = None if count == 1 else []  # Any: as in `Reply`
        self.size: int = size
        self.sent_at: float = sent_at
        self.times_out_at: float = give_up_at


@final
class Connection(asyncio.Protocol):
    """A connection taken over from the driver.

    :param connection: a connected driver connection, which must not be used afterwards.
    :param on_free: called when in-flight commands were answered, or the connection was lost.
    :param on_silence: called when a request has waited for a while and the server sent nothing.
    :param identity: the identity of the connection, if the server reported one.
    :ivar waiting: the pending requests, the oldest first.
    :ivar heard_at: when the server last sent something, on the loop's clock.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        on_free: Callable[[Connection], None],
        on_silence: Callable[[], None] | None = None,
        identity: ConnectionId | None = None,
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._on_free: Final = on_free
        self._on_silence: Final = on_silence
        self.identity: Final = identity
        self.waiting: Final[deque[PendingRequest]] = deque()
        self._out: Final[list[bytes]] = []
        self._unsent = 0
        self._early = False
        self._scheduled = False
        self._unconfirmed: list[asyncio.Future[int]] = []
        self._confirm_by = 0.0
        self._is_asking = False
        self._watch: asyncio.TimerHandle | None = None
        self._watch_at = 0.0
        self.heard_at: float = self._loop.time()
        self.bytes_in_flight: int = 0
        self.is_lost: bool = False
        self.ended: Final[asyncio.Future[None]] = self._loop.create_future()
        self.is_full: bool = False
        self._stream, early = take_over(connection)
        self._transport: Final = self._stream.transport
        # An error reply is a value, because the reader must still parse the replies after it.
        self._reader: Final = hiredis.Reader(
            protocolError=DriverConnectionError,
            replyError=ResponseError,
            notEnoughData=_NOTHING,
        )
        self._transport.set_write_buffer_limits(_BUFFER_BYTES)
        self._transport.set_protocol(self)
        if early:
            self.data_received(early)

    def send(self, request: PendingRequest, packed: bytes) -> None:
        """Send commands, now or with those that follow within the tick."""
        if self.is_lost:  # after the caller had chosen it
            request.future.set_exception(ConnectionLostError(sent=False))
            return
        waiting = self.waiting
        waiting.append(request)
        self.bytes_in_flight += request.size
        if self._watch is None or request.times_out_at < self._watch_at:
            self._schedule_check(request.times_out_at, request.sent_at)
        if len(waiting) == 1:
            self._transport.write(packed)
            return
        out = self._out
        out.append(packed)
        self._unsent += 1
        if not self._scheduled:
            self._scheduled = self._early = True
            self._loop.call_soon(self._end_tick)
        elif self._early and len(out) >= _EARLY:
            self._early = False
            self._flush()

    def confirmed(self, acks: int, until: float) -> asyncio.Future[int]:
        """Return a future of the number of replicas that have the connection's earlier writes.

        ``WAIT`` covers the whole connection. So one command serves all callers of a tick, and all
        callers that arrive while the previous one runs. It ends at the earliest of the callers'
        deadlines, or after a short time if replicas are missing. A caller with time left calls
        again.

        :param acks: number of replicas that is enough.
        :param until: deadline of the caller, on the loop's clock.
        """
        waiter: asyncio.Future[int] = self._loop.create_future()
        if not self._unconfirmed:
            self._confirm_by = until
            if not self._is_asking:
                self._loop.call_soon(self._ask_replicas, acks)
        self._confirm_by = min(self._confirm_by, until)
        self._unconfirmed.append(waiter)
        return waiter

    def discard(self) -> None:
        """Close the connection after its loop was closed. It has no callers any more."""
        self.is_lost = True
        close_without_loop(self._stream)

    def close(self) -> None:
        """Close the connection. Pending requests fail with :class:`ConnectionLostError`."""
        self._transport.abort()
        self._lose(is_late=False)

    # --- the transport's side ----------------------------------------------------------------

    @override
    def data_received(self, data: bytes) -> None:
        """Pass each pending request its replies."""
        self.heard_at = self._loop.time()
        reader = self._reader
        waiting = self.waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOTHING:
                if type(reply) is hiredis.PushNotification:
                    continue
                request = waiting[0]
                request.left -= 1
                replies = request.replies
                if replies is not None:
                    replies.append(reply)
                    if request.left:
                        continue
                    reply = replies
                waiting.popleft()
                self.bytes_in_flight -= request.size
                future = request.future
                if not future.done():  # its caller may have been cancelled
                    future.set_result(reply)
        except (DriverConnectionError, IndexError):  # not RESP, or a reply without a request
            self.close()
            return
        self._on_free(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        """Fail the pending requests."""
        self._lose(is_late=False)
        if not self.ended.done():
            self.ended.set_result(None)

    @override
    def pause_writing(self) -> None:
        """Accept no more commands, because the server does not keep up."""
        self.is_full = True

    @override
    def resume_writing(self) -> None:
        """Accept commands again."""
        self.is_full = False
        self._on_free(self)

    def suspect_server(self) -> None:
        """Let the topology check whether the server was replaced, as if it were silent."""
        if self._on_silence is not None:
            self._on_silence()

    # --- shared steps ------------------------------------------------------------------------

    def _end_tick(self) -> None:
        self._scheduled = self._early = False
        if self._out:
            self._flush()

    def _flush(self) -> None:
        if not self.is_lost:
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._unsent = 0

    def _ask_replicas(self, acks: int) -> None:
        waiters, self._unconfirmed = self._unconfirmed, []
        self._is_asking = True

        def tell(answered: asyncio.Future[int]) -> None:
            error = answered.exception()
            if error is None and isinstance(answered.result(), ResponseError):
                error = cast("ResponseError", answered.result())
            for waiter in waiters:
                if waiter.done():
                    continue
                if error is None:
                    waiter.set_result(answered.result())
                else:
                    waiter.set_exception(error)
            self._is_asking = False
            if self._unconfirmed:
                self._ask_replicas(acks)

        reply: asyncio.Future[int] = self._loop.create_future()
        reply.add_done_callback(tell)
        if self.is_lost:
            reply.set_exception(ConnectionLostError(sent=True))
            return
        now = self._loop.time()
        left_ms = max(1, min(_WAIT_MS, int((self._confirm_by - now) * _WAIT_SHARE * 1000)))
        command = b"WAIT %d %d\r\n" % (acks, left_ms)
        # A late reply closes the connection and fails other calls. So the request has extra time.
        give_up_at = max(self._confirm_by, now + left_ms / 1000 + _ANSWER_SECS)
        self.send(PendingRequest(reply, 1, len(command), now, give_up_at), command)

    def _schedule_check(self, at: float, now: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._on_silence is not None:
            at = min(at, now + _SILENCE_CHECK_SECS)
        self._watch_at = at
        self._watch = self._loop.call_at(at, self._check_overdue)

    def _check_overdue(self) -> None:
        """Fail overdue requests. Close the connection if the server sent nothing meanwhile."""
        self._watch = None
        if not self.waiting:
            return
        now = self._loop.time()
        oldest = self.waiting[0]
        silent_at = self.heard_at + oldest.times_out_at - oldest.sent_at
        if now >= max(oldest.times_out_at, silent_at):
            self._transport.abort()
            self._lose(is_late=True)
            return
        if (
            self._on_silence is not None
            and max(oldest.sent_at, self.heard_at) < now - _SILENT_AFTER_SECS
        ):
            self._on_silence()
        look_at = max(oldest.times_out_at, silent_at)
        for request in self.waiting:
            if request.future.done():
                continue
            if request.times_out_at <= now:
                # The request stays in the queue, and its reply will be ignored.
                request.future.set_exception(ConnectionLostError(sent=True, is_late=True))
            else:
                look_at = min(look_at, request.times_out_at)
        self._schedule_check(look_at, now)

    def _lose(self, *, is_late: bool) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self._watch is not None:
            self._watch.cancel()
        first_unsent = len(self.waiting) - self._unsent
        for number, request in enumerate(self.waiting):
            if not request.future.done():
                error = ConnectionLostError(sent=number < first_unsent, is_late=is_late)
                request.future.set_exception(error)
        self.waiting.clear()
        self._out.clear()
        self._unsent = 0
        self._on_free(self)
