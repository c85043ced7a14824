"""The servers of the suite, and the ones that this machine has."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import core, settings

from greentic_session.testing.engine import docker_engine
from greentic_session.testing.image import build_image
from greentic_session.testing.ladder import climb, rungs
from greentic_session.testing.servers import (
    LocalServer,
    ServerNotFoundError,
    redis_binary,
    valkey_binary,
)
from greentic_session.testing.topologies import ClusterRig, SentinelRig

from .support.selection import CONTRACT, QUICK_LEGS, SHARE, THINNED_LEGS, is_quick, left_out
from .support.serverless import IS_SERVERLESS, UNIX_ONLY, WHY, needs_a_server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

pytest.register_assert_rewrite("greentic_session.testing.contract")

# A run with the seed of a failure repeats the failure.
SEED = int(os.environ.setdefault("GREENTIC_SESSION_TEST_SEED", "20240229"))
settings.register_profile("suite", database=None, deadline=None)
settings.load_profile("suite")
core.global_force_seed = SEED  # type: ignore[assignment] # its None is not annotated

URL_VARIABLE = "GREENTIC_SESSION_TEST_URL"
# Environment variables from the process that starts the container to those that run the tests. All
# must agree on the tests to run.
CONTAINER_VARIABLE = "GREENTIC_SESSION_TEST_CONTAINER"
NO_CONTAINER_VARIABLE = "GREENTIC_SESSION_TEST_NO_CONTAINER"
STARTED = pytest.StashKey[ExitStack]()
collect_ignore = UNIX_ONLY if IS_SERVERLESS else ()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the tiers, which reach the workers of xdist as all options do."""
    parser.addoption(
        "--quick",
        action="store_true",
        help="run what takes less than a minute: tests/support/selection.py names it",
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="run every case of the contract on every server, not a few where another runs all",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files that ``--quick`` does not run, because imports take time."""
    if not config.getoption("quick") or not collection_path.name.startswith("test_"):
        return None
    path = collection_path.relative_to(config.rootpath).as_posix()
    return None if is_quick(path) else True


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str) -> list[pytest.Item] | None:
    """Leave out the cases of the legs that ``--quick`` does not run."""
    quick = collector.config.getoption("quick")
    is_leg = collector.nodeid == CONTRACT and name.startswith("Test")
    return [] if quick and is_leg and name not in QUICK_LEGS else None


# After pytest's filters (-k, -m), because their selection has a first and a last case too.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out cases that another leg of the contract runs, and cases without a server here."""
    if IS_SERVERLESS:
        config.hook.pytest_deselected(items=[item for item in items if needs_a_server(item)])
        items[:] = [item for item in items if not needs_a_server(item)]
    if config.getoption("full"):
        return
    names = left_out((item.nodeid for item in items), quick=config.getoption("quick"))
    if names:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in names])
        items[:] = [item for item in items if item.nodeid not in names]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """Skip a test with a fixture that starts a server, on a platform without one."""
    yield from _skipping_without_a_server()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Skip a test that starts a server itself, on a platform without one."""
    yield from _skipping_without_a_server()


def _skipping_without_a_server() -> Generator[None]:
    try:
        yield
    except ServerNotFoundError:
        if not IS_SERVERLESS:
            raise
        pytest.skip(WHY)  # because no wheel contains a server for Windows


def pytest_configure(config: pytest.Config) -> None:
    """Start the container for the contract, one for all processes of this run."""
    if config.getoption("quick") and config.getoption("full"):
        raise pytest.UsageError("--quick and --full exclude each other")
    if hasattr(config, "workerinput"):
        return
    started = config.stash[STARTED] = ExitStack()
    why = ""
    try:
        if IS_SERVERLESS:
            why = WHY
        elif not _may_run_the_contract(config):
            why = "no test that was asked for needs it"
        elif "container" not in rungs():
            why = "not on the ladder that was asked for"
        else:
            found = started.enter_context(climb(["container"]))
            os.environ[CONTAINER_VARIABLE] = f"{found.url} {found.origin}"
    except ServerNotFoundError as error:
        why = str(error)
    except (RuntimeError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error
    os.environ[NO_CONTAINER_VARIABLE] = why


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the container."""
    if STARTED in config.stash:
        config.stash[STARTED].close()
        os.environ.pop(CONTAINER_VARIABLE, None)


