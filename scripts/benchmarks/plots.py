"""Plots of curves, as SVG and PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .findings import Curve, Finding

__all__ = ["plot"]

# Okabe and Ito's palette, which is safe for colour-blind readers.
_COLOURS: Final = ("#0072B2", "#7F7F7F", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#E69F00")
_MARKS: Final = "osD^vPX"


def plot(found: Finding, folder: Path) -> str | None:
    """Draw a finding's curves, one panel next to the other.

    :returns: the reason why nothing was drawn, or ``None``.
    """
    if not found.curves:
        return None
    try:
        import matplotlib as mpl  # noqa: PLC0415 - large, and only in the bench extra
    except ModuleNotFoundError:
        return "no plot: matplotlib is not installed"
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    panels = list(dict.fromkeys(curve.panel for curve in found.curves))
    names = list(dict.fromkeys(curve.name for curve in found.curves))
    style = {
        "svg.hashsalt": "greentic_session",
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(5.2 * len(panels), 4.4), sharey=True, squeeze=False
        )
        for panel, ax in zip(panels, axes[0], strict=True):
            _draw(ax, panel, [c for c in found.curves if c.panel == panel], names)
        highest = max(point.ratio.median for curve in found.curves for point in curve.points)
        axes[0][0].set_ylim(0, 1.15 * highest)  # an outlier of one round may lie outside
        axes[0][0].set_ylabel("throughput, redis.asyncio on a pool = 1")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
        figure.tight_layout(rect=(0, 0.13, 1, 1))
        figure.savefig(folder / f"{found.subject}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{found.subject}.png", dpi=150)
        plt.close(figure)
    return None


def _draw(ax: Any, panel: str, curves: Sequence[Curve], names: Sequence[str]) -> None:
    # Any: matplotlib's axes, whose types are only in the bench extra
    for curve in curves:
        number = names.index(curve.name)
        callers = [point.callers for point in curve.points]
        colour = _COLOURS[number % len(_COLOURS)]
        if number == 0:  # the tables have the spread of the others
            ax.fill_between(
                callers,
                [point.ratio.least for point in curve.points],
                [point.ratio.most for point in curve.points],
                color=colour,
                alpha=0.1,
                linewidth=0,
            )
        ax.plot(
            callers,
            [point.ratio.median for point in curve.points],
            color=colour,
            marker=_MARKS[number % len(_MARKS)],
            markersize=5,
            linewidth=2.4 if number == 0 else 1.4,
            label=curve.name,
        )
    ticks = [point.callers for point in curves[0].points]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xlabel("concurrent callers")
    ax.set_title(panel, loc="left", family="monospace")
    ax.grid(axis="y", alpha=0.3)
