"""A simulated store with clients, which produces histories that are correct by construction.

Calls overlap at random, and some have an unknown outcome. Each call takes effect at one instant
between its invocation and its return. A call of unknown outcome takes effect later or never.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple, final

import msgspec

from ..model import Cas
from .history import Ending, Operation, Verb

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Simulation", "State", "ended"]

KEY: Final = "default/simulated/session"
_VERBS: Final = {
    Verb.GET: 25,
    Verb.CREATE: 8,
    Verb.PUT: 14,
    Verb.UPDATE_CAS: 26,
    Verb.MUTATE: 12,
    Verb.TOUCH: 5,
    Verb.DELETE: 10,
}
"""The verbs that clients call, with weights in percent."""


class State(NamedTuple):
    """The stored session."""

    incarnation: str
    value: int
    mark: str

    @property
    def token(self) -> Cas:
        """The session's token."""
        return Cas(value=self.value, incarnation=self.incarnation)


@final
class _Client:
    """A client that makes one call at a time."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.call: Operation | None = None
        self.is_made = False
        self.expected = Cas.none()
        self.answer: Operation | None = None


@final
class Simulation:
    """A store and its clients, which record their calls.

    :param dice: source of all random choices.
    :param clients: number of clients.
    :param unknown: probability that a call's outcome stays unknown, 0 to 1.
    :ivar state: the stored session, or ``None``.
    :ivar history: the recorded operations.
    """

    def __init__(self, dice: random.Random, *, clients: int, unknown: float) -> None:
        self.dice: Final = dice
        self.state: State | None = None
        self.history: Final[list[Operation]] = []
        self._unknown: Final = unknown
        self._clients: Final = [_Client(f"c{number}") for number in range(clients)]
        self._loose: Final[list[Operation]] = []
        self._stamps: Final = count(1)
        self._marks: Final = count(1)

    # --- the run -----------------------------------------------------------------------------

    def run(self, operations: int, plant: Callable[[Simulation], bool], plant_at: int) -> bool:
        """Let clients make calls, with a read at the end.

        :param operations: number of calls.
        :param plant: called after ``plant_at`` calls have begun, and again until it returns true.
        :param plant_at: number of calls before the first call of ``plant``.
        :returns: whether ``plant`` ever returned true.
        """
        begun = 0
        is_planted = False
        while True:
            if not is_planted and begun >= plant_at:
                is_planted = plant(self)
            busy = [client for client in self._clients if client.call is not None]
            idle = [client for client in self._clients if client.call is None]
            if begun < operations and idle and (not busy or self.dice.random() < 0.5):
                self._begin(self.dice.choice(idle))
                begun += 1
            elif busy:
                self._go_on(self.dice.choice(busy))
            else:
                break
            if self._loose and self.dice.random() < 0.2:
                self._make_loose(self.dice.randrange(len(self._loose)))
        is_planted = is_planted or plant(self)
        self.read()
        return is_planted

    def _begin(self, client: _Client) -> None:
        verb = self.dice.choices([*_VERBS], [*_VERBS.values()])[0]
        expected = None
        if verb is Verb.UPDATE_CAS or (verb is Verb.DELETE and self.dice.random() < 0.5):
            expected = client.expected
            if self.state is not None and self.dice.random() < 0.5:
                # A token from elsewhere: another client has seen it.
                expected = self._known_token() or expected
            if not expected.value:
                verb, expected = Verb.GET, None
        client.call = self.invoke(client.name, verb, expected)
        client.is_made = False

    def _go_on(self, client: _Client) -> None:
        call = client.call
        assert call is not None
        if not client.is_made:
            if self.dice.random() < self._unknown:
                if self.dice.random() < 0.7:
                    self._loose.append(call)
                client.call = None  # outcome unknown
                return
            client.answer = self.make(call)
            client.is_made = True
            return
        assert client.answer is not None
        if self.dice.random() < self._unknown:
            # It took effect, but the outcome stays unknown. The client still knows what it
            # replaced.
            self.replace(msgspec.structs.replace(call, before=client.answer.before))
            client.call = None
            return
        answer = self.finish(client.answer)
        client.call = None
        if answer.token is not None and answer.token.value:
            client.expected = answer.token

    def _make_loose(self, index: int) -> None:
        call = self._loose.pop(index)
        made = self.make(call)
        if call.verb is Verb.MUTATE and made.ending is Ending.DONE:
            self.replace(msgspec.structs.replace(call, mark=made.mark, before=made.before))

    # --- calls and their effects -------------------------------------------------------------

    def invoke(self, client: str, verb: Verb, expected: Cas | None = None) -> Operation:
        """Record an invocation."""
        mark = ""
        if verb in (Verb.CREATE, Verb.PUT, Verb.UPDATE_CAS, Verb.MUTATE):
            mark = f"m{next(self._marks)}"
        before = ""
        if verb is Verb.MUTATE and self.state is not None:
            before = self.state.mark  # it has read this mark and is about to replace it
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
        """Record the current state of an operation."""
        self.history[operation.number] = operation
        return operation

    def finish(self, answer: Operation) -> Operation:
        """Record a return."""
        return self.replace(msgspec.structs.replace(answer, returned_at=next(self._stamps)))

    def make(self, call: Operation) -> Operation:
        """Apply a call to the store and return it with its answer."""
        state, verb = self.state, call.verb
        if verb is Verb.GET:
            if state is None:
                return ended(call, token=Cas.none())
            return ended(call, token=state.token, mark=state.mark)
        if verb is Verb.TOUCH:
            return ended(call, found=state is not None)
        if verb is Verb.DELETE:
            if state is None:
                return ended(call, found=False)
            if call.expected is not None and call.expected != state.token:
                return ended(call, Ending.REFUSED, token=state.token)
            self.state = None
            return ended(call)
        if verb is Verb.CREATE and state is not None:
            return ended(call, Ending.REFUSED)
        if verb is Verb.UPDATE_CAS and (state is None or state.token != call.expected):
            token = Cas.none() if state is None else state.token
            return ended(call, Ending.REFUSED, token=token)
        if verb is Verb.MUTATE:
            if state is None:
                return ended(call, Ending.REFUSED)
            call = msgspec.structs.replace(call, before=state.mark)
        self.state = self.next_state(call.mark)
        return ended(call, token=self.state.token)

    def next_state(self, mark: str) -> State:
        """Return the stored session after a write."""
        if self.state is None:
            return State(f"{self.dice.getrandbits(128):032x}", 1, mark)
        return State(self.state.incarnation, self.state.value + 1, mark)

    def read(self) -> Operation:
        """Read as the witness."""
        return self.call(Verb.GET)

    def call(self, verb: Verb, expected: Cas | None = None) -> Operation:
        """Make a call as the witness and return before any other call takes effect."""
        return self.finish(self.make(self.invoke("witness", verb, expected)))

    def answered(self, verb: Verb, expected: Cas | None = None, **answer: object) -> Operation:
        """Record a call of the witness with a given answer, without any effect on the store."""
        call = self.invoke("witness", verb, expected)
        return self.finish(msgspec.structs.replace(ended(call), **answer))

    # --- for the planters --------------------------------------------------------------------

    def _known_token(self) -> Cas | None:
        told = [
            operation.token
            for operation in self.history[-12:]
            if operation.returned_at is not None and operation.token and operation.token.value
        ]
        return self.dice.choice(told) if told else None

    def present(self) -> State:
        """Return the stored session. If there is none, the witness writes one first."""
        if self.state is None:
            self.call(Verb.PUT)
        assert self.state is not None
        return self.state

    def absent(self) -> None:
        """Make sure that no session is stored."""
        if self.state is not None:
            self.call(Verb.DELETE)


def ended(call: Operation, ending: Ending = Ending.DONE, **answer: object) -> Operation:
    """Return a call with the answer that its client gets."""
    return msgspec.structs.replace(call, ending=ending, **answer)
