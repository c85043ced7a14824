"""The harness between the contract suite and a backend, so that the suite knows no backend.

The harness moves time on every backend. A server's clock cannot be set, so the harness makes the
records older instead. Every expiry and time stamp in the namespace moves back by the same amount.
No caller can distinguish this from a clock that has advanced.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final
from uuid import uuid4

import msgspec

from .._compat import override
from ..abc.inbox import inbox_backend_of
from ..abc.waits import wait_backend_of
from ..clock import ManualClock
from ..codec import CodecFactory, JsonCodec
from ..config import DEFAULT_MAX_PAYLOAD_BYTES, MemoryConfig, RedisConfig
from ..memory import InMemorySessionStore
from ..redis import RedisSessionStore
from ..redis.transport.client import RedisClient

if TYPE_CHECKING:
    from types import TracebackType

    from .._core.evolution import Upgrades
    from ..config.backends import OnUnknown
    from ..memory.waits import MemoryWaits
    from ..redis.inbox import RedisInbox
    from ..redis.transport.protocol import Command
    from ..store import AsyncSessionStore

__all__ = ["MemoryHarness", "RedisHarness", "StoreHarness"]


_RETAINED_MS: Final = 2 * 3_600_000
"""Longest time in seconds that a server keeps a fencing token after its lease."""
_NAMES_PER_CHECK: Final = 500
_SHARED: Final = (
    *("_records", "_waits", "_notifications", "_locks", "_affinity", "_inbox"),
    *("_timers", "_streams", "_generations", "_finding_steps", "_is_held", "_due_times"),
)
"""What two stores in memory have in common if they share their sessions."""
_SIZES: Final = (
    *("sessions", "expiring", "tenants", "lookups", "waits", "events"),
    *("mail", "turns", "dead_letters", "early"),
    *("members", "placements", "generations"),
    "locks",
)


class StoreHarness(Protocol):
    """A fresh, empty namespace for sessions."""

    async def open(
        self,
        context_type: Any = dict,  # Any: any type that msgspec supports
        *,
        codec: CodecFactory = JsonCodec,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        verify: bool = True,
        require_ctx: bool = False,
        unknown_fields: OnUnknown = "keep",
        schema_version: int | None = None,
        upgrades: Upgrades | None = None,
        beside: AsyncSessionStore[Any] | None = None,
        indexed_labels: tuple[str, ...] = (),
    ) -> AsyncSessionStore[Any]:
        """Return an open store on this namespace. The harness closes it.

        Stores of one harness share their sessions if the backend can share sessions. A store
        ``beside`` another one shares its sessions on every backend.
        """
        ...

    async def advance(self, secs: float) -> None:
        """Advance time for every session, without waiting. A negative value sets the clock back."""
        ...

    async def residue(self) -> list[str]:
        """Return names of what is left. Empty when every session has ended and been swept."""
        ...

    async def forget_indexes(self) -> None:
        """Lose the indexes of waits and their memory of events, as a failing server may."""
        ...


class _Harness(AsyncExitStack):
    """The stores that a harness opened. They are closed at its end."""

    async def _held(self, store: AsyncSessionStore[Any]) -> AsyncSessionStore[Any]:
        return await self.enter_async_context(store)


@final
class MemoryHarness(_Harness):
    """Harness of the memory backend, with a manual clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock: Final = ManualClock()
        self._stores: Final[list[InMemorySessionStore[Any]]] = []

    async def open(
        self,
        context_type: Any = dict,  # Any: as in `StoreHarness`
        *,
        codec: CodecFactory = JsonCodec,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        verify: bool = True,
        require_ctx: bool = False,
        unknown_fields: OnUnknown = "keep",
        schema_version: int | None = None,
        upgrades: Upgrades | None = None,
        beside: AsyncSessionStore[Any] | None = None,
        indexed_labels: tuple[str, ...] = (),
    ) -> AsyncSessionStore[Any]:
        """Return an open store, as :meth:`StoreHarness.open`."""
        store: InMemorySessionStore[Any] = InMemorySessionStore(
            context_type,
            config=MemoryConfig(
                max_payload_bytes=max_payload_bytes,
                verify=verify,
                require_ctx=require_ctx,
                unknown_fields=unknown_fields,
                indexed_labels=indexed_labels,
            ),
            codec=codec,
            clock=self.clock,
            schema_version=schema_version,
            upgrades=upgrades,
        )
        if beside is not None:
            for name in _SHARED:
                setattr(store, name, getattr(beside, name))
        self._stores.append(store)
        return await self._held(store)

    async def advance(self, secs: float) -> None:
        """Advance time, as :meth:`StoreHarness.advance`."""
        self.clock.set_ms(self.clock.now_ms() + round(secs * 1000))

    async def residue(self) -> list[str]:
        """Return what is left after a sweep, as :meth:`StoreHarness.residue`."""
        left: list[str] = []
        for store in self._stores:
            await store.sweep()
            seen = store.statistics()
            sizes = {name: getattr(seen, name) for name in _SIZES}
            left += [f"{name}: {size}" for name, size in sizes.items() if size]
        return left

    async def forget_indexes(self) -> None:
        """Lose the indexes, as :meth:`StoreHarness.forget_indexes`."""
        for store in self._stores:
            cast("MemoryWaits", wait_backend_of(store)).forget_indexes()


