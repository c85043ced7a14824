"""The timer scripts, and functions that build their arguments after ARGV 2.

``lua/lib/timers.lua`` describes the keys and the first three arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...abc.records import Verdict
from ..transport.script import Script

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..transport.protocol import Argument, Arguments

__all__ = [
    "TIMERS_CANCEL",
    "TIMERS_DECLARE",
    "TIMERS_ENTER",
    "TIMERS_FINISH",
    "TIMERS_TAKE",
    "timers_cancel_arguments",
    "timers_declare_arguments",
    "timers_enter_arguments",
    "timers_finish_arguments",
    "timers_take_arguments",
]

TIMERS_DECLARE: Final = Script("timers/declare", always_writes=False)
TIMERS_ENTER: Final = Script("timers/enter", rests_on=Verdict.EXISTS, always_writes=False)
TIMERS_CANCEL: Final = Script("timers/cancel", rests_on=Verdict.ABSENT)
TIMERS_TAKE: Final = Script("timers/take", always_writes=False)
TIMERS_FINISH: Final = Script("timers/finish")


def timers_declare_arguments(count: int) -> Arguments:
    """Return the arguments of ``lua/timers/declare.lua``."""
    return (count,)


def timers_enter_arguments(
    grace_ms: int,
    timer_id: str,
    payload: bytes | None,
    channel: str,
    *,
    at_ms: int | None,
    delay_ms: int,
    replaces: bool,
) -> Arguments:
    """Return the arguments of ``lua/timers/enter.lua``.

    :param payload: ``None`` keeps the stored one.
    :param at_ms: ``None`` counts from now.
    """
    return (
        grace_ms,
        timer_id,
        b"" if payload is None else payload,
        "" if at_ms is None else at_ms,
        delay_ms,
        int(replaces),
        channel,
    )


def timers_cancel_arguments(grace_ms: int, timer_id: str) -> Arguments:
    """Return the arguments of ``lua/timers/cancel.lua``."""
    return grace_ms, timer_id


def timers_take_arguments(grace_ms: int, attempt: str, most: int, lease_ms: int) -> Arguments:
    """Return the arguments of ``lua/timers/take.lua``."""
    return grace_ms, attempt, most, lease_ms


def timers_finish_arguments(
    grace_ms: int, attempt: str, channel: str, timers: Mapping[str, int | None]
) -> Arguments:
    """Return the arguments of ``lua/timers/finish.lua``.

    :param timers: timer id → when it is due again. ``None`` removes it.
    """
    pairs: list[Argument] = []
    for timer_id, again_ms in timers.items():
        pairs += (timer_id, "" if again_ms is None else again_ms)
    return grace_ms, attempt, channel, *pairs
