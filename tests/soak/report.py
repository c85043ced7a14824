"""The input and the report of a soak run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final, final


@final
class Report:
    """The results of a run so far. They are printed even if the run is interrupted.

    :param seed: seed of the whole soak.
    :param wanted: number of units that the run must do.
    :ivar count: number of units done.
    :ivar faults: number of faults so far.
    :ivar losses: texts about violations and losses. A run without any has passed.
    :ivar tally: other counts of interest.
    """

    def __init__(self, seed: int, wanted: int) -> None:
        self.seed: Final = seed
        self.wanted: Final = wanted
        self.count = 0
        self.faults = 0
        self.losses: list[str] = []
        self.tally: Counter[str] = Counter()

    def dice(self, name: object = "") -> random.Random:
        """Return random choices for this seed and name. Different names give different choices."""
        return random.Random(f"{self.seed} {name}")

    @property
    def is_over(self) -> bool:
        return self.count >= self.wanted

    def expect(self, condition: object, loss: str) -> None:
        """Count a loss unless the condition holds."""
        if not condition:
            self.losses.append(loss)


Soak = Callable[[Report], Coroutine[Any, Any, None]]
"""Does ``report.wanted`` units, and records the results in the report."""
