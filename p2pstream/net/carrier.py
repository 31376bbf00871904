"""Links to peers: what a core's `Send`, `Dial` and `Hangup` are performed by.

Invariants: at most one link to a node, and both ends agree which; `LinkUp` and `LinkDown`
alternate for each node, whatever happens to the connections below; a failed `Dial` is answered by
one `LinkDown`. `perform` never blocks and never delivers: happenings are delivered in the turn of
the endpoint, so that a core is never told something while it is being listened to.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf

import trio

from p2pstream.core import Dial, Hangup, Happening, LinkDown, LinkUp, Parcel, Push, Send
from p2pstream.errors import Misbehaviour, PeerError
from p2pstream.identity import Address, NodeId, NodeKey
from p2pstream.net.doorman import Bans
from p2pstream.net.endpoint import Endpoint, EndpointCounters
from p2pstream.net.engine import Engine
from p2pstream.net.fast import BEST_ENGINE
from p2pstream.net.link import HANDSHAKE_S, Close, Link, LinkCounters
from p2pstream.wire.codec import Codec, Message

DIAL_S = 3.0  # All addresses together; facts/quic.md 2c: a handshake takes 2 round trips and 7 ms.
STAGGER_S = 0.25  # RFC 8305 5, "Connection Attempt Delay".
ATTEMPTS_MAX = 4  # At the same time; wild guess.
ADDRESSES_MAX = 8  # Of one dial; a contact has at most 4 (security/architecture.md 5.4).
# A second connection to the same node that comes up this long after the first one was not dialled
# at the same time: its dialler has lost the first one.
SIMULTANEOUS_S = HANDSHAKE_S + 1.0

_log = logging.getLogger("p2pstream.net")


@dataclass(slots=True)
class CarrierCounters:
    """What all links together have done, gone ones included."""

    endpoint: EndpointCounters
    links: LinkCounters = field(default_factory=LinkCounters)  # Of links that are gone.
    dials: int = 0
    dials_failed: int = 0
    duplicates: int = 0  # Second connections to the same node.
    bans: int = 0
    unlinked: int = 0  # Sends to nodes without a link.
    failures: int = 0  # `deliver` raised what is no peer's fault.


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One link, for people: where, how far, how much."""

    peer: NodeId
    address: Address
    dialled: bool
    age_s: float
    rtt_s: float
    backlog: int
    counters: LinkCounters


@dataclass(slots=True)
class _Dialling:
    addresses: deque[Address]
    deadline: float
    next_at: float
    attempts: list[Link] = field(default_factory=list)
    reason: str = "no_address"


