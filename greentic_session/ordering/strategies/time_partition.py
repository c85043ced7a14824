"""A strategy whose keys change with the time, so that no session grows without a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast, final

from ..._compat import override
from ...clock import Clock, SystemClock
from ...errors import InvalidInputError
from .strategies import AnyStrategy, KeyStrategy, require_strategy, set_field

if TYPE_CHECKING:
    from .extractors import SessionKeyExtractor

__all__ = ["TimePartitionedStrategy"]

_MS_PER_HOUR: Final = 3_600_000
_MAX_HOURS: Final = 100 * 366 * 24
_SYSTEM_CLOCK: Final = SystemClock()


@final
@dataclass(frozen=True)
class TimePartitionedStrategy(KeyStrategy):
    """The key of another strategy and the number of a stretch of time: ``order-1-p118055``.

    Stretches are counted from 1970-01-01T00:00:00Z, so they begin at the same instant on every
    machine (those of 24 hours at midnight UTC) and no two share a number: a session of yesterday is
    not met again. ``None`` where the other strategy makes no key, or the whole is over 128
    characters.

    The time is that of the call, not of the message. Make the key once, where the message comes in:
    before and after the end of a stretch the same message has two keys. Across that end, messages
    are not ordered.

    :ivar base: makes the key within a stretch.
    :ivar hours: length of a stretch in whole hours, at least 1.
    :ivar clock: tells the time; ``None`` is the machine's.
    :raises InvalidInputError: naming ``base``, ``hours`` or ``clock``.
    """

    base: AnyStrategy
    hours: int
    clock: Clock | None = None

    def __post_init__(self) -> None:
        set_field(self, "base", require_strategy(self.base, "base"))
        hours = cast("object", self.hours)
        if isinstance(hours, bool) or not isinstance(hours, int):
            raise InvalidInputError("hours", f"expected int, got {type(hours).__name__}")
        if not 1 <= hours <= _MAX_HOURS:
            raise InvalidInputError("hours", f"is not between 1 and {_MAX_HOURS}")
        clock = cast("object", self.clock)
        if clock is None:
            return
        if isinstance(clock, type) or not callable(getattr(clock, "now_ms", None)):
            raise InvalidInputError("clock", "expected a clock with now_ms()")

    @override
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        key = cast("KeyStrategy", self.base).generate_key(extractor)
        if key is None:
            return None
        # Not the default of the field: a copy that was pickled would have another one.
        clock = _SYSTEM_CLOCK if self.clock is None else self.clock
        return f"{key}-p{clock.now_ms() // (self.hours * _MS_PER_HOUR)}"
