"""Prints the trace hash of some seeds of a scenario: run by tests in fresh processes."""

from __future__ import annotations

import sys
from pathlib import Path

from simulations.reading import read
from simulations.runner import run_one


def main(path: str, *seeds: str) -> None:
    scenario = read(Path(path))
    for seed in seeds:
        print(seed, run_one(scenario, int(seed)).trace_hash)


if __name__ == "__main__":
    main(*sys.argv[1:])
