"""The dispatcher: handles messages of one key in order, those of different keys concurrently."""

from __future__ import annotations

import math
from contextvars import ContextVar, copy_context
from datetime import timedelta
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast, final, get_args

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from ..._core.functions import require_async, require_awaitable
from ..._core.tasks import BackgroundTask, run_to_completion, start_background
from ..._validation import duration_to_ms
from ...errors import DispatcherClosedError, InvalidInputError
from ..callables import is_being_cancelled, is_run_ending, require_loop
from .lanes import Lanes, Overflow, Submitter
from .outcomes import Discard, Outcomes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

__all__ = ["DispatcherStatistics", "SessionDispatcher"]

M = TypeVar("M")

_MESSAGES_PER_CHECKPOINT: Final = 64
"""Number of messages after which a worker yields to other tasks, if its handlers never wait."""
_SERVING: Final[ContextVar[object]] = ContextVar("_SERVING", default=None)
"""The dispatcher whose handler runs the current code."""


class DispatcherStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a dispatcher.

    When no message is queued or running, ``accepted`` is the sum of ``handled``, ``failed``,
    ``dropped``, ``cancelled`` and ``closed``.

    :ivar lanes: keys with queued or running messages, or with waiting submitters. Each message
        without a key counts as one.
    :ivar waiting: queued messages.
    :ivar running: messages whose handler runs now.
    :ivar blocked: submitters that wait for room.
    :ivar workers: tasks that run handlers.
    :ivar accepted: messages that were accepted.
    :ivar handled: messages whose handler returned.
    :ivar failed: messages whose handler raised an error, after ``on_error`` has ended.
    :ivar dropped: messages that were dropped for newer ones.
    :ivar cancelled: messages whose handler or ``on_error`` was cancelled.
    :ivar closed: messages that were still queued when the dispatcher was closed.
    """

    lanes: int
    waiting: int
    running: int
    blocked: int
    workers: int
    accepted: int
    handled: int
    failed: int
    dropped: int
    cancelled: int
    closed: int


@final
class SessionDispatcher(Generic[M]):
    """Runs a handler for each message, in order per key and concurrently across keys.

    * **Order.** Messages of a key are handled in the order of their submission. The next one starts
      when the handler of the one before has ended, for any reason. Messages of key ``None`` have no
      order. Each of them runs as soon as a worker is free.
    * **Fairness.** Keys take turns, one message each. Each message without a key counts as a key.
    * **Bounds.** At most ``concurrency`` handlers run. At most ``per_key`` messages of a key and
      ``total`` messages overall are queued, not counting the running ones. Without room,
      ``overflow`` decides:

      - ``wait``: the submitter waits. Submitters of a key wait in order.
      - ``reject``: the submitter gets :class:`DispatcherFullError`.
      - ``drop_oldest``: the message is accepted and the oldest one dropped: of that key if it is
        full, otherwise overall. The other messages keep their order.
    * **Errors.** An exception of the handler, of any class, goes to ``on_error`` before the next
      message of the key. Without ``on_error``, it is logged. An exception of ``on_error`` is
      logged. On asyncio, ``KeyboardInterrupt`` and ``SystemExit`` then leave the event loop, as
      from any task, and the other messages stay. On trio they are errors like any other.
    * **Ends.** Every accepted message ends in one of three ways. The handler returns. The handler
      fails, and ``on_error`` is called. Or the message is discarded, and ``on_discard`` is called
      with the reason. If ``on_error`` is cancelled, the message is discarded, and the handler's
      error is logged.
    * **From within a handler**, a call never waits for room in the same dispatcher, because
      handlers that wait for one another would never end. Without room, ``submit`` raises
      :class:`DispatcherFullError`. The same holds for tasks that a handler starts. ``join`` and
      ``aclose`` are refused.
    * **Two dispatchers.** A handler of another dispatcher does wait for room. So two dispatchers
      must not submit to each other and wait for room. Otherwise both may wait forever.
    * **Cancelling.** A submitter that is cancelled while it waits has submitted nothing. A handler
      may end as cancelled, for example because a call that it awaits is cancelled. Then its message
      is discarded, and the lane continues.
    * **Context.** On asyncio, handlers run in the context (:mod:`contextvars`) in which the
      dispatcher was made, on trio in that of the run. A value that a handler sets there is not
      visible to other handlers, unless it equals the one before. A handler that leaves a value set
      costs a new task if messages are queued.

    A key without messages costs nothing, and nothing runs while there is nothing to do. The state
    ends with the process. Use a dispatcher on one event loop, asyncio or trio, from one thread.
    Close it, best by ``async with``. That drains, or cancels if the block ends by an exception.

    :param handler: called with key and message. Its result is awaited.
    :param concurrency: limit on the handlers that run at the same time.
    :param per_key: limit on the queued messages of a key.
    :param total: limit on all queued messages.
    :param overflow: decides what happens without room.
    :param on_error: called with key, message and error. Its result is awaited.
    :param on_discard: a plain function, called immediately with key, message and reason. It may run
        inside the ``submit`` whose message replaces another one. The discarded message was accepted
        before, so only this function reports its end.
    :raises InvalidInputError: naming the invalid argument.
    """

    def __init__(
        self,
        handler: Callable[[str | None, M], Awaitable[object]],
        *,
        concurrency: int = 64,
        per_key: int = 1000,
        total: int = 100_000,
        overflow: Overflow = "wait",
        on_error: Callable[[str | None, M, BaseException], Awaitable[object]] | None = None,
        on_discard: Callable[[str | None, M, Discard], object] | None = None,
    ) -> None:
        for field, limit in (("concurrency", concurrency), ("per_key", per_key), ("total", total)):
            if type(limit) is not int or limit < 1:
                raise InvalidInputError(field, "expected an int of at least 1")
        if overflow not in get_args(Overflow):
            raise InvalidInputError("overflow", f"expected one of {get_args(Overflow)}")
        require_async(handler, "handler")
        self._handler: Final = handler
        self._outcomes: Final = Outcomes(on_error, on_discard, self._is_at_work)
        self._concurrency: Final = concurrency
        self._lanes: Final[Lanes[M]] = Lanes(per_key, total, overflow)
        self._context: Final = copy_context()
        self._workers: Final[dict[int, BackgroundTask | None]] = {}
        self._started = 0
        self._running = 0
        self._accepted = 0
        self._closing = False
        self._entries = 0
        self._idle: anyio.Event | None = None

    async def submit(self, key: str | None, message: M) -> None:
        """Submit a message, and return when it is accepted, before it is handled.

        This yields to other tasks only if it waits for room.

        :param key: key of the message, ``None`` for a message without order.
        :raises DispatcherFullError: if there is no room, and the overflow is ``reject`` or this is
            called from within a handler.
        :raises DispatcherClosedError: if the dispatcher is closed or closing, also while this
            waits.
        :raises InvalidInputError: naming ``key``.
        """
        may_wait = _SERVING.get() is not self
        submitter = self._enter(key, message, may_wait=may_wait)
        if submitter is None:
            return
        try:
            await submitter.settled.wait()
        except BaseException:
            self._lanes.withdraw(submitter)
            self._start_workers()
            self._look_if_idle()
            raise
        if not submitter.has_room:
            raise DispatcherClosedError
        self._lanes.confirm(submitter)
        self._accepted += 1
        self._start_workers()

    def submit_nowait(self, key: str | None, message: M) -> None:
        """Submit a message if there is room, or if another one is dropped for it.

        :param key: key of the message, ``None`` for a message without order.
        :raises DispatcherFullError: if there is no room, unless the overflow is ``drop_oldest``.
        :raises DispatcherClosedError: if the dispatcher is closed or closing.
        :raises InvalidInputError: naming ``key``.
        :raises RuntimeError: where no event loop runs. The message is not accepted.
        """
        self._enter(key, message, may_wait=False)

    async def join(self) -> None:
        """Wait until no message is queued or running, and no submitter waits for room.

        :raises RuntimeError: from within a handler, which would wait for itself.
        """
        self._refuse_handlers()
        await self._until_idle()

    async def aclose(
        self, *, drain: bool = True, timeout_secs: timedelta | float | None = None
    ) -> None:
        """Accept no more messages, and end. Submitters that wait for room are refused immediately.

        This returns when no handler runs any more. It may be called again, also without draining
        while another task drains. If the caller is cancelled while it drains, the other handlers
        are cancelled.

        :param drain: whether to handle all accepted messages. Otherwise queued messages are
            discarded, and running handlers are cancelled.
        :param timeout_secs: how long to drain, in seconds or as a ``timedelta``. Then the other
            messages are discarded and their handlers cancelled. ``None`` for no limit, 0 for no
            time.
        :raises InvalidInputError: naming ``timeout_secs``. Nothing was closed.
        :raises RuntimeError: from within a handler, which would wait for itself.
        """
        self._refuse_handlers()
        patience_secs = _timeout_secs(timeout_secs)
        self._closing = True
        self._lanes.reject_submitters()
        try:
            if drain:
                with anyio.move_on_after(patience_secs):
                    await self._until_idle()
        finally:
            for key, message in self._lanes.empty():
                self._outcomes.discarded(key, message, "closed")
            if self._workers:
                await run_to_completion(self._stop_workers, "greentic_session stop", math.inf)
            self._look_if_idle()

    async def __aenter__(self) -> Self:
        """Return the dispatcher, which needs no start."""
        self._entries += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the dispatcher: drain after the block, or cancel if it raised.

        If it was entered several times, only the last block that is left closes it.
        """
        self._entries -= 1
        if self._entries <= 0:
            await self.aclose(drain=exc_type is None)

    def statistics(self) -> DispatcherStatistics:
        """Return the counters."""
        lanes = self._lanes
        return DispatcherStatistics(
            lanes=len(lanes),
            waiting=lanes.waiting,
            running=self._running,
            blocked=lanes.blocked,
            workers=len(self._workers),
            accepted=self._accepted,
            **self._outcomes.counts,
        )

    # --- steps -------------------------------------------------------------------------------

    def _enter(self, key: str | None, message: M, *, may_wait: bool) -> Submitter[M] | None:
        if self._closing:
            raise DispatcherClosedError
        if key is not None and not isinstance(cast("object", key), str):
            raise InvalidInputError("key", f"expected str or None, got {type(key).__name__}")
        if len(self._workers) < self._concurrency:  # the message may need another worker
            require_loop()
        outcome = self._lanes.enter(key, message, may_wait=may_wait)
        if isinstance(outcome, Submitter):
            return outcome
        self._accepted += 1
        self._start_workers()
        if outcome is not None:
            self._outcomes.discarded(*outcome, "dropped")
        return None

    def _start_workers(self) -> None:
        """Start workers until each ready lane has one, or the limit is reached."""
        count = len(self._workers)
        # A worker that runs no handler takes a ready lane by itself.
        if len(self._lanes.ready) <= count - self._running or count >= self._concurrency:
            return
        self._started += 1
        number = self._started
        self._workers[number] = None
        run, name = partial(self._work, number), f"greentic_session worker {number}"
        try:
            # A copy, because an eager task may start workers while the context is entered.
            worker = self._context.copy().run(start_background, run, name)
        except BaseException:
            self._workers.pop(number, None)
            raise
        if number in self._workers:  # an eager task may have ended by now
            self._workers[number] = worker

    async def _work(self, number: int) -> None:
        _SERVING.set(self)
        try:
            await self._handle_messages()
        finally:
            self._workers.pop(number, None)
            if self._lanes.ready and self._is_at_work() and not is_run_ending():
                # Only this worker was cancelled, or its context was changed. A new one continues.
                self._start_workers()
            self._look_if_idle()

    async def _handle_messages(self) -> None:
        lanes, handler, counts = self._lanes, self._handler, self._outcomes.counts
        unused, left_before_checkpoint = copy_context(), _MESSAGES_PER_CHECKPOINT
        while lanes.ready:
            lane, message = lanes.take()
            self._running += 1
            try:
                returned = handler(lane.key, message)
                if type(returned) is not CoroutineType:  # nearly every handler returns a coroutine
                    returned = require_awaitable(returned, "handler")
                await returned
                counts["handled"] += 1
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                await self._outcomes.raised(error, lane.key, message)
                if is_being_cancelled():
                    return
            finally:
                self._running -= 1
                lanes.requeue(lane)
            if not lanes.ready:
                return
            try:
                # Fast if no variable was set. Otherwise this compares values, which may raise.
                is_used = copy_context() != unused
            except Exception:  # noqa: BLE001 - a comparison may raise anything
                is_used = True
            if is_used:
                await checkpoint()  # otherwise eager tasks would start one another recursively
                return
            left_before_checkpoint -= 1
            if not left_before_checkpoint:
                left_before_checkpoint = _MESSAGES_PER_CHECKPOINT
                await checkpoint()

    def _is_at_work(self) -> bool:
        """Return whether this runs in the task of a handler, not in that of a submitter."""
        return _SERVING.get() is self

    def _refuse_handlers(self) -> None:
        if _SERVING.get() is self:
            raise RuntimeError("a handler cannot wait for the end of handlers")

    async def _until_idle(self) -> None:
        while len(self._lanes):
            if self._idle is None:
                self._idle = anyio.Event()
            await self._idle.wait()

    def _look_if_idle(self) -> None:
        if self._idle is not None and not len(self._lanes):
            self._idle.set()
            self._idle = None

    async def _stop_workers(self) -> None:
        async with anyio.create_task_group() as group:
            for worker in self._workers.values():
                if worker is not None:
                    group.start_soon(worker.stop)
        # A worker that was stopped before it began has not removed itself.
        self._workers.clear()


def _timeout_secs(timeout: timedelta | float | None) -> float | None:
    if timeout is None:
        return None
    if type(timeout) in (int, float, timedelta) and not timeout:
        return 0.0
    return duration_to_ms(timeout, "timeout_secs") / 1000
