"""Whole runs: the same seed is the same run anywhere, and what the command says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2pstream.cli import simulate
from p2pstream.errors import UserError
from simulations import compare, determinism, runner
from simulations.reading import read
from simulations.yardstick import Yardstick
from tests.simulations.small import run

ROOT = Path(__file__).parent.parent.parent
TEXT = """
purpose = "everything that has dice, in few seconds"
sometimes = ["pull"]

[[groups]]
name = "origin"
role = "origin"

[[groups]]
name = "seed"
role = "seed"

[[groups]]
name = "homes"
n = 4
loss = 0.02
loss_burst = 2
jitter_ms = 3
rtt_ms = { law = "distance" }
up_kbps = { law = "lognormal", median = 8000, sigma = 0.4 }
nat = { none = 0.5, cone = 0.5 }
clock_skew_s = 0.5
clock_drift_ppm = 100
arrive = { law = "flash", over_s = 1 }

[[groups]]
name = "bad"
n = 1
behaviour = "polluter"

[[faults]]
kind = "kill"
at_s = 0.5
group = "homes"
count = 1
restart_after_s = 0.5

[[faults]]
kind = "partition"
at_s = 1
for_s = 0.5
group = "homes"
count = 2

[phases]
warm_up_s = 2
chaos_s = 2.5
check_s = 2
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "all.toml"
    path.write_text(TEXT)
    return path


def test_a_seed_is_the_same_run_in_every_process(path: Path) -> None:
    """The short version of `make determinism`."""
    assert list(determinism.problems(str(path), "1-2")) == []


def test_whole_nodes_do_the_same_in_every_process() -> None:
    assert list(determinism.problems(determinism.NAMES["quic"][1], "1", "quic")) == []


def test_a_run_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"1": {1: "aa", 2: "aa"}, "4242": {1: "aa", 2: "bb"}}
    monkeypatch.setattr(determinism, "hashes", lambda *words: told[words[2]])
    assert list(determinism.problems("x", "1-2")) == [
        "seed 2: aa in one process, bb in another",
        "two seeds have the same trace",
    ]


def test_spread_over_processes_or_not(path: Path) -> None:
    def rows(jobs: int) -> list[dict[str, Any]]:
        found = runner.run_seeds(path, [1, 2], jobs=jobs, told=lambda *_: None)
        return [{k: v for k, v in r.items() if k not in runner.MEASURED_HERE} for r in found]

    assert rows(1) == rows(2)


def test_a_host_more_shifts_nobodys_dice() -> None:
    """The rates and distances of the others are as they were."""
    from simulations.simulation import Simulation
    from tests.simulations.small import scenario

    law = {"law": "lognormal", "median": 9000, "sigma": 1.0}
    few, many = (
        Simulation(scenario({"name": "homes", "n": n, "up_kbps": law, "rtt_ms": law}), 1)
        for n in (4, 9)
    )
    for a, b in zip(few.peers[:6], many.peers[:6], strict=True):
        assert a.node == b.node
        assert a.carrier.up.bps == b.carrier.up.bps
        assert a.delay_to(few.peers[0]) == b.delay_to(many.peers[0])


def test_figures_carry_the_names_of_the_demo_and_keep_their_bounds() -> None:
    figures = run().figures
    demo = {
        "viewers", "viewers_playing", "startup_s_p50", "startup_s_p95", "lag_s_p50", "lag_s_p95",
        "stall_ratio", "continuity", "offload", "offload_limit", "origin_copies",
        "duplicate_ratio", "control_ratio", "pieces_verified", "pieces_refused",
        "cpu_s_per_viewer_s",
    }  # fmt: skip
    assert demo <= figures.keys()
    assert figures["offload"] <= figures["offload_limit"]
    assert figures["lag_s_max"] >= figures["lag_bound_s"] > 0.2
    assert 0 < figures["control_ratio"] < 0.5


def test_what_a_run_cost_is_told_beside_a_plain_loop() -> None:
    figures = run().figures
    loop = figures["peer_s_per_cpu_s"] / figures["peer_s_per_m_rounds"]

    yardstick = Yardstick()
    for _ in range(100):
        yardstick.measure()

    assert yardstick.cpu_s > 0
    assert 0.02 < loop / yardstick.m_rounds_per_cpu_s < 50, "the same loop, in another moment"


def test_intervals() -> None:
    assert runner.interval([2.0]) == {"mean": 2.0, "ci95": 0.0}
    assert runner.interval([1.0, 3.0])["ci95"] == pytest.approx(12.706, abs=1e-3)
    assert runner.seeds_of("1-3,7") == [1, 2, 3, 7]


def summary(**figures: float) -> dict[str, Any]:
    return {"figures": {name: {"mean": mean, "ci95": 0.0} for name, mean in figures.items()}}


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ({"lag_s_p50": 1.0}, {"lag_s_p50": 1.05}, "same"),
        ({"lag_s_p50": 1.0}, {"lag_s_p50": 1.5}, "worse"),
        ({"offload": 0.8}, {"offload": 0.9}, "better"),
        ({"peer_s": 100.0}, {"peer_s": 900.0}, "told"),
    ],
)
def test_changes_are_judged(old: dict[str, float], new: dict[str, float], verdict: str) -> None:
    (change,) = compare.changes(summary(**old), summary(**new))
    assert change.verdict == verdict


Run = Callable[..., Result]


@pytest.fixture
def cli() -> Run:
    return lambda *words: CliRunner().invoke(simulate.command, [str(word) for word in words])


def test_the_command_says_json_and_compares_and_reports(
    path: Path, tmp_path: Path, cli: Run
) -> None:
    saved, page = tmp_path / "saved.json", tmp_path / "page.html"
    result = cli(path, "--seed", 3, "--json", "--save", saved)
    assert result.exception is None, result.output
    row, last = map(json.loads, result.stdout.splitlines())
    assert (row["seed"], row["tier"], len(row["trace_hash"])) == (3, "core", 32)
    assert last["summary"]["passed"]
    assert [fault["touched"] > 0 for fault in row["faults"]] == [True, True]
    pytest.importorskip("matplotlib", reason="not here: the extra [sim]")
    result = cli(path, "--seed", 3, "--against", saved, "--report", page)
    assert result.exception is None, result.output
    assert "as in the baseline" in result.output
    text = page.read_text()
    assert text.count("<svg") == 5
    assert "src=" not in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_a_run_that_fails_says_how_to_see_it_again(path: Path, cli: Run) -> None:
    path.write_text(TEXT + "[expect]\nlag_s_p50 = { max = 0.1 }\n")
    result = cli(path, "--seed", 5)
    assert isinstance(result.exception, UserError)
    assert "lag_s_p50" in str(result.exception)
    assert result.exception.hint == f"Replay it: p2pstream simulate {path} --seed 5"


def test_replay_and_diff(path: Path, cli: Run) -> None:
    told = cli("replay", path, 1, "--to", 1.0).output.splitlines()
    assert "start" in told[0]
    assert told[-1].startswith("trace ")
    parted = cli("diff", path, 1, 2).output
    assert "are the same, then" in parted


def test_the_list(cli: Run) -> None:
    result = cli("--list", "--json")
    listed = json.loads(result.output)["scenarios"]
    assert len(listed) >= 16
    assert read(ROOT / "simulations/scenarios/steady.toml").purpose == next(
        one["purpose"] for one in listed if one["name"] == "steady"
    )
