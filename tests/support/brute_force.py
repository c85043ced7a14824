"""Every order of a tiny history, one after the other, to test the checkers.

It is independent of the checkers and has none of their optimizations. Incarnations are numbered in
order of creation. A comparison finds the clients' names for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from greentic_session.testing.history import Ending, Operation, Verb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from greentic_session import Cas


class World(NamedTuple):
    """A session, and the names of its incarnations."""

    born: int = 0
    incarnation: int = 0
    value: int = 0
    mark: str = ""
    names: tuple[tuple[int, str], ...] = ()

    def called(self, name: str) -> World | None:
        known = dict(self.names)
        if self.incarnation in known:
            return self if known[self.incarnation] == name else None
        if name in known.values():
            return None
        return self._replace(names=(*self.names, (self.incarnation, name)))

    def shows(self, token: Cas) -> World | None:
        return self.called(token.incarnation) if self.value == token.value else None

    def written(self, mark: str) -> World:
        if self.value:
            return self._replace(value=self.value + 1, mark=mark)
        born = self.born + 1
        return self._replace(born=born, incarnation=born, value=1, mark=mark)


def has_an_order(operations: Sequence[Operation]) -> bool:
    left = [operation for operation in operations if operation.ending is not Ending.FAILED]
    return _goes_on(World(), left)


def _goes_on(world: World, left: list[Operation]) -> bool:
    if all(operation.ending is Ending.UNKNOWN for operation in left):
        return True
    for operation in left:
        if any(
            other.returned_at is not None and other.returned_at < operation.invoked_at
            for other in left
        ):
            continue
        rest = [other for other in left if other is not operation]
        if any(_goes_on(after, rest) for after in _after(world, operation)):
            return True
    return False


def _after(world: World, operation: Operation) -> Iterator[World]:
    if operation.ending is Ending.UNKNOWN:
        yield world
    after = _answer(world, operation)
    if after is not None:
        yield after


def _answer(world: World, operation: Operation) -> World | None:
    answer: dict[Verb, Any] = {
        Verb.GET: _get,
        Verb.TOUCH: _touch,
        Verb.DELETE: _delete,
        Verb.CREATE: _create,
        Verb.PUT: _put,
        Verb.UPDATE_CAS: _update,
        Verb.MUTATE: _mutate,
    }
    after: World | None = answer[operation.verb](world, operation)
    return after


def _get(world: World, operation: Operation) -> World | None:
    if operation.ending is Ending.UNKNOWN:
        return world
    assert operation.token is not None
    if not operation.token.value:
        return None if world.value else world
    return world.shows(operation.token) if world.mark == operation.mark else None


def _touch(world: World, operation: Operation) -> World | None:
    is_told = operation.ending is Ending.DONE
    return None if is_told and operation.found != bool(world.value) else world


def _over(world: World, token: Cas | None) -> World | None:
    if token is None:
        return world
    return world.shows(token) if world.value else None


def _refused(world: World, operation: Operation) -> World | None:
    assert operation.token is not None
    if operation.token == operation.expected:
        return None
    if not operation.token.value:
        return None if world.value else world
    return world.shows(operation.token) if world.value else None


def _delete(world: World, operation: Operation) -> World | None:
    gone = world._replace(value=0, mark="")
    if operation.ending is Ending.REFUSED:
        return _refused(world, operation) if world.value else None
    if operation.ending is Ending.DONE and not operation.found:
        return None if world.value else world
    if not world.value:
        return None
    before = _over(world, operation.expected)
    return before and gone._replace(names=before.names)


def _told(world: World, operation: Operation) -> World | None:
    after = world.written(operation.mark)
    return after if operation.token is None else after.shows(operation.token)


def _create(world: World, operation: Operation) -> World | None:
    if operation.ending is Ending.REFUSED:
        return world if world.value else None
    return None if world.value else _told(world, operation)


def _put(world: World, operation: Operation) -> World | None:
    return _told(world, operation)


def _update(world: World, operation: Operation) -> World | None:
    if operation.ending is Ending.REFUSED:
        return _refused(world, operation)
    before = _over(world, operation.expected)
    return before and _told(before, operation)


def _mutate(world: World, operation: Operation) -> World | None:
    if operation.ending is Ending.REFUSED:
        if operation.token is None:
            return None if world.value else world
        return _refused(world, operation)
    if not world.value or world.mark != operation.before or not operation.mark:
        return None
    return _told(world, operation)
