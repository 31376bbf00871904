"""Two or more hosts whose cores only listen: what the fabric does can be measured."""

from __future__ import annotations

from typing import Any

from p2pstream.core import Dial
from p2pstream.identity import NodeKey, StreamId
from p2pstream.swarm.messages import Piece, Role
from simulations.fabric.carrier import Network
from simulations.fabric.clock import Clock
from simulations.fabric.dice import die, secret
from simulations.fabric.host import Access
from simulations.fabric.light import Light
from simulations.fabric.links import Pipe, Rain
from simulations.fabric.nat import PORT, Kind, Nat
from simulations.fabric.world import World

STREAM = StreamId(bytes(32))


class Ear(Light):
    """A host without a node: it notes what arrives and when."""

    def hear(self, sender: Any, message: Any) -> None:  # noqa: ARG002
        self.heard.append((self.world.now, message))

    def on_link(self, sender: Any, happening: Any) -> None:
        self.hear(sender, happening)

    heard: list[tuple[float, Any]]


class Bench:
    """A network with hosts at equal distances."""

    def __init__(self, *, rtt_s: float = 0.04, seed: int = 1) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.rtt_s = rtt_s
        self.ears: list[Ear] = []

    def ear(
        self, *, up_bps: float = 1e9, down_bps: float = 1e9, kind: Kind = Kind.NONE, loss: float = 0
    ) -> Ear:
        number = len(self.ears)
        key = NodeKey(secret(1, "ear", number))
        ear = Ear(self.world, number, f"ear/{number}", "ears", key, Role.VIEWER, STREAM, Clock())
        ear.heard, ear.alive = [], True
        ear.delay_to = lambda _: self.rtt_s / 2
        nat = Nat(kind, f"20.0.0.{number + 1}")
        ear.connect(
            self.network,
            Access(nat, Pipe(up_bps), Pipe(down_bps), Rain(loss), 0.0, 0.0, die(1, number)),
        )
        self.network.by_ip[nat.ip] = ear
        self.ears.append(ear)
        return ear

    def dial(self, a: Ear, b: Ear) -> None:
        a.carrier.perform(Dial(b.node, ((b.carrier.nat.ip, PORT),)))

    def link(self, a: Ear, b: Ear) -> None:
        self.dial(a, b)
        self.world.run_until(self.world.now + 1.0)
        assert b.node in a.carrier.links
        a.heard.clear()
        b.heard.clear()


def piece(index: int = 0) -> Piece:
    return Piece(bytes(32), 1, 0, index, 0, b"", b"")