def _may_run_the_contract(config: pytest.Config) -> bool:
    if config.getoption("quick"):
        return False
    places = [Path(argument.partition("::")[0]) for argument in config.args]
    suite = Path(__file__).parent / "contract" / "test_contract.py"
    return any(suite == place.resolve() or place.resolve() in suite.parents for place in places)


def _version(binary: Path) -> str:
    return subprocess.run(
        [binary, "--version"], check=True, capture_output=True, text=True
    ).stdout.strip()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name each server the contract runs on, or why it cannot."""
    lines = [f"GREENTIC_SESSION_TEST_SEED={SEED}", "backend memory: asyncio, trio"]
    try:
        lines.append(f"backend valkey: {_version(valkey_binary())}")
    except ServerNotFoundError as error:
        fate = "skipped" if IS_SERVERLESS else "MISSING, the run will fail:"
        lines.append(f"backend valkey: {fate} {error}")
    try:
        lines.append(f"backend redis-server: {_version(redis_binary())}")
    except ServerNotFoundError as error:
        lines.append(f"backend redis-server: skipped, {error}")
    contained = os.environ.get(CONTAINER_VARIABLE)
    why = os.environ.get(NO_CONTAINER_VARIABLE)
    lines.append(f"backend container: {contained or f'skipped, {why}'}")
    given = "given" if os.environ.get(URL_VARIABLE) else "skipped, not set"
    lines.append(f"backend {URL_VARIABLE}: {given}")
    legs = ", ".join(("trio", *(leg.removeprefix("Test") for leg in THINNED_LEGS)))
    cases = "all" if config.getoption("full") else f"one of each test on {legs} (all: --full)"
    if config.getoption("quick"):
        legs = ", ".join(sorted(leg.removeprefix("Test") for leg in QUICK_LEGS))
        cases = f"of {legs} only"
    lines.append(f"contract cases: {cases}")
    return lines


@pytest.fixture(scope="session")
def is_full_run(pytestconfig: pytest.Config) -> bool:
    """Whether the run has ``--full``."""
    return bool(pytestconfig.getoption("full"))


@pytest.fixture(scope="session")
def scaled(*, is_full_run: bool) -> Callable[[int], int]:
    """The function that returns the default run's share of a number of repetitions."""
    return lambda count: count if is_full_run else max(1, round(count * SHARE))


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """URL of a Valkey server of this test process. Never skipped: without it the run fails."""
    with LocalServer(valkey_binary()) as server:
        yield server.url


@pytest.fixture(scope="session")
def tcp_server_url() -> Iterator[str]:
    """URL of a Valkey server on a port of loopback."""
    with LocalServer(valkey_binary(), tcp=True) as server:
        yield server.tcp_url


@pytest.fixture(scope="session")
def sentinel_url() -> Iterator[str]:
    """URL of a master with a replica and three sentinels."""
    yield from _held(SentinelRig(valkey_binary(), replicas=1))


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    """URL of a cluster of three masters."""
    yield from _held(ClusterRig(valkey_binary(), replicas=0))


def _held(rig: SentinelRig | ClusterRig) -> Iterator[str]:
    # Each test has a loop of its own. A rig needs one only to start and stop.
    asyncio.run(rig.__aenter__())
    try:
        yield rig.url
    finally:
        asyncio.run(rig.__aexit__(None, None, None))


def _redis_or_skip() -> Path:
    try:
        return redis_binary()
    except ServerNotFoundError as error:
        # Redis is a second engine, which is optional on a developer's machine. Valkey is never
        # skipped.
        pytest.skip(f"backend redis-server: {error}")  # because it is not installed here


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a Redis server of this test process, if a ``redis-server`` is on PATH."""
    with LocalServer(_redis_or_skip()) as server:
        yield server.url


@pytest.fixture(scope="session")
def engine() -> None:
    """Skip if no Docker engine answers. Otherwise make sure that it has our image."""
    try:
        with docker_engine() as client:
            build_image(client)
    except ServerNotFoundError as error:
        pytest.skip(str(error))  # because an engine is optional


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    """A server that the test may disturb."""
    binary = valkey_binary() if request.param == "valkey" else _redis_or_skip()
    with LocalServer(binary, ("--lua-time-limit", "50"), tcp=True) as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    """Run coroutine tests on asyncio unless a class says otherwise."""
    return "asyncio"
