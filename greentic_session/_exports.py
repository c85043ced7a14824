"""The attribution of public names to the package that exports them, so that modules can move."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["export_from"]


def export_from(package: str, names: Mapping[str, object]) -> None:
    """Set ``__module__`` of a package's public classes and functions to the package, as anyio does.

    Pickles, tracebacks and documentation then hold the public path.

    :param package: dotted name of the package.
    :param names: its namespace, after all imports.
    """
    for value in names.values():
        defined_in = getattr(value, "__module__", None) or ""
        if defined_in.startswith(f"{package}.") and (
            inspect.isclass(value) or inspect.isfunction(value)
        ):
            if _is_record(value):
                _resolve_annotations(value)
            value.__module__ = package


def _is_record(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, (msgspec.Struct, tuple))


def _resolve_annotations(record: Any) -> None:  # Any: a class, whose annotations are replaced
    """Evaluate a record's annotations while its own module is still known.

    msgspec looks up the names in postponed annotations in ``__module__``.
    """
    # A struct of callables is never decoded: its annotations may exist for checkers only.
    with suppress(NameError):
        hints = get_type_hints(record, include_extras=True)
        own: dict[str, Any] = record.__annotations__
        record.__annotations__ = {name: hints[name] for name in own}
