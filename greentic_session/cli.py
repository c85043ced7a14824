"""The console script ``greentic-session``. Contains :func:`main`."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .codegen import CodegenError, generate_elm, generate_schema, generate_typescript

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the console script.

    :param arguments: the arguments, by default those of the process.
    :returns: the exit status: 0 for success, 1 for a stale file, 2 for types that are refused.
    """
    parser = argparse.ArgumentParser(prog="greentic-session")
    commands = parser.add_subparsers(required=True)
    codegen = commands.add_parser("codegen", help="generate client types from msgspec structs")
    codegen.add_argument("language", choices=["ts", "elm", "schema"])
    codegen.add_argument("types", nargs="+", metavar="module:Type")
    codegen.add_argument("-o", "--output", type=Path, help="the file, by default stdout")
    codegen.add_argument("--check", action="store_true", help="exit 1 if the file is stale")
    codegen.add_argument("--dates", action="store_true", help="ts: datetimes are Date objects")
    codegen.add_argument(
        "--messages", metavar="Type", help="ts: the message type of connect(), elm: of effects"
    )
    codegen.add_argument("--module", default="Client", help="elm: the module's name")
    codegen.add_argument("--session", metavar="Type", help="elm: the session's state")
    codegen.add_argument("--payload", metavar="Type", help="elm: the payload of events")
    codegen.add_argument("--effects", metavar="Type", help="elm: the application's own effects")
    return _codegen(parser, parser.parse_args(arguments))


def _codegen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    output: Path | None = options.output
    if options.check and output is None:
        parser.error("--check needs -o")
    if options.language != "ts" and options.dates:
        parser.error("--dates is for ts")
    if options.language == "schema" and options.messages:
        parser.error("--messages is for ts and elm")
    if options.language != "elm" and (options.session or options.payload or options.effects):
        parser.error("--session, --payload and --effects are for elm")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    types: dict[str, Any] = {}  # Any: types and type expressions
    for each in options.types:
        module, _, name = each.partition(":")
        try:
            types[name] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            parser.error(f"cannot import {each}: {error}")
    try:
        if options.language == "ts":
            text = generate_typescript(types, dates=options.dates, messages=options.messages)
        elif options.language == "elm":
            text = generate_elm(
                types,
                module=options.module,
                session=options.session,
                messages=options.messages,
                payload=options.payload,
                effects=options.effects,
            )
        else:
            text = generate_schema(types)
    except CodegenError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if output is None:
        sys.stdout.write(text)
    elif options.check:
        if not output.is_file() or output.read_bytes() != text.encode():
            sys.stderr.write(f"{output} is stale: generate it again\n")
            return 1
    else:
        output.write_bytes(text.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
