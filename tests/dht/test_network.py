"""Whole networks of the DHT, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, median

import pytest

from p2pstream.core import Dial
from p2pstream.dht.contact import Contact, WireContact
from p2pstream.dht.messages import Nodes, Providers
from p2pstream.dht.protocol import Config
from p2pstream.errors import Misbehaviour
from p2pstream.identity import NodeId
from p2pstream.wire.codec import Message
from tests.dht.network import Host, Network, Twist, nearest, topic

LOCAL = Config(allow_private=True)
LOOPBACK_S = 0.0002


def grown(count: int, *, seed: int = 1, codec: bool = False) -> tuple[Network, list[Host]]:
    """A network whose nodes joined one after the other through the first."""
    net = Network(seed=seed, codec=codec)
    hosts = [net.add(n) for n in range(count)]
    for host in hosts:
        net.introduce(host, *hosts[:1] * (host is not hosts[0]))
        net.run(0.1)
    net.run(20.0)
    return net, hosts


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, list[Host]]]:
    """Sixty-four nodes for the tests that break nothing."""
    net, hosts = grown(64)
    yield net, hosts
    assert all(not host.raised for host in hosts)


def local(net: Network, n: int) -> Host:
    return net.add(n, address=("127.0.0.1", 4000 + n), config=LOCAL)


def test_a_viewer_on_one_machine_finds_the_stream_in_well_under_300_ms() -> None:
    net = Network(latency_s=LOOPBACK_S, codec=True)
    seed, broadcaster, viewer = (local(net, n) for n in range(3))
    net.introduce(seed)
    broadcaster.dht.provide(topic(1), (broadcaster.address,), now=net.now)
    net.introduce(broadcaster, seed)
    took = net.run(1.0, until=lambda: bool(broadcaster.provided))
    assert took < 0.01
    assert broadcaster.provided[0].holders == 1

    net.introduce(viewer, seed)
    done = net.find(viewer, topic(1))

    assert viewer.nodes_found() == {broadcaster.node}
    assert done.seconds < 0.02
    assert done.found == 1


def test_a_broadcast_is_found_through_any_one_live_node_of_a_small_network() -> None:
    net = Network(latency_s=LOOPBACK_S)
    hosts = [local(net, n) for n in range(6)]
    net.introduce(hosts[0])
    for host in hosts[1:]:
        net.introduce(host, hosts[0])
        net.run(0.5)
    hosts[1].dht.provide(topic(1), (hosts[1].address,), now=net.now)
    net.settle(hosts[1])
    net.run(5.0)

    for through in hosts[2:]:
        viewer = local(net, 100 + hosts.index(through))
        for host in hosts:
            host.dead = host is not through
        net.introduce(viewer, through)
        net.find(viewer, topic(1))
        assert viewer.nodes_found() == {hosts[1].node}


def test_a_seed_that_restarts_with_an_empty_store_hears_of_the_stream_again() -> None:
    net = Network(latency_s=LOOPBACK_S)
    seed, broadcaster = local(net, 0), local(net, 1)
    net.introduce(seed)
    net.introduce(broadcaster, seed)
    broadcaster.dht.provide(topic(1), (broadcaster.address,), now=net.now)
    net.settle(broadcaster)
    net.run(10.0)
    net.kill(seed)
    net.run(15.0)

    again = local(net, 0)
    net.introduce(again)
    net.run(35.0)

    viewer = local(net, 2)
    net.introduce(viewer, again)
    net.find(viewer, topic(1))
    assert viewer.nodes_found() == {broadcaster.node}


def test_twenty_nodes_on_one_machine_that_watch_three_streams_are_not_throttled() -> None:
    net = Network(latency_s=LOOPBACK_S)
    hosts = [local(net, n) for n in range(20)]
    for host in hosts:
        net.introduce(host, *hosts[:1] * (host is not hosts[0]))
        for n in range(3):
            host.dht.provide(topic(n), (host.address,), now=net.now)
        net.settle(host)
        net.run(0.2)
    net.run(60.0)

    assert sum(host.dht.counters.denied for host in hosts) == 0
    assert all(host.provided[-1].holders >= 15 for host in hosts)
    viewer = local(net, 50)
    net.introduce(viewer, hosts[7])
    for _ in range(3):  # An answer has room for some five of the 20 records, drawn at random.
        net.find(viewer, topic(2))
    assert viewer.nodes_found() == {host.node for host in hosts}


def test_look_ups_find_the_closest_nodes_in_few_hops(world: tuple[Network, list[Host]]) -> None:
    net, hosts = world
    hits, seconds, queries, hops = [], [], [], []
    for n in range(20):
        asker = net.rng.choice(hosts)
        done = net.find(asker, topic(n))
        wanted = nearest([host for host in hosts if host is not asker], topic(n), 16)
        hits.append(len({one.node for one in done.closest} & set(wanted)) / 16)
        seconds.append(done.seconds)
        queries.append(done.queries)
        hops.append(done.hops)
    print(f"closest {mean(hits):.3f}, queries {mean(queries):.1f}, hops {mean(hops):.1f},")
    print(f"seconds {median(seconds):.2f}")

    assert mean(hits) > 0.99
    assert mean(queries) < 30
    assert mean(hops) <= 2
    assert median(seconds) < 1.0


def test_a_provider_is_found_by_everybody(world: tuple[Network, list[Host]]) -> None:
    net, hosts = world
    hosts[3].dht.provide(topic(100), (hosts[3].address,), now=net.now)
    net.settle(hosts[3])
    assert net.run(5.0, until=lambda: bool(hosts[3].provided)) < 2.0
    assert hosts[3].provided[-1].holders >= 16

    for viewer in hosts[10:40:3]:
        net.find(viewer, topic(100))
        assert hosts[3].node in viewer.nodes_found()


def test_a_popular_stream_gives_twenty_providers_and_stops(
    world: tuple[Network, list[Host]],
) -> None:
    net, hosts = world
    for host in hosts[20:60]:
        host.dht.provide(topic(101), (host.address,), now=net.now)
        net.settle(host)
    net.run(5.0)

    done = net.find(hosts[62], topic(101))

    assert done.found >= 20
    assert done.queries < 16
    assert len(hosts[62].found) > 1, "results come as they turn up"


def test_a_stream_outlives_a_third_of_the_network() -> None:
    net, hosts = grown(45)
    hosts[0].dht.provide(topic(1), (hosts[0].address,), now=net.now)
    net.settle(hosts[0])
    net.run(5.0)
    for host in net.rng.sample(hosts[1:], 15):
        net.kill(host)
    alive = [host for host in hosts[1:] if not host.dead]

    first = [net.find(viewer, topic(1)) for viewer in alive[:8]]
    net.run(130.0)
    later = [net.find(viewer, topic(1)) for viewer in alive[8:16]]

    print(f"at once {median(d.seconds for d in first):.2f} s, republished")
    print(f"{median(d.seconds for d in later):.2f} s")
    assert all(done.found == 1 for done in first + later)
    assert hosts[0].provided[-1].holders >= 16


def test_a_stream_is_found_when_one_message_in_ten_is_lost() -> None:
    net, hosts = grown(40, seed=4)
    net.loss = 0.1
    hosts[0].dht.provide(topic(1), (hosts[0].address,), now=net.now)
    net.settle(hosts[0])
    net.run(10.0)

    assert all(net.find(viewer, topic(1)).found == 1 for viewer in hosts[20:30])


def test_d01_a_quarter_of_liars_does_not_hide_a_stream() -> None:
    net, hosts = grown(80, seed=5)
    liars = net.rng.sample(hosts[10:], 20)
    for liar in liars:
        liar.twist = lie(liars)
    good = [host for host in hosts if host not in liars]
    for n in range(20):
        good[n].dht.provide(topic(n), (good[n].address,), now=net.now)
        net.settle(good[n])
    net.run(10.0)

    found = [net.find(good[20 + n], topic(n)) for n in range(20)]

    share = mean(done.found > 0 for done in found)
    print(f"found {share:.2f}, queries {mean(done.queries for done in found):.0f}")
    assert share >= 0.95


def test_a_network_of_frauds_is_searched_within_the_limits() -> None:
    """Contacts that do not exist, ever nearer to the key, cost 128 queries and 20 s at most."""
    net, hosts = grown(20, seed=6)
    for liar in hosts[1:15]:
        liar.twist = invent
    done = net.find(hosts[0], topic(1))

    assert done.queries <= 128
    assert done.seconds <= 20.0


def test_records_of_a_forger_convict_it() -> None:
    net, hosts = grown(8, seed=7)
    hosts[1].dht.provide(topic(1), (hosts[1].address,), now=net.now)
    net.settle(hosts[1])
    net.run(3.0)
    hosts[2].twist = forge

    net.find(hosts[3], topic(1))

    assert hosts[3].nodes_found() == {hosts[1].node}
    assert [type(error) for error in hosts[3].raised] == [Misbehaviour]


def test_the_same_seed_gives_the_same_run() -> None:
    one, other = grown(15, codec=True)[0], grown(15, codec=True)[0]

    assert (one.messages, one.bytes, one.now) == (other.messages, other.bytes, other.now)


def test_addresses_of_this_machine_told_by_strangers_are_never_dialled() -> None:
    net, hosts = grown(10, seed=8)
    for liar in hosts[1:5]:
        liar.twist = aim_at_loopback
    for host in hosts[5:]:
        net.find(host, topic(1))

    dialled = {address[0] for host in hosts for address in host.dials}
    assert "127.0.0.1" not in dialled
    assert not any(isinstance(effect, Dial) for host in hosts for effect in host.dht.effects())


# What liars make of their answers.


def lie(liars: list[Host]) -> Twist:
    """Tells of other liars only, and of no records."""

    def twist(host: Host, _: NodeId, message: Message) -> Message | None:
        near = sorted(liars, key=lambda liar: liar.node ^ host.node)[:16]
        return with_contacts(message, [liar.contact for liar in near])

    return twist


def invent(host: Host, _: NodeId, message: Message) -> Message | None:
    rng = host.dht._rng
    fakes = [
        Contact(NodeId(topic(1)[:2] + rng.randbytes(30)), (f"60.{rng.randrange(250)}.{n}.1", 4000))
        for n in range(16)
    ]
    return with_contacts(message, fakes)


def aim_at_loopback(host: Host, _: NodeId, message: Message) -> Message | None:
    rng = host.dht._rng
    victims = [Contact(NodeId(rng.randbytes(32)), ("127.0.0.1", 22 + n)) for n in range(4)]
    return with_contacts(message, victims)


def forge(_: Host, __: NodeId, message: Message) -> Message | None:
    if isinstance(message, Providers) and message.records:
        forged = message.records[0][:-1] + bytes([message.records[0][-1] ^ 1])
        return Providers(message.rid, (forged,), message.contacts, message.token)
    return message


def with_contacts(message: Message, contacts: list[Contact]) -> Message:
    told = tuple(map(WireContact.of, contacts))
    if isinstance(message, Nodes):
        return Nodes(message.rid, told, message.token)
    if isinstance(message, Providers):
        return Providers(message.rid, (), told, message.token)
    return message
