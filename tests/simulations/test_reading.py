"""Files that make no sense: one message that a person can act on, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from p2pstream.cli import simulate
from p2pstream.errors import BadConfig
from simulations import baseline, beside, determinism, reading
from simulations.reading import make
from simulations.scenario import Lognormal
from tests.simulations.small import ORIGIN, values

HOME: dict[str, Any] = {"name": "homes", "n": 3}


def refused(**keys: Any) -> tuple[str, str]:
    with pytest.raises(BadConfig) as caught:
        make(values(**keys), "x.toml")
    return str(caught.value), caught.value.hint


def group(**keys: Any) -> dict[str, Any]:
    return {"groups": [ORIGIN, HOME | keys]}


CASES = [
    ({"fases": {}}, "unknown key fases", "Did you mean phases?"),
    (group(up_kbs=3), "unknown key groups[1].up_kbs", "Did you mean up_kbps?"),
    (group(up_kbps=-1), "groups[1].up_kbps = -1: expected a number > 0.0", "1000 is 1 Mbit/s."),
    (group(loss=2.0), "groups[1].loss = 2.0: expected a number", "SIMULATION.md"),
    (group(nat=3), "groups[1].nat = 3: expected text or a table, got a whole number", ""),
    (group(nat_timeout_s="x"), 'nat_timeout_s = "x": expected a number, got text', "In seconds."),
    ({"expect": {"lag_s_p95": {"max": "x"}}}, ".max: expected a number or nothing", ""),
    (
        group(rtt_ms={"law": "logdormal"}),
        "unknown law 'logdormal' at groups[1].rtt_ms",
        "lognormal?",
    ),
    (group(rtt_ms={"law": "lognormal", "median": 9, "sigmo": 1}), "rtt_ms.sigmo", "sigma?"),
    (group(up_kbps={"law": "uniform", "low": 9, "high": 3}), "low is not below high", "Swap"),
    (group(nat="conne"), "no NAT is 'conne'", "Did you mean cone?"),
    (group(nat={"none": 0.5}), "the shares add up to 0.5", "1"),
    (group(role="origin"), "4 hosts have the role origin", "Exactly one"),
    (group(behaviour="free"), "unknown behaviour 'free' at groups[1]", "Did you mean free_rider?"),
    (
        group(behaviour="evil"),
        "unknown behaviour 'evil' at groups[1]",
        "Known are: eclipse, free_r",
    ),
    (
        {"faults": [{"kind": "hang", "at_s": 1, "for_s": 1, "group": "hoems"}]},
        "faults[0].group: there is no group 'hoems'",
        "homes?",
    ),
    (
        {"faults": [{"kind": "kil", "at_s": 1}]},
        "unknown kind 'kil' at faults[0]",
        "Did you mean kill?",
    ),
    ({"faults": [{"kind": "dht_outage", "at_s": 99, "for_s": 1}]}, "after the chaos", "chaos_s"),
    (
        {"faults": [{"kind": "dht_outage", "at_s": 1, "for_s": 60}]},
        "faults[0].for_s: it is not over when the run is",
        "heal_s",
    ),
    ({"expect": {"lag_p95": {"max": 1}}}, "expect.lag_p95: no such figure", "lag_s_p95?"),
    ({"expect": {"lag_s_p95": {}}}, "neither min nor max", ""),
    ({"sometimes": ["puls"]}, "no such event", "Did you mean pull?"),
    ({"stream": {"chunk_ms": 5}}, "stream.chunk_ms", ""),
]


@pytest.mark.parametrize(("keys", "says", "hint"), CASES, ids=lambda case: str(case)[:40])
def test_nonsense_is_refused(keys: dict[str, Any], says: str, hint: str) -> None:
    message, told = refused(**keys)
    assert message.startswith("x.toml: ")
    assert says in message
    assert hint in told


def test_what_comes_along_can_be_read_and_says_its_purpose() -> None:
    names = reading.names()
    assert len(names) >= 16
    for name in names:
        path = reading.find(name)
        assert reading.read(path).expect, name
        assert path.read_text().startswith("# "), "the purpose comes first"


def test_laws_stand_in_place_of_numbers() -> None:
    made = make(values(**group(up_kbps={"law": "lognormal", "median": 9, "sigma": 1})), "x.toml")
    assert made.groups[1].up_kbps == Lognormal(median=9, sigma=1)


@pytest.mark.parametrize(
    ("text", "says"), [("a = ", "is not TOML"), ("\xff", "unknown key"), ("x" * 70_000, "longer")]
)
def test_a_file_that_is_none(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text if says != "unknown key" else 'purpos = "x"')
    with pytest.raises(BadConfig, match=says):
        reading.read(path)


def test_a_name_that_is_none_and_the_exit_code() -> None:
    result = CliRunner().invoke(simulate.command, ["stedy"])
    assert isinstance(result.exception, BadConfig)
    assert result.exception.exit_code == 6
    assert result.exception.hint == "Did you mean steady?"


@pytest.mark.parametrize("main", [baseline.main, beside.main, determinism.main])
def test_a_name_that_there_is_not_is_said_before_anything_runs(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main("stedy")
    assert "there is no scenario 'stedy'. Did you mean steady?" in capsys.readouterr().err
