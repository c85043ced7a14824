"""Histories made to order, to test a checker: right ones, and wrong ones of every kind.

A simulated store runs simulated clients, whose calls overlap as the dice will have it, and some of
which never hear of their outcome. Its history is linearizable, since each call takes effect at one
instant between its invocation and its return (or, unheard of, later or never).

A :class:`Flaw` is a fault of the store that it commits once, where it is sure to be one: the tokens
and marks that clients are told afterwards contradict one another in every order. A last client,
the *witness*, reads where that takes a reading.
"""

from __future__ import annotations

from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple, final

import msgspec

from ..model import Cas
from .history import Ending, Operation, Verb

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Flaw", "simulate"]

KEY: Final = "default/simulated/session"


class Flaw(Enum):
    """What is wrong with a store."""

    LOST_WRITE = "a write was reported and not made"
    STALE_READ = "a read saw what had been replaced before it began"
    DOUBLED_WRITE = "one write made two versions"
    FALSE_CONFLICT = "a write over the current token was refused"
    CONFLICT_OF_ITS_OWN = "a write was made, and refused for what it had made itself"
    FALSE_SUCCESS = "a write over an old token was reported as made"
    LOST_UPDATE = "two changes were made to the same version"
    SWAPPED_VERSIONS = "a later write got the lower version"
    CROSSED_REPLIES = "two calls got each other's replies"
    FOREIGN_REPLY = "a read got the reply to a read of another key"
    RESURRECTED = "what was deleted was there again"
    VANISHED = "a session was absent that nobody had deleted"
    FAILED_YET_MADE = "a write was reported as not executed and made"
    REFUSED_YET_MADE = "a create was refused and made"
    BEFORE_ITS_TIME = "a read saw what was written after it"
    SKIPPED_VERSION = "a version that nobody wrote"
    OLD_INCARNATION = "a new session got the incarnation of one that was deleted"
    UNBORN = "a first version other than 1"
    EXISTS_BEFORE_ITS_TIME = "a create was refused before there was anything"
    SECOND_BIRTH = "a session was created over one that was there"
    REPEATED_TOKEN = "two writes were told the same token"
    LATE_REPEAT = "a write whose outcome was unknown was made twice"


class _State(NamedTuple):
    """What is stored."""

    incarnation: str
    value: int
    mark: str

    @property
    def token(self) -> Cas:
        return Cas(value=self.value, incarnation=self.incarnation)


