"""All orders of two logins, a crash, a change of the password and a revocation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..support.revocations import STEPS, STEPS_APART, Revocations, share_of

if TYPE_CHECKING:
    from .report import Report

ORDERS: Final = 216_216
ORDERS_APART: Final = 756_756
BAD_AT_ENLISTING: Final = 19_752
"""Orders with a survivor, if a login reads the generation after the password."""


async def revocations(report: Report) -> None:
    """Run each order. A night runs all of them, also with the mistake that must be found."""
    every = max(1, (ORDERS + ORDERS_APART) // max(1, report.wanted))
    start = report.seed % every
    while not report.is_over:  # a soak of more than all orders runs them again
        for steps in (STEPS, STEPS_APART):
            runs = Revocations()
            for order, crash in share_of(steps, every, start):
                runs.run(order, crash)
            report.losses += [f"{order}, crash {crash}: a survivor" for order, crash in runs.bad]
            report.count += runs.count
            report.faults += runs.crashes
    mistaken = Revocations("at enlisting")
    for order, crash in share_of(STEPS, every, start):
        mistaken.run(order, crash)
    report.tally["survivors of the mistake"] = len(mistaken.bad)
    if every == 1:
        report.expect(len(mistaken.bad) == BAD_AT_ENLISTING, f"{len(mistaken.bad)} bad orders")
