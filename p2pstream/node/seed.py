"""A seed: a node that is always there. Bootstrap and DHT for all, and a relay for streams that
somebody asks it for: it joins their swarms, caches what passes through, and leaves when nobody
has been there for a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import trio

from p2pstream import __version__
from p2pstream.identity import NodeId, StreamId
from p2pstream.node.node import Node
from p2pstream.node.report import Reporter
from p2pstream.swarm.defaults import SEED_STREAMS_MAX
from p2pstream.swarm.messages import Join, Role
from p2pstream.swarm.protocol import SEED_COPIES, Config, Swarm

LONELY_S = 60.0  # A stream without partners this long is left.
LOOK_S = 5.0


@dataclass(slots=True)
class Seed:
    """Relays up to `streams_max` streams on `node`, each at most `copies` times."""

    node: Node
    copies: float = SEED_COPIES
    streams_max: int = SEED_STREAMS_MAX
    reporters: dict[StreamId, Reporter] = field(default_factory=dict)
    started_at: float = 0.0
    _lonely_since: dict[StreamId, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled. The node must be running."""
        self.started_at = trio.current_time()
        self.node.unknown_stream = self._relay
        while True:
            await trio.sleep(LOOK_S)
            self._leave_lonely(trio.current_time())

    def leave(self) -> None:
        """Tell everybody that we go."""
        for stream in list(self.reporters):
            self.node.remove_swarm(stream, "going")
            del self.reporters[stream]

    def state(self) -> dict[str, Any]:
        """What `status` and `--json` show."""
        now = trio.current_time()
        host, port = self.node.address
        return {
            "version": __version__,
            "state": "seeding",
            "address": f"{host}:{port}",
            "started_s": round(now - self.started_at, 1),
            "links": len(self.node.carrier.links()),
            "records": len(self.node.dht),
            "bytes_out": self.node.carrier.counters.endpoint.bytes_out,
            "given": sum(r.swarm.counters.given for r in self.reporters.values()),
            "streams": [
                r.state(now=now, state="live", detail="relaying") for r in self.reporters.values()
            ],
        }

    def _relay(self, peer: NodeId, join: Join) -> bool:
        """Somebody wants a stream that we do not carry: carry it."""
        del peer
        if len(self.reporters) >= self.streams_max:
            return False
        stream = StreamId(join.stream)
        swarm = Swarm(
            stream, self.node.node_id, Role.SEED, roads=self.node.carrier, rng=self.node.rng,
            wall=self.node.wall, config=Config(copies=self.copies),
        )  # fmt: skip
        self.reporters[stream] = Reporter(self.node, swarm, trio.current_time())
        self.node.add_swarm(swarm, lambda _: None)
        return True

    def _leave_lonely(self, now: float) -> None:
        for stream, reporter in list(self.reporters.items()):
            swarm = reporter.swarm
            others = [p for p in swarm.partners.values() if p.role is not Role.SEED]
            # Whoever asked for a stream must also show, by its certificate, that it exists.
            if others and swarm.epoch is not None and not swarm.ended:
                self._lonely_since.pop(stream, None)
            elif now - self._lonely_since.setdefault(stream, now) > LONELY_S:
                self.node.remove_swarm(stream, "nobody here")
                del self.reporters[stream], self._lonely_since[stream]