@final
class RedisHarness(_Harness):
    """Harness of the Redis backend, in a namespace of its own that is emptied at the end.

    :param url: URL of a running server, without options.
    :param deadline_secs: deadline of each call in seconds. It is long, because the machine may be
        busy.
    :param namespace: namespace to use and empty at the end, instead of a fresh one.
    """

    def __init__(
        self, url: str, *, deadline_secs: float = 20.0, namespace: str | None = None
    ) -> None:
        super().__init__()
        self.config: Final = msgspec.structs.replace(
            RedisConfig.from_url(url),
            namespace=namespace or f"test:{uuid4().hex}",
            deadline_secs=deadline_secs,
        )
        self.client: Final = RedisClient(self.config)
        self._indexes: Final = f"{self.config.namespace}:waits:{{"
        self._opened: Final[list[RedisSessionStore[Any]]] = []  # Any: as in `StoreHarness`

    @override
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool:
        suppressed = await super().__aexit__(exc_type, exc, traceback)
        await self._each("DEL", await self._names())
        await self.client.aclose()
        return bool(suppressed)

    async def open(
        self,
        context_type: Any = dict,  # Any: as in `StoreHarness`
        *,
        codec: CodecFactory = JsonCodec,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        verify: bool = True,
        require_ctx: bool = False,
        unknown_fields: OnUnknown = "keep",
        schema_version: int | None = None,
        upgrades: Upgrades | None = None,
        beside: AsyncSessionStore[Any] | None = None,
        indexed_labels: tuple[str, ...] = (),
    ) -> AsyncSessionStore[Any]:
        """Return an open store, as :meth:`StoreHarness.open`."""
        del beside  # all stores of the namespace share their sessions
        config = msgspec.structs.replace(
            self.config,
            max_payload_bytes=max_payload_bytes,
            verify=verify,
            require_ctx=require_ctx,
            unknown_fields=unknown_fields,
            indexed_labels=indexed_labels,
        )
        store = RedisSessionStore(
            config, context_type, codec=codec, schema_version=schema_version, upgrades=upgrades
        )
        self._opened.append(store)
        return await self._held(store)

    async def advance(self, secs: float) -> None:
        """Advance time, as :meth:`StoreHarness.advance`."""
        names = await self._names()
        if self.config.cluster:
            for name in names:
                await self.client.read("EVAL", _AGE, 1, name, round(secs * 1000), key=name)
        elif names:
            await self.client.read("EVAL", _AGE, len(names), *names, round(secs * 1000))
        for store in self._opened:  # their clocks do not advance
            cast("RedisInbox", inbox_backend_of(store)).passes.restart()

    async def forget_indexes(self) -> None:
        """Lose the indexes, as :meth:`StoreHarness.forget_indexes`."""
        names = await self.residue()
        await self._each("DEL", [name for name in names if name.startswith(self._indexes)])

    async def residue(self) -> list[str]:
        """Return the names in the namespace, as :meth:`StoreHarness.residue`.

        A key with nothing but a fencing token and ended leases does not count if it expires within
        two hours. It is kept for that long. An index of sessions does not count if it expires, as
        its entries may outlive their sessions.
        """
        names = await self._names()
        size = 1 if self.config.cluster else _NAMES_PER_CHECK
        left: list[str] = []
        for start in range(0, len(names), size):
            some = names[start : start + size]
            command: Command = ("EVAL", _ARE_RETAINED, len(some), *some, _RETAINED_MS)
            checks: list[int] = await self.client.read(*command, key=some[0])
            left += [name for name, is_kept in zip(some, checks, strict=True) if not is_kept]
        return left

    async def tokens(self) -> list[str]:
        """Return the names of the keys with an expiry that hold nothing but a fencing token."""
        left = await self.residue()
        return [name for name in await self._names() if name not in left]

    async def _names(self) -> list[str]:
        names: set[str] = set()
        position = None
        while True:
            pattern = f"{self.config.namespace}:*"
            found, position = await self.client.scan(pattern, 1000, position)
            names.update(name.decode() for name in found)
            if position is None:
                return sorted(names)

    async def _each(self, command: str, names: list[str]) -> None:
        for name in names:  # the keys may be in many slots
            await self.client.read(command, name, key=name)


