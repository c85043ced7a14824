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
"""Why a session should be closed."""

_HOOKS_OF: Final[dict[CloseReason, tuple[HookName, ...]]] = {
    "idle": ("on_idle", "on_expire", "on_close"),
    "duration": ("on_expire", "on_close"),
    "messages": ("on_expire", "on_close"),
    "stopped": ("on_close",),
}


@final
class _Life:
    """What is known of a session.

    :ivar look_ms: when to look at it again; what else the heap says of it is stale.
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
    """Work on a session, between :meth:`SessionLifecycle.begin_work` and its end.

    It belongs to the life in which it began: when it ends after that, it touches no later one.
    """

    __slots__ = ("has_ended", "life")

    def __init__(self, life: _Life) -> None:
        self.life: Final = life
        self.has_ended: bool = False


@final
class SessionLifecycle:
    """Keeps the books of live sessions, and closes those that have gone on for long enough.

    * A session is *active* when it starts, gets a message, is touched, and when work on it begins,
      moves (:meth:`touch`) or ends. One with work in hand is not idle; without progress for
      ``stalled_secs`` it is *stalled*.
    * :meth:`close_due` closes what has reached a limit and has no work in hand: work is not cut
      off. A session whose work never ends is for ``on_stalled`` to :meth:`stop`.
    * What a limit costs is in proportion to what reaches it: a call looks at no session before it
      may be due, and activity costs no search.

    The books are of this process and go with it; nothing of them is in a store. Sessions that
    several workers serve have a life on each. A step of it is atomic on an event loop; only the
    hooks are awaited.

    :param limits: of every session.
    :param hooks: what to call.
    :param clock: where the time comes from.
    :raises InvalidInputError: naming the argument, limit or hook at fault.
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
        # Looked at, and still as found: what is due, and what stalls and was not reported.
        self._due: Final[dict[str, _Life]] = {}
        self._stalls: Final[dict[str, _Life]] = {}
        self._since_ms: Final = self._clock.now_ms()
        self._started = 0
        self._messages = 0
        self._closed: Final[Counter[CloseReason]] = Counter()
        self._stalled_ever = 0

    def __len__(self) -> int:
        """Return how many sessions are live."""
        return len(self._lives)

    def __contains__(self, key: object) -> bool:
        """Tell whether the session is live."""
        return isinstance(key, str) and key in self._lives

    async def start(self, key: SessionKey) -> None:
        """Start a session's life, then call ``on_start``, which is cancelled with its caller.

        :raises SessionExistsError: if it is live.
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
        """Count a message, which is activity.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        life = self._require(key)
        life.messages += 1
        self._messages += 1
        self._moved(life)

    def touch(self, key: SessionKey) -> None:
        """Note that the session is active; while work is in hand: that it makes progress.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        self._moved(self._require(key))

    def begin_work(self, key: SessionKey) -> LifecycleWork:
        """Note that work on the session is in hand until :meth:`end_work`. Work may overlap.

        :returns: the work, to say which has ended.
        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        life = self._require(key)
        life.in_hand += 1
        self._moved(life)
        return LifecycleWork(life)

    def end_work(self, work: LifecycleWork | SessionKey) -> None:
        """Note that work on the session has ended.

        Nothing happens if somebody stopped the session meanwhile.

        :param work: what :meth:`begin_work` returned. A session's key stands for any work on it:
            if it was started anew meanwhile, for work of its new life.
        :raises InvalidInputError: naming ``work``, if it has ended, or none is in hand; or ``key``.
        """
        life = work.life if isinstance(work, LifecycleWork) else self._find(work)
        if life is None or self._lives.get(life.key) is not life:
            return
        if isinstance(work, LifecycleWork):
            if work.has_ended:
                raise InvalidInputError("work", "has ended")
            work.has_ended = True
        if not life.in_hand:
            raise InvalidInputError("work", "none on the session is in hand")
        life.in_hand -= 1
        self._moved(life)

    @contextmanager
    def working(self, key: SessionKey) -> Generator[None]:
        """Say that work on the session is in hand while the block runs, however it ends.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        work = self.begin_work(key)
        try:
            yield
        finally:
            self.end_work(work)

    async def stop(self, key: SessionKey) -> bool:
        """End a session's life, then call ``on_close``, to the end (:class:`LifecycleHooks`).

        :returns: whether it was live.
        :raises InvalidInputError: naming ``key``.
        """
        life = self._find(key)
        if life is None:
            return False
        await self._close(life, "stopped")
        return True

    def should_close(self, key: SessionKey) -> Limit | None:
        """Return which limit the session has reached, work in hand or not, or ``None``.

        Of several: ``duration`` before ``messages`` before ``idle``.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        return self._reached(self._require(key), self._clock.now_ms())

    def due(self) -> list[tuple[SessionKey, Limit]]:
        """Return the sessions that :meth:`close_due` would close now, and why."""
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
        """Close what is due, with its hooks, and report what has come to stall.

        A session is closed before its hooks are called, and by one of several callers at once. If
        this is cancelled, the hooks of the session in hand are called to the end
        (:class:`LifecycleHooks`), and what it has not come to stays due.

        :returns: which sessions were closed, and why.
        """
        now_ms = self._clock.now_ms()
        closed: list[tuple[SessionKey, Limit]] = []
        due = self.due()
        for life in [*self._stalls.values()]:
            if self._stalls.pop(life.key, None) is life:
                await self._hooks.call_shielded(self._metrics_of(life, now_ms), "on_stalled")
        for key, reason in due:
            if key in self._due:  # neither active since, nor closed by another
                await self._close(self._due[key], reason)
                closed.append((key, reason))
        return closed

    def metrics(self) -> LifecycleMetrics:
        """Return what all sessions come to."""
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
        """Return what is known of a session.

        :raises SessionNotFoundError: if the session is not live.
        :raises InvalidInputError: naming ``key``.
        """
        return self._metrics_of(self._require(key), self._clock.now_ms())

    # --- steps -------------------------------------------------------------------------------

    def _find(self, key: SessionKey) -> _Life | None:
        try:
            life = self._lives.get(key)
        except TypeError:  # what is no key may have no hash
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
        """See to it that the session is looked at no later than when it may be due or stall."""
        self._due.pop(life.key, None)
        if not life.in_hand:
            at_ms = min(
                life.started_ms + self._bounds.duration_ms, life.active_ms + self._bounds.idle_ms
            )
            if life.messages >= self._bounds.messages:
                at_ms = -math.inf
        elif life.is_stalled:
            at_ms = math.inf  # its next move tells
        else:
            at_ms = life.active_ms + self._bounds.stalled_ms
        # An earlier look is let stand: it finds that it is early, and is then entered anew.
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
                continue  # closed, or looked at before
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
