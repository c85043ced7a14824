"""Counts words and marks in the prose of the project, per folder.

``python -m tests.support.prose`` lowers the limits in ``tests/vectors/prose.json``.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from .markdown import ROOT, pages

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS: Final = ROOT / "tests" / "vectors" / "prose.json"
KINDS: Final = ("who", "semicolon", "banned")

_WHO: Final = re.compile(r"\b(?:who|whoever|nobody)\b", re.IGNORECASE)
_BANNED: Final = re.compile(
    r"\b(?:anew|beside|for ever|be it|hence|shall|sooner|bears|stands? under|hangs? on"
    r"|comes? to|in hand|at rest|in vain|mourn\w*|bury|buries|buried|forsak\w+"
    r"|forgo(?:es|ing|ne)?)\b",
    re.IGNORECASE,
)
_PERSON: Final = re.compile(
    r"\b(?:who|whom|whoever|whomever|(?:some|any|every|no)(?:body|one)s?)\b", re.IGNORECASE
)
"""In the name of a test, which has a thing as its subject."""
ALLOWED: Final[dict[tuple[str, str], str]] = {}
"""Banned words that are right in their place: (file, word) -> the reason."""

# Code is not prose: literals, roles, field names of docstrings, and their literal blocks.
_FENCED: Final = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_INLINE: Final = re.compile(r"``.+?``|`[^`\n]+`", re.DOTALL)
_TARGET: Final = re.compile(r"\]\([^)\s]*\)|^\[[\w-]+\]: \S+$", re.MULTILINE)
_FIELD: Final = re.compile(r"^ *:\w+(?: [\w.*]+)?:", re.MULTILINE)
_ROLE: Final = re.compile(r":\w+:(?=`)")
_DIRECTIVE: Final = re.compile(r"^( *)(?:\.\. \S+::.*|.*::)$")
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z'-]*")


class Text(NamedTuple):
    """A piece of prose without its code.

    :ivar file: its path from the root of the project.
    """

    file: str
    words: str


def folder_of(file: str) -> str:
    """Return the folder that a file counts for. Markdown counts for itself."""
    if file.endswith(".md"):
        return file
    parts = Path(file).parts[:-1]
    return "/".join(parts[: 2 if parts[0] == "greentic_session" else 1])


def _without_literal_blocks(text: str) -> str:
    lines: list[str] = []
    indent = -1
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if indent >= 0 and (not line.strip() or depth > indent):
            continue
        indent = depth if _DIRECTIVE.match(line) else -1
        if not line.lstrip().startswith(".. "):
            lines.append(line)
    return "\n".join(lines)


def _plain(text: str) -> str:
    for pattern in (_ROLE, _INLINE, _TARGET, _FIELD):
        text = pattern.sub(" ", text)
    return text


def _docstrings(path: Path) -> Iterator[str]:
    """Yield docstrings, and the strings below attributes."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        body = getattr(node, "body", ())
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                value = statement.value.value
                if isinstance(value, str):
                    yield _plain(_without_literal_blocks(value))


def _lua_header(path: Path) -> str:
    lines: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("--"):
            break
        lines.append(line[2:])
    return _plain("\n".join(lines))


def _sources() -> Iterator[str]:
    for top in ("greentic_session", "examples", "scripts", "tests"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".py", ".lua"):
                yield path.relative_to(ROOT).as_posix()


def folders() -> list[str]:
    """Return the folders that have limits, without reading the files."""
    names = {folder_of(name) for name in _sources()}
    return sorted(names.union(page.name for page in pages()))


@cache
def texts() -> tuple[Text, ...]:
    """Return the prose of Markdown pages, docstrings and Lua headers."""
    found = [
        Text(page.name, _plain(_COMMENT.sub(" ", _FENCED.sub(" ", page.text)))) for page in pages()
    ]
    for name in _sources():
        if name.endswith(".py"):
            found += (Text(name, words) for words in _docstrings(ROOT / name))
        else:
            found.append(Text(name, _lua_header(ROOT / name)))
    return tuple(found)


def banned_in(text: Text) -> list[str]:
    """Return the banned words of a text that have no listed reason."""
    return [
        word
        for word in (found.lower() for found in _BANNED.findall(text.words))
        if (text.file, word) not in ALLOWED
    ]


def names_of_tests() -> Iterator[Text]:
    """Yield the names of test functions as words."""
    for name in _sources():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    prefix, _, words = node.name.partition("_")
                    if prefix == "test":
                        yield Text(name, words.replace("_", " "))


def banned_in_name(text: Text) -> list[str]:
    """Return the words that the name of a test may not have."""
    return _PERSON.findall(text.words) + banned_in(text)


@cache
def counts() -> dict[str, Counter[str]]:
    """Return the number of words and of each limited kind, per folder."""
    found: dict[str, Counter[str]] = {folder: Counter() for folder in folders()}
    for text in texts():
        count = found[folder_of(text.file)]
        count["words"] += len(_WORD.findall(text.words))
        count["who"] += len(_WHO.findall(text.words))
        count["semicolon"] += text.words.count(";")
        count["banned"] += len(banned_in(text))
    return found


def final_limits(words: int) -> dict[str, int]:
    """Return the limits for a number of words, by the rules of the project."""
    return {"who": words // 10_000, "semicolon": words // 1000, "banned": 0}


def limits() -> dict[str, dict[str, int]]:
    """Return the limits of folders that do not follow the rules yet. They only go down."""
    loaded: dict[str, dict[str, int]] = json.loads(LIMITS.read_text("utf-8"))
    return loaded


def lowered() -> dict[str, dict[str, int]]:
    """Return the limits that today's counts allow, never higher than those in force."""
    before = limits() if LIMITS.exists() else {}
    after: dict[str, dict[str, int]] = {}
    for folder, count in sorted(counts().items()):
        allowed = before.get(folder, {}) if before else count
        rules = final_limits(count["words"])
        row = {
            kind: min(count[kind], allowed.get(kind, 0))
            for kind in KINDS
            if count[kind] > rules[kind] and allowed.get(kind, 0) > rules[kind]
        }
        if row:
            after[folder] = row
    return after


if __name__ == "__main__":
    rows = lowered()
    lines = ",\n".join(f'  "{folder}": {json.dumps(row)}' for folder, row in rows.items())
    LIMITS.write_text(f"{{\n{lines}\n}}\n", "utf-8")
    for name, found in sorted(counts().items()):
        print(  # noqa: T201 - a report for people
            f"{name:40}", *(f"{kind} {found[kind]:5}" for kind in ("words", *KINDS))
        )
