"""A peer driven by hand: it speaks our messages, and says whatever a test makes it say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from p2pstream.core import Dial, Effect, LinkUp, Parcel, Send
from p2pstream.identity import NodeId
from p2pstream.stream.chunker import Signed
from p2pstream.swarm import messages as m
from p2pstream.swarm.messages import SUBSTREAMS, Role
from p2pstream.wire.codec import Message
from tests.world.fabric import Host, key_of
from tests.world.mesh import Mesh


@dataclass
class Stranger:
    """`on` is called with everything it hears."""

    mesh: Mesh
    number: int
    role: Role = Role.VIEWER
    on: Callable[[NodeId, Any], None] = lambda *_: None
    heard: list[tuple[NodeId, Any]] = field(default_factory=list)
    host: Host = field(init=False)
    _out: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node = key_of(self.number + 1).node_id
        self.host = self.mesh.world.add(self.node, lambda _: self)
        self.joins = True
        self.certificate = self.mesh.studio.epoch.raw

    # The four verbs.

    def receive(self, peer: NodeId, message: Any, *, now: float) -> None:
        del now
        self.heard.append((peer, message))
        if isinstance(message, LinkUp) and self.joins:
            self.say(peer, self.join())
        self.on(peer, message)

    def wake(self, *, now: float) -> None:
        del now

    def wake_at(self) -> float:
        return inf

    def effects(self) -> Iterable[Effect]:
        out, self._out = self._out, []
        return out

    # What a test makes it do.

    def dial(self, *hosts: Host) -> None:
        self._out += [Dial(host.node, (host.address,)) for host in hosts]
        self.host.act()

    def say(self, peer: NodeId, *messages: Message | Parcel) -> None:
        self._out += [Send(peer, message) for message in messages]

    def tell(self, *messages: Message | Parcel) -> None:
        """Say it to everybody it is linked with."""
        for peer in sorted(self.host.links):
            self.say(peer, *messages)
        self.host.act()

    def every(self, seconds: float, do: Callable[[], None], *, until: float) -> None:
        """`do` now and again until then."""
        world = self.mesh.world

        def again() -> None:
            do()
            self.host.act()
            if world.now + seconds < until:
                world.at(world.now + seconds, again)

        world.at(world.now, again)

    def join(self, *, head: bytes = b"") -> m.Join:
        return m.Join(self.mesh.stream, int(self.role), self.certificate, head)

    def boast(self, *, base: int | None = None, key: int | None = None, slots: int = 60) -> m.Map:
        """It holds everything and has room for everybody, next door to the broadcaster."""
        newest = self.mesh.swarm(self.mesh.origin).window.newest
        base = max(0, newest - 60) if base is None else base
        return m.Map(
            self.mesh.stream, 0, base, (b"\xff",) * 64, newest if key is None else key,
            bytes(SUBSTREAMS), (b"",) * SUBSTREAMS, bytes([slots]) * SUBSTREAMS,
        )  # fmt: skip

    def piece(
        self, signed: Signed, index: int = 0, *, rendition: int = 0, head: bool = True,
        twist: Callable[[bytes], bytes] = lambda data: data, raw: bytes | None = None,
    ) -> Parcel:  # fmt: skip
        """A piece of what the broadcaster signed, its data or its head twisted."""
        kept = signed.pieces[rendition][index]
        raw = raw if raw is not None else signed.head.raw if head else b""
        header = m.Piece(self.mesh.stream, signed.head.seq, rendition, index, 0, raw, kept.proof)
        return Parcel(header, twist(kept.data))

    def newest(self) -> Signed:
        """What the broadcaster signed last."""
        return self.mesh.studio.signed[max(self.mesh.studio.signed)]
