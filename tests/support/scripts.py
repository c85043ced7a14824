"""The scripts alone, without the store: their replies and effects."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from greentic_session.redis import scripts

from .redis import KEY, snapshot, until_async

if TYPE_CHECKING:
    from greentic_session.redis.transport.script import Script
    from greentic_session.testing.harness import RedisHarness

FIELD: Final = "default/acme"
OWNER: Final = "red/ann"
ANYBODY: Final = ("", "")
SCOPE: Final = "5" * 64
ELSEWHERE: Final = "6" * 64
EVENT: Final = "e" * 64
LEASE_MS: Final = 30_000
MEMORY_MS: Final = 3_600_000


def and_what_is_left(script: Script) -> str:
    """Return a script that runs another, and returns how many of its keys exist afterwards."""
    return f"(function() {script.source.decode()}\nend)() return redis.call('EXISTS', unpack(KEYS))"


def keys_of(script: Script) -> int:
    """Return how many keys a script declares: the highest number in its text."""
    return max(int(number) for number in re.findall(rb"KEYS\[(\d)\]", script.source))


class ScriptRunner:
    """Runs scripts by hand. The test chooses the operation's id and age."""

    def __init__(self, harness: RedisHarness) -> None:
        self.client = harness.client
        self._namespace = harness.config.namespace
        self.record = f"{self._namespace}:default:acme:{{{KEY}}}"
        self.lookup = f"{self._namespace}:lookup:{{{KEY}}}"
        self.events = f"{self.record}:events"
        self.token = f"{self.record}:fence"
        self.names: tuple[str, ...] = (self.record, self.lookup, self.events, self.token)
        self._calls = 0

    async def run(
        self, script: Script, *arguments: object, op: str = "", age: object = "", doubt: str = ""
    ) -> Any:
        """Call a script.

        :param op: operation id. By default every call has its own.
        :param age: milliseconds since an earlier attempt. Empty without one.
        :param doubt: the script's own form of ``age``, instead of it.
        """
        self._calls += 1
        name = op or f"other {self._calls}"
        names = self.names[: keys_of(script)]
        operation = hashlib.sha256(name.encode()).hexdigest()[:16]
        if age != "":
            doubt = f"{await self.now_us() / 1000 - float(str(age)):.3f}"
        parts = *names, operation, *(str(part) for part in (doubt, FIELD, *arguments))
        reply = await self.client.read("EVAL", script.source, len(names), *parts)
        if script is scripts.UPDATE_CAS and type(reply) is int:  # only the time
            _owner, _ttl, _body, inc, _version, following, _slot = arguments
            return [1, str(following).encode(), str(inc).encode(), str(reply).encode()]
        # Integers and bulk strings only, because RESP2 and RESP3 encode these alike.
        assert type(reply[0]) is int
        assert all(type(part) is bytes for part in reply[1:])
        return reply

    async def create(self, *, inc: str = "a", ttl: int = 0, owner: str = OWNER, **call: Any) -> Any:
        return await self.run(scripts.CREATE, owner, ttl, "{}", inc * 32, **call)

    async def put(self, *, inc: str = "b", ttl: int = 0, owner: str = OWNER, **call: Any) -> Any:
        return await self.run(scripts.PUT, owner, ttl, "{}", inc * 32, **call)

    async def update(
        self, version: int, *, inc: str = "a", ttl: int = 0, owner: str = OWNER, **call: Any
    ) -> Any:
        token = inc * 32, version, version + 1, f"op{(version + 1) % 8}"
        return await self.run(scripts.UPDATE_CAS, owner, ttl, "{}", *token, **call)

    async def touch(
        self, ttl: object = "", who: tuple[str, str] = (OWNER, "red/"), **call: Any
    ) -> Any:
        return await self.run(scripts.TOUCH, *who, ttl, **call)

    async def delete(
        self,
        version: object = "",
        *,
        inc: str = "",
        who: tuple[str, str] = (OWNER, "red/"),
        **call: Any,
    ) -> Any:
        return await self.run(scripts.DELETE, *who, inc * 32, version, 60_000, **call)

    async def others(self, count: int) -> None:
        """Make a write by another client."""
        for _ in range(count):
            assert (await self.put())[0] == 1

    async def now_us(self) -> int:
        """Return the server's time."""
        secs, us = await self.client.read("TIME")
        return int(secs) * 1_000_000 + int(us)

    async def age(self) -> None:
        """Let the server's clock advance, so that earlier writes are older than 5 ms."""
        then_us = await self.now_us()

        async def moved_on() -> bool:
            return await self.now_us() > then_us + 20_000

        await until_async(moved_on)

    async def everything(self) -> dict[bytes, object]:
        return await snapshot(self.client, self._namespace)

    async def fields(self) -> dict[bytes, bytes]:
        fields: dict[bytes, bytes] = await self.client.read("HGETALL", self.record)
        return fields

    async def left_ms(self) -> int:
        return int(await self.client.read("PTTL", self.record))

    async def pretend(self, **fields: object) -> None:
        """Write fields of the record without a script."""
        pairs = [str(part) for pair in fields.items() for part in pair]
        await self.client.read("HSET", self.record, *pairs)


