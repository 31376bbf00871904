"""How dishonest peers behave: the real core, whose words are twisted on their way out."""

from __future__ import annotations

from p2pstream.core import Parcel, Send
from p2pstream.swarm import messages as m
from p2pstream.swarm.messages import SUBSTREAMS
from simulations.fabric.host import Peer, Twist

LIED_MASK = b"\xff"  # Eight pieces of every chunk.
LIED_AHEAD = 3  # Chunks that nobody has yet.


def twist_of(behaviour: str, peer: Peer) -> Twist | None:
    """What `peer` does to its words; None for those that it passes on as they are."""
    twists = {"polluter": _pollute, "withholder": _withhold, "liar": _lie}
    del peer
    return twists.get(behaviour)  # A free rider lies about nothing: it has no slots.


def _pollute(send: Send) -> Send | None:
    """Send pieces with one byte changed."""
    match send.message:
        case Parcel(header, body):
            bad = bytes([body[0] ^ 0xFF]) + body[1:]
            return Send(send.peer, Parcel(header, bad), send.expires_at)
    return send


def _withhold(send: Send) -> Send | None:
    """Promise pieces and never send one."""
    return None if isinstance(send.message, Parcel) else send


def _lie(send: Send) -> Send | None:
    """Claim to hold everything, to have much room, and to be next to the broadcaster."""
    match send.message:
        case m.Map() as told:
            masks = tuple([LIED_MASK] * min(64, len(told.masks) + LIED_AHEAD))
            lie = m.Map(
                told.stream, told.rendition, told.base, masks, told.key,
                bytes([1]) * SUBSTREAMS, told.parents, 1000,
            )  # fmt: skip
            return Send(send.peer, lie, send.expires_at)
        case m.Have() as told:
            items = tuple((seq, LIED_MASK) for seq, _ in told.items)
            return Send(send.peer, m.Have(told.stream, told.rendition, items), send.expires_at)
        case Parcel():
            return None
    return send
