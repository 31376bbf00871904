"""The picture of a sweep: each figure over the first key, a line for each value of the others."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.axes import Axes

from simulations.report.figures import CLASSES, panels

Summary = list[dict[str, Any]]


def picture_of(summary: Summary, shown: list[str]) -> str:
    """SVG text. summary: of `grid.summary_of`; shown: names of figures, a panel each."""
    key = next(iter(summary[0]["point"]))

    def draw(name: str, axes: Axes) -> None:
        for nth, (label, points) in enumerate(_lines(summary, key)):
            figures = [one["figures"][name] for one in points]
            axes.errorbar(
                _places([one["point"][key] for one in points]), [f["mean"] for f in figures],
                yerr=[f["ci95"] for f in figures], label=label, marker="o", markersize=4,
                capsize=3, linewidth=1.6, color=CLASSES[nth % len(CLASSES)],
            )  # fmt: skip
        values = [one["point"][key] for one in _lines(summary, key)[0][1]]
        axes.set_xticks(_places(values), [str(value) for value in values])
        axes.set_xlabel(key)
        axes.set_title(name, fontsize=9.5, loc="left")
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
        if len(_lines(summary, key)) > 1:
            axes.legend()

    return panels([partial(draw, name) for name in shown])


def _lines(summary: Summary, key: str) -> list[tuple[str, Summary]]:
    """(what the other keys say, its points), in the order of the sweep."""
    lines: dict[str, Summary] = {}
    for one in summary:
        others = ", ".join(f"{k} = {v}" for k, v in one["point"].items() if k != key)
        lines.setdefault(others, []).append(one)
    return list(lines.items())


def _places(values: list[Any]) -> list[float]:
    """Where on the axis: numbers where they are, words one after the other."""
    if all(_is_number(value) for value in values):
        return [float(value) for value in values]
    return [float(nth) for nth in range(len(values))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