class QuicCarrier:
    """Carries messages between nodes over QUIC, on one UDP socket.

    messages: the classes that peers may send. deliver: told what happens, in trio's thread; it may
    raise `PeerError` (the peer is hung up on, and banned for `Misbehaviour`). engine: the class of
    connections. yields: what we send gives way to the other traffic of the household.
    """

    def __init__(
        self,
        key: NodeKey,
        messages: Iterable[type[Message]],
        deliver: Callable[[NodeId, Happening], None],
        *,
        host: str = "0.0.0.0",  # noqa: S104  # A peer is there for others.
        port: int = 0,
        agent: str = "p2pstream",
        engine: type[Engine] = BEST_ENGINE,
        yields: bool = False,
    ) -> None:
        self.node_id = key.node_id
        self._deliver = deliver
        self._bind = host, port
        self._links: dict[NodeId, Link] = {}  # The ones that are up.
        self._dials: dict[NodeId, _Dialling] = {}
        self._bans = Bans()
        self._news: deque[tuple[NodeId, Link | None, Happening]] = deque()
        self._muted: set[Link] = set()  # We hung up: what they said before is not delivered.
        self._scope = trio.CancelScope()
        self._endpoint = Endpoint(
            key,
            Codec(*messages),
            vet=self._vet,
            report=self._on_link,
            settle=self._settle,
            agent=agent,
            engine=engine,
            yields=yields,
        )
        self.counters = CarrierCounters(self._endpoint.counters)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bind the socket, then carry until cancelled or closed. Raises `PortInUse`."""
        with self._scope:
            await self._endpoint.run(*self._bind, task_status=task_status)

    def close(self) -> None:
        """Make `run` return; peers learn of it at once."""
        self._scope.cancel()

    @property
    def address(self) -> Address:
        """Where the socket is bound, once `run` has started."""
        return self._endpoint.address

    def perform(self, effect: Send | Push | Dial | Hangup) -> None:
        """Do what a core wants. Never blocks."""
        match effect:
            case Push():
                parcel, expires_at = effect.parcel, effect.expires_at
                for peer in effect.peers:
                    self._send(peer, parcel, expires_at)
            case Send():
                self._send(effect.peer, effect.message, effect.expires_at)
            case Dial():
                self._dial(effect)
            case Hangup():
                self._hang_up(effect)

    def _send(self, peer: NodeId, message: Message | Parcel, expires_at: float) -> None:
        link = self._links.get(peer)
        if link is None:
            self.counters.unlinked += 1
            return
        link.send(message, expires_at=expires_at)
        self._endpoint.touch(link)

    def backlog(self, peer: NodeId) -> int:
        """Bytes accepted for `peer` that have not left yet; 0 without a link."""
        link = self._links.get(peer)
        return link.backlog if link else 0

    def rtt_s(self, peer: NodeId) -> float:
        """Smoothed round-trip time to `peer` in seconds; `inf` without a link."""
        link = self._links.get(peer)
        return link.rtt_s if link else inf

    def links(self) -> list[LinkInfo]:
        """All links that are up, as of now."""
        now = trio.current_time()
        return [
            LinkInfo(
                peer=peer,
                address=link.address,
                dialled=link.dialled,
                age_s=now - link.up_at,
                rtt_s=link.rtt_s,
                backlog=link.backlog,
                counters=link.counters,
            )
            for peer, link in self._links.items()
        ]

    def is_banned(self, peer: NodeId) -> bool:
        """Whether `peer` lied lately."""
        return self._bans.holds(peer, now=trio.current_time())

    # Effects.

    def _dial(self, effect: Dial) -> None:
        peer = effect.peer
        if peer in self._links or peer in self._dials:
            return
        self.counters.dials += 1
        now = trio.current_time()
        if peer == self.node_id or self.is_banned(peer):
            self._fail_dial(peer, "self" if peer == self.node_id else "banned")
            return
        addresses = list(dict.fromkeys(filter(None, map(self._usable, effect.addresses))))
        self._dials[peer] = _Dialling(deque(addresses[:ADDRESSES_MAX]), now + DIAL_S, now)
        self._endpoint.poke()

    def _usable(self, address: Address) -> Address | None:
        """`address` as the kernel writes it; None for one that our socket cannot reach."""
        host, port = address
        try:
            ip = ip_address(host)
        except ValueError:
            return None
        ours = ip_address(self._bind[0]).version
        return (str(ip), port) if ip.version == ours and 0 < port < 1 << 16 else None

    def _hang_up(self, effect: Hangup) -> None:
        if effect.guilty:
            self._ban(effect.peer)
        dialling = self._dials.pop(effect.peer, None)
        if dialling is not None:
            self._abandon(dialling)
            self._fail_dial(effect.peer, "hangup")
        link = self._links.get(effect.peer)
        if link is not None:
            self._muted.add(link)
            self._end(link, Close.BANNED if effect.guilty else Close.BYE, effect.reason)

    def _ban(self, peer: NodeId) -> None:
        self.counters.bans += 1
        self._bans.add(peer, now=trio.current_time())

    # What the endpoint tells.

    def _vet(self, link: Link, peer: NodeId) -> Close | None:
        """Whether a link goes on, now that it is proven to be `peer`'s."""
        if peer == self.node_id:
            return Close.SELF
        if self.is_banned(peer):
            return Close.BANNED
        dialling = self._dials.get(peer)
        if link.dialled and (dialling is None or any(other.greeted for other in dialling.attempts)):
            # Another attempt was faster. Its Hello is on the way, and only the dialler says Hello
            # first, so this one has not come up at the other end either.
            return Close.DUPLICATE
        return None

    def _on_link(self, link: Link, happening: Happening) -> None:
        peer = link.peer
        if isinstance(happening, LinkUp):
            self._on_up(link, happening)
        elif isinstance(happening, LinkDown):
            self._on_down(link, happening.reason)
        elif peer is not None and self._links.get(peer) is link:
            self._tell(peer, link, happening)

    def _on_up(self, link: Link, happening: LinkUp) -> None:
        peer = _known(link)
        old = self._links.get(peer)
        if old is not None:
            self.counters.duplicates += 1
            if not self._prefers(link, old):
                link.close(Close.DUPLICATE)
                self._endpoint.touch(link)
                self._on_down(link, "duplicate")
                return
            self._end(old, Close.DUPLICATE, "replaced")
        self._links[peer] = link
        dialling = self._dials.pop(peer, None)
        if dialling is not None:
            self._abandon(dialling, but=link)
        self._tell(peer, link, happening)

    def _prefers(self, new: Link, old: Link) -> bool:
        """Which of two links to one node to keep; both ends come to the same answer.

        Two dialled at the same time by both ends: the one that the smaller id dialled. Otherwise
        the dialler of the new one does not have the old one any more.
        """
        if new.dialled == old.dialled or new.up_at - old.up_at > SIMULTANEOUS_S:
            return True
        return new.dialled == (self.node_id < _known(new))

    def _on_down(self, link: Link, reason: str) -> None:
        _add(self.counters.links, link.counters)
        peer = link.peer if link.expected is None else link.expected
        if peer is None:
            return  # A stranger that never proved who it is.
        if self._links.get(peer) is link:
            del self._links[peer]
            self._tell(peer, link, LinkDown(reason))
        dialling = self._dials.get(peer)
        if dialling is not None and link in dialling.attempts:
            dialling.attempts.remove(link)
            dialling.next_at = trio.current_time()
            if dialling.reason != Close.IDENTITY_MISMATCH.word:  # The one that says most.
                dialling.reason = reason
            self._endpoint.poke()

    def _end(self, link: Link, code: Close, word: str) -> None:
        link.close(code, word)
        self._endpoint.touch(link)
        self._on_down(link, word)

    def _abandon(self, dialling: _Dialling, but: Link | None = None) -> None:
        """Stop dialling. An attempt that has said Hello may be up at the other end: it goes on."""
        for attempt in dialling.attempts:
            if attempt is not but and not attempt.greeted and not attempt.closed:
                attempt.close(Close.DUPLICATE)
                self._endpoint.touch(attempt)
                _add(self.counters.links, attempt.counters)

    # A turn.

    def _settle(self, now: float) -> float:
        """Dial on, deliver what happened; returns when there is more to do."""
        if not self._dials and not self._news:
            return inf  # As in most turns, of which a node has hundreds a second.
        for peer, dialling in list(self._dials.items()):
            self._dial_on(peer, dialling, now)
        while self._news:
            peer, link, happening = self._news.popleft()
            if link not in self._muted:
                self._deliver_one(peer, link, happening)
            elif isinstance(happening, LinkDown):
                self._muted.discard(link)
                self._deliver_one(peer, None, happening)
        return min(
            (
                min(dialling.deadline, dialling.next_at if dialling.addresses else inf)
                for dialling in self._dials.values()
            ),
            default=inf,
        )

    def _dial_on(self, peer: NodeId, dialling: _Dialling, now: float) -> None:
        if now >= dialling.deadline:
            del self._dials[peer]
            self._abandon(dialling)
            word = dialling.reason
            self._fail_dial(peer, "dial_timeout" if word == "no_address" else word)
            return
        if any(attempt.greeted for attempt in dialling.attempts):
            return
        while (
            dialling.addresses and now >= dialling.next_at and len(dialling.attempts) < ATTEMPTS_MAX
        ):
            link = self._endpoint.dial(dialling.addresses.popleft(), peer)
            if link is None:
                dialling.reason = "full"
                continue
            dialling.attempts.append(link)
            dialling.next_at = now + STAGGER_S
        if not dialling.attempts and not dialling.addresses:
            del self._dials[peer]
            self._fail_dial(peer, dialling.reason)

    def _fail_dial(self, peer: NodeId, reason: str) -> None:
        self.counters.dials_failed += 1
        if peer not in self._links:
            self._tell(peer, None, LinkDown(reason))

    def _tell(self, peer: NodeId, link: Link | None, happening: Happening) -> None:
        self._news.append((peer, link, happening))
        self._endpoint.poke()

    def _deliver_one(self, peer: NodeId, link: Link | None, happening: Happening) -> None:
        try:
            self._deliver(peer, happening)
        except PeerError as error:
            guilty = isinstance(error, Misbehaviour)
            _log.info("%s: %s", peer, error)
            self._hang_up(Hangup(peer, "misbehaviour" if guilty else "bad_message", guilty=guilty))
        except Exception:  # noqa: BLE001  # S-15: our own fault, on one peer's behalf.
            _log.exception("what %s said could not be handled", peer)
            self.counters.failures += 1
            if link is not None and self._links.get(peer) is link:
                self._muted.add(link)
                self._end(link, Close.INTERNAL, "internal_error")


def _known(link: Link) -> NodeId:
    assert link.peer is not None, "a link that is up is proven"
    return link.peer


def _add(total: LinkCounters, part: LinkCounters) -> None:
    for name in LinkCounters.__slots__:
        setattr(total, name, getattr(total, name) + getattr(part, name))
