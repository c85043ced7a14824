"""The scripts of generations, and functions that build their arguments after ARGV 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..transport.script import Script

if TYPE_CHECKING:
    from ..transport.protocol import Arguments

__all__ = [
    "CONFIRM_GENERATION",
    "RAISE_GENERATION",
    "READ_GENERATION",
    "confirm_generation_arguments",
    "raise_generation_arguments",
    "read_generation_arguments",
]

READ_GENERATION: Final = Script("generations/read", always_writes=False)
CONFIRM_GENERATION: Final = Script("generations/confirm", always_writes=False)
RAISE_GENERATION: Final = Script("generations/raise")


def read_generation_arguments(keep_ms: int, random: str) -> Arguments:
    """Return the arguments of ``lua/generations/read.lua``."""
    return keep_ms, random


def confirm_generation_arguments(ttl_ms: int, generation: str) -> Arguments:
    """Return the arguments of ``lua/generations/confirm.lua``."""
    return ttl_ms, generation


def raise_generation_arguments(keep_ms: int, random: str) -> Arguments:
    """Return the arguments of ``lua/generations/raise.lua``."""
    return keep_ms, random
