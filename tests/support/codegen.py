"""Random types with values and corrupted documents, and a runner of generated TypeScript."""

from __future__ import annotations

import copy
import enum
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from uuid import UUID

import msgspec

from greentic_session.codegen import generate_typescript

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

DENO = shutil.which("deno", path=str(Path(sys.executable).parent)) or shutil.which("deno")
CONFIG = {
    "compilerOptions": {
        "strict": True,
        "noUncheckedIndexedAccess": True,
        "exactOptionalPropertyTypes": True,
        "lib": ["es2022", "dom"],
    }
}


class Shape(NamedTuple):
    """A type and what makes its values."""

    type: Any
    make: Callable[[random.Random, int], Any]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def _leaves(rng: random.Random) -> list[Shape]:
    zone = rng.choice([None, UTC])
    return [
        Shape(int, lambda r, _: r.choice([0, -1, 2**53 - 1, r.randrange(10**6)])),
        Shape(float, lambda r, _: r.choice([0.5, 1.0, -2.25, 1e300, r.random()])),
        Shape(bool, lambda r, _: r.random() < 0.5),
        Shape(str, lambda r, _: r.choice(["", "é\u2028", "😀", "__proto__", "a" * r.randrange(9)])),
        Shape(bytes, lambda r, _: r.randbytes(r.randrange(6))),
        Shape(
            datetime,
            lambda r, _: datetime(2000, 2, 29, 1, 2, 3, r.randrange(10**6), tzinfo=zone),
        ),
        Shape(date, lambda r, _: date(r.randrange(1, 9999), 1, 31)),
        Shape(time, lambda r, _: time(r.randrange(24), 5, 6, r.randrange(10**6))),
        Shape(timedelta, lambda r, _: timedelta(seconds=r.randrange(-(10**6), 10**6))),
        Shape(UUID, lambda r, _: UUID(int=r.getrandbits(128))),
        Shape(Decimal, lambda r, _: Decimal(r.randrange(10**9)) / 100),
        Shape(Colour, lambda r, _: r.choice(list(Colour))),
        Shape(Literal["a", "b", 3], lambda r, _: r.choice(["a", "b", 3])),
    ]


def _wrapped(rng: random.Random, inner: Shape) -> Shape:
    size = 3
    kind: Any = inner.type
    match rng.randrange(5):
        case 0:
            return Shape(
                list[kind], lambda r, d: [inner.make(r, d) for _ in range(r.randrange(size))]
            )
        case 1:
            return Shape(
                dict[str, kind],
                lambda r, d: {k: inner.make(r, d) for k in "xyz"[: r.randrange(size)]},
            )
        case 2:
            return Shape(
                inner.type | None, lambda r, d: inner.make(r, d) if r.random() < 0.6 else None
            )
        case 3:
            return Shape(tuple[kind, bool], lambda r, d: (inner.make(r, d), True))
        case _:
            return Shape(
                tuple[kind, ...],
                lambda r, d: tuple(inner.make(r, d) for _ in range(r.randrange(size))),
            )


def _one_of(members: list[Shape]) -> Shape:
    kind = members[0].type | members[1].type
    return Shape(kind, lambda r, d: r.choice(members).make(r, d))


def shape(rng: random.Random, name: str, depth: int = 3) -> Shape:
    """Return a random struct, which contains others and may contain itself."""
    fields: list[tuple[Any, ...]] = []
    makers: dict[str, Callable[[random.Random, int], Any]] = {}
    is_array = rng.random() < 0.2
    tag = rng.choice([None, name.lower()])
    for index in range(rng.randrange(1, 6)):
        field = rng.choice([f"field_{index}", f"class_{index}"])
        if depth and rng.random() < 0.3:
            inner = shape(rng, f"{name}{index}", depth - 1)
        elif depth and not is_array and rng.random() < 0.2:
            members = [_tagged(rng, f"{name}{index}{letter}", depth - 1) for letter in "AB"]
            inner = _one_of(members)
        else:
            inner = rng.choice(_leaves(rng))
        if rng.random() < 0.5:
            inner = _wrapped(rng, inner)
        makers[field] = inner.make
        fields.append((field, inner.type))
    made = msgspec.defstruct(
        name,
        fields,
        rename=rng.choice([None, "camel", "kebab"]),
        tag=tag,
        array_like=is_array,
        omit_defaults=rng.random() < 0.3,
        forbid_unknown_fields=rng.random() < 0.3,
    )
    return Shape(made, lambda r, d: made(**{key: make(r, d) for key, make in makers.items()}))