@final
class _Client:
    """One who calls, one call at a time."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.call: Operation | None = None
        self.is_made = False
        self.expected = Cas.none()
        self.answer: Operation | None = None


def simulate(
    dice: random.Random,
    *,
    operations: int = 100,
    clients: int = 8,
    unknown: float = 0.05,
    flaw: Flaw | None = None,
) -> list[Operation] | None:
    """Return a history of one key.

    :param operations: how many calls are made; a flaw may add two or three.
    :param clients: how many make them.
    :param unknown: how likely a call's outcome stays unknown, 0 to 1.
    :param flaw: what the store does wrong, once; ``None`` for a right one.
    :returns: ``None`` if the run gave no occasion for the flaw: try again with other dice.
    """
    return _Simulation(dice, clients, unknown, flaw).run(operations)


@final
class _Simulation:
    def __init__(
        self, dice: random.Random, clients: int, unknown: float, flaw: Flaw | None
    ) -> None:
        self.dice: Final = dice
        self.flaw: Final = flaw
        self.unknown: Final = unknown if flaw is not Flaw.SKIPPED_VERSION else 0.0
        self.clients: Final = [_Client(f"c{number}") for number in range(clients)]
        self.state: _State | None = None
        self.history: Final[list[Operation]] = []
        self.loose: Final[list[Operation]] = []
        self._stamps: Final = count(1)
        self._marks: Final = count(1)
        self._is_planted = False

    # --- the run -----------------------------------------------------------------------------

    def run(self, operations: int) -> list[Operation] | None:
        plant_at = self.dice.randrange(operations)
        if self.flaw is Flaw.EXISTS_BEFORE_ITS_TIME:
            plant_at = 0
        begun = 0
        while True:
            if self.flaw and not self._is_planted and begun >= plant_at:
                self._is_planted = _PLANTERS[self.flaw](self)
            busy = [client for client in self.clients if client.call is not None]
            idle = [client for client in self.clients if client.call is None]
            if begun < operations and idle and (not busy or self.dice.random() < 0.5):
                self._begin(self.dice.choice(idle))
                begun += 1
            elif busy:
                self._go_on(self.dice.choice(busy))
            else:
                break
            if self.loose and self.dice.random() < 0.2:
                self._make_loose(self.dice.randrange(len(self.loose)))
        if self.flaw and not self._is_planted:
            self._is_planted = _PLANTERS[self.flaw](self)
            if not self._is_planted:
                return None
        self.read()
        return self.history

    def _begin(self, client: _Client) -> None:
        verb = self.dice.choices(
            (Verb.GET, Verb.CREATE, Verb.PUT, Verb.UPDATE_CAS, Verb.MUTATE, Verb.TOUCH, Verb.DELETE),
            (25, 8, 14, 26, 12, 5, 10),
        )[0]
        expected = None
        if verb is Verb.UPDATE_CAS or (verb is Verb.DELETE and self.dice.random() < 0.5):
            expected = client.expected
            if self.state is not None and self.dice.random() < 0.5:
                # What a client knows from elsewhere; it was told to somebody before.
                expected = self._known_token() or expected
            if not expected.value:
                verb, expected = Verb.GET, None
        client.call = self.invoke(client.name, verb, expected)
        client.is_made = False

    def _go_on(self, client: _Client) -> None:
        call = client.call
        assert call is not None
        if not client.is_made:
            if self.dice.random() < self.unknown:
                if self.dice.random() < 0.7:
                    self.loose.append(call)
                client.call = None  # never heard of
                return
            client.answer = self.make(call)
            client.is_made = True
            return
        assert client.answer is not None
        if self.dice.random() < self.unknown:
            # Made, and never heard of; what a change was made to is known to who made it.
            self.replace(msgspec.structs.replace(call, before=client.answer.before))
            client.call = None
            return
        answer = self.finish(client.answer)
        client.call = None
        if answer.token is not None and answer.token.value:
            client.expected = answer.token

    def _make_loose(self, index: int) -> None:
        call = self.loose.pop(index)
        made = self.make(call)
        if call.verb is Verb.MUTATE and made.ending is Ending.DONE:
            self.replace(msgspec.structs.replace(call, mark=made.mark, before=made.before))

    # --- what clients and the store do -------------------------------------------------------

    def invoke(self, client: str, verb: Verb, expected: Cas | None = None) -> Operation:
        """Record an invocation."""
        mark = ""
        if verb in (Verb.CREATE, Verb.PUT, Verb.UPDATE_CAS, Verb.MUTATE):
            mark = f"m{next(self._marks)}"
        before = ""
        if verb is Verb.MUTATE and self.state is not None:
            before = self.state.mark  # it has read, and is about to write over that
        operation = Operation(
            number=len(self.history),
            client=client,
            key=KEY,
            verb=verb,
            invoked_at=next(self._stamps),
            mark=mark,
            before=before,
            expected=expected,
        )
        self.history.append(operation)
        return operation

    def replace(self, operation: Operation) -> Operation:
        """Record what is known of an operation now."""
        self.history[operation.number] = operation
        return operation

    def finish(self, answer: Operation) -> Operation:
        """Record a return."""
        return self.replace(msgspec.structs.replace(answer, returned_at=next(self._stamps)))

    def make(self, call: Operation) -> Operation:
        """Let a call take effect, and return it with its answer."""
        state, verb = self.state, call.verb
        if verb is Verb.GET:
            if state is None:
                return _ended(call, token=Cas.none())
            return _ended(call, token=state.token, mark=state.mark)
        if verb is Verb.TOUCH:
            return _ended(call, found=state is not None)
        if verb is Verb.DELETE:
            if state is None:
                return _ended(call, found=False)
            if call.expected is not None and call.expected != state.token:
                return _ended(call, Ending.REFUSED, token=state.token)
            self.state = None
            return _ended(call)
        if verb is Verb.CREATE and state is not None:
            return _ended(call, Ending.REFUSED)
        if verb is Verb.UPDATE_CAS and (state is None or state.token != call.expected):
            token = Cas.none() if state is None else state.token
            return _ended(call, Ending.REFUSED, token=token)
        if verb is Verb.MUTATE:
            if state is None:
                return _ended(call, Ending.REFUSED)
            call = msgspec.structs.replace(call, before=state.mark)
        self.state = self._next(call.mark)
        return _ended(call, token=self.state.token)

    def _next(self, mark: str) -> _State:
        if self.state is None:
            return _State(f"{self.dice.getrandbits(128):032x}", 1, mark)
        return _State(self.state.incarnation, self.state.value + 1, mark)

    def read(self) -> Operation:
        """Let the witness read."""
        return self.call(Verb.GET)

    def call(self, verb: Verb, expected: Cas | None = None) -> Operation:
        """Let the witness call, and return before anything else happens."""
        return self.finish(self.make(self.invoke("witness", verb, expected)))

    def answered(self, verb: Verb, expected: Cas | None = None, **answer: object) -> Operation:
        """Let the witness call, and be told something without the store's doing."""
        call = self.invoke("witness", verb, expected)
        return self.finish(msgspec.structs.replace(_ended(call), **answer))

    # --- what the planters look for ----------------------------------------------------------

    def _known_token(self) -> Cas | None:
        told = [
            operation.token
            for operation in self.history[-12:]
            if operation.returned_at is not None and operation.token and operation.token.value
        ]
        return self.dice.choice(told) if told else None

    def present(self) -> _State:
        """Return what is stored, after a write of the witness if that is nothing."""
        if self.state is None:
            self.call(Verb.PUT)
        assert self.state is not None
        return self.state

    def absent(self) -> None:
        """See that nothing is stored."""
        if self.state is not None:
            self.call(Verb.DELETE)


