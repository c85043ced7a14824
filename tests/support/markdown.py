"""The Markdown pages of the project, and their Python blocks as programs."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w/]+\.py)\n")
_PRINTS = re.compile(r"\s+It prints:\s+```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Program(NamedTuple):
    """A block that runs by itself.

    :ivar output: what the page says that it prints, ``None`` if it says nothing.
    """

    code: str
    output: str | None


class Snippet(NamedTuple):
    """A block that continues the blocks before it.

    :ivar line: of its first line in the page.
    """

    code: str
    line: int


class Page(NamedTuple):
    """A Markdown page.

    :ivar name: its path from the root of the project.
    :ivar suite: blocks that begin with a comment ``# name.py``, by that name: files for pytest.
    """

    name: str
    text: str
    programs: tuple[Program, ...]
    snippets: tuple[Snippet, ...]
    suite: dict[str, str]


def _page(path: Path) -> Page:
    text = path.read_text("utf-8")
    programs: list[Program] = []
    snippets: list[Snippet] = []
    suite: dict[str, str] = {}
    for block in _FENCE.finditer(text):
        if block[1] != "python":
            continue
        code = block[2]
        if first := _FILE.match(code):
            suite[first[1]] = code
        elif "asyncio.run(" in code:
            prints = _PRINTS.match(text, block.end())
            programs.append(Program(code, prints[1] if prints else None))
        else:
            snippets.append(Snippet(code, text.count("\n", 0, block.start(2)) + 1))
    name = path.relative_to(ROOT).as_posix()
    return Page(name, text, tuple(programs), tuple(snippets), suite)


@cache
def pages() -> tuple[Page, ...]:
    """Return every Markdown page, found by its name, so that a new one needs no registration."""
    found = [*ROOT.glob("*.md")]
    # Those under tests are expected outputs.
    for top in (".github", "examples", "greentic_session", "scripts"):
        found += (ROOT / top).rglob("*.md")
    return tuple(_page(path) for path in sorted(found))


def joined(page: str, snippets: Sequence[Snippet]) -> ast.Module:
    """Return the snippets of a page as one module, with their lines in the page.

    A snippet that ends in a block with the body ``...`` holds the later ones in that block.
    """
    module = ast.Module(body=[], type_ignores=[])
    body = module.body
    for code, line in snippets:
        tree = compile(
            "\n" * (line - 1) + code,
            page,
            "exec",
            ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        assert isinstance(tree, ast.Module)
        body += tree.body
        last = body[-1] if body else None
        if isinstance(last, ast.AsyncWith) and _is_ellipsis(last.body[-1]):
            body = last.body
            body.pop()
    return module


def _is_ellipsis(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and node.value.value is ...
    )
