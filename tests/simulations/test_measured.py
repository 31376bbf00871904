"""Files of measurements: what we read, what we refuse, and what hosts make of them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from p2pstream.errors import BadConfig
from simulations import laws, measured
from simulations.fabric.links import Pipe
from simulations.reading import make, read
from simulations.scenario import Matrix, Sample, Trace
from simulations.simulation import Simulation
from tests.simulations.small import values

STEPS = [{"duration_ms": 2000, "bandwidth_kbps": 900}, {"duration_ms": 500, "bandwidth_kbps": 0}]


def packed(path: Path, **files: str) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return str(path)


def test_traces_of_three_kinds(tmp_path: Path) -> None:
    lines = "0.0\t1.5\n2.0\t3.0\n2.0\t4.0\n3.5\t9.9\n"
    path = packed(tmp_path / "all.tgz", tram=json.dumps(STEPS), wifi=lines)
    assert measured.traces(path) == {
        "tram": ((2.0, 900.0), (0.5, 0.0)),
        "wifi": ((2.0, 1500.0), (1.5, 4000.0)),
    }
    table = tmp_path / "profiles.json"
    table.write_text(json.dumps({"unit": "kbit/s", "fast": {"SPIKE": [[1200, 10], [300, 5]]}}))
    assert measured.traces(str(table)) == {"profiles.json:fast:SPIKE": ((10, 1200), (5, 300))}


def test_a_matrix_may_have_holes(tmp_path: Path) -> None:
    path = tmp_path / "rtt.gz"
    path.write_bytes(gzip.compress(b"0 10 0\n12 0 0\n30 nan 0\n"))
    assert measured.matrix(str(path)) == ((0, 10, 30), (12, 0, 12), (30, 12, 0))


def test_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "stays.csv"
    path.write_text("# seconds\n30\n10, home\n20\n")
    assert measured.sample(str(path)) == (10, 20, 30)
    law = Sample(file=str(path), scale=2)
    assert [laws.draw(law, share) for share in (0.0, 0.5, 0.99)] == [20, 40, 60]


BAD = [
    ({"up_kbps": {"law": "trace", "file": "no"}}, "x", "cannot read"),
    ({"up_kbps": {"law": "trace", "file": "f"}}, "1 2 3\n", "not `seconds Mbit/s`"),
    ({"up_kbps": {"law": "trace", "file": "f"}}, "0 fast\n1 2\n", "is no number"),
    ({"up_kbps": {"law": "trace", "file": "f"}}, "5 1\n4 1\n", "a step below"),
    ({"up_kbps": {"law": "trace", "file": "f", "like": "bus"}}, "0 1\n1 1\n", "like 'bus'"),
    ({"down_kbps": {"law": "trace", "file": "f"}}, "[1, 2]", "holds no trace"),
    ({"down_kbps": {"law": "trace", "file": "f"}}, "[[1, ", "is not JSON"),
    ({"down_kbps": {"law": "trace", "file": "f"}}, '[["a", 2]]', "no trace of"),
    ({"rtt_ms": {"law": "matrix", "file": "f"}}, "1 2\n3\n", "no square matrix"),
    ({"rtt_ms": {"law": "matrix", "file": "f"}}, "0 0\n0 0\n", "no round trip"),
    ({"session_s": {"law": "sample", "file": "f"}}, "-1\n", "no list of positive"),
    ({"up_kbps": {"law": "trace", "file": "f"}}, "\x1f\x8bnot packed", "cannot read"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "text", "says"), BAD, ids=lambda case: str(case)[:30])
def test_a_bad_file_is_refused_with_its_key(
    tmp_path: Path, keys: dict[str, Any], text: str, says: str
) -> None:
    (tmp_path / "f").write_bytes(text.encode("latin-1"))
    law = next(iter(keys.values()))
    law = law | {"file": str(tmp_path / law["file"])}
    group = {"name": "homes", "n": 2, next(iter(keys)): law}
    with pytest.raises(BadConfig, match=says) as caught:
        make(values(group), "x.toml")
    assert f"groups[2].{next(iter(keys))}.file: " in str(caught.value)


def test_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "BYTES_MAX", 100)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(101)))
    with pytest.raises(BadConfig, match="longer than 100 bytes"):
        measured.matrix(str(path))
    with pytest.raises(BadConfig, match="longer than 100 bytes"):
        measured.traces(packed(tmp_path / "two.tgz", a=" " * 60, b=" " * 60))


TEXT = """
purpose = "hosts that live by measurements"
[[groups]]
name = "origin"
role = "origin"
[[groups]]
name = "homes"
n = 6
up_kbps = { law = "trace", file = "data/lte.json", scale = 2 }
rtt_ms = { law = "matrix", file = "data/rtt", unit = "s" }
session_s = { law = "sample", file = "data/stays" }
"""


def test_hosts_live_by_measurements_beside_their_scenario(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/lte.json").write_text(json.dumps(STEPS))
    (tmp_path / "data/rtt").write_text("0 0.1\n0.3 0\n")
    (tmp_path / "data/stays").write_text("5\n")
    path = tmp_path / "x.toml"
    path.write_text(TEXT)
    scenario = read(path)
    assert isinstance(scenario.groups[1].rtt_ms, Matrix)
    sim = Simulation(scenario, 1, checkers=[])
    homes = sim.peers[1:]
    delays = {round(a.delay_to(b), 4) for a in homes for b in homes if a is not b}
    assert delays == {0.1, 0.0005}, "0.2 s between the sites, and 1 ms within"
    rates: set[float] = set()
    for nth in range(12):
        sim.world.run_until(nth / 4)
        rates |= {peer.carrier.up.bps for peer in homes}
    assert rates == {1_800_000, 8000}, "twice 900 kbit/s, and the trickle that stands for 0"
    assert sim.population.up_kbps(homes[0]) == 1440


def test_a_fault_and_a_trace_at_once() -> None:
    sim = Simulation(make(values(), "x.toml"), 1, checkers=[])
    peer, rates = sim.peers[-1], sim.population.rates
    up, down = peer.carrier.up, peer.carrier.down
    told: list[tuple[float, float]] = []

    def look(pipe: Pipe) -> None:
        told.append((sim.world.now, pipe.bps))

    rates.follow(peer, "up", ((1.0, 100.0), (1.0, 200.0)), 0.5, 1.5)
    rates.scale(peer, 0.5)
    sim.world.at(1.2, rates.scale, peer, 2.0)
    for when in (0.1, 1.1, 1.3, 1.6):
        sim.world.at(when, look, up)
    sim.world.run_until(2.0)
    assert told == [(0.1, 1e5), (1.1, 5e4), (1.3, 1e5), (1.6, 1e7)]
    assert down.bps == 50e6


def test_each_host_has_a_trace_of_its_own(tmp_path: Path) -> None:
    path = packed(tmp_path / "n.tgz", **{f"t{n}": f"0 {n}\n9 0\n" for n in range(1, 9)})
    law = Trace(file=path)
    assert {laws.draw(law, share / 8) for share in range(8)} == {1000.0 * n for n in range(1, 9)}
