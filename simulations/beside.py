"""`python -m simulations.beside [--write] [--seeds 1-6] [SCENARIO ...]`: the tiers side by side.

The same scenarios and seeds in every tier that can run them, against `core`, as a Markdown table;
--write puts it into docs/SIMULATION.md. What `make tiers` runs; it takes minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from p2pstream.errors import UserError
from simulations import reading, runner, tiers
from simulations.cells import Row

PAGE = Path(__file__).parent.parent / "docs" / "SIMULATION.md"
BEGIN, END = "<!-- tiers: begin -->", "<!-- tiers: end -->"
CHECKS = Path(__file__).parent / "checks"
SCENARIOS = ("small_swarm", "steady", str(CHECKS / "rain.toml"), str(CHECKS / "crowd.toml"))
SEEDS = range(1, 7)  # Of three, one run in which much is lost moves the 99th percentile by a tenth.
JOBS = 2
SHOWN = ("lag_s_p50", "lag_s_p95", "lag_s_p99", "stall_ratio", "offload", "peer_s_per_cpu_s")
UNLIKE = {"stall_ratio", "offload", *runner.MEASURED_HERE}  # A share of these says nothing.


def main(*words: str) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser("python -m simulations.beside")
    parser.add_argument(
        "names", nargs="*", metavar="SCENARIO", type=reading.readable, help="four without any"
    )
    parser.add_argument("--seeds", metavar="1-6", type=runner.seeds_of, default=[*SEEDS])
    parser.add_argument("--write", action="store_true", help=f"into docs/{PAGE.name}")
    wanted = parser.parse_args(words)
    table = "\n".join(_table(wanted.names or list(SCENARIOS), wanted.seeds))
    sys.stdout.write(table + "\n")
    if wanted.write:
        before, _, rest_of_page = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest_of_page.partition(END)[2]}")
    return 0


def _table(names: list[str], seeds: list[int]) -> list[str]:
    lines = [f"| scenario | tier | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 2) + "|"]
    for name in names:
        reference: dict[str, Any] | None = None
        for tier in tiers.TIERS:
            try:
                figures = _figures(name, tier, seeds)
            except UserError as error:
                sys.stderr.write(f"{name}, {tier}: {error}\n")
                continue
            reference = reference or figures
            cells = [_cell(key, figures[key], reference[key]) for key in SHOWN]
            lines.append(f"| {Path(name).stem} | {tier} | {' | '.join(cells)} |")
    lines.append(f"\nSeeds {seeds[0]} to {seeds[-1]}: mean ± 95 %, and the difference to `core`.")
    return lines


def _figures(name: str, tier: str, seeds: list[int]) -> dict[str, Any]:
    path = reading.find(name)
    scenario = reading.read(path)
    rows: list[Row] = list(
        runner.run_seeds(path, seeds, tier=tier, jobs=JOBS, told=lambda *_: None)
    )
    figures: dict[str, Any] = runner.summary_of(scenario, rows)["figures"]
    return figures


def _cell(key: str, figure: dict[str, float], reference: dict[str, float]) -> str:
    mean, half, was = figure["mean"], figure["ci95"], reference["mean"]
    digits = 0 if mean >= 100 else 3
    text = f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half else "")
    if figure is reference or key in UNLIKE or not was:
        return text
    return f"{text} ({100 * (mean - was) / was:+.1f} %)"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
