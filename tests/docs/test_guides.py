"""Tests of every Python block of every Markdown page, in memory and on a server."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from greentic_session.testing.ladder import LADDER_VARIABLE

from ..support.markdown import ROOT, joined, pages

if TYPE_CHECKING:
    from ..support.markdown import Page, Program

PAGES = {page.name: page for page in pages()}
README = PAGES["README.md"]
MEMORY_URL = '"memory://"'
SERVER_URL = "redis://localhost:6379"
FOLDER_URL = "embedded:///var/lib/bot/sessions"

with_snippets = pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name) for page in pages() if page.snippets]
)
with_programs = pytest.mark.parametrize(
    ("page", "program"),
    [
        pytest.param(page, program, id=f"{page.name}-{number}")
        for page in pages()
        for number, program in enumerate(page.programs)
    ],
)

UNUSED = ("-p", "no:hypothesispytest", "-p", "no:timeout", "-p", "no:cacheprovider")
"""Plugins whose import takes longer than the tests."""
A_FEW_OF_THE_CONTRACT = "race or conflict or owner or expire or scan or lookup or residue or outbox"


def with_own_namespace(url: str) -> str:
    options = f"deadline=20&namespace=test:{uuid4().hex}"
    return f"{url}{'&' if '?' in url else '?'}{options}"


def run_program(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_snippets(page: Page, replaced: dict[str, str]) -> None:
    snippets = []
    for code, line in page.snippets:
        for old, new in replaced.items():
            code = code.replace(old, new)  # noqa: PLW2901 - the block with other URLs
        snippets.append(type(page.snippets[0])(code, line))
    code = compile(
        joined(page.name, snippets),
        page.name,
        "exec",
        ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    names: dict[str, Any] = {"__name__": "page"}

    async def run() -> None:
        result = eval(code, names)  # noqa: S307 - our own pages
        if inspect.iscoroutine(result):
            await result

    asyncio.run(run())


@with_snippets
def test_snippets_of_a_page_continue_one_another(page: Page, valkey_url: str) -> None:
    run_snippets(page, {SERVER_URL: with_own_namespace(valkey_url)})


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name)
        for page in pages()
        # A clock that the test controls works in memory only.
        if any(MEMORY_URL in code for code, _ in page.snippets)
        and not any("clock=clock) as store" in code for code, _ in page.snippets)
    ],
)
def test_snippets_in_memory_also_run_on_a_server(page: Page, valkey_url: str) -> None:
    run_snippets(page, {MEMORY_URL: f'"{with_own_namespace(valkey_url)}"'})


@with_programs
def test_program_runs_and_prints_what_the_page_says(
    page: Page, program: Program, valkey_url: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="gemb-", dir="/tmp") as parent:
        folder_url = f"embedded://{parent}/state?deadline=20"
        code = program.code.replace(FOLDER_URL, folder_url)
        code = re.sub(rf"{SERVER_URL}(\?[\w=&]*)?", lambda _: with_own_namespace(valkey_url), code)
        assert run_program(code) == (program.output or ""), page.name
        if FOLDER_URL in program.code:
            assert [*Path(parent).glob("state/appendonlydir/*.aof")]


def test_readme_program_runs_on_a_server_with_another_url(valkey_url: str) -> None:
    (program,) = README.programs
    assert program.output
    changed = f'URL = "{SERVER_URL}"\n'
    assert changed in [code for code, _ in README.snippets]
    code = program.code.replace(MEMORY_URL, f'"{with_own_namespace(valkey_url)}"')
    assert code != program.code
    assert run_program(code) == program.output


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name) for page in pages() if page.suite]
)
def test_suite_of_a_page_passes(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for name, code in page.suite.items():
        (tmp_path / name).write_text(code, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope=function\n")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *UNUSED]
    is_contract = any("SessionStoreContract)" in code for code in page.suite.values())
    if is_contract and not request.config.getoption("full"):
        command += ["-k", A_FEW_OF_THE_CONTRACT]
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**kept, LADDER_VARIABLE: "wheel"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b[1-9]\d* passed", done.stdout)


def test_every_python_block_is_run() -> None:
    for page in pages():
        blocks = len(re.findall(r"^```(?:py|python)\b", page.text, re.MULTILINE))
        assert blocks == len(page.programs) + len(page.snippets) + len(page.suite), page.name
        assert "__aenter__" not in page.text, page.name
    assert {page.name for page in pages() if page.programs or page.snippets or page.suite} >= {
        "README.md",
        "greentic_session/README.md",
        *(
            f"greentic_session/{room}/README.md"
            for room in ("waits", "ordering", "redis", "memory", "embedded", "testing")
        ),
    }


def test_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= 250
    assert len(README.text.split()) <= 1600


def test_every_verb_of_a_store_is_in_the_readme_and_its_guide() -> None:
    from greentic_session import AsyncSessionStore

    verbs = {
        name
        for name, _ in inspect.getmembers(AsyncSessionStore, inspect.isfunction)
        if not name.startswith("_")
    }
    guide = PAGES["greentic_session/README.md"]
    # The first page leaves out the verbs that combine others, and those for operators and services.
    others = {"count", "delete_many", "exists", "find_keys", "put_many", "rebuild_index", "require"}
    others |= {"replace_incarnation", "tenant"}
    for page, named in ((README, verbs - others), (guide, verbs)):
        missing = [name for name in sorted(named) if not re.search(rf"`{name}\(", page.text)]
        assert missing == [], page.name


def test_every_error_is_in_the_guide() -> None:
    from greentic_session import errors

    guide = PAGES["greentic_session/README.md"].text
    names = [name for name in errors.__all__ if name.endswith("Error") and name != "SessionError"]
    assert [name for name in names if f"`{name}`" not in guide] == []


def test_every_option_of_a_url_is_in_the_guide_of_its_backend() -> None:
    from greentic_session.config import urls

    common = PAGES["greentic_session/README.md"].text
    for room, tables in {
        "memory": (urls._MEMORY_OPTIONS,),
        "redis": (urls._REDIS_OPTIONS, urls._SENTINEL_OPTIONS, urls._TLS_OPTIONS),
        "embedded": (urls._EMBEDDED_OPTIONS,),
    }.items():
        text = common + PAGES[f"greentic_session/{room}/README.md"].text
        known = {name for table in tables for name in table}
        assert [name for name in sorted(known) if f"`{name}`" not in text] == [], room


def test_every_example_is_in_its_guide() -> None:
    text = PAGES["examples/README.md"].text
    assert [
        path.name for path in (ROOT / "examples").glob("*.py") if f"({path.name})" not in text
    ] == []


# --- links -------------------------------------------------------------------------------------

_PROSE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[\w-]+\]: (\S+)$", re.MULTILINE)


def links_of(page: Page) -> list[str]:
    return [inline or defined for inline, defined in _LINK.findall(_PROSE.sub("", page.text))]


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that GitHub creates from the headings."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in pages()])
def test_links_lead_somewhere(page: Page) -> None:
    for link in links_of(page):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page.name).parent / target if target else ROOT / page.name
        assert path.exists(), link
        assert not anchor or anchor in anchors_of(path), link


def test_reference_links_of_the_readme_are_defined_and_used() -> None:
    text = _PROSE.sub("", README.text)
    defined = re.findall(r"^\[([\w-]+)\]: ", text, re.MULTILINE)
    used = re.findall(r"\]\[([\w-]+)\]", text)
    assert sorted(set(used)) == sorted(defined)


def test_readme_links_are_absolute_once_the_project_has_a_repository() -> None:
    """PyPI shows the README without the files around it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    if "Repository" in project.get("urls", {}):
        relative = [link for link in links_of(README) if not link.startswith(("http", "#"))]
        assert relative == [], "begin each link definition of README.md with the project's URL"