# Makes every key older, by the expiry that the server has of it. An expiry that a script forgot to
# set or to clear stays wrong. The kinds of keys:
#
# * A hash with a time `at` is a record. A hash with the operation log `ops` alone is a tombstone.
# * A hash of expiries is a lookup. A hash of index entries is an index of waits.
# * A hash with a lease and queue positions is a lock.
# * A mailbox, a group of workers, or the timers that are taken, are known by their names.
# * A sorted set is the queue of a lock, or is sorted by time.
# * A stream has times in its ids. Its head is a hash known by its name.
# * A list holds messages, which begin with a time. Their headers are a hash known by its name.
#
# Numbers that name a claim, a grant, a ticket, a registration or a turn stay, because only their
# order counts.
_AGE: Final = r"""
local by = tonumber(ARGV[1])
local function text(number) return string.format('%.0f', number) end
local function shifted(id)
  if id == '0-0' then return id end
  return (string.gsub(id, '^%d+', function(ms) return text(ms - by) end))
end
local function older(since, intents, expires, key)
  intents = string.gsub(intents, '%d+', function(intent)
    return intent == '0' and intent or text(intent - by * 1000)
  end)
  if expires ~= '0' then expires = text(expires - by) end
  return since .. ':' .. intents .. ':' .. expires .. ':' .. key .. '\n'
end
for _, name in ipairs(KEYS) do
  local left = redis.call('PTTL', name)
  if redis.call('TYPE', name).ok == 'zset' then
    local is_queue = string.sub(name, -6) == ':queue'
    -- A score from 1e15 on is not a time: an entry without an end in an index of sessions.
    local dated = is_queue and {} or redis.call('ZRANGEBYSCORE', name, '-inf', '(1e15')
    for _, member in ipairs(dated) do
      redis.call('ZINCRBY', name, text(-by), member)
    end
  elseif redis.call('TYPE', name).ok == 'list' then
    for i, message in ipairs(redis.call('LRANGE', name, 0, -1)) do
      local at, rest = string.match(message, '^(%d+)(.*)$')
      redis.call('LSET', name, i - 1, text(at - by) .. rest)
    end
  elseif redis.call('TYPE', name).ok == 'string' then
    -- The text of a generation stays, and its lifetime is shortened below.
  elseif redis.call('TYPE', name).ok == 'stream' then
    -- Ids only ascend, so the stream is written again.
    local entries = redis.call('XRANGE', name, '-', '+')
    redis.call('DEL', name)
    for _, entry in ipairs(entries) do
      local fields = entry[2]
      for i = 1, #fields, 2 do
        if fields[i] == 'prev' then fields[i + 1] = shifted(fields[i + 1]) end
      end
      redis.call('XADD', name, shifted(entry[1]), unpack(fields))
    end
  elseif string.sub(name, -9) == ':out:head' or string.find(name, ':out:{', 1, true) then
    redis.call('HSET', name, 'last', shifted(redis.call('HGET', name, 'last')))
  elseif string.sub(name, -8) == ':headers' then
    -- texts without a time
  elseif string.find(name, '}:inbox$') then
    for _, field in ipairs({'lease', 'rest', 'start'}) do
      local ends = redis.call('HGET', name, field)
      if ends then redis.call('HSET', name, field, text(ends - by)) end
    end
  elseif redis.call('TYPE', name).ok == 'string' then  -- the number of shards of a set of timers
  elseif string.find(name, ':timers:{', 1, true) then
    local taken = string.sub(name, -6) == ':taken' and redis.call('HGETALL', name) or {}
    for i = 1, #taken, 2 do
      local due, start, rest = string.match(taken[i + 1], '^([%d.]+):([%d.]+)(.*)$')
      redis.call('HSET', name, taken[i], text(due - by) .. ':' .. text(start - by) .. rest)
    end
  elseif string.find(name, ':affinity:{', 1, true) then
    local all = redis.call('HGETALL', name)
    for i = 1, #all, 2 do
      local aged = all[i + 1]
      if all[i] ~= '\nfence' then
        aged = string.gsub(aged, '^%d+', function(ends) return text(ends - by) end)
        aged = string.gsub(aged, '^(%d+:%d+:[^:\n]*:)(%d+)$', function(rest, start)
          return rest .. text(start - by)
        end)
      end
      redis.call('HSET', name, all[i], aged)
    end
  else
    local at, ops, lease, fence, start =
      unpack(redis.call('HMGET', name, 'at', 'ops', 'lease', 'fence', 'start'))
    if fence and not at then
      local all = redis.call('HGETALL', name)
      for i = 1, #all, 2 do
        local field = all[i]
        if field == 'lease' or field == 'start' or field == 'kept'
          or string.sub(field, 1, 2) == 'w:' then
          redis.call('HSET', name, all[i], text(all[i + 1] - by))
        end
      end
    elseif at then
      redis.call('HSET', name, 'at', text(at - by))
      local ends = redis.call('HGET', name, 'until')
      if ends and ends ~= '0' then redis.call('HSET', name, 'until', text(ends - by)) end
      if lease then redis.call('HSET', name, 'lease', text(lease - by)) end
      if start then redis.call('HSET', name, 'start', text(start - by)) end
    elseif not ops then
      local all = redis.call('HGETALL', name)
      for i = 1, #all, 2 do
        local aged, entries = string.gsub(all[i + 1], '(%d+):([%d,]+):(%d+):([^\n]*)\n', older)
        if entries == 0 and aged ~= '0' then aged = text(aged - by) end
        redis.call('HSET', name, all[i], aged)
      end
    end
  end
  if left >= 0 then redis.call('PEXPIRE', name, text(left - by)) end
end
"""

# Returns for each key whether it holds only a fencing token and ended leases, and expires in time.
_ARE_RETAINED: Final = r"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function is_retained(name)
  if string.sub(name, -14) == ':find:complete' then return 1 end
  local left = redis.call('PTTL', name)
  if left >= 0 and string.find(name, ':find:{', 1, true) then return 1 end
  if left < 0 or left > tonumber(ARGV[1]) then return 0 end
  local kind = redis.call('TYPE', name).ok
  if kind ~= 'hash' then return 0 end
  local is_group = string.find(name, ':affinity:{', 1, true)
  local all = redis.call('HGETALL', name)
  local has_token = 0
  for i = 1, #all, 2 do
    local field = all[i]
    if field == 'fence' or field == '\nfence' then
      has_token = 1
    elseif is_group or field == 'lease' or field == 'kept' or string.sub(field, 1, 2) == 'w:' then
      local ends = tonumber(string.match(all[i + 1], '^%d+'))
      if not ends or ends > now then return 0 end
    elseif field ~= 'start' and field ~= 'by' and field ~= 'name' then
      return 0
    end
  end
  return has_token
end
local checks = {}
for i, name in ipairs(KEYS) do checks[i] = is_retained(name) end
return checks
"""
