"""Generated TypeScript against msgspec, with the compiler and runtime of the ``deno`` wheel."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from greentic_session.cli import main
from greentic_session.codegen import CodegenError, generate_typescript
from tests.codegen import samples
from tests.support import codegen

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "golden.ts"
ARGUMENTS = [
    "codegen", "ts", "tests.codegen.samples:Everything", "tests.codegen.samples:Message",
    "--messages", "Message", "-o", str(GOLDEN),
]  # fmt: skip
TYPES, VALUES = 24, 6
needs_deno = pytest.mark.skipif(codegen.DENO is None, reason="deno is not installed")


def test_the_golden_file_is_current() -> None:
    assert main([*ARGUMENTS, "--check"]) == 0


def test_check_of_a_stale_file_exits_with_1(tmp_path: Path) -> None:
    arguments = [*ARGUMENTS[:-1], str(tmp_path / "client.ts")]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    assert main([*arguments, "--check", "--dates"]) == 1


def test_output_does_not_depend_on_the_hash_seed(scaled: Callable[[int], int]) -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-m", "greentic_session.cli", *ARGUMENTS[:-2]],
            check=True, capture_output=True, cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(scaled(20))
    }  # fmt: skip
    assert outputs == {GOLDEN.read_bytes()}


class _IntKeys(msgspec.Struct):
    by_id: dict[int, str]


class _Large(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(le=2**53)]


class _Numbers(msgspec.Struct):
    either: int | float


class _Untagged(msgspec.Struct):
    either: samples.Box[int] | samples.Tree


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (_IntKeys, "_IntKeys.by_id"),
        (_Large, "_Large.count"),
        (_Numbers, "_Numbers.either"),
        (_Untagged, "Root"),
    ],
)
def test_a_type_without_counterpart_is_refused_by_path(kind: Any, path: str) -> None:
    with pytest.raises(CodegenError) as caught:
        generate_typescript({"Root" if kind is _Untagged else kind.__name__: kind})
    assert caught.value.path == path


@needs_deno
def test_random_types_decode_and_refuse_as_msgspec_does(tmp_path: Path) -> None:
    found = codegen.differences(tmp_path, random.Random(17), TYPES, VALUES)
    assert not found, "\n".join(found)


@needs_deno
def test_a_switch_that_forgets_a_case_does_not_compile(tmp_path: Path) -> None:
    codegen.write_modules(tmp_path, {"Message": samples.Message}, messages="Message")
    start = (
        'import { connect, type Message } from "./Message.ts";\n'
        "function show(message: Message): string {\n  switch (message.type) {\n"
        '    case "said": return message.textBody;\n'
    )
    end = '  }\n}\nconnect("/s", { onMessage: show, onReset() {}, onEnded() {} });\n'
    (tmp_path / "whole.ts").write_text(
        start + '    case "user_joined": return message.user;\n' + end
    )
    (tmp_path / "part.ts").write_text(start + end)
    whole = codegen.deno(tmp_path, "check", "whole.ts")
    assert whole.returncode == 0, whole.stderr
    part = codegen.deno(tmp_path, "check", "part.ts")
    assert part.returncode != 0
    assert "lacks ending return" in part.stderr


STREAM = """
import { connect } from "./Message.ts";
const seen: string[] = [];
let status = 503;
class Source extends EventTarget {
  static readonly all: Source[] = [];
  readyState = 1;
  constructor(readonly url: string) { super(); Source.all.push(this); }
  close() { this.readyState = 2; }
  send(kind: string, lastEventId: string, data = "") {
    this.dispatchEvent(new MessageEvent(kind, { lastEventId, data }));
  }
  refuse() { this.readyState = 2; this.dispatchEvent(new Event("error")); }
}
const held: (() => void)[] = [];
let busy = false;
function grant() {
  const next = busy ? undefined : held.shift();
  if (next) { busy = true; next(); }
}
const locks = { request(_: string, _options: unknown, run: () => Promise<void>) {
  return new Promise<void>((resolve) => {
    held.push(() => run().then(() => { busy = false; resolve(); grant(); }));
    grant();
  });
} };
const all = globalThis as unknown as Record<string, unknown>;
all["EventSource"] = Source;
all["fetch"] = () => Promise.resolve({ status });
Object.defineProperty(all, "navigator", { value: { locks }, configurable: true });
Math.random = () => 0;
async function until(condition: () => boolean, what: string) {
  for (let turn = 0; turn < 4000; turn++) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  throw new Error(`${what}: ${JSON.stringify(seen)}`);
}
function tab(name: string) {
  return connect("/stream", {
    onMessage: (message) => seen.push(`${name} ${message.type}`),
    onReset: () => seen.push(`${name} reset`),
    onEnded: () => seen.push(`${name} ended`),
  });
}
function shown(...wanted: string[]) { return wanted.every((each) => seen.includes(each)); }
const closeFirst = tab("one");
tab("two");
const joined = JSON.stringify({ type: "user_joined", user: "ann" });
Source.all[0]!.send("hello", "p0");
Source.all[0]!.send("user_joined", "p1", joined);
await until(() => shown("one user_joined", "two user_joined"), "both tabs");
if (Source.all.length !== 1) throw new Error("one stream is shared");
closeFirst();
await until(() => Source.all.length === 2, "the second tab takes over");
if (Source.all[1]!.url !== "/stream?last_event_id=p1") throw new Error(Source.all[1]!.url);
Source.all[1]!.send("user_joined", "p1", joined);
Source.all[1]!.send("reset", "p7");
await until(() => shown("two reset"), "reset");
Source.all[1]!.refuse();
await until(() => Source.all.length === 3, "a refused stream is opened again");
if (Source.all[2]!.url !== "/stream?last_event_id=p7") throw new Error(Source.all[2]!.url);
status = 204;
Source.all[2]!.refuse();
await until(() => shown("two ended"), "ended");
console.log(JSON.stringify(seen));
Deno.exit(0);
"""


@needs_deno
def test_tabs_share_one_stream_that_recovers_and_ends(tmp_path: Path) -> None:
    codegen.write_modules(tmp_path, {"Message": samples.Message}, messages="Message")
    (tmp_path / "stream.ts").write_text(STREAM)
    done = codegen.deno(tmp_path, "run", "--no-check", "stream.ts")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "one user_joined", "two user_joined", "two reset", "two ended"
    ]  # fmt: skip


def test_two_hundred_types_are_generated_into_one_file() -> None:
    rng = random.Random(200)
    types = {f"Type{n}": codegen.shape(rng, f"Type{n}", 0).type for n in range(200)}
    text = generate_typescript(types)
    assert all(f"export function decode{name}(" in text for name in types)