def _tagged(rng: random.Random, name: str, depth: int) -> Shape:
    inner = rng.choice(_leaves(rng))
    nested = shape(rng, f"{name}N", max(depth - 1, 0))
    forbids = rng.random() < 0.3
    made = msgspec.defstruct(
        name,
        [("first", inner.type), ("second", nested.type | None, None)],
        tag=name.lower(),
        tag_field="kind",
        forbid_unknown_fields=forbids,
    )
    return Shape(
        made, lambda r, d: made(first=inner.make(r, d), second=r.choice([None, nested.make(r, d)]))
    )


def corrupted(rng: random.Random, document: Any) -> Any:
    """Return a document with one place changed: missing, of a wrong type, or too large."""
    changed = [copy.deepcopy(document)]
    parent, key = changed, 0
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.8:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    if rng.random() < 0.3 and parent is not changed:
        del parent[key]
    else:
        parent[key] = rng.choice([None, True, "no such value", [], {}, 2.5, 10**30])
    return changed[0]


def verdict(document: Any, kind: Any) -> str | None:
    """Return the path at which msgspec refuses a document, or None."""
    try:
        msgspec.json.decode(json.dumps(document), type=kind)
    except msgspec.ValidationError as error:
        found = re.search(r" - at `(.*)`$", str(error))
        return found[1] if found else "$"
    return None


_DRIVER = """
const results: unknown[] = [];
const cases = Deno.readTextFileSync(new URL("cases.json", import.meta.url));
for (const [file, name, text] of JSON.parse(cases)) {
  const module = await import(new URL(file, import.meta.url).href);
  try {
    const decoded = module["decode" + name](JSON.parse(text));
    results.push({ encoded: JSON.stringify(module["encode" + name](decoded)) });
  } catch (error) {
    if (!(error instanceof module.DecodeError)) throw error;
    results.push({ path: error.path, message: error.message });
  }
}
console.log(JSON.stringify(results));
"""


def write_modules(folder: Path, types: dict[str, Any], **options: Any) -> None:
    (folder / "deno.json").write_text(json.dumps(CONFIG))
    for name, kind in types.items():
        (folder / f"{name}.ts").write_text(generate_typescript({name: kind}, **options), "utf-8")


def deno(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert DENO
    return subprocess.run(
        [DENO, *arguments],
        cwd=folder,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env={
            "NO_COLOR": "1",
            "HOME": str(folder),
            "DENO_DIR": str(folder / "cache"),
            "DENO_NO_UPDATE_CHECK": "1",
        },
    )


def decode_in_deno(folder: Path, cases: list[tuple[str, Any]]) -> list[dict[str, str]]:
    """Decode and encode documents with the modules of their types, in one run of deno."""
    rows = [(f"./{name}.ts", name, json.dumps(document)) for name, document in cases]
    (folder / "cases.json").write_text(json.dumps(rows))
    (folder / "driver.ts").write_text(_DRIVER)
    done = deno(folder, "run", "--no-check", "--allow-read", "driver.ts")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def differences(folder: Path, rng: random.Random, types: int, values: int) -> list[str]:
    """Try random types, and return where TypeScript and msgspec differ.

    The modules are type-checked. Values pass from Python through TypeScript and back. Corrupted
    documents must be refused on both sides at the same path. An integer that only JavaScript
    cannot represent is refused in TypeScript alone.
    """
    shapes = {f"Type{n}": shape(rng, f"Type{n}") for n in range(types)}
    write_modules(folder, {name: each.type for name, each in shapes.items()})
    checked = deno(folder, "check", *(f"{name}.ts" for name in shapes))
    if checked.returncode:
        return [checked.stderr[:4000]]
    made = [(name, each.make(rng, 3)) for name, each in shapes.items() for _ in range(values)]
    documents = [json.loads(msgspec.json.encode(value)) for _, value in made]
    damaged = [corrupted(rng, document) for document in documents]
    names = [name for name, _ in made]
    cases = list(zip(names * 2, documents + damaged, strict=True))
    results = decode_in_deno(folder, cases)
    found: list[str] = []
    for (name, value), result in zip(made, results, strict=False):
        encoded = result.get("encoded")
        if encoded is None or msgspec.json.decode(encoded, type=shapes[name].type) != value:
            found.append(f"{name}: {value} came back as {result}")
    for name, document, result in zip(names, damaged, results[len(made) :], strict=True):
        expected = verdict(document, shapes[name].type)
        if expected != result.get("path") and "2^53" not in result.get("message", ""):
            found.append(f"{name}: {document} is refused at {expected}, but {result}")
    return found
