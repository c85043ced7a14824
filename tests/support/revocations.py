"""Interleavings of two logins, a crash, a change of the password and a revocation.

The steps of the logins and of the revocation are those of the memory store, in the order that
``greentic_session.abc.generations`` describes. No step of that store suspends, so the order of the
steps is the order in which this module calls them.
"""

from __future__ import annotations

from itertools import islice, product
from typing import TYPE_CHECKING, Any, Final, Literal

from greentic_session import (
    CasConflictError,
    InMemorySessionStore,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
)
from greentic_session.abc.generations import GenerationOwner

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

__all__ = ["CRASHES", "STEPS", "STEPS_APART", "Order", "Revocations", "orders", "share_of"]

Order = str
"""Whose step is next: ``a`` and ``b`` for the logins, ``r`` for the change and the revocation."""
Reading = Literal["before the password", "at enlisting"]
"""When a login reads the generation. Only the first is right."""

STEPS: Final = (5, 5, 3)
"""Steps of each login, and of the revocation: it raises and lists in one."""
STEPS_APART: Final = (5, 5, 4)
"""The same, with a revocation that lists after it has raised."""
CRASHES: Final = (None, 3, 4)
"""The step before which the first login crashes, ``None`` for no crash."""

_KEEP_MS: Final = 60_000
_RUNS_PER_STORE: Final = 512
_CURSOR: Final = SessionCursor(flow_id="web", node_id="login")


def orders(a: int, b: int, r: int) -> Iterator[Order]:
    """Yield each order of so many steps."""
    if not a and not b and not r:
        yield ""
        return
    for one, left in (("a", (a - 1, b, r)), ("b", (a, b - 1, r)), ("r", (a, b, r - 1))):
        if min(left) >= 0:
            for rest in orders(*left):
                yield one + rest


def share_of(
    steps: tuple[int, int, int], every: int, start: int = 0
) -> Iterator[tuple[Order, int | None]]:
    """Yield one order in so many, with each crash."""
    return product(islice(orders(*steps), start, None, every), CRASHES)


def _done(step: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a step of the memory store."""
    try:
        step.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a step of the memory store suspended")


class _Login:
    """A login with the old password, up to the next of its steps."""

    def __init__(self, run: _Run, name: str, crash: int | None) -> None:
        self.run = run
        self.key = SessionKey(f"{run.user}-{name}")
        self.crash = crash
        self.step = 0
        self.generation = ""
        self.is_over = False
        self.has_cookie = False
        self.cas = _done(run.store.create(run.session(self.key, None)))

    def advance(self, reading: Reading) -> None:
        step, self.step = self.step, self.step + 1
        run = self.run
        self.is_over = self.is_over or step == self.crash
        if self.is_over:
            return
        if step == (0 if reading == "before the password" else 2):
            self.generation = _done(run.generations.read(run.owner, _KEEP_MS))
        if step == 1:
            self.is_over = run.password != "old"
        elif step == 2:
            run.index.append(self.key)
        elif step == 3:
            given = run.session(self.key, run.user)
            try:
                self.cas = _done(run.store.replace_incarnation(given, self.cas))
            except CasConflictError:  # the revocation has deleted the listed session
                self.is_over = True
                run.index.remove(self.key)
        elif step == 4:
            self.has_cookie = _done(run.generations.confirm(run.owner, self.generation, _KEEP_MS))
            if not self.has_cookie:
                _done(run.tenant.delete(self.key))
                run.index.remove(self.key)


class _Run:
    """One order of steps, for one user of a store."""

    def __init__(self, store: InMemorySessionStore[Any], user: str, crash: int | None) -> None:
        self.store = store
        self.tenant = store.tenant("default", "acme")
        self.generations = store._generation_backend()
        self.user = user
        self.owner = GenerationOwner("default/acme", f"/{user}")
        self.password = "old"
        self.index: list[SessionKey] = []
        self.logins = {"a": _Login(self, "a", crash), "b": _Login(self, "b", None)}
        self.listed: list[SessionKey] = []
        self.step = 0

    def session(self, key: SessionKey, user: str | None) -> Session[Any]:
        meta = SessionMeta.of(TenantCtx(tenant_id="acme", user_id=user))
        return Session(key=key, cursor=_CURSOR, meta=meta, context={})

    def revoke(self, *, lists_with_raise: bool) -> None:
        step, self.step = self.step, self.step + 1
        if step == 0:
            self.password = "new"
        elif step == 1:
            _done(self.generations.raise_(self.owner, _KEEP_MS))
        if step == 2 - lists_with_raise:
            self.listed = list(self.index)
        elif step == 3 - lists_with_raise:
            for key in self.listed:
                _done(self.tenant.delete(key))

    def survivors(self) -> list[str]:
        """Return the logins with the old password whose cookie opens a session of the user."""
        return [name for name, login in self.logins.items() if self._survives(login)]

    def _survives(self, login: _Login) -> bool:
        found = _done(self.tenant.get(login.key))
        return login.has_cookie and found is not None and found.session.meta.user_id == self.user


class Revocations:
    """Runs orders, and counts those in which a session of the old password survives.

    :ivar count: orders that were run.
    :ivar crashes: how many of them had a crash.
    :ivar bad: the orders with a survivor, and the step of the crash.
    """

    def __init__(self, reading: Reading = "before the password") -> None:
        self.reading: Final[Reading] = reading
        self.count = 0
        self.crashes = 0
        self.bad: list[tuple[Order, int | None]] = []
        self._store = InMemorySessionStore()

    def run(self, order: Order, crash: int | None) -> None:
        """Run one order of steps."""
        if self.count % _RUNS_PER_STORE == 0:
            self._store = InMemorySessionStore()
        run = _Run(self._store, f"ann-{self.count}", crash)
        lists_with_raise = order.count("r") == STEPS[2]
        for one in order:
            if one == "r":
                run.revoke(lists_with_raise=lists_with_raise)
            else:
                run.logins[one].advance(self.reading)
        self.count += 1
        self.crashes += crash is not None
        if run.survivors():
            self.bad.append((order, crash))
