"""Several seeds of a scenario, here or spread over processes; their means and intervals."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from simulations import tiers
from simulations.cells import Cell, Row, spread
from simulations.checkers import Sometimes, Verdict
from simulations.reading import load, make
from simulations.scenario import Scenario
from simulations.simulation import Outcome, Progress, Simulation

# Of this machine, not of the mesh.
MEASURED_HERE = {"peer_s_per_cpu_s", "peer_s_per_m_rounds", "cpu_s_per_viewer_s"}
# Student's t for a two-sided 95 % interval, by degrees of freedom; 1.96 beyond the table.
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

Told = Callable[[int, float, float], None]  # Which one, virtual seconds done, of how many.


def run_one(
    scenario: Scenario, seed: int, *, tier: str = "core", progress: Progress | None = None,
    record: bool = False,
) -> Outcome:  # fmt: skip
    """One seed. record: keep every event, for `diff`. Raises what `tiers.simulation` raises."""
    gc.unfreeze()
    gc.collect()  # The run before this one.
    simulation = tiers.simulation(tier, scenario, seed)
    if record and isinstance(simulation, Simulation):
        simulation.world.trace.recorded = []
    outcome = simulation.run(progress)
    gc.freeze()  # What it leaves: a process that ends now need not look through all that.
    return outcome


def row_of(outcome: Outcome) -> Row:
    """An outcome as JSON has it: the figures flat, as `demo --json` prints them."""
    return {
        "scenario": outcome.scenario,
        "seed": outcome.seed,
        "tier": outcome.tier,
        "passed": outcome.passed,
        **outcome.figures,
        "trace_hash": outcome.trace_hash,
        "by_class": outcome.by_class,
        "coverage": outcome.coverage,
        "faults": [asdict(fault) for fault in outcome.faults],
        "verdicts": [asdict(verdict) for verdict in outcome.verdicts],
        "series": outcome.series,
        "lags_s": outcome.lags_s,
        "overlay": outcome.overlay,
    }


def run_seeds(
    path: Path, seeds: Iterable[int], *, tier: str = "core", jobs: int = 1, told: Told
) -> Iterator[Row]:
    """Rows in the order of `seeds`; with more than one job as many processes."""
    values = load(path)
    cells = [Cell(values, str(path), seed, tier) for seed in seeds]
    return run_cells(cells, jobs=jobs, told=told)


def run_cells(
    cells: list[Cell], *, jobs: int = 1, scheduler: str | None = None, told: Told
) -> Iterator[Row]:
    """Rows in the order of `cells`. told: how far each is, by its number."""
    numbers = {id(cell): nth for nth, cell in enumerate(cells)}
    here = scheduler is None and (jobs == 1 or len(cells) == 1)

    def work_here(cell: Cell) -> Row:
        return _work(cell, lambda at, end: told(numbers[id(cell)], at, end))

    rows = spread(work_here if here else work, cells, jobs=jobs, scheduler=scheduler)
    for nth, row in enumerate(rows):
        told(nth, 1.0, 1.0)
        yield row


def work(cell: Cell) -> Row:
    """One cell, in whatever process."""
    return _work(cell, None)


def _work(cell: Cell, progress: Progress | None) -> Row:
    scenario = make(cell.values, cell.where)
    return row_of(run_one(scenario, cell.seed, tier=cell.tier, progress=progress))


def summary_of(scenario: Scenario, rows: list[Row]) -> dict[str, Any]:
    """All seeds together: of each figure the mean and the half width of its 95 % interval."""
    figures = {name: interval([row[name] for row in rows]) for name in figure_names(rows[0])}
    # A model counts few of the ways of mending: what it does not count is not asked for.
    sometimes = Sometimes([one for one in scenario.sometimes if one in rows[0]["coverage"]])
    for row in rows:
        sometimes.add(row["coverage"])
    verdicts = sometimes.verdicts()
    return {
        "scenario": scenario.name,
        "tier": rows[0]["tier"],
        "seeds": [row["seed"] for row in rows],
        "passed": all(row["passed"] for row in rows) and all(v.passed for v in verdicts),
        "figures": figures,
        "by_class": _classes(rows),
        "sometimes": [asdict(verdict) for verdict in verdicts],
        "failed": [
            {"seed": row["seed"], **verdict}
            for row in rows
            for verdict in row["verdicts"]
            if not verdict["passed"]
        ],
    }


def figure_names(row: Row) -> list[str]:
    """Those keys of a row that are numbers of the mesh."""
    beside = {"seed", "passed"}
    return [k for k, v in row.items() if isinstance(v, (int, float)) and k not in beside]


def interval(values: list[float]) -> dict[str, float]:
    """The mean, and what to add and take away for 95 % confidence (0 of one value)."""
    mean = fmean(values)
    free = len(values) - 1
    half = 0.0
    if free:
        t = T_95[free - 1] if free <= len(T_95) else 1.96
        half = t * stdev(values) / sqrt(len(values))
    return {"mean": round(mean, 5), "ci95": round(half, 5)}


def _classes(rows: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        group: {name: interval([row["by_class"][group][name] for row in rows]) for name in figures}
        for group, figures in rows[0]["by_class"].items()
    }


def verdicts_of(row: Row) -> list[Verdict]:
    return [Verdict(**verdict) for verdict in row["verdicts"]]


def seeds_of(text: str) -> list[int]:
    """`7`, `1-20` or `1,3,5`. Raises `ValueError`."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    if not seeds or len(seeds) > 10_000:
        raise ValueError("no seed, or too many")
    return seeds


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """For `--against`, and for the baselines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
