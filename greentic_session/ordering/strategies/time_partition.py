"""A strategy whose keys change with time, which limits the growth of a session."""

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
    """Appends the number of a time partition to another strategy's key: ``order-1-p118055``.

    Partitions are numbered from 1970-01-01T00:00:00Z. So they begin at the same instant on every
    machine (partitions of 24 hours at midnight UTC), and a number never repeats. The key is
    ``None`` if the other strategy returns none, or if the result exceeds 128 characters.

    The time is the time of the call, not of the message. So the same message has another key in the
    next partition. Derive the key once, when the message arrives. Messages of different partitions
    are not ordered.

    :ivar base: the strategy that makes the first part of the key.
    :ivar hours: length of a partition in whole hours, at least 1.
    :ivar clock: the source of the time. ``None`` is the machine's clock.
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
        # This is not the default of the field. A pickled copy would have another clock object.
        clock = _SYSTEM_CLOCK if self.clock is None else self.clock
        return f"{key}-p{clock.now_ms() // (self.hours * _MS_PER_HOUR)}"
