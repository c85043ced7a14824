"""An ``ELM_HOME`` without a registry, and a runner of the Elm compiler.

Elm fetches the sources of ``elm/core`` and ``elm/json``. The home contains signatures of the parts
that generated modules use, in words of this project. Elm type-checks against them. The output does
not run. With ``GREENTIC_SESSION_ELM_HOME``, the real packages of that home are used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

ELM: Final = shutil.which("elm")
FILLED: Final = os.environ.get("GREENTIC_SESSION_ELM_HOME")
_TODO: Final = "Elm.Kernel.Stub.todo"
_CORE: Final = {
    "Basics": (
        "Int, Float, Order(..), Bool(..), Never, (+), (-), (*), (==), (/=), (<), (>), (<=), (>=),"
        " (&&), (||), (++), (|>), (<|), (>>), (<<), add, sub, mul, eq, neq, lt, gt, le, ge, and, or,"
        " append, apL, apR, composeL, composeR, identity, always, not, negate",
        """
infix right 0 (<|) = apL
infix left  0 (|>) = apR
infix right 2 (||) = or
infix right 3 (&&) = and
infix non   4 (==) = eq
infix non   4 (/=) = neq
infix non   4 (<) = lt
infix non   4 (>) = gt
infix non   4 (<=) = le
infix non   4 (>=) = ge
infix right 5 (++) = append
infix left  6 (+)  = add
infix left  6 (-)  = sub
infix left  7 (*)  = mul
infix left  9 (<<) = composeL
infix right 9 (>>) = composeR
type Int = Int
type Float = Float
type Bool = True | False
type Order = LT | EQ | GT
type Never = JustOneMore Never
""",
        "add sub mul : number -> number -> number\neq neq : a -> a -> Bool\n"
        "lt gt le ge : comparable -> comparable -> Bool\nand or : Bool -> Bool -> Bool\n"
        "append : appendable -> appendable -> appendable\napL : (a -> b) -> a -> b\n"
        "apR : a -> (a -> b) -> b\ncomposeL : (b -> c) -> (a -> b) -> (a -> c)\n"
        "composeR : (a -> b) -> (b -> c) -> (a -> c)\nidentity : a -> a\nalways : a -> b -> a\n"
        "not : Bool -> Bool\nnegate : number -> number",
    ),
    "List": (
        "List, (::), cons, map, filter, all, concat, length, member",
        "infix right 5 (::) = cons\ntype List a = List\n",
        "cons : a -> List a -> List a\nmap : (a -> b) -> List a -> List b\n"
        "filter : (a -> Bool) -> List a -> List a\nall : (a -> Bool) -> List a -> Bool\n"
        "concat : List (List a) -> List a\nlength : List a -> Int\nmember : a -> List a -> Bool",
    ),
    "Maybe": ("Maybe(..)", "type Maybe a = Just a | Nothing\n", ""),
    "Result": ("Result(..)", "type Result e a = Ok a | Err e\n", ""),
    "Char": ("Char", "type Char = Char\n", ""),
    "String": (
        "String, toList",
        "import Char exposing (Char)\nimport List exposing (List)\ntype String = String\n",
        "toList : String -> List Char",
    ),
    "Tuple": ("pair", "", "pair : a -> b -> (a, b)"),
    "Debug": ("todo", "import String exposing (String)\n", "todo : String -> a"),
    "Platform": ("Program", "type Program flags model msg = Program\n", ""),
    "Platform.Cmd": ("Cmd", "type Cmd msg = Cmd\n", ""),
    "Platform.Sub": ("Sub", "type Sub msg = Sub\n", ""),
    "Dict": ("Dict", "type Dict k v = Dict\n", ""),
}
_JSON: Final = {
    "Json.Encode": (
        "Value, string, int, float, bool, null, list, dict, object",
        "import Dict exposing (Dict)\ntype Value = Value\n",
        "string : String -> Value\nint : Int -> Value\nfloat : Float -> Value\nbool : Bool -> Value\n"
        "null : Value\nlist : (a -> Value) -> List a -> Value\n"
        "dict : (k -> String) -> (v -> Value) -> Dict k v -> Value\n"
        "object : List ( String, Value ) -> Value",
    ),
    "Json.Decode": (
        "Decoder, Value, Error, string, int, float, bool, value, field, index, list, dict,"
        " keyValuePairs, nullable, maybe, oneOf, lazy, map, map2, andThen, succeed, fail, decodeString",
        "import Json.Encode\nimport Dict exposing (Dict)\n"
        "type alias Value = Json.Encode.Value\ntype Decoder a = Decoder\ntype Error = Error\n",
        "string : Decoder String\nint : Decoder Int\nfloat : Decoder Float\nbool : Decoder Bool\n"
        "value : Decoder Value\nfield : String -> Decoder a -> Decoder a\n"
        "index : Int -> Decoder a -> Decoder a\nlist : Decoder a -> Decoder (List a)\n"
        "dict : Decoder a -> Decoder (Dict String a)\n"
        "keyValuePairs : Decoder a -> Decoder (List ( String, a ))\n"
        "nullable maybe : Decoder a -> Decoder (Maybe a)\noneOf : List (Decoder a) -> Decoder a\n"
        "lazy : (() -> Decoder a) -> Decoder a\nmap : (a -> b) -> Decoder a -> Decoder b\n"
        "map2 : (a -> b -> c) -> Decoder a -> Decoder b -> Decoder c\n"
        "andThen : (a -> Decoder b) -> Decoder a -> Decoder b\nsucceed : a -> Decoder a\n"
        "fail : String -> Decoder a\n"
        "decodeString : Decoder a -> String -> Result Error a",
    ),
}
_PACKAGES: Final = {
    "core": ((1, 0, 5), _CORE, {}),
    "json": ((1, 1, 3), _JSON, {"elm/core": "1.0.0 <= v < 2.0.0"}),
}


def prepare(folder: Path) -> None:
    """Write a project and, without a filled one, a home into a folder."""
    (folder / "src").mkdir()
    elm_json = {
        "type": "application",
        "source-directories": ["src"],
        "elm-version": "0.19.1",
        "dependencies": {"direct": {"elm/core": "1.0.5", "elm/json": "1.1.3"}, "indirect": {}},
        "test-dependencies": {"direct": {}, "indirect": {}},
    }
    (folder / "elm.json").write_text(json.dumps(elm_json))
    if FILLED:
        return
    packages = folder / "home" / "0.19.1" / "packages"
    registry = struct.pack(">qq", len(_PACKAGES), len(_PACKAGES))
    for name, (version, modules, needs) in sorted(_PACKAGES.items()):
        registry += b"\x03elm" + bytes([len(name)]) + name.encode() + bytes(version)
        registry += struct.pack(">q", 0)
        root = packages / "elm" / name / ".".join(map(str, version))
        stub = "Stub" if name == "core" else "JsonStub"
        (root / "src" / "Elm" / "Kernel").mkdir(parents=True)
        (root / "src" / "Elm" / "Kernel" / f"{stub}.js").write_text(
            f"/*\n*/\nvar _{stub}_todo = 0;\n"
        )
        (root / "docs.json").write_text("[]")
        description = {
            "type": "package", "name": f"elm/{name}", "summary": "signatures",
            "license": "MIT", "version": ".".join(map(str, version)),
            "exposed-modules": list(modules), "elm-version": "0.19.0 <= v < 0.20.0",
            "dependencies": needs, "test-dependencies": {},
        }  # fmt: skip
        (root / "elm.json").write_text(json.dumps(description))
        for module, parts in modules.items():
            path = root / "src" / f"{module.replace('.', '/')}.elm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_module(module, *parts, stub=stub))
    (packages / "registry.dat").write_bytes(registry)


def _module(name: str, exposed: str, start: str, signatures: str, *, stub: str) -> str:
    lines = [f"module {name} exposing ({exposed})"]
    lines += [] if name == "Basics" or stub != "Stub" else ["import Basics exposing (..)"]
    lines += [f"import Elm.Kernel.{stub}"] if signatures else []
    # Imports go first.
    lines += sorted(start.splitlines(), key=lambda line: not line.startswith("import"))
    for line in signatures.splitlines():
        names, _, kind = line.partition(" : ")
        for each in names.split():
            lines += [f"{each} : {kind}", f"{each} = {_TODO.replace('Stub', stub)}"]
    return "\n".join(lines) + "\n"


def compile_elm(folder: Path, *modules: str) -> str:
    """Compile modules of a prepared folder and return the compiler's complaint, or nothing."""
    assert ELM
    done = subprocess.run(
        [ELM, "make", "--output=/dev/null", *(f"src/{each}.elm" for each in modules)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "ELM_HOME": FILLED or str(folder / "home")},
    )  # fmt: skip
    return "" if done.returncode == 0 else re.sub(r"\x1b\[\d*m", "", done.stderr)
