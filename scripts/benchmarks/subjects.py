"""The subjects of measurements. A subject is a module with ``measure(plan) -> Finding``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from .findings import Finding
    from .measuring import Plan

__all__ = ["SUBJECTS", "measure"]

SUBJECTS: Final = {
    "clients": "update_cas and get through this library and through other clients",
    "verbs": "each verb, on shared connections and on a pool",
    "server": "the server's cost, and the share of it that one process uses",
    "memory": "the memory backend against the bare minimum of its work",
    "dispatcher": "a message through the dispatcher, and through a bare queue per key",
    "ordering": "locks against redis.asyncio's, and a message through an inbox",
    "web": "web sessions in bad situations, and a request through other libraries for them",
    "peers": "other libraries for conversation state",
}
"""Subjects by module name, in the order of their runs and of the results."""


def measure(subject: str, plan: Plan) -> Finding:
    """Run one subject. It is imported late, because each needs other distributions."""
    module = import_module(f".{subject}", __package__)
    return cast("Callable[[Plan], Finding]", module.measure)(plan)