def _ended(call: Operation, ending: Ending = Ending.DONE, **answer: object) -> Operation:
    return msgspec.structs.replace(call, ending=ending, **answer)


# --- how each flaw is planted: true if there was an occasion -----------------------------------------


def _lost_write(run: _Simulation) -> bool:
    before = run.present()
    run.call(Verb.UPDATE_CAS, before.token)
    run.state = before
    run.read()  # the older version, after the newer one was reported
    return True


def _stale_read(run: _Simulation) -> bool:
    before = run.present()
    run.call(Verb.PUT)
    run.answered(Verb.GET, token=before.token, mark=before.mark)
    return True


def _doubled_write(run: _Simulation) -> bool:
    run.present()
    once = run.call(Verb.PUT)
    run.state = run._next(once.mark)
    run.read()  # one mark, another token than the reported one
    return True


def _late_repeat(run: _Simulation) -> bool:
    run.present()
    call = run.invoke("witness", Verb.PUT)  # which never returns
    for _ in range(2):
        run.make(call)
        run.read()  # one mark, two tokens
        run.call(Verb.PUT)
    return True


def _false_conflict(run: _Simulation) -> bool:
    current = run.present().token
    run.read()
    # Whatever it is told: nobody has written, and the token is still the same afterwards.
    told = run.dice.choice((current, Cas.none()))
    run.answered(Verb.UPDATE_CAS, current, ending=Ending.REFUSED, token=told)
    run.read()
    return True


def _conflict_of_its_own(run: _Simulation) -> bool:
    made = run.call(Verb.UPDATE_CAS, run.present().token)
    run.replace(msgspec.structs.replace(made, ending=Ending.REFUSED))
    run.read()  # the mark of a write that was refused
    return True


def _false_success(run: _Simulation) -> bool:
    old = run.present().token
    made = run.call(Verb.UPDATE_CAS, old)
    run.answered(Verb.UPDATE_CAS, old, token=made.token)
    return True


def _lost_update(run: _Simulation) -> bool:
    before = run.present().mark
    one = run.call(Verb.MUTATE)
    other = run.call(Verb.MUTATE)
    assert one.before == before
    run.replace(msgspec.structs.replace(other, before=before))
    return True


def _swapped_versions(run: _Simulation) -> bool:
    run.present()
    one, other = run.call(Verb.PUT), run.call(Verb.PUT)
    run.replace(msgspec.structs.replace(one, token=other.token))
    run.replace(msgspec.structs.replace(other, token=one.token))
    return True


def _crossed_replies(run: _Simulation) -> bool:
    run.present()
    one, other = run.invoke("witness", Verb.PUT), run.invoke("second witness", Verb.PUT)
    one, other = run.make(one), run.make(other)
    run.read()  # whose the newer token is
    run.finish(msgspec.structs.replace(one, token=other.token))
    run.finish(msgspec.structs.replace(other, token=one.token))
    return True


