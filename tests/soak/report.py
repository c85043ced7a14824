"""What a run of the soak is told, and what it tells."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final, final


@final
class Report:
    """What has come of a run so far; it is printed also if the run is interrupted.

    :param seed: of the whole soak.
    :param wanted: how many of its units the run is to do.
    :ivar count: how many it has done.
    :ivar faults: how many faults it has met.
    :ivar losses: violations and losses, in words; a run without any has passed.
    :ivar tally: whatever else is worth knowing.
    """

    def __init__(self, seed: int, wanted: int) -> None:
        self.seed: Final = seed
        self.wanted: Final = wanted
        self.count = 0
        self.faults = 0
        self.losses: list[str] = []
        self.tally: Counter[str] = Counter()

    def dice(self, name: object = "") -> random.Random:
        """Dice of this seed; those of different names fall differently."""
        return random.Random(f"{self.seed} {name}")

    @property
    def is_over(self) -> bool:
        return self.count >= self.wanted

    def expect(self, condition: object, loss: str) -> None:
        """Count a loss unless the condition holds."""
        if not condition:
            self.losses.append(loss)


Soak = Callable[[Report], Coroutine[Any, Any, None]]
"""Does ``report.wanted`` of something, and says in the report what came of it."""
