"""Two links in memory that call each other, for what is done to one of them."""

from __future__ import annotations

from p2pstream.identity import NodeId, NodeKey
from p2pstream.net import tls
from p2pstream.net.engine import Engine
from p2pstream.net.link import Link
from tests.wire.every import CODEC

CALLER, ANSWERER = ("10.0.0.1", 1), ("10.0.0.2", 2)
CALLING = tls.configuration(NodeKey(b"c" * 32), dialling=True)
ANSWERING = tls.configuration(NodeKey(b"s" * 32), dialling=False)


class Pair:
    """Caller and answerer, in this order. sent: datagrams that each has sent."""

    def __init__(self, calling: type[Engine], answering: type[Engine]) -> None:
        self.now = 0.0
        self.sent = [0, 0]
        caller = calling(configuration=CALLING)
        cid = caller.original_destination_connection_id
        answerer = answering(configuration=ANSWERING, original_destination_connection_id=cid)
        self.engines = caller, answerer
        self.links = _link(caller, ANSWERER, dialled=True), _link(answerer, CALLER, dialled=False)
        caller.connect(ANSWERER, now=0.0)

    def talk(self, turns: int) -> None:
        """What one has to say, then what the other one has, so many times, 10 ms each."""
        for _ in range(turns):
            for end, source in enumerate((CALLER, ANSWERER)):
                for data, size, _ in self.links[end].flush(now=self.now):
                    self.sent[end] += -(-len(data) // size)
                    self.links[1 - end].receive(data, source, size=size, now=self.now)
            self.now += 0.01


def _link(engine: Engine, address: tuple[str, int], *, dialled: bool) -> Link:
    return Link(engine, CODEC, address=address, dialled=dialled, vet=_welcome, now=0.0)


def _welcome(link: Link, peer: NodeId) -> None:
    """Everybody."""
