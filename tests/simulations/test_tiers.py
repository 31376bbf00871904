"""The other tiers: whole nodes do as cores alone do, and the model keeps its own rules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from p2pstream.cli import simulate
from p2pstream.errors import BadConfig, MissingHelper
from p2pstream.net import engine
from p2pstream.swarm.messages import SUBSTREAMS
from simulations import runner, tiers
from simulations.metrics import CLASS_NAMES, NAMES
from simulations.scenario import Scenario
from simulations.simulation import Outcome
from tests.simulations.small import scenario

SHORT = {"phases": {"warm_up_s": 2, "chaos_s": 1, "check_s": 2}}


def few(**keys: Any) -> Scenario:
    return scenario({"name": "homes", "n": 2, **keys}, **SHORT)


def run(tier: str, seed: int = 1, **keys: Any) -> Outcome:
    return runner.run_one(few(**keys), seed, tier=tier)


@pytest.fixture(scope="module")
def whole() -> Iterator[Outcome]:
    with pytest.MonkeyPatch.context() as patch:  # So that short runs leave numbers out, too.
        patch.setattr(engine, "LEFT_OUT_MIN", 16)
        patch.setattr(engine, "LEFT_OUT_SPAN", 16)
        yield run("quic")


def test_whole_nodes_play_as_cores_alone_do(whole: Outcome) -> None:
    core = run("core")
    assert [v for v in whole.verdicts if not v.passed] == []
    assert whole.figures["viewers_playing"] == 2
    assert whole.figures["lag_s_p50"] == pytest.approx(core.figures["lag_s_p50"], rel=0.05)
    row = runner.row_of(whole)
    assert (row["tier"], row.keys()) == ("quic", runner.row_of(core).keys())


def test_whole_nodes_repeat_themselves(whole: Outcome) -> None:
    assert run("quic").trace_hash == whole.trace_hash


def test_loss_and_nats_are_real_for_whole_nodes() -> None:
    """A datagram that is lost is sent again by QUIC; who is behind a NAT dials out, and plays."""
    outcome = run("quic", 2, nat="cone", loss=0.02)
    assert outcome.coverage["packet_repaired"] > 0
    assert outcome.figures["viewers_playing"] == 2
    assert next(v for v in outcome.verdicts if v.name.startswith("no byte")).passed


def test_whole_nodes_meet_what_cores_do() -> None:
    """Providers' NATs, liars, jams and lines that fail."""
    crooks = {"name": "crooks", "n": 1, "behaviour": "slow_loris"}
    hit = {"at_s": 0, "for_s": 0.4, "group": "homes"}
    faults = [
        {"kind": "partition", "jammed": True, **hit},
        {"kind": "link_flap", "every_s": 0.4, "down_s": 0.1, **hit},
    ]
    homes = {"name": "homes", "n": 2, "nat": "cgnat"}
    outcome = runner.run_one(scenario(homes, crooks, **SHORT, faults=faults), 1, tier="quic")
    assert outcome.figures["viewers_playing"] == 2
    assert all(fault.touched for fault in outcome.faults)
    assert outcome.coverage["path_probed"] > 0
    assert [v for v in outcome.verdicts if not v.passed] == []


def test_a_sweep_and_its_figures_are_of_a_tier() -> None:
    pytest.importorskip("numpy", reason="not here: the extra [sim]")
    sweep = ("sweep", "small_swarm", "--tier", "model")
    result = CliRunner().invoke(simulate.command, [*sweep, "--set", "stream.gop_chunks=5,9"])
    assert result.exception is None, result.output
    for words, says in (
        (("--set", "groups.homes.nat=none,cone"), "groups[2].nat: not in the tier model"),
        (("--set", "stream.gop_chunks=5", "--show", "lookup_s_p50"), "does not count lookup_s_p50"),
    ):
        refused = CliRunner().invoke(simulate.command, [*sweep, *words])
        assert isinstance(refused.exception, BadConfig)
        assert says in str(refused.exception)


