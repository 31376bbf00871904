"""`python -m simulations.baseline [--accept] [NAME ...]`: scenarios against their baselines.

What `make simulate` runs: each scenario with the seeds of its baseline (or 1), each judged by its
checkers and bounds and against what was accepted. --accept writes the results as the new baselines.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simulations import compare, reading, runner

FOLDER = Path(__file__).parent / "baselines"
SEEDS = (1, 2, 3, 4)  # Of two the interval is so wide that half a second more of lag was none.
JOBS = 2


def main(*words: str) -> int:
    """Returns the exit status: how many scenarios fail."""
    parser = argparse.ArgumentParser("python -m simulations.baseline")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", type=reading.readable,
        help="a scenario; all without any",
    )  # fmt: skip
    parser.add_argument("--accept", action="store_true", help="write new baselines")
    wanted = parser.parse_args(words)
    failed = 0
    for name in wanted.names or reading.names():
        verdict = _one(name, accept=wanted.accept)
        failed += bool(verdict)
        sys.stdout.write(f"{name:<16} {verdict or 'ok'}\n")
        sys.stdout.flush()
    return min(failed, 100)


def _one(name: str, *, accept: bool) -> str:
    """What is wrong with one scenario; nothing when nothing is."""
    path, baseline = reading.find(name), FOLDER / f"{name}.json"
    scenario = reading.read(path)
    rows = list(runner.run_seeds(path, SEEDS, jobs=JOBS, told=lambda *_: None))
    summary = runner.summary_of(scenario, rows)
    if accept:
        runner.write_summary(baseline, summary)
    wrong = [f"seed {f['seed']}: {f['name']}: {f['detail']}" for f in summary["failed"]]
    wrong += [f"never: {v['name']}" for v in summary["sometimes"] if not v["passed"]]
    if not accept and baseline.exists():
        wrong += [
            f"{change.name} {change.old:g} -> {change.new:g}"
            for change in compare.changes(compare.load(baseline), summary)
            if change.verdict == "worse"
        ]
    if wrong:
        wrong.append(f"replay: p2pstream simulate {name} --seeds {','.join(map(str, SEEDS))}")
    return "\n    ".join(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