def _foreign_reply(run: _Simulation) -> bool:
    token = Cas(value=run.dice.randint(1, 9), incarnation=f"{run.dice.getrandbits(128):032x}")
    run.answered(Verb.GET, token=token, mark="other.1")
    return True


def _resurrected(run: _Simulation) -> bool:
    before = run.present()
    run.read()
    run.call(Verb.DELETE, before.token if run.dice.random() < 0.5 else None)
    run.state = before
    run.read()
    return True


def _vanished(run: _Simulation) -> bool:
    run.present()
    run.read()
    verb = run.dice.choice((Verb.GET, Verb.TOUCH, Verb.DELETE))
    if verb is Verb.GET:
        run.answered(verb, token=Cas.none())
    else:
        run.answered(verb, found=False)
    run.read()
    return True


def _failed_yet_made(run: _Simulation) -> bool:
    made = run.call(Verb.PUT)
    run.replace(msgspec.structs.replace(made, ending=Ending.FAILED, token=None))
    run.read()
    return True


def _refused_yet_made(run: _Simulation) -> bool:
    run.absent()
    made = run.call(Verb.CREATE)
    run.replace(msgspec.structs.replace(made, ending=Ending.REFUSED, token=None))
    run.read()
    return True


def _before_its_time(run: _Simulation) -> bool:
    seen = run.invoke("witness", Verb.GET)
    seen = run.finish(seen)
    run.call(Verb.PUT)
    assert run.state is not None
    run.replace(_ended(seen, token=run.state.token, mark=run.state.mark))
    return True


def _skipped_version(run: _Simulation) -> bool:
    before = run.present()
    run.state = _State(before.incarnation, before.value + 1, before.mark)
    run.call(Verb.PUT)
    return True


def _old_incarnation(run: _Simulation) -> bool:
    before = run.present()
    run.read()
    run.call(Verb.DELETE)
    born = run.call(Verb.CREATE)
    run.state = _State(before.incarnation, 1, born.mark)
    run.replace(_ended(born, token=run.state.token))
    return True


def _unborn(run: _Simulation) -> bool:
    run.absent()
    born = run.call(Verb.CREATE)
    assert run.state is not None
    run.state = run.state._replace(value=2)
    run.replace(_ended(born, token=run.state.token))
    return True


def _exists_before_its_time(run: _Simulation) -> bool:
    if run.history:
        return False
    run.answered(Verb.CREATE, ending=Ending.REFUSED)
    return True


def _second_birth(run: _Simulation) -> bool:
    run.present()
    run.read()
    token = Cas(value=1, incarnation=f"{run.dice.getrandbits(128):032x}")
    run.answered(Verb.CREATE, token=token)
    run.read()
    return True


def _repeated_token(run: _Simulation) -> bool:
    run.present()
    told = run.call(Verb.PUT).token
    run.answered(Verb.PUT, token=told)
    return True


_PLANTERS: Final[dict[Flaw, Callable[[_Simulation], bool]]] = {
    Flaw.LOST_WRITE: _lost_write,
    Flaw.STALE_READ: _stale_read,
    Flaw.DOUBLED_WRITE: _doubled_write,
    Flaw.FALSE_CONFLICT: _false_conflict,
    Flaw.CONFLICT_OF_ITS_OWN: _conflict_of_its_own,
    Flaw.FALSE_SUCCESS: _false_success,
    Flaw.LOST_UPDATE: _lost_update,
    Flaw.SWAPPED_VERSIONS: _swapped_versions,
    Flaw.CROSSED_REPLIES: _crossed_replies,
    Flaw.FOREIGN_REPLY: _foreign_reply,
    Flaw.RESURRECTED: _resurrected,
    Flaw.VANISHED: _vanished,
    Flaw.FAILED_YET_MADE: _failed_yet_made,
    Flaw.REFUSED_YET_MADE: _refused_yet_made,
    Flaw.BEFORE_ITS_TIME: _before_its_time,
    Flaw.SKIPPED_VERSION: _skipped_version,
    Flaw.OLD_INCARNATION: _old_incarnation,
    Flaw.UNBORN: _unborn,
    Flaw.EXISTS_BEFORE_ITS_TIME: _exists_before_its_time,
    Flaw.SECOND_BIRTH: _second_birth,
    Flaw.REPEATED_TOKEN: _repeated_token,
    Flaw.LATE_REPEAT: _late_repeat,
}
