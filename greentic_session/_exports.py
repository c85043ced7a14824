"""The attribution of public names to the package that exports them, so that modules can move."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

__all__ = ["alias_modules", "export_from"]


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
            if inspect.isclass(value):
                _resolve_annotations(value)
            value.__module__ = package


def alias_modules(package: str, modules: Mapping[str, ModuleType]) -> None:
    """Let pickles that name modules of an earlier layout load.

    An import of such a name imports the package first, and then finds the alias.

    :param package: dotted name of the package that held the modules.
    :param modules: for the name of each module, the one that holds its public names now.
    """
    sys.modules.update({f"{package}.{name}": module for name, module in modules.items()})


def _resolve_annotations(cls: Any) -> None:  # Any: a class whose annotations are replaced
    """Evaluate the annotations of a class while its own module is still known.

    msgspec, dataclasses and :func:`typing.get_type_hints` look up the names in postponed
    annotations in ``__module__``.
    """
    own = inspect.get_annotations(cls)
    # Some names are imported for type checkers only. Such annotations cannot be evaluated at all.
    with suppress(NameError):
        hints = get_type_hints(cls, include_extras=True)
        cls.__annotations__ = {name: hints[name] for name in own}
