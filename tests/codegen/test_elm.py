"""Generated Elm against the Elm compiler."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from greentic_session.codegen import CodegenError, generate_elm

from ..support import codegen, elm
from . import samples, seed

FOLDER = Path(__file__).parent
GOLDEN = FOLDER / "golden.elm"
TYPES = 40
needs_elm = pytest.mark.skipif(elm.ELM is None, reason="elm is not installed (elm-compiler)")


def _client() -> str:
    return generate_elm(
        seed.TYPES, session="AppSession", messages="Msg", payload="EmailData", effects="AppEffect"
    )


def _compiled(folder: Path, **modules: str) -> str:
    elm.prepare(folder)
    for name, text in modules.items():
        (folder / "src" / f"{name}.elm").write_text(text, "utf-8")
    return elm.compile_elm(folder, *modules)


def test_the_golden_elm_file_is_current() -> None:
    assert GOLDEN.read_text("utf-8") == _client()


@needs_elm
def test_elm_of_every_construct_compiles(tmp_path: Path) -> None:
    types = {"Everything": samples.Everything, "Message": samples.Message}
    assert not _compiled(tmp_path, Client=generate_elm(types))


@needs_elm
def test_elm_of_random_types_compiles(tmp_path: Path) -> None:
    rng = random.Random(17)
    kinds = {f"Type{n}": codegen.shape(rng, f"Type{n}").type for n in range(TYPES)}
    modules = {name: generate_elm({name: kind}, module=name) for name, kind in kinds.items()}
    assert not _compiled(tmp_path, **modules)


@needs_elm
def test_the_seeds_business_logic_compiles(tmp_path: Path) -> None:
    business = (FOLDER / "Business.elm").read_text("utf-8")
    assert not _compiled(tmp_path, Client=_client(), Business=business)


@needs_elm
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("UserJoined { user_id = ctx.sessionId }", "TYPE MISMATCH"),
        (
            "case ctx.sessionId of\n        SessionId text -> UserJoined { user_id = text }",
            "NAMING",
        ),
        ("UserJoined { user_id = encodeSessionId ctx.sessionId }", "NAMING ERROR"),
    ],
)
def test_a_message_with_a_session_id_does_not_compile(
    tmp_path: Path, line: str, complaint: str
) -> None:
    leak = (
        "module Leak exposing (..)\nimport Client exposing (..)\n\n\n"
        f"leak : Context -> Msg\nleak ctx =\n    {line}\n"
    )
    assert complaint in _compiled(tmp_path, Client=_client(), Leak=leak)


@needs_elm
def test_a_case_that_forgets_a_message_does_not_compile(tmp_path: Path) -> None:
    part = (
        "module Part exposing (..)\nimport Client exposing (..)\n\n\nshow : Msg -> String\n"
        "show msg =\n    case msg of\n        UserJoined fields -> fields.user_id\n"
    )
    assert "MISSING PATTERNS" in _compiled(tmp_path, Client=_client(), Part=part)


def test_the_types_of_effects_that_are_not_roots_are_refused() -> None:
    with pytest.raises(CodegenError, match="Msg: the type of messages is not among the types"):
        generate_elm({"AppSession": seed.AppSession}, session="AppSession", messages="Msg")


def test_two_fields_with_one_elm_name_are_refused() -> None:
    kind: Any = msgspec.defstruct("Twice", [("a_b", int), ("c", int)], rename={"c": "a-b"})
    with pytest.raises(CodegenError, match="Twice: two fields have one name in Elm"):
        generate_elm({"Twice": kind})
