"""Tests of a worker that gets SIGTERM and releases its leases, if configured."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from greentic_session import (
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitClaimedError,
    WaitRegistry,
    create_session_store,
)
from greentic_session.ordering import SessionAffinity, SessionInbox, SessionLocks

from ..support.redis import LONG_SECS
from ..support.sigterm_worker import CHAT, CTX, LOCKED, USER

if TYPE_CHECKING:
    from greentic_session.testing.servers import LocalServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("server", ["valkey"], indirect=True),
]


@pytest.mark.parametrize("way", ["released", "plain"])
async def test_a_worker_that_gets_sigterm_gives_its_leases_to_others(
    server: LocalServer, way: str
) -> None:
    waiting: Session[Any] = Session(
        key=SessionKey("waiting"),
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta.of(TenantCtx(tenant_id="acme", user_id=USER)),
        context={},
    )
    url = f"{server.url}?namespace=test:{uuid4().hex}&deadline={LONG_SECS}"
    async with create_session_store(url) as store:
        waits: WaitRegistry[Any] = WaitRegistry(store)
        inbox: SessionInbox[Any] = SessionInbox(store, CTX)
        await waits.register_wait(CTX, USER, CHAT, waiting)
        await inbox.admit(LOCKED, "e1", b"")
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.sigterm_worker", url, way),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert worker.stdout is not None
            assert await worker.stdout.readline() == b"held\n"
            worker.send_signal(signal.SIGTERM)
            told, _ = await asyncio.wait_for(worker.communicate(), LONG_SECS)
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
        members = await SessionAffinity(store).members()
        if way == "plain":  # the leases last ten minutes
            assert worker.returncode == -signal.SIGTERM
            assert [member.worker for member in members] == ["worker"]
            async with SessionLocks(store).try_hold(LOCKED, ctx=CTX) as lease:
                assert lease is None
            with pytest.raises(WaitClaimedError):
                await waits.claim(CTX, USER, CHAT)
            async with inbox.take("other", wait=0) as turn:
                assert turn is None
            return
        assert worker.returncode == 128 + signal.SIGTERM
        assert told == b"released\n"
        assert members == ()
        async with SessionLocks(store).try_hold(LOCKED, ctx=CTX) as lease:
            assert lease is not None
        claim = await waits.claim(CTX, USER, CHAT)
        assert await claim.release()
        async with inbox.take("other", wait=0) as turn:
            assert turn is not None
            await turn.finish()
