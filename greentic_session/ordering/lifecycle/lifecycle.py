"""The lifecycle of sessions in one process: limits of age, messages, idle time and stalled work."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, final

from ..._validation import check_key
from ...clock import Clock, SystemClock
from ...errors import InvalidInputError, SessionExistsError, SessionNotFoundError
from .hooks import Hooks, LifecycleHooks
from .limits import LifecycleLimits, bounds_of
from .metrics import LifecycleMetrics, SessionMetrics

if TYPE_CHECKING:
    from collections.abc import Generator

    from ...model import SessionKey
    from .hooks import HookName
    from .metrics import CloseReason

__all__ = ["LifecycleWork", "Limit", "SessionLifecycle"]

Limit = Literal["duration", "messages", "idle"]
"""The limit that a session has reached."""

_HOOKS_OF: Final[dict[CloseReason, tuple[HookName, ...]]] = {
    "idle": ("on_idle", "on_expire", "on_close"),
    "duration": ("on_expire", "on_close"),
    "messages": ("on_expire", "on_close"),
    "stopped": ("on_close",),
}


@final
class _Life:
    """The state of one live session, from its start until it is closed.

    :ivar in_hand: number of open pieces of work.
    :ivar look_ms: time of its next check. Entries of the heap with another time are stale.
    """

    __slots__ = ("active_ms", "in_hand", "is_stalled", "key", "look_ms", "messages", "started_ms")

    def __init__(self, key: SessionKey, now_ms: int) -> None:
        self.key: Final = key
        self.started_ms: Final = now_ms
        self.active_ms: int = now_ms
        self.messages: int = 0
        self.in_hand: int = 0
        self.is_stalled: bool = False
        self.look_ms: float = math.inf


@final
class LifecycleWork:
    """A piece of work on a session, from :meth:`SessionLifecycle.begin_work` to its end.

    It belongs to one start of the session. If the session is closed and started again, the end of
    earlier work does not affect it.
    """

    __slots__ = ("has_ended", "life")

    def __init__(self, life: _Life) -> None:
        self.life: Final = life
        self.has_ended: bool = False


@final
class SessionLifecycle:
    """Tracks the live sessions of a process, and closes those that reach a limit.

    * Work is *open* from :meth:`begin_work` to :meth:`end_work`.
    * A session is *active* when it starts, gets a message or is touched. It is also active when
      work on it begins, makes progress (:meth:`touch`) or ends.
    * A session with open work is not idle. It is *stalled* if there is no progress for
      ``stalled_secs``.
    * :meth:`close_due` closes each session that reached a limit and has no open work. It never
      interrupts work. If work never ends, ``on_stalled`` may :meth:`stop` the session.
    * The cost is proportional to the number of sessions that reach a limit. A call examines no
      session before the session may be due. Activity needs no search.

    The state belongs to this process, and ends with it. Nothing is in a store. If several workers
    serve a session, each of them tracks it separately. Each step is atomic on an event loop. Only
    the hooks are awaited.

    :param limits: limits of every session. ``None`` is the defaults of :class:`LifecycleLimits`.
    :param hooks: functions to call when something happens to a session.
    :param clock: source of the time. ``None`` is the machine's clock.
    :raises InvalidInputError: naming the invalid argument, limit or hook.
    """

    def __init__(
        self,
        limits: LifecycleLimits | None = None,
        *,
        hooks: LifecycleHooks | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock = SystemClock() if clock is None else clock
        if isinstance(clock, type) or not callable(getattr(clock, "now_ms", None)):
            raise InvalidInputError("clock", "expected a clock with now_ms()")
        self._bounds: Final = bounds_of(LifecycleLimits() if limits is None else limits)
        self._hooks: Final = Hooks(LifecycleHooks() if hooks is None else hooks)
        self._clock: Final = clock
        self._lives: Final[dict[str, _Life]] = {}
        self._looks: list[tuple[float, int, _Life]] = []
        self._entered = 0
        # Results of the last check: sessions that are due, and stalled ones that were not reported.
        self._due: Final[dict[str, _Life]] = {}
        self._stalls: Final[dict[str, _Life]] = {}
        self._since_ms: Final = self._clock.now_ms()
        self._started = 0
        self._messages = 0
        self._closed: Final[Counter[CloseReason]] = Counter()
        self._stalled_ever = 0

    def __len__(self) -> int:
        """Return the number of live sessions."""
        return len(self._lives)

    def __contains__(self, key: object) -> bool:
        """Return whether the session is live."""
        return isinstance(key, str) and key in self._lives

    async def start(self, key: SessionKey) -> None:
        """Start a session, and then call ``on_start``.

        If the caller is cancelled, ``on_start`` is cancelled too, and the session stays live.

        :raises SessionExistsError: if the session is live.
        :raises InvalidInputError: naming ``key``.
        """
        key = check_key(key)
        if key in self._lives:
            raise SessionExistsError(key)
        now_ms = self._clock.now_ms()
        life = self._lives[key] = _Life(key, now_ms)
        self._started += 1
        self._schedule(life)
        await self._hooks.call(self._metrics_of(life, now_ms), "on_start")

    def record_message(self, key: SessionKey) -> None:
        """Count a message. This is activity.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        life = self._require(key)
        life.messages += 1
        self._messages += 1
        self._moved(life)

    def touch(self, key: SessionKey) -> None:
        """Record activity of the session. If it has open work, this is progress of the work.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        self._moved(self._require(key))

    def begin_work(self, key: SessionKey) -> LifecycleWork:
        """Record that work on the session begins. It is open until :meth:`end_work`.

        Pieces of work may overlap.

        :returns: the work, to pass to :meth:`end_work`.
        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        life = self._require(key)
        life.in_hand += 1
        self._moved(life)
        return LifecycleWork(life)

    def end_work(self, work: LifecycleWork | SessionKey) -> None:
        """Record that work on the session has ended.

        This has no effect if the session was stopped meanwhile.

        :param work: the result of :meth:`begin_work`, or a session's key. A key ends any one piece
            of work on the session. If the session was started again meanwhile, it ends work of the
            new start.
        :raises InvalidInputError: naming ``work``, if it has ended or the session has no open work.
            Or naming ``key``.
        """
        life = work.life if isinstance(work, LifecycleWork) else self._find(work)
        if life is None or self._lives.get(life.key) is not life:
            return
        if isinstance(work, LifecycleWork):
            if work.has_ended:
                raise InvalidInputError("work", "has ended")
            work.has_ended = True
        if not life.in_hand:
            raise InvalidInputError("work", "the session has no open work")
        life.in_hand -= 1
        self._moved(life)

    @contextmanager
    def working(self, key: SessionKey) -> Generator[None]:
        """Keep work on the session open while the block runs, however the block ends.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        work = self.begin_work(key)
        try:
            yield
        finally:
            self.end_work(work)

    async def stop(self, key: SessionKey) -> bool:
        """Stop a session, and then call ``on_close``.

        The hook runs to its end, also if the caller is cancelled: see :class:`LifecycleHooks`.

        :returns: whether the session was live.
        :raises InvalidInputError: naming ``key``.
        """
        life = self._find(key)
        if life is None:
            return False
        await self._close(life, "stopped")
        return True

    def should_close(self, key: SessionKey) -> Limit | None:
        """Return the limit that the session has reached, with or without open work, or ``None``.

        If it has reached several limits, ``duration`` precedes ``messages``, and ``messages``
        precedes ``idle``.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        return self._reached(self._require(key), self._clock.now_ms())

    def due(self) -> list[tuple[SessionKey, Limit]]:
        """Return the sessions that :meth:`close_due` would close now, each with its limit."""
        now_ms = self._clock.now_ms()
        self._look(now_ms)
        found: list[tuple[SessionKey, Limit]] = []
        for life in [*self._due.values()]:
            reason = self._reached(life, now_ms)
            if reason is None:  # the clock was set back
                self._schedule(life)
            else:
                found.append((life.key, reason))
        return found

    async def close_due(self) -> list[tuple[SessionKey, Limit]]:
        """Close the sessions that are due, call their hooks, and report newly stalled sessions.

        A session is closed before its hooks are called. If several callers do this concurrently,
        one of them closes it. If this call is cancelled, the hooks of the current session run to
        their end (:class:`LifecycleHooks`). The remaining sessions stay due.

        :returns: the closed sessions, each with its limit.
        """
        now_ms = self._clock.now_ms()
        closed: list[tuple[SessionKey, Limit]] = []
        due = self.due()
        for life in [*self._stalls.values()]:
            if self._stalls.pop(life.key, None) is life:
                await self._hooks.call_shielded(self._metrics_of(life, now_ms), "on_stalled")
        for key, reason in due:
            if key in self._due:  # otherwise it was active since, or another caller closed it
                await self._close(self._due[key], reason)
                closed.append((key, reason))
        return closed

    def metrics(self) -> LifecycleMetrics:
        """Return the metrics of all sessions together."""
        now_ms = self._clock.now_ms()
        self._look(now_ms)
        return LifecycleMetrics(
            live=len(self._lives),
            started=self._started,
            messages=self._messages,
            messages_per_sec=_rate(self._messages, now_ms - self._since_ms),
            closed=dict(self._closed),
            due=len(self._due),
            stalled_ever=self._stalled_ever,
        )

    def metrics_of(self, key: SessionKey) -> SessionMetrics:
        """Return the metrics of one session.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        return self._metrics_of(self._require(key), self._clock.now_ms())

    # --- steps -------------------------------------------------------------------------------

    def _find(self, key: SessionKey) -> _Life | None:
        try:
            life = self._lives.get(key)
        except TypeError:  # an invalid key may be unhashable
            life = None
        if life is None:
            check_key(key)
        return life

    def _require(self, key: SessionKey) -> _Life:
        life = self._find(key)
        if life is None:
            raise SessionNotFoundError(key)
        return life

    def _reached(self, life: _Life, now_ms: int) -> Limit | None:
        if now_ms - life.started_ms >= self._bounds.duration_ms:
            return "duration"
        if life.messages >= self._bounds.messages:
            return "messages"
        if not life.in_hand and now_ms - life.active_ms >= self._bounds.idle_ms:
            return "idle"
        return None

    def _stalls_now(self, life: _Life, now_ms: int) -> bool:
        return bool(life.in_hand) and now_ms - life.active_ms >= self._bounds.stalled_ms

    def _moved(self, life: _Life) -> None:
        life.active_ms = self._clock.now_ms()
        life.is_stalled = False
        self._stalls.pop(life.key, None)
        self._schedule(life)

    def _schedule(self, life: _Life) -> None:
        """Schedule the next check of the session, not later than it may be due or stall."""
        self._due.pop(life.key, None)
        if not life.in_hand:
            at_ms = min(
                life.started_ms + self._bounds.duration_ms, life.active_ms + self._bounds.idle_ms
            )
            if life.messages >= self._bounds.messages:
                at_ms = -math.inf
        elif life.is_stalled:
            at_ms = math.inf  # its next activity schedules a check
        else:
            at_ms = life.active_ms + self._bounds.stalled_ms
        # An earlier entry stays. Its check finds that it is too early, and schedules another one.
        if at_ms < life.look_ms:
            life.look_ms = at_ms
            self._entered += 1
            heapq.heappush(self._looks, (at_ms, self._entered, life))
            if len(self._looks) > 2 * len(self._lives) + 64:
                self._looks = [look for look in self._looks if look[2].look_ms == look[0]]
                heapq.heapify(self._looks)

    def _look(self, now_ms: int) -> None:
        while self._looks and self._looks[0][0] <= now_ms:
            at_ms, _, life = heapq.heappop(self._looks)
            if life.look_ms != at_ms:
                continue  # closed, or already checked
            life.look_ms = math.inf
            if not life.in_hand and self._reached(life, now_ms) is not None:
                self._due[life.key] = life
                continue
            if self._stalls_now(life, now_ms) and not life.is_stalled:
                life.is_stalled = True
                self._stalled_ever += 1
                self._stalls[life.key] = life
            self._schedule(life)

    async def _close(self, life: _Life, reason: CloseReason) -> None:
        found = self._metrics_of(life, self._clock.now_ms(), reason)
        del self._lives[life.key]
        self._due.pop(life.key, None)
        self._stalls.pop(life.key, None)
        life.look_ms = math.inf
        if not self._lives:
            self._looks.clear()
        self._closed[reason] += 1
        await self._hooks.call_shielded(found, *_HOOKS_OF[reason])

    def _metrics_of(
        self, life: _Life, now_ms: int, reason: CloseReason | None = None
    ) -> SessionMetrics:
        age_ms = now_ms - life.started_ms
        return SessionMetrics(
            key=life.key,
            age_secs=age_ms / 1000,
            idle_secs=0.0 if life.in_hand else (now_ms - life.active_ms) / 1000,
            messages=life.messages,
            messages_per_sec=_rate(life.messages, age_ms),
            in_hand=life.in_hand,
            is_stalled=self._stalls_now(life, now_ms),
            closed=reason,
        )


def _rate(messages: int, over_ms: int) -> float:
    return messages * 1000 / over_ms if over_ms > 0 else 0.0