class Turn(NamedTuple):
    """The knowledge of a step's caller about the record."""

    version: int = 0
    fence: int = 0
    since: int = 0


class WaitScriptRunner(ScriptRunner):
    """Runs the scripts of waits as well."""

    async def pause(
        self,
        version: object = "",
        *,
        inc: str = "a",
        new: str = "a",
        ttl: int = 0,
        owner: str = OWNER,
        scope: str = SCOPE,
        floor: int = 0,
        event: str = "",
        **call: Any,
    ) -> Any:
        token = inc * 32, version, new * 32
        last = floor, event, 3, MEMORY_MS
        return await self.run(scripts.REGISTER, owner, ttl, "{}", *token, scope, *last, **call)

    async def claim(
        self,
        attempt: str = "first",
        *,
        owner: str = OWNER,
        scope: str = SCOPE,
        event: str = "",
        lease: int = LEASE_MS,
        memory: int = MEMORY_MS,
        floor: int = 0,
        **call: Any,
    ) -> Any:
        terms = owner, scope, attempt, event, lease, memory, floor
        return await self.run(scripts.CLAIM, *terms, **call)

    async def renew(self, fence: int, lease: int = LEASE_MS, **call: Any) -> Any:
        return await self.run(scripts.RENEW_CLAIM, fence, lease, **call)

    async def settle(
        self,
        how: str,
        turn: Turn,
        *,
        inc: str = "a",
        ttl: int = 0,
        scope: str = SCOPE,
        floor: int = 0,
        event: str = "",
        most: int = 10,
        memory: int = MEMORY_MS,
        **call: Any,
    ) -> Any:
        state = (OWNER, "", "") if how == "finish" else (OWNER, ttl, "{}")
        wait = (scope, floor) if how == "wait" else ("", 0)
        token = inc * 32, turn.version, turn.fence
        rest = event, most, memory, 60_000
        return await self.run(scripts.END_CLAIM, *state, *token, how, *wait, *rest, **call)

    async def release(self, fence: int, attempt: str = "", **call: Any) -> Any:
        return await self.run(scripts.RELEASE_CLAIM, fence, attempt, **call)

    async def supersede(self, since: int, *, scope: str = SCOPE, **call: Any) -> Any:
        return await self.run(scripts.SUPERSEDE, scope, since, **call)

    async def clear(self, *, owner: str = OWNER, scope: str = SCOPE, **call: Any) -> Any:
        return await self.run(scripts.CLEAR, owner, scope, 60_000, **call)

    async def arrange(self, state: str, ttl: int = 0) -> Turn:
        """Bring the record into a state.

        :param state: absent, or a session that is plain, waiting or claimed.
        """
        if state == "nothing":
            return Turn()
        if state == "session":
            assert (await self.create(ttl=ttl))[0] == 1
            return Turn(1)
        waiting = await self.pause(0, ttl=ttl)
        assert waiting[:2] == [1, b"1"]
        if state == "waiting":
            return Turn(1, since=int(waiting[4]))
        return await self.taken()

    async def taken(self, attempt: str = "first") -> Turn:
        """Claim the wait."""
        claim = await self.claim(attempt)
        assert claim[0] == 1
        return Turn(int(claim[1]), int(claim[6]), int(claim[9]))

    async def run_out(self) -> None:
        """Let the lease expire."""
        await self.pretend(lease=1)
