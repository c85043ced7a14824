"""An application on web sessions, driven by raw ASGI messages, and browsers with a cookie."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeAlias

import anyio
import msgspec

from greentic_session import TenantCtx
from greentic_session.merging import Merge
from greentic_session.testing.harness import MemoryHarness, RedisHarness
from greentic_session.web import SessionMiddleware, WebPolicy, WebSession, WebSessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping

    from greentic_session import AsyncSessionStore
    from greentic_session.web import Rejection, Tenant

    Message = MutableMapping[str, Any]

HOST: Final = "acme.example"
OTHER_HOST: Final = "globex.example"
TENANT: Final = TenantCtx(tenant_id="acme")
ANN: Final = TenantCtx(tenant_id="acme", user_id="ann")
BOB: Final = TenantCtx(tenant_id="acme", user_id="bob")
TENANTS: Final = {HOST: TENANT, OTHER_HOST: TenantCtx(tenant_id="globex")}
COOKIE: Final = "__Host-session"
_PRIMITIVES: Final = ("_read", "_read_many", "_create", "_put", "_update_cas", "_touch", "_delete")
_TIMES: Final = ("c", "i", "r", "a", "x", "m", "u")


Handler: TypeAlias = "Callable[[Call], Awaitable[int | None]]"


class AppSession(msgspec.Struct):
    """The state of the test application."""

    current_channel: str = "lobby"
    theme: str = "light"
    views: Annotated[int, Merge.SUM] = 0
    seen: Annotated[set[str], Merge.UNION] = msgspec.field(default_factory=set)
    basket: list[str] = msgspec.field(default_factory=list)


class Reply(NamedTuple):
    """A response.

    :ivar status: its status.
    :ivar headers: its headers, names in lower case.
    :ivar body: its body.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.headers if found == name]

    @property
    def cookies(self) -> list[str]:
        return self.all("set-cookie")


class Call:
    """One request, as a handler sees it."""

    def __init__(
        self,
        sessions: WebSessions[AppSession],
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.sessions = sessions
        self.scope = scope
        self.receive = receive
        self.send = send
        self.has_head = False

    async def session(self) -> WebSession[AppSession]:
        return await self.sessions.of(self.scope)

    async def head(self, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.has_head = True
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers]})


async def application(scope: Message, receive: Any, send: Any) -> None:
    """Run the handler in the scope, and answer with the status that it returns."""
    call = Call(scope["test.sessions"], scope, receive, send)
    status = await scope["test.handler"](call)
    if scope["type"] == "http":
        if not call.has_head:
            await call.head(status or 200)
        await send({"type": "http.response.body", "body": b"ok"})


