"""How dishonest peers behave: the real core, whose words are twisted on their way out."""

from __future__ import annotations

from collections.abc import Callable

from p2pstream.core import Parcel, Send
from p2pstream.dht.contact import Contact, WireContact
from p2pstream.dht.messages import CONTACTS_MAX, Nodes, Providers
from p2pstream.swarm import messages as m
from p2pstream.swarm.messages import SUBSTREAMS
from simulations.fabric.host import Peer, Twist

LIED_MASK = b"\xff"  # Eight pieces of every chunk.
LIED_AHEAD = 3  # Chunks that nobody has yet.
LORIS_S = 3.0  # How much later a slow one sends: long after playout has given up. Wild guess.


def twist_of(behaviour: str, peer: Peer, fellows: Callable[[], list[Peer]]) -> Twist | None:
    """What `peer` does to its words; None for those that it passes on as they are.

    fellows: all who are in league with it, itself included.
    """
    twists: dict[str, Twist] = {
        "polluter": _pollute,
        "withholder": _withhold,
        "liar": _lie,
        "slow_loris": lambda send: _trickle(send, peer),
        "sybil": lambda send: _lie(_mislead(send, fellows())),
        "eclipse": lambda send: _withhold(_mislead(send, fellows())),
    }
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


def _trickle(send: Send, peer: Peer) -> Send | None:
    """Send every piece, and every one too late."""
    if not isinstance(send.message, Parcel):
        return send
    later = peer.world.now + LORIS_S
    peer.world.at(later, peer.carrier.send, send.peer, send.message, float("inf"))
    return None


def _mislead(send: Send, fellows: list[Peer]) -> Send:
    """Answer look-ups with those in league, and with nobody's record."""
    contacts = tuple(
        WireContact.of(Contact(each.node, (each.carrier.nat.ip, each.carrier.nat.port)))
        for each in fellows[:CONTACTS_MAX]
    )
    match send.message:
        case Nodes(rid, _, token):
            return Send(send.peer, Nodes(rid, contacts, token), send.expires_at)
        case Providers(rid, _, _, token):
            return Send(send.peer, Providers(rid, (), contacts, token), send.expires_at)
    return send


def _lie(send: Send) -> Send | None:
    """Claim to hold everything, to have much room, and to be next to the broadcaster."""
    match send.message:
        case m.Map() as told:
            masks = tuple([LIED_MASK] * min(64, len(told.masks) + LIED_AHEAD))
            lie = m.Map(
                told.stream, told.rendition, told.base, masks, told.key,
                bytes([1]) * SUBSTREAMS, told.parents, bytes([255]) * SUBSTREAMS,
            )  # fmt: skip
            return Send(send.peer, lie, send.expires_at)
        case Parcel():
            return None
    return send
