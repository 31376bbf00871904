"""`python -m simulations.determinism [NAME ...] [--seeds 1-20] [--tier core]`: a seed, one run?

What `make determinism` runs: each seed of each scenario twice, in two fresh processes with
different hash seeds. Equal seeds must give equal trace hashes, different seeds different ones.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from simulations.reading import find, read, readable
from simulations.runner import run_one, seeds_of

# By tier. Between them they use dice for distances, losses, NATs, clocks, faults and lies.
NAMES = {
    "core": ("small_swarm", "lossy", "nat_heavy", "clock_skew", "polluter", "handover"),
    "quic": ("small_swarm", str(Path(__file__).parent / "checks" / "dice.toml")),
    "model": ("steady", "mass_failure"),
}
SEEDS = {"core": "1-20", "quic": "1-3", "model": "1-20"}
HASH_SEEDS = ("1", "4242")
ROOT = Path(__file__).parent.parent


def main(*words: str) -> int:
    """Returns the exit status: 0 when all is as it should be."""
    if words[:1] == ("--here",):
        _tell_hashes(*words[1:])
        return 0
    parser = argparse.ArgumentParser("python -m simulations.determinism")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", type=readable, help="a scenario; some without any"
    )
    parser.add_argument("--tier", choices=NAMES, default="core")
    parser.add_argument("--seeds", help="1-20; in the quic tier 1-3")
    wanted = parser.parse_args(words)
    seeds, names = wanted.seeds or SEEDS[wanted.tier], wanted.names or NAMES[wanted.tier]
    wrong = 0
    for name in names:
        for problem in problems(name, seeds, wanted.tier):
            wrong += 1
            sys.stdout.write(f"{Path(name).stem:<16} {problem}\n")
        sys.stdout.write(f"{Path(name).stem:<16} done: seeds {seeds}\n")
        sys.stdout.flush()
    return min(wrong, 100)


def problems(name: str, seeds: str, tier: str = "core") -> Iterator[str]:
    """What is wrong with the seeds of one scenario, a file or a name."""
    with ThreadPoolExecutor(len(HASH_SEEDS)) as pool:
        one, other = pool.map(lambda hash_seed: hashes(name, seeds, hash_seed, tier), HASH_SEEDS)
    for seed, trace in one.items():
        if other[seed] != trace:
            yield f"seed {seed}: {trace} in one process, {other[seed]} in another"
    if len(set(one.values())) < len(one):
        yield "two seeds have the same trace"


def hashes(name: str, seeds: str, hash_seed: str, tier: str) -> dict[int, str]:
    """The trace hash of each seed, from a fresh process with this PYTHONHASHSEED."""
    done = subprocess.run(  # noqa: S603  # This module itself.
        [sys.executable, "-m", "simulations.determinism", "--here", name, seeds, tier],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    lines = (line.split() for line in done.stdout.splitlines())
    return {int(seed): trace for seed, trace in lines}


def _tell_hashes(name: str, seeds: str, tier: str) -> None:
    scenario = read(find(name))
    for seed in seeds_of(seeds):
        sys.stdout.write(f"{seed} {run_one(scenario, seed, tier=tier).trace_hash}\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
