"""`python -m simulations.model.calibrate [--seeds 1-2]`: take the model's constants from `core`.

Runs calibration.toml in `core` and writes calibration.json. To be said again when what it measures
has changed: how viewers start, how far the mesh is deep. It takes some CPU-minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from simulations import reading, runner
from simulations.model.calibration import FILE, Calibration
from simulations.model.run import Model
from simulations.scenario import Scenario
from simulations.simulation import Simulation

SCENARIO = Path(__file__).with_name("calibration.toml")
QUANTILES = np.linspace(0, 1, 11)
HOP_S_MAX = 0.1
STEPS = 8  # Of halving: to 0.4 ms.
# What no run was asked: how many partners a newcomer has met when it chooses (`GATHER_S` after the
# first), a connection and that pause, a Have and a Want, and two late pieces. Wild guesses.
GUESSED = Calibration(4, 0.3, 0.0, 0.1, 1.0, (), ())


def main(*words: str) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser("python -m simulations.model.calibrate")
    parser.add_argument("--seeds", metavar="1-2", type=runner.seeds_of, default=[1, 2])
    seeds = parser.parse_args(words).seeds
    scenario = reading.read(SCENARIO)
    starts, targets, edges = _measure(scenario, seeds)
    found = replace(GUESSED, startup_s=_quantiles(starts), target_s=_quantiles(targets))
    found = replace(found, hop_s=_fit_hop_s(scenario, seeds, found, fmean(edges)))
    values = {"constants": asdict(found), "scenario": SCENARIO.name, "seeds": seeds,
              "edge_s": round(fmean(edges), 4)}  # fmt: skip
    FILE.write_text(json.dumps(values, indent=1) + "\n")
    sys.stdout.write(f"{found}\n")
    return 0


def _measure(scenario: Scenario, seeds: list[int]) -> tuple[list[float], list[float], list[float]]:
    """Of all viewers: the time to the first chunk; at the end the playout target, and how late
    after the broadcaster the earliest heads come.
    """
    starts, targets, edges = [], [], []
    for seed in seeds:
        sim = Simulation(scenario, seed)
        sim.run()
        for life in sim.metrics.lives:
            if life.first_at is not None and life.swarm.watch is not None:
                target_s = life.swarm.watch.playout.target_s
                starts.append(life.first_at - life.started_at)
                targets.append(target_s)
                edges.append(life.lag_s - sim.studio.chunk_s - target_s)
    return starts, targets, edges


def _fit_hop_s(scenario: Scenario, seeds: list[int], found: Calibration, edge_s: float) -> float:
    """What a hop must cost for heads to come as late in the model: by halving."""
    low, high = 0.0, HOP_S_MAX
    for _ in range(STEPS):
        middle = (low + high) / 2
        models = [Model(scenario, n, calibration=replace(found, hop_s=middle)) for n in seeds]
        for model in models:
            model.run()
        late = fmean(model.edge_s() for model in models) > edge_s
        low, high = (low, middle) if late else (middle, high)
    return round((low + high) / 2, 4)


def _quantiles(values: list[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in np.quantile(values, QUANTILES))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
