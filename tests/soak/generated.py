"""Generated TypeScript and Elm of random types agree with msgspec."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from greentic_session.codegen import generate_elm

from ..support import codegen, elm

if TYPE_CHECKING:
    from .report import Report

AT_ONCE: Final = 50
VALUES: Final = 20


async def types(report: Report) -> None:
    """Generate clients of random types, and compare them with msgspec by random documents."""
    number = 0
    while not report.is_over:
        count = min(AT_ONCE, report.wanted - report.count)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if codegen.DENO is not None:
                found = codegen.differences(folder, report.dice(number), count, VALUES)
                report.losses += found
                report.tally["types in TypeScript"] += count
            if elm.ELM is not None:
                dice = report.dice(number)
                elm.prepare(folder)
                modules = [f"Type{n}" for n in range(count)]
                for module in modules:
                    text = generate_elm({module: codegen.shape(dice, module).type}, module=module)
                    (folder / "src" / f"{module}.elm").write_text(text, "utf-8")
                complaint = elm.compile_elm(folder, *modules)
                report.expect(not complaint, complaint[:4000])
                report.tally["types in Elm"] += count
        report.count += count
        number += 1
