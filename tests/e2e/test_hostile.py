"""Liars among real viewers. No wrong byte gets anywhere, and who is caught is out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2pstream.access import Seed
from p2pstream.identity import NodeId
from tests.e2e.recording import check
from tests.e2e.stage import (
    Actor,
    Stage,
    now,
    seconds,
    stage,
    ticket_of,
    ticket_via,
    wait_until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SIEGE_S = seconds("SIEGE", 5)
# What the liar hears as the link goes down. `banned`: a proof of guilt.
FATES = {
    "flips": {"peer_banned"},
    "forges": {"peer_banned"},
    "replays": {"peer_bye", "peer_banned"},
    "floods": {"peer_flood", "peer_banned"},  # The second for the garbage in its flood.
}
GOP_CHUNKS = 5
LAG_S_MAX = 3.0  # Measured without liars: 0.8 s.
BLAMELESS = ("claims", "boasts")  # Nothing proves their guilt: they are just of no use.


@dataclass(frozen=True)
class Siege:
    """veteran: a viewer that was there before. victim: one that only knew liars."""

    stage: Stage
    origin: Actor
    witness: Actor
    liars: Actor
    veteran: Actor
    victim: Actor

    def tape(self, viewer: Actor) -> Path:
        return self.stage.folder / f"{viewer.name}.mp4"


def besiege(made: Stage, *kinds: str) -> Siege:
    origin = made.broadcast("testsrc", "--ladder", "360p:500k", "--name", "show")
    ticket = ticket_of(origin)
    witness = made.start("witness", ticket, module="tests.e2e.witness")
    # Viewers begin at a key frame of the past: the witness must have seen that one, too.
    wait_until(lambda: len(witness.said("head")) > GOP_CHUNKS, "a second of heads")
    veteran = made.watch("veteran", ticket, "-o", str(made.folder / "veteran.mp4"))
    veteran.wait_for("playing")
    root = origin.home / "state" / "p2pstream" / "streams" / "show.pem"
    liars = made.start("liars", ticket, str(root), *kinds, module="tests.e2e.hostile")
    ways = []
    for kind in kinds:
        said = liars.wait_for("running", _is(kind))
        ways.append(Seed(NodeId(bytes.fromhex(said["node"])), ("127.0.0.1", said["port"])))
    victim = made.watch("victim", ticket_via(ticket, *ways), "-o", str(made.folder / "victim.mp4"))
    victim.wait_for("playing")
    return Siege(made, origin, witness, liars, veteran, victim)


@pytest.fixture(scope="module")
def siege() -> Iterator[Siege]:
    with stage() as made:
        held = besiege(made, *FATES, *BLAMELESS)
        since = now()
        for viewer in (held.veteran, held.victim):
            viewer.wait_for("stats", lambda _: now() > since + SIEGE_S, since=since)
        yield held


@pytest.mark.parametrize("kind", FATES)
def test_a_liar_is_cut_off(siege: Siege, kind: str) -> None:
    node = siege.liars.wait_for("running", _is(kind))["node"]
    viewers = {v.last("running")["node"]: v for v in (siege.veteran, siege.victim)}
    downs = [line.said for line in siege.liars.said("down") if line.said["kind"] == kind]
    caught = [down for down in downs if down["lies"] and down["peer"] in viewers]
    assert caught, [line.said for line in siege.liars.said("lied")]
    for down in caught:
        assert down["reason"] in FATES[kind], caught
        if down["reason"] == "peer_banned":
            partners = viewers[down["peer"]].last()["partners"]
            assert node[:8] not in {p["id"] for p in partners}, "it was let in again"


@pytest.mark.parametrize("kind", BLAMELESS)
def test_those_who_keep_quiet_are_of_no_use_and_do_no_harm(siege: Siege, kind: str) -> None:
    said = siege.liars.wait_for("running", _is(kind))
    siege.liars.wait_for("lied", _is(kind))
    for viewer in (siege.veteran, siege.victim):
        for partner in viewer.last()["partners"]:
            if partner["id"] == said["node"][:8]:
                assert partner["down_kbps"] == 0


def test_the_honest_play_on(siege: Siege) -> None:
    for viewer in (siege.veteran, siege.victim):
        before = viewer.last()
        after = viewer.next_stats(3)
        played = after["playout"]["played"] - before["playout"]["played"]
        assert played >= 8, viewer.words()
        assert after["playout"]["stall_s"] - before["playout"]["stall_s"] <= 1
        assert after["playout"]["lag_s"] < LAG_S_MAX
        assert after["state"] == "live"
        assert not after["stream"]["forked"]


def test_no_wrong_byte_was_recorded(siege: Siege) -> None:
    refused = 0
    for viewer in (siege.veteran, siege.victim):
        assert viewer.stop() == 130
        found = check(siege.tape(viewer).read_bytes(), siege.witness)
        summary = viewer.last("summary")
        # Less by what came before the first key frame, if a liar told where one is.
        assert 0 <= summary["playout"]["played"] - len(found.seqs) < 10
        refused += summary["totals"]["pieces_refused"]
        # One refused piece for each time that a liar was let in, and then it was out.
        assert summary["totals"]["pieces_refused"] <= 3
        assert viewer.noise == []
    assert refused, "nobody even tried"


def _is(kind: str) -> Callable[[dict[str, Any]], bool]:
    return lambda line: bool(line["kind"] == kind)
