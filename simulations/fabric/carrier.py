"""A light carrier: what QUIC costs in time and bytes, without its packets.

It charges for what a simulation must not flatter: headers, acknowledgements, the handshake (two
round trips for the dialler, retransmissions, padding), slow start of a young connection, the
repair of each lost packet, the order of the control stream (a lost packet holds back what
follows), the sender's queue, and the receiver's downlink.

What is left out, and so is too good here: congestion control's search for the rate (a flow fills
the link at once, after the first windows), pacing, path MTU discovery.

Invariants, as in `net/carrier.py`: at most one link between two nodes; `LinkUp` and `LinkDown`
alternate; a failed dial is answered by one `LinkDown`. Every byte that leaves a host arrives, is
lost, or is on its way: `Network.flying` and the counters add up.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from p2pstream.core import Dial, Hangup, LinkDown, LinkUp, Parcel, Send
from p2pstream.dht.messages import DHT_MESSAGES
from p2pstream.identity import Address, NodeId
from p2pstream.net.carrier import ADDRESSES_MAX, DIAL_S, STAGGER_S
from p2pstream.net.doorman import Bans
from p2pstream.net.link import PARCEL_S, QUEUE_BYTES_MAX
from p2pstream.net.tls import IDLE_S
from p2pstream.wire.codec import Message
from simulations.fabric import trace as tr
from simulations.fabric.host import Access, Peer, Traffic
from simulations.fabric.links import Weather
from simulations.fabric.world import World

if TYPE_CHECKING:
    from simulations.fabric.light import Light

# Bytes. IPv4 and UDP 28; QUIC short header 11, AEAD tag 16 (RFC 9000 17.3, RFC 9001 5.3).
PACKET_PAYLOAD = 1200 - 11 - 16  # Datagrams of 1200 bytes: RFC 9000 14, before path MTU discovery.
PACKET_OVERHEAD = 28 + 11 + 16
FRAME_BYTES = 6  # A STREAM frame with offset and length, and our own 16-bit length.
ACK_BYTES = PACKET_OVERHEAD + 10  # RFC 9000 19.3; one for two packets (13.2.2).
FLIGHT_BYTES = 28 + 1200  # A padded Initial (RFC 9000 14.1).
SERVER_FLIGHT_BYTES = 2 * FLIGHT_BYTES  # Certificate and handshake: below the limit of 3x (8.1).
FINISH_BYTES = FLIGHT_BYTES + 200  # Finished, the peer's certificate, Hello.
AMPLIFICATION_MAX = 3

FLIGHTS_S = (0.0, 0.3, 0.9, 2.1)  # The PTO of aioquic's first RTT of 0.1 s is 0.3 s, then doubles.
WINDOW_START = 10 * 1200  # RFC 9002 7.2: the first window; it doubles each round trip.
LOSS_RTTS = 9 / 8  # RFC 9002 6.1.2: when a later packet was acknowledged ...
TAIL_RTTS = 1.5  # ... and 6.2.1: when none was; SRTT + 4 RTTVAR of a calm path ...
TAIL_S = 0.025  # ... + max_ack_delay.
TRIES_MAX = 8
QUEUE_SEEN_S = 0.05  # Of our own queue, in the round trip: the rest is above the engine.
# How far ahead parcels are handed to the uplink: two or three of a home's at once. A real engine
# holds two; with two, whatever the uplink, the lag in thin_uplink was 1.6 s (four seeds, which
# differ much), with this 1.23 s (ten), as with one after another.
AHEAD_S = 0.02
HOLD_S = (0.3, 0.6, 1.2, 2.4)  # Between probes into a blocked path: PTO doubles.
INBOX_BYTES_MAX = 2 << 20  # What waits for a stopped process before it is lost: its buffers.

_encode = msgspec.msgpack.Encoder(enc_hook=bytes).encode
_DHT = frozenset(DHT_MESSAGES)


def size_of(message: Message) -> int:
    """The bytes of a message on the wire, as `wire.codec` packs it."""
    return len(_encode(message))


@dataclass(slots=True)
class End:
    """One end of a link. delay_s: one way, without queues and jitter."""

    here: Light
    there: Light
    address: Address
    dialled: bool
    delay_s: float
    up_at: float
    far: Carrier = field(init=False)
    twin: End = field(init=False)
    up: bool = True
    srtt_s: float = field(init=False)
    jitter_s: float = field(init=False)  # Of both lines.
    window: int = WINDOW_START
    backlog: int = 0
    waiting: list[tuple[float, int, Parcel, int]] = field(default_factory=list)
    ordered_at: float = 0.0  # No control message arrives before this: the ones before it.
    held: list[tuple[Message, int]] = field(default_factory=list)  # The path is blocked.
    holding: int = 0  # Probes into it so far; none means that nothing is held.

    def __post_init__(self) -> None:
        self.far, self.srtt_s = self.there.carrier, 2 * self.delay_s
        self.jitter_s = self.here.carrier.jitter_s + self.far.jitter_s


@dataclass(slots=True)
class Dialling:
    """A dial under way."""

    deadline: float
    done: bool = False


class Network:
    """Everything between the hosts: who is where, what is cut, how far it is."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_ip: dict[str, Any] = {}  # Hosts, all of one tier.
        self.behind: dict[Address, Any] = {}  # Those who share an address with others (CGNAT).
        self.flying = 0
        self.lost = 0
        self.fading = 0  # Bytes of connections that ended while they were on their way.
        self.cuts: list[Cut] = []
        self.jams: list[Cut] = []
        self.dht_out = False
        self.extra_delay_s = 0.0
        self.messages = 0
        self.count = count()

    def at(self, address: Address) -> Any:
        """The host whose outer address it is, or None."""
        return self.behind.get(address) or self.by_ip.get(address[0])

    def blocked(self, a: Peer, b: Peer) -> bool:
        """Whether packets from `a` to `b` get nowhere now."""
        if a.away or b.away:
            return True
        return any(cut.cuts(a, b) for cut in self.cuts) if self.cuts else False

    def jammed_s(self, a: Peer, b: Peer) -> float:
        """How long what `a` sends to `b` now is held up before it goes on its way."""
        until = max((jam.until for jam in self.jams if jam.cuts(a, b)), default=0.0)
        return max(0.0, until - self.world.now)

    def shut(self, a: Peer, b: Peer) -> bool:
        """Whether nothing from `a` reaches `b` for now: a handshake does not wait that long."""
        return self.blocked(a, b) or bool(self.jams and self.jammed_s(a, b))

    def cut(self, a: Peer, b: Peer) -> None:
        """Nothing passes between these two any more."""
        self.cuts.append(Cut(frozenset([a.number]), frozenset([b.number])))


