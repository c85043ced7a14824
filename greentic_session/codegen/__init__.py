"""Generators of client types: TypeScript, Elm and JSON Schema from msgspec structs.

The console script ``greentic-session codegen`` calls them. No other module imports this package.
"""

from __future__ import annotations

from .elm import generate_elm
from .form import CodegenError, Form, describe
from .jsonschema import generate_schema
from .typescript import generate_typescript

__all__ = [
    "CodegenError",
    "Form",
    "describe",
    "generate_elm",
    "generate_schema",
    "generate_typescript",
]
