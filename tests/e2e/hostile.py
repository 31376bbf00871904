"""Liars: nodes on our own stack that break one rule each, and say what became of them.

    python -m tests.e2e.hostile TICKET ROOT_KEY KIND...

Each of them joins the stream like anybody, learns who is there, and lies to everybody but the
broadcaster, who feeds them. ROOT_KEY: the broadcaster's key file, with which one of them makes
what the broadcaster could have signed yesterday.

JSON lines: `running` (kind, node, port), `lied` (kind, peer, count: the first lie to a peer) and
`down` (kind, peer, reason, lies: how many it had told that peer).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from time import time  # noqa: TID251  # Hands read the clock.
from typing import Any

import msgspec
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pstream.access import Ticket, parse_ticket
from p2pstream.core import Dial, Hangup, Happening, LinkDown, Parcel, Push, Send
from p2pstream.identity import NodeId, NodeKey, StreamKey, secret_bytes
from p2pstream.net.doorman import Bucket
from p2pstream.node.node import Node
from p2pstream.stream import head as heads
from p2pstream.stream.chunk import pieces_of
from p2pstream.stream.epoch import Epoch, certify
from p2pstream.stream.head import Head, Part
from p2pstream.stream.merkle import Tree
from p2pstream.swarm import messages as m
from p2pstream.swarm.messages import SUBSTREAMS, Role, pack_mask
from p2pstream.swarm.protocol import Config, Swarm
from tests.e2e.witness import say

DAY_S = 24 * 3600
TURN_S = 0.1
FLOOD = 200  # Messages a turn: ten times what a link may carry.


class Liar(Node):
    """An honest node but for what `twist` and `attack` do."""

    kind = ""

    def __init__(self, ticket: Ticket, root: StreamKey) -> None:
        super().__init__(NodeKey(secret_bytes()), host="127.0.0.1", allow_private=True)
        self.ticket, self.root = ticket, root
        self.mesh = Swarm(
            ticket.stream, self.node_id, Role.VIEWER, roads=self.carrier, rng=self.rng,
            wall=self.wall, config=Config(copies=16),
        )  # fmt: skip
        self.lies: Counter[NodeId] = Counter()
        self.own = StreamKey(secret_bytes())

    async def lie(self) -> None:
        """Until killed."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.run)
            say("running", kind=self.kind, node=self.node_id.hex(), port=self.address[1])
            seeds = [(seed.node, seed.address) for seed in self.ticket.seeds]
            self.bootstrap(seeds)
            driver = self.add_swarm(self.mesh, lambda _: None)
            for peer, address in seeds:
                self.mesh.learn(peer, [address], now=trio.current_time())
            driver.poke()
            while True:
                await trio.sleep(TURN_S)
                for peer, partner in list(self.mesh.partners.items()):
                    if partner.role is not Role.ORIGIN:
                        self.attack(peer)

    # For the liars to fill in.

    def twist(self, peer: NodeId, message: Any) -> Any:
        """What to send instead; None for nothing."""
        del peer
        return message

    def attack(self, peer: NodeId) -> None:
        """Ten times a second, for each partner."""

    # Tools of the trade.

    def tell(self, peer: NodeId, message: Any) -> None:
        """Say it without asking anybody's opinion."""
        self.carrier.perform(Send(peer, message))

    def count(self, peer: NodeId) -> None:
        self.lies[peer] += 1
        if self.lies[peer] == 1:
            say("lied", kind=self.kind, peer=peer.hex())

    @property
    def newest(self) -> Head | None:
        return self.mesh.window.head(self.mesh.window.newest)

    def piece(self, head: Head, data: bytes, *, raw: bytes) -> Parcel:
        """The first piece of a chunk that nobody made."""
        proof = Tree(pieces_of(data)).proof(0)
        part = head.parts[0]
        header = m.Piece(self.mesh.stream, head.seq, part.rendition, 0, 0, raw, proof)
        return Parcel(header, pieces_of(data)[0])

    def _perform(self, effect: Send | Push | Dial | Hangup) -> None:
        if isinstance(effect, Push):
            for send in effect.sends():
                self._perform(send)
            return
        if isinstance(effect, Send) and self._is_victim(effect.peer):
            message = self.twist(effect.peer, effect.message)
            if message is None:
                return
            effect = Send(effect.peer, message, effect.expires_at)
        super()._perform(effect)

    def _deliver(self, peer: NodeId, happening: Happening) -> None:
        if isinstance(happening, LinkDown):
            lies = self.lies.pop(peer, 0)
            say("down", kind=self.kind, peer=peer.hex(), reason=happening.reason, lies=lies)
        super()._deliver(peer, happening)

    def _is_victim(self, peer: NodeId) -> bool:
        partner = self.mesh.partners.get(peer)
        return partner is not None and partner.role is not Role.ORIGIN


