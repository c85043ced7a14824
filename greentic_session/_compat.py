"""Backports of newer parts of the standard library for the oldest supported Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import override
elif sys.version_info >= (3, 12):
    from typing import override
else:
    _F = TypeVar("_F")

    def override(method: _F) -> _F:
        """Mark a method that overrides one of a base class, for type checkers."""
        return method


__all__ = ["override"]
