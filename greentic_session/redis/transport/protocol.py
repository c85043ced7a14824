"""Types of the commands and replies of the wire protocol."""

from __future__ import annotations

from typing import Any

__all__ = ["Argument", "Arguments", "Command", "Reply"]

Argument = str | bytes | int
Command = tuple[Argument, ...]
Arguments = tuple[Argument, ...]
Reply = Any  # Any: each caller knows the type of its command's reply
