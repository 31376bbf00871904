"""The figures of a report, as SVG text. matplotlib comes with the extra [sim]."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from math import cos, pi, sin
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from simulations.cells import Row

INK, SOFT, LINE = "#1c2430", "#6b7685", "#dde3ea"
BLUE, TEAL, AMBER, RED, VIOLET = "#2f6fed", "#12a594", "#f2a33a", "#e5484d", "#8e5bd9"
CLASSES = (BLUE, TEAL, AMBER, VIOLET, RED, "#5b8c2a", "#c2509b", "#7a6a53")
WIDE, HALF = (9.6, 2.9), (4.9, 3.1)  # Inches; the page scales them.

mpl.rcParams.update({
    "svg.fonttype": "none", "font.family": "sans-serif",
    "font.size": 9.5, "text.color": INK, "axes.labelcolor": SOFT, "axes.edgecolor": LINE,
    "xtick.color": SOFT, "ytick.color": SOFT, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 8.5,
})  # fmt: skip


def lag_cdf(rows: list[Row]) -> str:
    """Which share of all chunks was how old when it was handed over; one line a seed."""

    def draw(axes: Axes) -> None:
        for row in rows:
            lags = row["lags_s"]
            axes.plot(
                lags,
                np.linspace(0, 1, len(lags)),
                color=BLUE,
                alpha=max(0.25, 1 / len(rows)),
                linewidth=1.8,
            )
        lags = [row["lag_s_p99"] for row in rows]
        bound = np.mean([row["lag_bound_s"] for row in rows])
        axes.axvline(bound, color=SOFT, linestyle=":", linewidth=1.2)
        axes.annotate("bound", (bound, 0.95), xytext=(4, 0),
                      textcoords="offset points", color=SOFT, fontsize=8)  # fmt: skip
        axes.set_xlim(0, max(1.0, max(lags) * 1.25))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("lag behind the camera, s")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")

    return _svg(HALF, draw, "cdf")


def over_time(row: Row, warm_up_s: float) -> str:
    """Lag and how many play, with the faults as bands."""

    def draw(axes: Axes) -> None:
        series = row["series"]
        times = series["t_s"]
        axes.fill_between(times, series["lag_s_p50"], series["lag_s_p95"], color=BLUE,
                          alpha=0.18, linewidth=0)  # fmt: skip
        axes.plot(times, series["lag_s_p50"], color=BLUE, linewidth=1.8, label="lag, median; "
                  "band to 95 %")  # fmt: skip
        axes.set_ylabel("lag, s")
        axes.set_xlabel("virtual time, s")
        top = max(1.0, max(series["lag_s_p95"], default=1.0) * 1.45)
        axes.set_ylim(0, top)
        axes.set_xlim(0, times[-1] if times else 1)
        other = axes.twinx()
        other.grid(visible=False)
        other.plot(times, [100 * s for s in series["playing_share"]], color=TEAL, linewidth=1.4,
                   label="viewers that play")  # fmt: skip
        other.set_ylim(0, 130)
        other.set_yticks([0, 25, 50, 75, 100])
        other.set_ylabel("playing, %", color=TEAL)
        other.spines["right"].set_visible(False)
        _bands(axes, row, warm_up_s, top)
        lines = [*axes.get_lines()[:1], *other.get_lines()]
        axes.legend(lines, [str(line.get_label()) for line in lines], loc="lower center",
                    ncols=2, bbox_to_anchor=(0.5, 0.0))  # fmt: skip

    return _svg(WIDE, draw, "time")


def offload_over_time(row: Row) -> str:
    """How much did not come from the origin, against the limit of the whole run."""

    def draw(axes: Axes) -> None:
        series = row["series"]
        shares = [100 * max(0.0, value) for value in series["offload"]]
        axes.fill_between(series["t_s"], shares, color=TEAL, alpha=0.15, linewidth=0)
        axes.plot(series["t_s"], shares, color=TEAL, linewidth=1.6)
        limit = 100 * row["offload_limit"]
        axes.axhline(limit, color=INK, linestyle="--", linewidth=1)
        axes.annotate(f"limit {limit:.1f} %", (0.99, limit), xycoords=("axes fraction", "data"),
                      xytext=(0, 4), textcoords="offset points", ha="right",
                      fontsize=8)  # fmt: skip
        axes.set_ylim(0, 112)
        axes.set_xlim(0, series["t_s"][-1])
        axes.set_ylabel("from others than the origin, %")
        axes.set_xlabel("virtual time, s")

    return _svg(HALF, draw, "offload")


def upload_by_class(row: Row) -> str:
    """What each class of hosts gave, in copies of the stream, a host."""

    def draw(axes: Axes) -> None:
        names = list(row["by_class"])
        gave = [row["by_class"][name]["gave_copies"] for name in names]
        places = np.arange(len(names))
        axes.barh(places, gave, color=[_colour(n, names) for n in names], height=0.55)
        for place, value in zip(places, gave, strict=True):
            axes.annotate(f"{value:.2f}", (value, place), xytext=(4, 0), fontsize=8.5,
                          textcoords="offset points", va="center", color=INK)  # fmt: skip
        axes.set_yticks(places, [f"{n} ({row['by_class'][n]['peers']})" for n in names])
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.0, max(gave) * 1.18))
        axes.set_xlabel("copies of the stream that each host gave")
        axes.grid(visible=False, axis="y")

    return _svg((4.9, 4.2), draw, "class")


def overlay(row: Row) -> str:
    """Who feeds whom at one moment: the origin in the middle, the others around it by distance."""
    drawn = row["overlay"]

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.16)  # Arcs bend out of the circle of hosts.
        # As wide as the other figures, or the page would show its words larger.
        axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, linewidth=0))
        hosts = drawn.get("hosts", [])
        places = _places(hosts, drawn.get("links", []))
        for parent, child, feeds in drawn.get("links", []):
            (x0, y0), (x1, y1) = places[parent], places[child]
            axes.annotate("", (x1, y1), (x0, y0), arrowprops={
                "arrowstyle": "-|>,head_width=0.12,head_length=0.25", "color": SOFT,
                "alpha": 0.16 + 0.12 * feeds, "linewidth": 0.5 + 0.25 * feeds,
                "shrinkA": 4, "shrinkB": 5, "connectionstyle": "arc3,rad=0.12",
            })  # fmt: skip
        groups = list(row["by_class"])
        for group in groups:
            mine = [h for h in hosts if h["group"] == group]
            if mine:
                xs, ys = zip(*(places[h["id"]] for h in mine), strict=True)
                size = 170 if mine[0]["role"] == 0 else 110 if mine[0]["role"] == 1 else 42
                axes.scatter(xs, ys, s=size, color=_colour(group, groups), label=group,
                             edgecolors="white", linewidths=0.9, zorder=3)  # fmt: skip
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=len(groups),
                    handletextpad=0.1)  # fmt: skip

    return _svg((4.9, 4.4), draw, "overlay")


def seed_spread(rows: list[Row]) -> str:
    """How much the figures differ from seed to seed."""
    shown = (
        ("lag_s_p95", "lag 95 %, s"), ("startup_s_p95", "start 95 %, s"),
        ("stall_ratio", "stalled, %"), ("offload", "offload, %"),
    )  # fmt: skip

    def draw(figure: Figure) -> None:
        for nth, (name, words) in enumerate(shown):
            axes = figure.add_subplot(1, len(shown), nth + 1)
            factor = 100 if words.endswith("%") else 1
            values = [factor * row[name] for row in rows]
            across = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [0.0]
            axes.scatter(across, values, color=BLUE, alpha=0.75, s=22, linewidths=0)
            axes.hlines(np.mean(values), -0.42, 0.42, color=INK, linewidth=1.4)
            axes.set_xlim(-0.6, 0.6)
            axes.set_ylim(0, max(values) * 1.25 or 1)
            axes.set_xticks([])
            axes.set_title(words, fontsize=9, color=INK)
        figure.subplots_adjust(wspace=0.45)

    return _svg_of(draw, (9.6, 2.3), "spread")


def _bands(axes: Axes, row: Row, warm_up_s: float, top: float) -> None:
    """Faults and the warm-up, named where they are."""
    axes.axvspan(0, warm_up_s, color=LINE, alpha=0.55, linewidth=0)
    axes.text(warm_up_s / 2, top * 0.96, "warm-up", ha="center", va="top", color=SOFT, fontsize=8)
    for nth, fault in enumerate(row["faults"]):
        end = max(fault["to_s"], fault["from_s"] + 0.15)
        axes.axvspan(fault["from_s"], end, color=RED, alpha=0.13, linewidth=0)
        axes.axvline(fault["from_s"], color=RED, linewidth=1)
        axes.text(fault["from_s"], top * (0.96 - 0.09 * (nth % 3)), f" {fault['kind']}",
                  va="top", color=RED, fontsize=8.5)  # fmt: skip


def _places(hosts: list[Any], links: list[Any]) -> dict[int, tuple[float, float]]:
    """On rings: as many feeds away from the origin as the shortest way is long."""
    depth = {host["id"]: 0 for host in hosts if host["role"] == 0}
    edge = list(depth)
    while edge:
        found = [b for a in edge for p, b, _ in links if p == a and b not in depth]
        for host in found:
            near = next(p for p, b, _ in links if b == host and p in depth)
            depth.setdefault(host, depth[near] + 1)
        edge = list(dict.fromkeys(found))
    far = max(depth.values(), default=0) + 1
    rings: dict[int, list[int]] = {}
    for host in hosts:
        rings.setdefault(depth.get(host["id"], far), []).append(host["id"])
    places = {}
    for ring, members in rings.items():
        for nth, host in enumerate(members):
            angle = 2 * pi * (nth + 0.5 * ring) / len(members)
            places[host] = (ring * cos(angle), ring * sin(angle))
    return places


def _colour(group: str, groups: list[str]) -> str:
    return {"origin": INK, "seed": SOFT}.get(group) or CLASSES[
        [g for g in groups if g not in {"origin", "seed"}].index(group) % len(CLASSES)
    ]


def _svg(size: tuple[float, float], draw: Callable[[Axes], None], salt: str) -> str:
    return _svg_of(lambda figure: draw(figure.add_subplot()), size, salt)


def _svg_of(draw: Callable[[Figure], None], size: tuple[float, float], salt: str) -> str:
    """SVG without prologue. salt: ids of one figure must not be those of another."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure = Figure(figsize=size)
        draw(figure)
        figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.04, transparent=True,
                       metadata={"Date": None, "Creator": None})  # fmt: skip
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page gives the width; what names other sites is not needed to be drawn.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for side in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", svg, count=1)
    return svg


def panels(drawn: list[Callable[[Axes], None]]) -> str:
    """Several axes beside each other, as an SVG file of its own."""

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("constrained")
        all_axes = figure.subplots(1, len(drawn), squeeze=False)[0]
        for axes, draw_one in zip(all_axes, drawn, strict=True):
            draw_one(axes)

    size = (HALF[0] * len(drawn), HALF[1])
    svg = _svg_of(draw, size, "panels")
    return svg.replace("<svg ", '<svg style="background: white" ', 1)