HANG = [{"kind": "hang", "at_s": 0, "for_s": 1, "group": "homes"}]


@pytest.mark.parametrize(
    ("tier", "keys", "says"),
    [
        ("quic", {"n": 300}, "302 hosts are too many"),
        ("quic", {"clock_drift_ppm": 50}, r"groups\[2\].clock_drift_ppm"),
        ("model", {"nat": "cone"}, r"groups\[2\].nat"),
        ("model", {"behaviour": "polluter"}, "no liars"),
        ("model", {"behaviour": "slow_loris"}, "no liars"),
        ("model", {"arrive": {"law": "zap", "over_s": 1}}, r"groups\[2\].arrive"),
    ],
)
def test_what_a_tier_cannot_do_is_refused(tier: str, keys: dict[str, Any], says: str) -> None:
    pytest.importorskip("numpy", reason="not here: the extra [sim]")
    with pytest.raises(BadConfig, match=says):
        tiers.check(tier, few(**keys))


@pytest.mark.parametrize("tier", ["quic", "model"])
def test_a_fault_that_a_tier_cannot_do_is_refused(tier: str) -> None:
    pytest.importorskip("numpy", reason="not here: the extra [sim]")
    with pytest.raises(BadConfig, match=r"faults\[0\]"):
        tiers.check(tier, scenario(faults=HANG))


def test_the_model_says_when_numpy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("simulations.model")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingHelper, match="numpy") as caught:
        tiers.check("model", few())
    assert "[sim]" in caught.value.hint


CROWD: dict[str, Any] = {
    "n": 400,
    "arrive": {"law": "flash", "over_s": 2},
    "rtt_ms": {"law": "distance"},
    "up_kbps": {"law": "lognormal", "median": 9000, "sigma": 0.5},
    "session_s": {"law": "weibull", "shape": 0.5, "scale": 30},
    "loss": 0.01,
}
KILL = [{"kind": "kill", "at_s": 0, "group": "homes", "share": 0.2}]


def test_the_model_gives_the_same_keys_and_repeats_itself() -> None:
    pytest.importorskip("numpy", reason="not here: the extra [sim]")
    one, again, other = run("model", **CROWD), run("model", **CROWD), run("model", 2, **CROWD)
    assert one.trace_hash == again.trace_hash != other.trace_hash
    assert list(one.figures) == list(NAMES)
    uncounted = {name for name, figure in one.figures.items() if figure is None}
    assert uncounted == set(tiers.UNCOUNTED["model"])
    assert list(one.by_class["homes"]) == list(CLASS_NAMES)
    assert one.figures["offload"] <= one.figures["offload_limit"]
    assert one.figures["lag_s_p50"] >= one.figures["lag_bound_s"]
    summary = runner.summary_of(few(), [runner.row_of(outcome) for outcome in (one, other)])
    assert summary["figures"]["lag_s_p50"]["mean"] > 0
    assert "lookup_s_p95" not in summary["figures"], "it knows no look-ups"


def test_the_model_keeps_its_mesh_in_order() -> None:
    """Depth grows along edges; nobody feeds more than it has room for; the dead feed nobody."""
    np = pytest.importorskip("numpy", reason="not here: the extra [sim]")
    from simulations.model.run import Model

    sized = scenario({"name": "homes"} | CROWD, faults=KILL, **SHORT)
    model = Model(sized, 1)
    assert model.run().faults[0].touched > 0
    mesh, used = model.mesh, np.zeros(len(model.homes), int)
    for s in range(SUBSTREAMS):
        fed = np.flatnonzero((mesh.parent[s] >= 0) & mesh.there)
        parents = mesh.parent[s, fed]
        assert (mesh.depth[s, fed] == mesh.depth[s, parents] + 1).all()
        assert mesh.there[parents].all()
        used += np.bincount(parents[~mesh.pulled[s, fed]], minlength=len(used))
    assert (used <= model.homes.slots).all()
    assert (used[mesh.there] + mesh.free[mesh.there] == model.homes.slots[mesh.there]).all()
