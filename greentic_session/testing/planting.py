"""Generated histories to test a checker: correct ones, and wrong ones of every kind.

A :class:`Flaw` is a fault that a simulated store commits once. It is planted where it is certainly
a fault: the later tokens and marks contradict one another in every order. The *witness*, a separate
client, makes the calls and reads that this needs.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from ..model import Cas
from .history import Ending, Operation, Verb
from .simulation import Simulation, State, ended

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Flaw", "simulate"]


class Flaw(Enum):
    """The fault of a store."""

    LOST_WRITE = "a write was reported and not made"
    STALE_READ = "a read saw a version that was replaced before it began"
    DOUBLED_WRITE = "one write made two versions"
    FALSE_CONFLICT = "a write over the current token was refused"
    CONFLICT_OF_ITS_OWN = "a write was made, and refused because of its own version"
    FALSE_SUCCESS = "a write over an old token was reported as made"
    LOST_UPDATE = "two changes were made to the same version"
    SWAPPED_VERSIONS = "a later write got the lower version"
    CROSSED_REPLIES = "two calls got each other's replies"
    FOREIGN_REPLY = "a read got the reply to a read of another key"
    RESURRECTED = "a deleted session was there again"
    VANISHED = "a session was absent that no client had deleted"
    FAILED_YET_MADE = "a write was reported as not executed and made"
    REFUSED_YET_MADE = "a create was refused and made"
    BEFORE_ITS_TIME = "a read saw a later write"
    SKIPPED_VERSION = "a version that no client wrote"
    OLD_INCARNATION = "a new session got the incarnation of one that was deleted"
    UNBORN = "a first version other than 1"
    EXISTS_BEFORE_ITS_TIME = "a create was refused before any session existed"
    SECOND_BIRTH = "a session was created over one that was there"
    REPEATED_TOKEN = "two writes got the same token"  # noqa: S105 - a sentence
    LATE_REPEAT = "a write whose outcome was unknown was made twice"


def simulate(
    dice: random.Random,
    *,
    operations: int = 100,
    clients: int = 8,
    unknown: float = 0.05,
    flaw: Flaw | None = None,
) -> list[Operation] | None:
    """Return a history of one key.

    :param operations: number of calls. A flaw may add two or three.
    :param clients: number of clients.
    :param unknown: probability that a call's outcome stays unknown, 0 to 1.
    :param flaw: the fault of the store, planted once. ``None`` means a correct store.
    :returns: the history, or ``None`` if the run had no occasion for the flaw. Then retry with
        other dice.
    """
    if flaw is Flaw.SKIPPED_VERSION:
        unknown = 0.0  # a write of unknown outcome could explain the version
    simulation = Simulation(dice, clients=clients, unknown=unknown)
    plant = _PLANTERS[flaw] if flaw else _nothing
    plant_at = 0 if flaw is Flaw.EXISTS_BEFORE_ITS_TIME else dice.randrange(operations)
    return simulation.history if simulation.run(operations, plant, plant_at) else None


def _nothing(_run: Simulation) -> bool:
    return True


# --- how each flaw is planted: true if there was an occasion --------------------------------------


def _lost_write(run: Simulation) -> bool:
    before = run.present()
    run.call(Verb.UPDATE_CAS, before.token)
    run.state = before
    run.read()  # the older version, after the newer one was reported
    return True


def _stale_read(run: Simulation) -> bool:
    before = run.present()
    run.call(Verb.PUT)
    run.answered(Verb.GET, token=before.token, mark=before.mark)
    return True


def _doubled_write(run: Simulation) -> bool:
    run.present()
    once = run.call(Verb.PUT)
    run.state = run.next_state(once.mark)
    run.read()  # one mark, another token than the reported one
    return True


def _late_repeat(run: Simulation) -> bool:
    run.present()
    call = run.invoke("witness", Verb.PUT)  # never returns
    for _ in range(2):
        run.make(call)
        run.read()  # one mark, two tokens
        run.call(Verb.PUT)
    return True


def _false_conflict(run: Simulation) -> bool:
    current = run.present().token
    run.read()
    # Any answer is wrong: no client wrote, and the token stays the same.
    told = run.dice.choice((current, Cas.none()))
    run.answered(Verb.UPDATE_CAS, current, ending=Ending.REFUSED, token=told)
    run.read()
    return True


def _conflict_of_its_own(run: Simulation) -> bool:
    made = run.call(Verb.UPDATE_CAS, run.present().token)
    run.replace(msgspec.structs.replace(made, ending=Ending.REFUSED))
    run.read()  # the mark of a write that was refused
    return True


def _false_success(run: Simulation) -> bool:
    old = run.present().token
    made = run.call(Verb.UPDATE_CAS, old)
    run.answered(Verb.UPDATE_CAS, old, token=made.token)
    return True


def _lost_update(run: Simulation) -> bool:
    before = run.present().mark
    one = run.call(Verb.MUTATE)
    other = run.call(Verb.MUTATE)
    assert one.before == before
    run.replace(msgspec.structs.replace(other, before=before))
    return True


def _swapped_versions(run: Simulation) -> bool:
    run.present()
    one, other = run.call(Verb.PUT), run.call(Verb.PUT)
    run.replace(msgspec.structs.replace(one, token=other.token))
    run.replace(msgspec.structs.replace(other, token=one.token))
    return True


def _crossed_replies(run: Simulation) -> bool:
    run.present()
    one, other = run.invoke("witness", Verb.PUT), run.invoke("second witness", Verb.PUT)
    one, other = run.make(one), run.make(other)
    run.read()  # reveals the writer of the newer token
    run.finish(msgspec.structs.replace(one, token=other.token))
    run.finish(msgspec.structs.replace(other, token=one.token))
    return True


def _foreign_reply(run: Simulation) -> bool:
    token = Cas(value=run.dice.randint(1, 9), incarnation=f"{run.dice.getrandbits(128):032x}")
    run.answered(Verb.GET, token=token, mark="other.1")
    return True


def _resurrected(run: Simulation) -> bool:
    before = run.present()
    run.read()
    run.call(Verb.DELETE, before.token if run.dice.random() < 0.5 else None)
    run.state = before
    run.read()
    return True


def _vanished(run: Simulation) -> bool:
    run.present()
    run.read()
    verb = run.dice.choice((Verb.GET, Verb.TOUCH, Verb.DELETE))
    if verb is Verb.GET:
        run.answered(verb, token=Cas.none())
    else:
        run.answered(verb, found=False)
    run.read()
    return True


def _failed_yet_made(run: Simulation) -> bool:
    made = run.call(Verb.PUT)
    run.replace(msgspec.structs.replace(made, ending=Ending.FAILED, token=None))
    run.read()
    return True


def _refused_yet_made(run: Simulation) -> bool:
    run.absent()
    made = run.call(Verb.CREATE)
    run.replace(msgspec.structs.replace(made, ending=Ending.REFUSED, token=None))
    run.read()
    return True


def _before_its_time(run: Simulation) -> bool:
    seen = run.invoke("witness", Verb.GET)
    seen = run.finish(seen)
    run.call(Verb.PUT)
    assert run.state is not None
    run.replace(ended(seen, token=run.state.token, mark=run.state.mark))
    return True


def _skipped_version(run: Simulation) -> bool:
    before = run.present()
    run.state = State(before.incarnation, before.value + 1, before.mark)
    run.call(Verb.PUT)
    return True


def _old_incarnation(run: Simulation) -> bool:
    before = run.present()
    run.read()
    run.call(Verb.DELETE)
    born = run.call(Verb.CREATE)
    run.state = State(before.incarnation, 1, born.mark)
    run.replace(ended(born, token=run.state.token))
    return True


def _unborn(run: Simulation) -> bool:
    run.absent()
    born = run.call(Verb.CREATE)
    assert run.state is not None
    run.state = run.state._replace(value=2)
    run.replace(ended(born, token=run.state.token))
    return True


def _exists_before_its_time(run: Simulation) -> bool:
    if run.history:
        return False
    run.answered(Verb.CREATE, ending=Ending.REFUSED)
    return True


def _second_birth(run: Simulation) -> bool:
    run.present()
    run.read()
    token = Cas(value=1, incarnation=f"{run.dice.getrandbits(128):032x}")
    run.answered(Verb.CREATE, token=token)
    run.read()
    return True


def _repeated_token(run: Simulation) -> bool:
    run.present()
    told = run.call(Verb.PUT).token
    run.answered(Verb.PUT, token=told)
    return True


_PLANTERS: Final[dict[Flaw, Callable[[Simulation], bool]]] = {
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
