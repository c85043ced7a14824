"""Functions that assign public names to the package that exports them.

So modules can move without a change to public paths.
"""

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

    Pickles, tracebacks and documentation then contain the public path.

    :param package: dotted name of the package.
    :param names: the package's namespace, after all imports.
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

    An import of such a name first imports the package, and then finds the alias.

    :param package: dotted name of the package that contained the modules.
    :param modules: for each earlier module name, the module that contains its public names now.
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
