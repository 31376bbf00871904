"""Grids, where their cells are computed, and the smallest scenario that still fails."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2pstream.cli import simulate
from p2pstream.errors import BadConfig, MissingHelper, UserError
from simulations import grid, runner
from simulations.cells import Cell, spread
from simulations.shrink import Shrinker, _fewer, toml
from tests.simulations.small import ORIGIN, values

TINY = {"warm_up_s": 1, "chaos_s": 1, "check_s": 2}
Run = Callable[..., Result]


def tiny(**keys: Any) -> dict[str, Any]:
    homes = {"name": "homes", "n": 1, "arrive": {"law": "cold"}}
    return values(**{"groups": [ORIGIN, homes], "phases": TINY, **keys})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(toml(tiny()))
    return path


@pytest.fixture
def cli() -> Run:
    return lambda *words: CliRunner().invoke(simulate.command, [str(word) for word in words])


def test_an_axis_is_a_key_and_its_values() -> None:
    assert grid.axis_of("groups.homes.n=1,2") == grid.Axis("groups.homes.n", [1, 2])
    assert grid.axis_of("groups.homes.nat=cone, symmetric").values == ["cone", "symmetric"]
    law = grid.axis_of('groups.homes.rtt_ms=40, {law = "distance"}').values
    assert law == [40, {"law": "distance"}]
    for bad in ("n", "=3", "n="):
        with pytest.raises(BadConfig, match="is no key with values"):
            grid.axis_of(bad)


def test_a_grid_is_every_combination_with_every_seed() -> None:
    kill = {"kind": "kill", "at_s": 0.5, "group": "homes"}
    raw = tiny(faults=[kill])
    axes = [grid.axis_of("groups.homes.n=1,3"), grid.axis_of("faults.0.share=0.1,0.2")]
    cells = grid.cells_of(raw, "x.toml", axes, [7, 8])
    told = [(c.values["groups"][1]["n"], c.values["faults"][0]["share"], c.seed) for c in cells]
    assert told == [(n, share, seed) for n in (1, 3) for share in (0.1, 0.2) for seed in (7, 8)]
    assert "share" not in raw["faults"][0], "the scenario itself stays as it is"
    assert len(grid.points_of(axes)) == 4


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("groups.hoems.n=1", "there is no groups.hoems", "homes?"),
        ("groups.homes.m=1", "unknown key groups[1].m", ""),
        ("groups.homes.n=1,-2", "n = -2: groups[1].n", ""),
        ("faults.3.share=1", "there is no faults.3", ""),
        ("groups=1", "groups = 1: expected a list", ""),
        ("purpose.x=1", "there is no table to hold", ""),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused_before_anything_runs(
    text: str, says: str, hint: str
) -> None:
    with pytest.raises(BadConfig) as caught:
        grid.cells_of(tiny(faults=[]), "x.toml", [grid.axis_of(text)], [1])
    assert says in str(caught.value)
    assert hint in caught.value.hint


def test_a_grid_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "CELLS_MAX", 3)
    with pytest.raises(BadConfig, match="4 cells"):
        grid.cells_of(tiny(), "x.toml", [grid.axis_of("groups.homes.n=1,2")], [1, 2])


def test_rows_come_in_the_order_of_the_cells() -> None:
    cells = [Cell({}, "x", seed) for seed in (3, 1, 2)]
    assert [row["seed"] for row in spread(lambda cell: {"seed": cell.seed}, cells)] == [3, 1, 2]


def test_the_command_sweeps(path: Path, tmp_path: Path, cli: Run) -> None:
    rows, picture = tmp_path / "rows.jsonl", tmp_path / "picture.svg"
    axis = "groups.homes.n=1,2"
    result = cli("sweep", path, "--set", axis, "--rows", rows, "--show", "lag_s_p50,offload")
    assert result.exception is None, result.output
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [line["cell"] for line in lines] == [{"groups.homes.n": 1}, {"groups.homes.n": 2}]
    assert [line["viewers"] for line in lines] == [1, 2]
    assert result.output.splitlines()[0].split() == ["groups.homes.n", "lag_s_p50", "offload",
                                                     "passed"]  # fmt: skip
    pytest.importorskip("matplotlib", reason="not here: the extra [sim]")
    from simulations.report.sweep import picture_of

    summary = grid.summary_of([line["cell"] for line in lines], lines)
    picture.write_text(picture_of(summary, ["lag_s_p50", "offload"]))
    assert picture.read_text().count('<g id="axes_') == 2


def test_a_sweep_wants_a_figure_that_there_is(path: Path, cli: Run) -> None:
    result = cli("sweep", path, "--set", "groups.homes.n=1", "--show", "lag_p50")
    assert isinstance(result.exception, BadConfig)
    assert result.exception.hint.startswith("Did you mean lag_s_p")


def test_an_engine_that_is_not_there(path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli(path, "--engine", "dask").exit_code == 2
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    result = cli(path, "--engine", "dask", "--scheduler", "tcp://127.0.0.1:1")
    assert isinstance(result.exception, MissingHelper)
    assert "[cluster]" in result.exception.hint


@pytest.mark.filterwarnings("ignore")
def test_dask_gives_the_same_rows() -> None:
    distributed = pytest.importorskip("distributed", reason="not here: the extra [cluster]")
    cells = grid.cells_of(tiny(), "x.toml", [grid.axis_of("groups.homes.n=1,2")], [1, 2])

    def rows(scheduler: str | None) -> list[dict[str, Any]]:
        found = runner.run_cells(cells, scheduler=scheduler, told=lambda *_: None)
        return [{k: v for k, v in r.items() if k not in runner.MEASURED_HERE} for r in found]

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        assert rows(cluster.scheduler_address) == rows(None)


def test_what_can_be_left_out_is_left_out() -> None:
    """The stream is late whatever happens: one viewer shows it."""
    guests = {"name": "guests", "n": 2, "arrive": {"law": "cold"}}
    homes = {"name": "homes", "n": 3, "arrive": {"law": "cold"}}
    hang = {"kind": "hang", "at_s": 0.5, "for_s": 0.2, "group": "guests"}
    expect = {"lag_s_p50": {"max": 0.01}, "by_class.homes.stall_ratio": {"max": 0.9}}
    raw = tiny(groups=[ORIGIN, homes, guests], faults=[hang], expect=expect)
    tried: list[tuple[int, int, str]] = []
    shrinker = Shrinker(raw, "x.toml", 1, lambda *told: tried.append(told))
    small = shrinker.shrink()
    assert [(g["name"], g.get("n", 1)) for g in small["groups"]] == [("origin", 1), ("guests", 1)]
    assert small["faults"] == []
    assert small["expect"] == {"lag_s_p50": {"max": 0.01}}
    assert shrinker.failure == "lag_s_p50"
    assert tried[0] == (6, 1, "lag_s_p50")
    assert shrinker.runs == len(tried) < 10


def test_nothing_to_shrink() -> None:
    with pytest.raises(UserError, match="nothing fails"):
        Shrinker(tiny(), "x.toml", 1, lambda *_: None).shrink()


def test_fewer_hosts_boldest_first() -> None:
    assert list(_fewer(9)) == [1, 5, 7, 8]
    assert list(_fewer(1)) == []


def test_a_scenario_is_written_as_it_was_read() -> None:
    raw = tiny(
        faults=[{"kind": "kill", "at_s": 1.5, "group": "homes", "keep_identity": False}],
        expect={"by_class.homes.stall_ratio": {"max": 0.5}},
        sometimes=["pull", 'a "quoted" one'],
    )
    raw["groups"][1] |= {"nat": {"none": 0.5, "cone": 0.5}, "down_kbps": float("inf")}
    assert tomllib.loads(toml(raw)) == raw


def test_the_command_shrinks(path: Path, tmp_path: Path, cli: Run) -> None:
    path.write_text(toml(tiny(expect={"lag_s_p50": {"max": 0.01}})))
    out = tmp_path / "small.toml"
    result = cli("shrink", path, 1, "--out", out)
    assert result.exception is None, result.output
    assert f"Replay it: p2pstream simulate {out} --seed 1" in result.output
    assert tomllib.loads(out.read_text())["groups"][1]["n"] == 1
