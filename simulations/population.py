"""From the groups of a scenario to hosts on the fabric: each with its key, links, NAT and clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random

from p2pstream.identity import NodeKey, StreamId
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import ORIGIN_COPIES, SEED_COPIES, Config, Swarm
from simulations import laws
from simulations.behaviours import twist_of
from simulations.fabric.carrier import Network
from simulations.fabric.clock import Clock
from simulations.fabric.dice import die, secret, throw
from simulations.fabric.host import Access, Peer, Watchers
from simulations.fabric.links import Pipe, Rain, Storm, Weather
from simulations.fabric.nat import Kind, Nat
from simulations.fabric.world import World
from simulations.rates import Rates
from simulations.scenario import Group, Rate, Trace, Way

ROLES = {"origin": Role.ORIGIN, "seed": Role.SEED, "viewer": Role.VIEWER}
COPIES = {Role.ORIGIN: ORIGIN_COPIES, Role.SEED: SEED_COPIES, Role.VIEWER: Config().copies}
FIRST_OCTETS = (*range(20, 100), *range(130, 169), *range(193, 198), *range(206, 224))
"""All of them public: a DHT believes in no others."""
ECLIPSE_KEYS = 256  # Tried for one identity: its id shares 8 bits more with the stream's.
CGNAT_HOSTS = 32  # Behind one address, a block of ports for each (RFC 6888 REQ-5). Wild guess.
CGNAT_PORT, CGNAT_PORTS = 2048, 1984  # The first port, and how many each has: 32 fill 64 Ki.


@dataclass(slots=True)
class Population:
    """Makes hosts, and knows how far they are from each other. kind: what a node is made of."""

    world: World
    network: Network
    stream: StreamId
    watchers: Watchers
    make_swarm: Callable[[Peer], Swarm]
    kind: type[Peer]
    groups: dict[str, Group]
    peers: list[Peer] = field(default_factory=list)
    rates: Rates = field(init=False)
    _shared: dict[str, str] = field(default_factory=dict)  # Addresses of providers' NATs.
    _places: dict[int, laws.Place] = field(default_factory=dict)
    _delays: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rates = Rates(self.world)

    def add(self, group: Group, name: str) -> Peer:
        """A host, not started yet. name: for its dice; the same name, the same host."""
        seed, number = self.world.seed, len(self.peers)
        rng = die(seed, name, "host")
        skew_s = group.clock_skew_s * (2 * throw(seed, name, "skew") - 1)
        drift = 1e-6 * group.clock_drift_ppm * (2 * throw(seed, name, "drift") - 1)
        peer = self.kind(
            self.world, number, name, group.name, self._key(group, name),
            ROLES[group.role], self.stream, Clock(skew_s, drift),
            watchers=self.watchers, make_swarm=self.make_swarm,
        )  # fmt: skip
        peer.config = _config(peer.role, group)
        peer.twist = twist_of(group.behaviour, peer, lambda: self.fellows(peer))
        peer.delay_to = lambda there: self._delay_s(peer, there)
        peer.connect(self.network, self._access(peer, group, rng))
        self._places[number] = laws.place(group.rtt_ms, seed, name)
        self._connect(peer)
        self.peers.append(peer)
        self._follow(peer, "up", group.up_kbps)
        self._follow(peer, "down", group.down_kbps)
        return peer

    def _follow(self, peer: Peer, way: Way, law: Rate) -> None:
        if isinstance(law, Trace):
            path = self.world.seed, peer.name, way
            self.rates.follow(peer, way, laws.trace_of(law, throw(*path)), throw(*path, "since"))

    def fellows(self, peer: Peer) -> list[Peer]:
        """Those of its group that are there."""
        return [each for each in self.peers if each.group == peer.group and each.alive]

    def move(self, peer: Peer) -> None:
        """To another network: another address, another way to everybody."""
        nat = peer.carrier.nat
        self.network.behind.pop((nat.ip, nat.port), None)
        self.network.by_ip.pop(nat.ip, None)
        peer.name += "'"
        nat.moved(self._ip(peer.name))
        self._connect(peer)

    def _connect(self, peer: Peer) -> None:
        nat = peer.carrier.nat
        if nat.kind is Kind.CGNAT:
            self.network.behind[nat.ip, nat.port] = peer
        else:
            self.network.by_ip[nat.ip] = peer

    def _key(self, group: Group, name: str) -> NodeKey:
        """Who wants to stand around a stream in the DHT tries keys until one lies near it."""
        keys = [NodeKey(secret(self.world.seed, name, "key"))]
        if group.behaviour == "eclipse":
            more = range(ECLIPSE_KEYS - 1)
            keys += [NodeKey(secret(self.world.seed, name, "key", nth)) for nth in more]
        return min(keys, key=lambda key: key.node_id ^ self.stream)

    def up_kbps(self, peer: Peer) -> float:
        """What its group's law gives this host to send with."""
        return self._rate(peer, "up", self.groups[peer.group].up_kbps)

    def _rate(self, peer: Peer, way: str, law: Rate) -> float:
        return laws.draw(law, throw(self.world.seed, peer.name.rstrip("'"), way))

    def _access(self, peer: Peer, group: Group, rng: Random) -> Access:
        queue_bytes = int(group.queue_kb * 1000)
        up = Pipe(1000 * self._rate(peer, "up", group.up_kbps), queue_bytes)
        down_kbps = self._rate(peer, "down", group.down_kbps)
        down = Pipe(1000 * down_kbps if down_kbps < inf else inf, queue_bytes)
        weather: Weather = Rain(group.loss)
        if group.loss_burst > 1 and group.loss:
            weather = Storm(group.loss, group.loss_burst)
        kind = self._nat_kind(peer, group)
        nat = self._nat(peer, group, kind)
        return Access(nat, up, down, weather, group.jitter_ms / 1000, group.duplicates, rng)

    def _nat(self, peer: Peer, group: Group, kind: Kind) -> Nat:
        nth = int(peer.name.rpartition("/")[2])
        if kind is Kind.CGNAT:
            block = f"{group.name}/cgnat/{nth // CGNAT_HOSTS}"
            ip = self._shared_ip(block)
            port = CGNAT_PORT + CGNAT_PORTS * (nth % CGNAT_HOSTS)
            return Nat(kind, ip, group.nat_timeout_s, port)
        if group.behaviour == "sybil":  # All in one network of 256 addresses, or in a few.
            block = f"{group.name}/net/{nth // 254}"
            net = self._shared_ip(block).rpartition(".")[0]
            return Nat(kind, f"{net}.{1 + nth % 254}", group.nat_timeout_s)
        return Nat(kind, self._ip(peer.name), group.nat_timeout_s)

    def _shared_ip(self, block: str) -> str:
        if block not in self._shared:
            self._shared[block] = self._ip(block)
        return self._shared[block]

    def _nat_kind(self, peer: Peer, group: Group) -> Kind:
        mix = group.nat if isinstance(group.nat, dict) else {group.nat: 1.0}
        left = throw(self.world.seed, peer.name, "nat")
        for kind in sorted(mix):
            left -= mix[kind]
            if left < 0:
                return Kind(kind)
        return Kind(max(mix))

    def _ip(self, name: str) -> str:
        """A public address that nobody else has, in a network that few others share."""
        for nth in range(1000):
            raw = secret(self.world.seed, name, "ip", nth)
            ip = f"{FIRST_OCTETS[raw[0] % len(FIRST_OCTETS)]}.{raw[1]}.{raw[2]}.{1 + raw[3] % 254}"
            if ip not in self.network.by_ip and ip not in self._shared.values():
                return ip
        raise AssertionError("no address is left")

    def _delay_s(self, a: Peer, b: Peer) -> float:
        """One way, in seconds: half of the mean of what the laws of both say of this pair."""
        key = (a.name, b.name) if a.name < b.name else (b.name, a.name)
        delay_s = self._delays.get(key)
        if delay_s is None:
            share = throw(self.world.seed, "rtt", *key)
            here, there = self._places[a.number], self._places[b.number]
            rtts = [
                laws.rtt_s(self.groups[peer.group].rtt_ms, share, here, there) for peer in (a, b)
            ]
            delay_s = self._delays[key] = sum(rtts) / 4
        return delay_s


def _config(role: Role, group: Group) -> Config:
    copies = COPIES[role] if group.copies is None else group.copies
    return Config(copies=0.0 if group.behaviour == "free_rider" else copies)
