"""What the lines of the hosts carry as time goes on: the scenario's rates, traces, and faults."""

from __future__ import annotations

from simulations.fabric.host import Peer
from simulations.fabric.links import Pipe
from simulations.fabric.world import World
from simulations.measured import Trace
from simulations.scenario import Way

BPS_MIN = 8000.0  # Where a trace says 0, 1 kB/s trickles through: time must go on. Wild guess.


class Rates:
    """Sets the pipes. A fault's factor holds whatever a trace says, and the other way round."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._set: dict[tuple[int, str], float] = {}  # Bits a second, before the factor.
        self._factor: dict[int, float] = {}
        self._turn: dict[tuple[int, str], int] = {}  # Which trace counts: the last one.

    def scale(self, peer: Peer, factor: float) -> None:
        """Both directions carry `factor` times what they would."""
        self._factor[peer.number] = self._factor.get(peer.number, 1.0) * factor
        for way, pipe in _pipes(peer, "both"):
            self._apply(peer, way, pipe)

    def follow(
        self, peer: Peer, way: Way, trace: Trace, share: float, for_s: float | None = None
    ) -> None:
        """From now on as `trace` says, beginning at `share` of it; as before after `for_s`."""
        at_s = share * sum(seconds for seconds, _ in trace)
        nth = 0
        while at_s >= trace[nth][0] and nth < len(trace) - 1:
            at_s -= trace[nth][0]
            nth += 1
        left_s = max(0.0, trace[nth][0] - at_s)
        for name, pipe in _pipes(peer, way):
            key = peer.number, name
            turn = self._turn[key] = self._turn.get(key, 0) + 1
            before = self._set.get(key, pipe.bps)
            self._step(peer, name, pipe, trace, nth, left_s, turn)
            if for_s is not None:
                self.world.at(self.world.now + for_s, self._end, peer, name, pipe, before, turn)

    def _step(
        self, peer: Peer, name: str, pipe: Pipe, trace: Trace, nth: int, left_s: float, turn: int
    ) -> None:
        if self._turn[peer.number, name] != turn:
            return
        self._set[peer.number, name] = max(BPS_MIN, 1000 * trace[nth][1])
        self._apply(peer, name, pipe)
        after = (nth + 1) % len(trace)
        self.world.at(
            self.world.now + left_s, self._step, peer, name, pipe, trace, after, trace[after][0],
            turn,
        )  # fmt: skip

    def _end(self, peer: Peer, name: str, pipe: Pipe, before: float, turn: int) -> None:
        if self._turn[peer.number, name] == turn:
            self._turn[peer.number, name] += 1
            self._set[peer.number, name] = before
            self._apply(peer, name, pipe)

    def _apply(self, peer: Peer, name: str, pipe: Pipe) -> None:
        bps = self._set.setdefault((peer.number, name), pipe.bps)
        pipe.change(bps * self._factor.get(peer.number, 1.0), now=self.world.now)


def _pipes(peer: Peer, way: Way) -> list[tuple[str, Pipe]]:
    both = [("up", peer.carrier.up), ("down", peer.carrier.down)]
    return [(name, pipe) for name, pipe in both if way in {name, "both"}]