class Rig:
    """A store, the sessions on it and the middleware.

    :ivar calls: how often each primitive of the store was called.
    :ivar rejected: the reasons that ``on_rejected`` got.
    """

    def __init__(self, harness: MemoryHarness | RedisHarness, store: Any) -> None:
        self.harness = harness
        self.store: AsyncSessionStore[AppSession] = store
        self.calls: Counter[str] = Counter()
        self.rejected: list[Rejection] = []
        self.configure()
        for name in _PRIMITIVES:
            self._count(name)

    def configure(
        self,
        policy: WebPolicy = WebPolicy(),  # noqa: B008 - it is frozen
        *,
        tenant: Tenant = TENANTS,
        exclude: tuple[str, ...] = (),
    ) -> WebSessions[AppSession]:
        self.sessions = WebSessions(
            self.store,
            new=AppSession,
            tenant=tenant,
            policy=policy,
            on_rejected=self.rejected.append,
        )
        self.app = SessionMiddleware(application, sessions=self.sessions, exclude=exclude)
        return self.sessions

    def _count(self, name: str) -> None:
        primitive = getattr(self.store, name)

        def counted(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return primitive(*args, **options)

        setattr(self.store, name, counted)

    async def advance(self, secs: float) -> None:
        """Advance time for the records and for what they hold."""
        await self.harness.advance(secs)
        if isinstance(self.harness, RedisHarness):
            client = self.harness.client
            namespace = self.harness.config.namespace
            for name in await client.read("KEYS", f"{namespace}:*"):
                if await client.read("TYPE", name) != b"hash":
                    continue
                if (body := await client.read("HGET", name, "body")) is None:
                    continue
                read = json.loads(body)
                stamp = read["meta"]["labels"]["web"]
                for field in _TIMES:
                    if stamp.get(field):
                        stamp[field] -= round(secs * 1000)
                await client.read(
                    "EVAL", _SET_BODY, 1, name, json.dumps(read, separators=(",", ":")).encode()
                )

    async def records(self) -> list[Any]:
        """Return the live sessions of all tenants."""
        return [found for ctx in TENANTS.values() async for found in self.store.scan(ctx)]


_SET_BODY: Final = "return redis.call('HSET', KEYS[1], 'body', ARGV[1])"


class Browser:
    """A browser with one cookie jar. Its requests come from the site's own pages."""

    def __init__(self, rig: Rig, host: str = HOST, cookie: str | None = None) -> None:
        self.rig = rig
        self.host = host
        self.cookie = cookie

    def twin(self) -> Browser:
        """Return a browser with the same cookie, such as a thief has."""
        return Browser(self.rig, self.host, self.cookie)

    async def request(
        self,
        handler: Handler,
        method: str = "GET",
        *,
        headers: tuple[tuple[str, str], ...] | None = None,
        body: bytes = b"",
        path: str = "/",
        is_lost: bool = False,
    ) -> Reply:
        """Send a request.

        :param headers: headers instead of the ``Origin`` of the site.
        :param is_lost: whether the response is lost on its way.
        """
        if headers is None:
            headers = (("origin", f"https://{self.host}"),) if method == "POST" else ()
        scope = self.scope("http", path, headers)
        scope["method"] = method
        sent: list[Message] = []
        inbox: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return inbox.pop(0) if inbox else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope["test.handler"] = handler
        await self.rig.app(scope, receive, send)
        start, *rest = sent
        assert start["type"] == "http.response.start"
        reply = Reply(
            start["status"],
            [(name.decode(), value.decode()) for name, value in start["headers"]],
            b"".join(message["body"] for message in rest),
        )
        if not is_lost:
            self.store(reply)
        return reply

    def store(self, reply: Reply) -> None:
        """Take the cookie of a response."""
        for header in reply.cookies:
            pair, *attributes = header.split("; ")
            self.cookie = None if "Max-Age=0" in attributes else pair

    def scope(self, kind: str, path: str, headers: tuple[tuple[str, str], ...]) -> Message:
        every = [("host", self.host), *headers]
        if self.cookie is not None:
            every.append(("cookie", self.cookie))
        return {
            "type": kind,
            "path": path,
            "scheme": "https" if kind == "http" else "wss",
            "headers": [(name.encode(), value.encode()) for name, value in every],
            "query_string": b"",
            "test.sessions": self.rig.sessions,
        }

    async def post(self, handler: Handler, **options: Any) -> Reply:
        return await self.request(handler, "POST", **options)

    @asynccontextmanager
    async def socket(
        self,
        handler: Handler,
        *,
        headers: tuple[tuple[str, str], ...] | None = None,
        has_denial: bool = True,
    ) -> AsyncIterator[list[Message]]:
        """Open a WebSocket, and yield what the server sends."""
        if headers is None:
            headers = (("origin", f"https://{self.host}"),)
        scope = self.scope("websocket", "/", headers)
        scope["extensions"] = {"websocket.http.response": {}} if has_denial else {}
        scope["test.handler"] = handler
        sent: list[Message] = []
        into, out = anyio.create_memory_object_stream[Any](10)
        await into.send({"type": "websocket.connect"})

        async def send(message: Message) -> None:
            sent.append(message)

        with into, out:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.rig.app, scope, out.receive, send)
                yield sent
                into.send_nowait({"type": "websocket.disconnect", "code": 1000})


# --- handlers ------------------------------------------------------------------------------------


def change(**fields: Any) -> Handler:
    """Return a handler that sets fields of the state."""

    async def handler(call: Call) -> None:
        session = await call.session()
        for name, value in fields.items():
            setattr(session.state, name, value)

    return handler


def login(user_id: str = "ann") -> Handler:
    async def handler(call: Call) -> None:
        await (await call.session()).login(user_id)

    return handler


async def logout(call: Call) -> None:
    await (await call.session()).logout()


async def regenerate(call: Call) -> None:
    await (await call.session()).regenerate()


async def ignore(_call: Call) -> None:
    """Answer without the session."""


class Look:
    """A handler that reads the session, and keeps what it saw."""

    def __init__(self) -> None:
        self.session: WebSession[AppSession] | None = None

    async def __call__(self, call: Call) -> None:
        self.session = await call.session()

    @property
    def state(self) -> AppSession:
        assert self.session is not None
        return self.session.state

    @property
    def user_id(self) -> str | None:
        assert self.session is not None
        return self.session.user_id

    @property
    def is_new(self) -> bool:
        assert self.session is not None
        return self.session.is_new


async def seen_by(browser: Browser) -> Look:
    """Return what a reading request of a browser sees."""
    look = Look()
    reply = await browser.request(look)
    assert reply.status == 200
    return look


def gated(handler: Handler, gate: anyio.Event, entered: anyio.Event | None = None) -> Handler:
    """Return a handler that loads its session, waits at a gate, and then runs another handler."""

    async def waiting(call: Call) -> int | None:
        await call.session()
        if entered is not None:
            entered.set()
        await gate.wait()
        return await handler(call)

    return waiting


@asynccontextmanager
async def rig_on(kind: str, url: str = "") -> AsyncIterator[Rig]:
    """Yield a rig in memory, or on a server."""
    harness = MemoryHarness() if kind == "memory" else RedisHarness(url)
    async with harness:
        yield Rig(harness, await harness.open(AppSession))