class Flips(Liar):
    """Flips one bit of each piece that it relays, and makes itself wanted as a parent."""

    kind = "flips"

    def twist(self, peer: NodeId, message: Any) -> Any:
        if isinstance(message, m.Map):
            nobody = (b"",) * SUBSTREAMS
            return msgspec.structs.replace(
                message, hops=bytes(SUBSTREAMS), parents=nobody, slots=b"\xff" * SUBSTREAMS
            )
        if not isinstance(message, Parcel):
            return message
        self.count(peer)
        middle = len(message.body) // 2
        flipped = bytes([message.body[middle] ^ 4])
        return Parcel(message.header, message.body[:middle] + flipped + message.body[middle + 1 :])

    def attack(self, peer: NodeId) -> None:
        head = self.newest
        if head is None or not head.parts:
            return
        for index in range(head.parts[0].pieces):
            if piece := self.mesh.window.piece(head.seq, head.parts[0].rendition, index):
                header = m.Piece(
                    self.mesh.stream, head.seq, head.parts[0].rendition, index, 0, head.raw,
                    piece.proof,
                )  # fmt: skip
                self.tell(peer, self.twist(peer, Parcel(header, piece.data)))


class Forges(Liar):
    """Makes up the next chunk, whole and consistent, under a head with its own signature."""

    kind = "forges"

    def attack(self, peer: NodeId) -> None:
        head, epoch = self.newest, self.mesh.epoch
        if head is not None and head.parts and epoch is not None:
            data = secret_bytes(5000)
            forged = self.sign(self.own, epoch, head, data, seq=head.seq + 1)
            self.count(peer)
            self.tell(peer, self.piece(forged, data, raw=forged.raw))

    def sign(self, key: StreamKey, epoch: Epoch, after: Head, data: bytes, **changes: int) -> Head:
        part = after.parts[0]
        fields = {"seq": after.seq, "captured_ms": after.captured_ms} | changes
        return heads.sign(
            key, epoch, previous=after.hash, pts=after.pts + after.duration,
            duration=after.duration, flags=heads.KEY,
            parts=[Part(part.rendition, part.init, len(data), Tree(pieces_of(data)).root)],
            **fields,
        )  # fmt: skip


class Replays(Forges):
    """Shows what was signed before: heads of some seconds ago, then yesterday's stream."""

    kind = "replays"
    turns = 0

    def attack(self, peer: NodeId) -> None:
        self.turns += 1
        head = self.newest
        if head is None or not head.parts:
            return
        data = secret_bytes(5000)
        old = self.mesh.window.head(min(self.mesh.window))
        assert old
        if old.parts:  # Genuine, and of no use.
            self.tell(peer, self.piece(old, data, raw=old.raw))
        if self.turns < 3:
            return
        then_ms = int((time() - DAY_S) * 1000)
        epoch = certify(
            self.root, 0, self.own.public, now_ms=then_ms, bitrate_max=10**7, title="Yesterday"
        )
        forged = self.sign(self.own, epoch, head, data, seq=head.seq + 1, captured_ms=then_ms)
        self.count(peer)
        self.tell(peer, m.Join(self.mesh.stream, Role.VIEWER, epoch.raw, forged.raw))
        self.tell(peer, self.piece(forged, data, raw=forged.raw))


class Claims(Liar):
    """Holds all there is, next to the broadcaster, with room for everybody; sends nothing."""

    kind = "claims"
    ahead = 0

    def twist(self, peer: NodeId, message: Any) -> Any:
        match message:
            case Parcel() | m.Lack() | m.Refuse():
                self.count(peer)
                return None
            case m.Map():
                self.count(peer)
                return self.map(message.rendition)
        return message

    def attack(self, peer: NodeId) -> None:
        if self.newest is not None and self.newest.parts:
            self.tell(peer, self.map(self.newest.parts[0].rendition))

    def map(self, rendition: int) -> m.Map:
        base = max(0, self.mesh.window.oldest_allowed + self.ahead)
        return m.Map(
            self.mesh.stream, rendition, base, (pack_mask(255),) * 64, base + 63,
            bytes(SUBSTREAMS), (b"",) * SUBSTREAMS, bytes([255]) * SUBSTREAMS,
        )  # fmt: skip


class Boasts(Claims):
    """As `Claims`, and of what will only be made in some minutes, too."""

    kind = "boasts"
    ahead = 1000


class Floods(Liar):
    """Says many times as much as anybody may."""

    kind = "floods"

    def attack(self, peer: NodeId) -> None:
        link = self.carrier._links.get(peer)
        if link is None:
            return
        link._control_out = Bucket(1e9, 1e9)
        head = self.newest
        for number in range(FLOOD):
            self.count(peer)
            self.tell(peer, m.Want(self.mesh.stream, 0, ((number, b"\1"),), heads=True))
            if head is not None and head.parts and number % 10 == 0:
                later = msgspec.structs.replace(
                    self.piece(head, secret_bytes(16000), raw=b"").header, seq=head.seq + number
                )
                self.tell(peer, Parcel(later, secret_bytes(16000)))


LIARS = {liar.kind: liar for liar in (Flips, Forges, Replays, Claims, Boasts, Floods)}


async def main(ticket: Ticket, root: StreamKey, kinds: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        for kind in kinds:
            nursery.start_soon(LIARS[kind](ticket, root).lie)


def root_key(path: Path) -> StreamKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return StreamKey(key.private_bytes_raw())


if __name__ == "__main__":
    trio.run(main, parse_ticket(sys.argv[1]), root_key(Path(sys.argv[2])), sys.argv[3:])