@dataclass(slots=True)
class Cut:
    """A partition: nothing from `these` reaches `those`; and back, unless it is one-way.
    until: as a jam, when it ends and what it held goes on.
    """

    these: frozenset[int]
    those: frozenset[int]
    one_way: bool = False
    until: float = 0.0
    stopped: int = 0  # How much it kept from passing.

    def cuts(self, a: Peer, b: Peer) -> bool:
        hit = (a.number in self.these and b.number in self.those) or (
            not self.one_way and a.number in self.those and b.number in self.these
        )
        self.stopped += hit
        return hit


class Carrier:
    """One host's links. Performs `Send`, `Dial` and `Hangup`, and is a core's `Roads`."""

    def __init__(self, peer: Light, network: Network, access: Access) -> None:
        self.peer, self.network, self.world = peer, network, network.world
        self.nat, self.up, self.down = access.nat, access.up, access.down
        self.weather, self.rng = access.weather, access.rng
        self.jitter_s, self.duplicates = access.jitter_s, access.duplicates
        self.links: dict[NodeId, End] = {}
        self.dials: dict[NodeId, Dialling] = {}
        self.bans = Bans()
        self.traffic = Traffic()
        self.inbox: deque[tuple[End, Any, int]] = deque()
        self.inbox_bytes = 0
        self.unproven: dict[Address, tuple[int, int]] = {}  # Bytes from an address, and to it.
        self._ring: deque[End] = deque()
        self._serving = False
        self._said: Message | None = None  # The last control message, and how large it was.
        self._said_bytes = 0
        # Bound once: to make one for each happening costs as much as to plan it.
        self.arriving, self._receive, self._serve_next = self.arrive, self._received, self._serve

    # Roads.

    def backlog(self, peer: NodeId) -> int:
        """Bytes accepted for `peer` that have not left yet."""
        end = self.links.get(peer)
        return end.backlog if end else 0

    def rtt_s(self, peer: NodeId) -> float:
        """Smoothed round-trip time in seconds; `inf` without a link."""
        end = self.links.get(peer)
        return end.srtt_s if end else inf

    @property
    def weather(self) -> Weather:
        """Which packets our line loses."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        self.loses = weather.loss > 0

    @property
    def backlog_max(self) -> int:
        # Whoever is not waiting for a turn has none: with a hundred links that is nearly everybody.
        return max((end.backlog for end in self._ring), default=0)

    # Effects.

    def perform(self, effect: Send | Dial | Hangup) -> None:
        """Do what a core wants."""
        if type(effect) is Send:
            self.send(effect.peer, effect.message, effect.expires_at)
        elif type(effect) is Dial:
            self.dial(effect.peer, effect.addresses)
        elif type(effect) is Hangup:
            self.hang_up(effect.peer, effect.reason, guilty=effect.guilty)

    def send(self, peer: NodeId, message: Message | Parcel, expires_at: float) -> None:
        """expires_at: in this host's local time."""
        if isinstance(message, Parcel):
            self.push((peer,), message, expires_at)
            return
        end = self.links.get(peer)
        if end is not None:
            self.network.messages += 1
            self._send_control(end, message)

    def push(self, peers: Iterable[NodeId], parcel: Parcel, expires_at: float) -> None:
        """Send a parcel to each of `peers`. expires_at: in this host's local time."""
        size = size_of(parcel.header) + len(parcel.body) + 2 * FRAME_BYTES
        expires_at = self.peer.clock.world(expires_at)
        for end in filter(None, map(self.links.get, peers)):
            self.network.messages += 1
            self._send_parcel(end, parcel, size, expires_at)

    # Control messages: one ordered stream, ahead of all parcels.

    def _send_control(self, end: End, message: Message) -> None:
        if self.network.dht_out and type(message) in _DHT:
            self.peer.dht_dropped += 1
            return
        if message is not self._said:  # A map often goes to many, one after another.
            self._said, self._said_bytes = message, size_of(message) + FRAME_BYTES
        size = self._said_bytes
        if end.holding or self.network.blocked(self.peer, end.there):
            self._hold(end, message, size)
        else:
            self._launch_control(end, message, size)

    def _launch_control(self, end: End, message: Message, size: int) -> None:
        packets = 1 + size // PACKET_PAYLOAD
        wire = size + packets * PACKET_OVERHEAD
        arrives = self._fly(end, self._urgent(wire), packets, wire, tail=True)
        if arrives < end.ordered_at:
            arrives = end.ordered_at
        end.ordered_at = arrives
        self.world.at(arrives, end.far.arriving, end.twin, message, wire)

    def _urgent(self, wire: int) -> float:
        """Send ahead of what waits here, but behind what is already in the router's queue."""
        up, now = self.up, self.world.now
        self.traffic.bytes_out += wire
        seconds, free_at = wire * up.byte_s, up.free_at
        if free_at <= now:
            up.free_at = leaves = now + seconds
            return leaves
        up.free_at = free_at + seconds
        ahead_s, most_s = free_at - now, FLIGHT_BYTES * up.byte_s
        return now + (ahead_s if ahead_s < most_s else most_s) + seconds

    def _hold(self, end: End, message: Message, size: int) -> None:
        """The path is blocked: QUIC probes it, ever more rarely."""
        end.held.append((message, size))
        if not end.holding:
            end.holding = 1
            self.world.at(self.world.now + HOLD_S[0], self._probe, end)

    def _probe(self, end: End) -> None:
        if not end.up:
            end.held.clear()
            return
        if self.network.blocked(self.peer, end.there):
            self._waste(FLIGHT_BYTES)
            self.traffic.probes += 1
            wait_s = HOLD_S[min(end.holding, len(HOLD_S) - 1)]
            end.holding += 1
            self.world.at(self.world.now + wait_s, self._probe, end)
            return
        held, end.held, end.holding = end.held, [], 0
        for message, size in held:
            self._launch_control(end, message, size)

    def _waste(self, wire: int) -> None:
        self.traffic.bytes_out += wire
        self.traffic.resent += wire
        self.network.lost += wire
        self.world.trace.add(self.world.now, tr.LOST, self.peer.number, 0, wire)

    # Parcels: one stream each, most urgent first, links taking turns.

    def _send_parcel(self, end: End, parcel: Parcel, size: int, expires_at: float) -> None:
        if not self._ring and self.up.free_at < self.world.now + AHEAD_S:
            self._launch_parcel(end, parcel, size)
            return
        if end.backlog + size > QUEUE_BYTES_MAX:
            self.traffic.overflowed += 1
            return
        if not end.waiting:
            self._ring.append(end)
        heapq.heappush(end.waiting, (expires_at, next(self.network.count), parcel, size))
        end.backlog += size
        self._serve_later()

    def _serve_later(self) -> None:
        if not self._serving:
            self._serving = True
            self.world.at(self.up.free_at, self._serve_next)

    def _serve(self) -> None:
        self._serving = False
        if self.peer.frozen or not self.peer.alive:
            return
        while self._ring:
            if self.up.free_at >= self.world.now + AHEAD_S:
                self._serve_later()
                return
            end = self._ring.popleft()
            if not end.waiting:
                continue
            expires_at, _, parcel, size = heapq.heappop(end.waiting)
            end.backlog -= size
            if end.waiting:
                self._ring.append(end)
            if expires_at < self.world.now:
                self.traffic.expired += 1
            elif end.up:
                self._launch_parcel(end, parcel, size)

    def _launch_parcel(self, end: End, parcel: Parcel, size: int, since: float = -1.0) -> None:
        """since: when it was sent first, for one that a blocked path has swallowed."""
        now = self.world.now
        packets = -(-size // PACKET_PAYLOAD)
        wire = size + packets * PACKET_OVERHEAD
        if not end.up:
            return
        if self.network.blocked(self.peer, end.there):
            self._waste(min(wire, end.window))
            since = now if since < 0 else since
            if now - since < PARCEL_S:
                self.world.at(now + HOLD_S[1], self._launch_parcel, end, parcel, size, since)
            return
        leaves = self.up.push(wire, now)
        traffic = self.traffic
        traffic.bytes_out += wire
        traffic.parcels_out += 1
        traffic.pieces_out += len(parcel.body)
        arrives = self._fly(end, leaves, packets, wire, tail=False)
        if end.window < wire:
            arrives += 2 * end.delay_s  # Slow start: the rest of it follows a round trip later.
        if end.window < QUEUE_BYTES_MAX:
            end.window = min(2 * end.window, QUEUE_BYTES_MAX)
        self.world.at(arrives, end.far.arriving, end.twin, parcel, wire)

    # The way there.

    def _fly(self, end: End, leaves: float, packets: int, wire: int, *, tail: bool) -> float:
        """When the last byte arrives of what leaves then. tail: nothing follows it closely.

        The other end will acknowledge, which its uplink pays for; what is lost of acknowledgements
        is never repaired.
        """
        network, up, far, now = self.network, self.up, end.far, self.world.now
        network.flying += wire
        acks = ACK_BYTES * ((packets + 1) // 2)
        far.traffic.acks_out += acks
        far.up.push(acks, now)
        base_s = way_s = end.delay_s + network.extra_delay_s
        if end.jitter_s:
            way_s += end.jitter_s * self.rng.expovariate(1.0)
        sample_s = way_s + base_s
        queue_s = up.free_at - now
        if queue_s > 0.0:
            most_s = up.queue_s if up.queue_s < QUEUE_SEEN_S else QUEUE_SEEN_S
            sample_s += queue_s if queue_s < most_s else most_s
        end.srtt_s += (sample_s - end.srtt_s) / 8  # RFC 9002 5.3.
        if network.jams:
            way_s += network.jammed_s(self.peer, end.there)
        arrives = leaves + way_s
        if self.loses or far.loses:
            arrives += self._repair(end, packets, wire, tail=tail)
        return arrives

    def _repair(self, end: End, packets: int, wire: int, *, tail: bool) -> float:
        """Seconds until the last lost packet has been sent again and has arrived."""
        weather, theirs = self.weather, end.far.weather
        lost = weather.lost(packets, self.rng) + theirs.lost(packets, self.rng)
        waited_s = 0.0
        each = wire // packets
        for _ in range(TRIES_MAX):
            if not lost:
                break
            again = min(lost, packets)
            self._waste(again * each)
            self.traffic.repaired += again
            self.up.push(again * each, self.world.now)
            at_the_end = tail or self.rng.random() < again / packets
            waited_s += end.srtt_s * TAIL_RTTS + TAIL_S if at_the_end else end.srtt_s * LOSS_RTTS
            lost = weather.lost(again, self.rng) + theirs.lost(again, self.rng)
            tail = True
        return waited_s

    # Arriving.

    def arrive(self, end: End, message: Any, wire: int, tries: int = 0) -> None:
        """The last byte has reached our router. end: ours."""
        now = self.world.now
        through = self.down.admit(wire, now)
        if through is None:
            self._dropped(end, message, wire, tries)
        elif through > now + 1e-3:
            self.world.at(through, self._receive, end, message, wire)
        else:
            self._received(end, message, wire)

    def _dropped(self, end: End, message: Any, wire: int, tries: int) -> None:
        """Tail drop at our downlink: the sender finds out and sends it again."""
        sender = end.far
        self.network.lost += wire
        if tries >= TRIES_MAX or not end.up:
            self.network.flying -= wire
            return
        sender.traffic.bytes_out += wire
        sender.traffic.resent += wire
        sender.traffic.repaired += -(-wire // 1200)
        sender.up.push(wire, self.world.now)
        again_s = end.srtt_s * LOSS_RTTS * 2**tries + TAIL_S
        self.world.at(self.world.now + again_s, self.arrive, end, message, wire, tries + 1)

    def _received(self, end: End, message: Any, wire: int) -> None:
        network = self.network
        network.flying -= wire
        peer = self.peer
        if not end.up or not peer.alive:
            network.fading += wire
            return
        self.traffic.bytes_in += wire
        if self.duplicates and self.rng.random() < self.duplicates:
            self.down.push(wire, self.world.now)
        if peer.frozen:
            if self.inbox_bytes + wire <= INBOX_BYTES_MAX:
                self.inbox.append((end, message, wire))
                self.inbox_bytes += wire
            return
        kind = tr.PARCEL if type(message) is Parcel else tr.DELIVER
        self.world.trace.add(self.world.now, kind, peer.number, end.there.number, wire)
        peer.hear(end.there.node, message)

    def read_inbox(self) -> None:
        """The process goes on: what its socket kept for it."""
        inbox, self.inbox, self.inbox_bytes = self.inbox, deque(), 0
        for end, message, _ in inbox:
            if end.up:
                self.peer.hear(end.there.node, message)
        if self._ring:
            self._serve_later()

    # Dialling.

    def dial(self, node: NodeId, addresses: Iterable[Address]) -> None:
        """Answered by `LinkUp` or one `LinkDown`."""
        if node in self.links or node in self.dials:
            return
        now = self.world.now
        self.traffic.dials += 1
        if node == self.peer.node or self.bans.holds(node, now=now):
            self.world.at(now, self._fail_dial, node, "banned")
            return
        dialling = self.dials[node] = Dialling(now + DIAL_S)
        tried = list(dict.fromkeys(addresses))[:ADDRESSES_MAX]
        for nth, address in enumerate(tried):
            self._plan_call(node, address, dialling, now + nth * STAGGER_S, 0)
        if not tried:
            self.world.at(dialling.deadline, self._give_up, node, dialling)

    def _plan_call(
        self, node: NodeId, address: Address, dialling: Dialling, since: float, tries: int
    ) -> None:
        """since: when the first flight to this address left, or will."""
        when = since + FLIGHTS_S[tries] if tries < len(FLIGHTS_S) else inf
        if when < dialling.deadline:
            self.world.at(when, self._call, node, address, dialling, since, tries)
        else:
            self.world.at(dialling.deadline, self._give_up, node, dialling)

    def _call(
        self, node: NodeId, address: Address, dialling: Dialling, since: float, tries: int
    ) -> None:
        """One first flight leaves."""
        if dialling.done or not self.peer.alive:
            return
        self._plan_call(node, address, dialling, since, tries + 1)
        if self.peer.frozen:
            return
        source = self.nat.out(address, now=self.world.now)
        self.traffic.handshakes_out += FLIGHT_BYTES
        leaves = self._urgent(FLIGHT_BYTES)
        there = self.network.at(address)
        if source is None or there is None or self.network.shut(self.peer, there) \
                or self.weather.lost(1, self.rng):  # fmt: skip
            self.network.lost += FLIGHT_BYTES
            return
        delay_s = self.peer.delay_to(there)
        self.network.flying += FLIGHT_BYTES
        self.world.at(
            leaves + delay_s, there.carrier.called, self.peer, node, source, address, dialling,
        )  # fmt: skip

    def called(self, caller: Light, node: NodeId, source: Address, address: Address,
               dialling: Dialling) -> None:  # fmt: skip
        """A first flight arrives at our NAT from `source`, for `node` at our `address`."""
        self.network.flying -= FLIGHT_BYTES
        now, peer = self.world.now, self.peer
        deaf = not peer.alive or peer.frozen or self.nat.ip != address[0]
        if deaf or not self.nat.admits(address[1], source, now=now):
            self.network.lost += FLIGHT_BYTES
            return
        self.traffic.bytes_in += FLIGHT_BYTES
        if dialling.done:
            return
        self._answer_unproven(source)
        self.traffic.handshakes_out += SERVER_FLIGHT_BYTES
        self._urgent(SERVER_FLIGHT_BYTES)
        delay_s = caller.delay_to(peer)
        lost = 1 if self.network.shut(peer, caller) else self.weather.lost(3, self.rng)
        if lost or not self.nat.out(source, now=now):
            self.network.lost += SERVER_FLIGHT_BYTES
            return
        caller.carrier.traffic.bytes_in += SERVER_FLIGHT_BYTES
        dialling.done = True
        if node != peer.node:
            self.world.at(now + delay_s, caller.carrier.refused, node, "identity_mismatch")
        elif self.bans.holds(caller.node, now=now):
            self.world.at(now + 3 * delay_s, caller.carrier.refused, node, "banned")
        else:
            # The caller's finish reaches us a round trip from now, our Hello reaches it after that.
            self.world.at(now + 2 * delay_s, self._accept, caller, source, address, delay_s)

    def _answer_unproven(self, source: Address) -> None:
        """RFC 9000 8.1: at most three times what came, for each address."""
        came, went = self.unproven.get(source, (0, 0))
        came, went = came + FLIGHT_BYTES, went + SERVER_FLIGHT_BYTES
        self.unproven[source] = came, went
        self.traffic.amplified = max(self.traffic.amplified, went / came)

    def _accept(self, caller: Light, source: Address, address: Address, delay_s: float) -> None:
        """1.5 round trips after the dial: the link is up here."""
        theirs = caller.carrier
        theirs.traffic.handshakes_out += FINISH_BYTES
        theirs.traffic.bytes_out += FINISH_BYTES
        if not (self.peer.alive and caller.alive) or self.network.shut(caller, self.peer):
            self.network.lost += FINISH_BYTES
            theirs.refused(self.peer.node, "idle_timeout")
            return
        self.traffic.bytes_in += FINISH_BYTES
        theirs.dials.pop(self.peer.node, None)
        self.dials.pop(caller.node, None)
        old = self.links.get(caller.node)
        if old is not None:
            if theirs.links.get(self.peer.node) is old.twin:
                return  # Both dialled: the other one was faster.
            self._down(old)  # The caller has started anew, and knows nothing of it.
            self.peer.on_link(caller.node, LinkDown("replaced"))
        here = self.end(caller, source, dialled=False, delay_s=delay_s)
        there = theirs.end(self.peer, address, dialled=True, delay_s=delay_s)
        here.twin, there.twin = there, here
        self.unproven.pop(source, None)
        self.world.trace.add(self.world.now, tr.LINK_UP, self.peer.number, caller.number)
        # Planned first, so that nothing we say now reaches the caller before its own `LinkUp`.
        self.world.at(self.world.now + delay_s, theirs.established, there, source)
        self.peer.on_link(caller.node, LinkUp(source, dialled=False, seen_as=address))

    def end(self, there: Light, address: Address, *, dialled: bool, delay_s: float) -> End:
        end = self.links[there.node] = End(
            self.peer, there, address, dialled, delay_s, self.world.now
        )
        return end

    def established(self, end: End, seen_as: Address) -> None:
        if end.up and self.peer.alive:
            self.peer.on_link(end.there.node, LinkUp(end.address, dialled=True, seen_as=seen_as))

    def refused(self, node: NodeId, reason: str) -> None:
        if self.dials.pop(node, None) is not None:
            self._fail_dial(node, reason)

    def _give_up(self, node: NodeId, dialling: Dialling) -> None:
        if self.dials.get(node) is dialling:
            if dialling.done:
                return  # The handshake is under way, and will be answered.
            dialling.done = True
            del self.dials[node]
            self._fail_dial(node, "dial_timeout")

    def _fail_dial(self, node: NodeId, reason: str) -> None:
        self.traffic.dials_failed += 1
        if self.peer.alive and node not in self.links:
            self.peer.on_link(node, LinkDown(reason))

    # Ending.

    def hang_up(self, node: NodeId, reason: str, *, guilty: bool) -> None:
        """End the link, and ban the peer when it is guilty."""
        if guilty:
            self.bans.add(node, now=self.world.now)
        dialling = self.dials.pop(node, None)
        if dialling is not None:
            dialling.done = True
            self.world.at(self.world.now, self._fail_dial, node, "hangup")
        end = self.links.get(node)
        if end is None:
            return
        self._down(end)
        self.world.at(self.world.now, self.peer.on_link, node, LinkDown(reason))
        leaves = self._urgent(PACKET_OVERHEAD + len(reason))
        self.network.flying += PACKET_OVERHEAD + len(reason)
        # The close travels after what was sent before it, but waits for no repair of it.
        arrives = leaves + end.delay_s + self.network.jammed_s(self.peer, end.there)
        self.world.at(arrives, end.far.hung_up, end.twin, reason, guilty)

    def hung_up(self, end: End, reason: str, guilty: bool) -> None:
        """The other end has closed the link; when the path is blocked we find out later."""
        size = PACKET_OVERHEAD + len(reason)
        self.network.flying -= size
        if self.network.blocked(end.there, self.peer) or not self.peer.alive:
            self.network.lost += size
            self.world.at(self.world.now + IDLE_S, self.idle, end)
            return
        self.traffic.bytes_in += size
        if end.up:
            self._down(end)
            self.peer.on_link(end.there.node, LinkDown("banned" if guilty else reason))

    def idle(self, end: End) -> None:
        """Nothing was heard for the idle timeout."""
        if end.up:
            self._down(end)
            self.traffic.timed_out += 1
            if self.peer.alive:
                self.peer.on_link(end.there.node, LinkDown("idle_timeout"))

    def _down(self, end: End) -> None:
        end.up = False
        end.waiting.clear()
        end.backlog = 0
        if self.links.get(end.there.node) is end:
            del self.links[end.there.node]
        self.world.trace.add(self.world.now, tr.LINK_DOWN, self.peer.number, end.there.number)

    def vanish(self) -> None:
        """The host is gone without a word: the others' idle timers find out."""
        for end in list(self.links.values()):
            self._down(end)
            self.world.at(self.world.now + IDLE_S, end.far.idle, end.twin)
        for dialling in self.dials.values():
            dialling.done = True
        self.dials.clear()
        self._ring.clear()

    def moved(self, *, migrates: bool) -> None:
        for end in list(self.links.values()):
            if migrates:
                end.delay_s = end.twin.delay_s = self.peer.delay_to(end.there)
                self.nat.out(end.address, now=self.world.now)
            else:
                self.world.at(self.world.now + IDLE_S, self.idle, end)
                self.world.at(self.world.now + IDLE_S, end.far.idle, end.twin)
                self.network.cut(self.peer, end.there)

    def idle_if_blocked(self) -> None:
        for end in list(self.links.values()):
            if self.network.shut(self.peer, end.there) or self.network.shut(end.there, self.peer):
                self.idle(end)
