"""The mesh in a virtual world: real cores, real messages, a broadcast of random bytes.

What holds in every run is in `Mesh.check`: exact bytes, in order, once; nobody honest is convicted;
nothing grows beyond its bounds.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from statistics import mean

import pytest

from p2pstream.core import Note, Parcel, Send
from p2pstream.identity import NodeId
from p2pstream.stream.chunk import PIECE_BYTES
from p2pstream.swarm import messages as m
from p2pstream.swarm.giver import CALM_ROUND_S, ROUND_S
from p2pstream.swarm.mesh import NEEDY_S
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import MAP_SLACK_S, Config, EpochSeen, InitReady, Play
from p2pstream.swarm.push import DIRECT_MIN
from p2pstream.swarm.scheduler import ANSWER_S
from tests.world.fabric import Host, effects_of
from tests.world.mesh import CHUNK_S, Mesh
from tests.world.stranger import Stranger

START_S = 2.5  # From learning of the first node to the first picture.
LAG_S = 1.2  # Capture to hand-over: 0.2 s of chunk, 0.5 s of target, and the way.


def audience(mesh: Mesh, count: int, *, every_s: float = 0.1, up_bps: float = 20e6) -> list[Host]:
    """A seed, and viewers that join through it one after another."""
    mesh.world.run(0.5)
    seed = mesh.add(1, Role.SEED, knows=(mesh.origin,))
    mesh.world.run(0.5)
    viewers = []
    for number in range(count):
        viewers.append(mesh.watch(10 + number, knows=(seed,), up_bps=up_bps))
        mesh.world.run(every_s)
    return viewers


@pytest.fixture(scope="module")
def calm() -> Mesh:
    """Eight viewers and a seed, nothing amiss, for twelve seconds."""
    mesh = Mesh()
    audience(mesh, 8)
    mesh.world.run(11.0)
    return mesh


def test_everybody_plays_without_a_stall(calm: Mesh) -> None:
    calm.check()
    for host in calm.viewers():
        assert calm.stalls(host) == calm.playout(host).counters.skipped == 0
        seqs = calm.seqs(host)
        assert seqs == list(range(seqs[0], seqs[-1] + 1))
        assert len(seqs) > 45


def test_everybody_starts_soon_at_a_key_frame(calm: Mesh) -> None:
    for host in calm.viewers():
        at, play = calm.played[host.node][0]
        assert play.chunk.key
        assert at < 1.0 + 0.8 + START_S


def test_lag_is_bounded_and_alike(calm: Mesh) -> None:
    for host in calm.viewers():
        assert max(calm.lag_s(host, since=4.0)) < LAG_S


def test_the_origin_pays_for_few(calm: Mesh) -> None:
    assert calm.offload(calm.viewers()) >= 0.6
    assert calm.duplicates(calm.viewers()) <= 0.03
    assert calm.control() <= 0.12


@pytest.mark.parametrize("seed", range(4))
def test_nobody_stays_with_the_origin_for_not_knowing_the_others_there(seed: int) -> None:
    """Those who stay may feed somebody else: they are asked for a piece to be known."""
    mesh = Mesh(seed=seed)
    audience(mesh, 8)
    mesh.world.run(20.0)
    origin = mesh.swarm(mesh.origin)
    direct = Counter(feed for peer in origin.partners for feed in origin.children.feeds_of(peer))

    assert direct
    assert max(direct.values()) <= DIRECT_MIN


def test_pieces_travel_from_viewer_to_viewer(calm: Mesh) -> None:
    assert max(calm.swarm(host).counters.hops_max for host in calm.viewers()) >= 2
    assert sum(calm.swarm(host).counters.taken[Role.VIEWER] for host in calm.viewers()) > 0


def test_an_init_is_here_before_it_is_needed(calm: Mesh) -> None:
    for host in calm.viewers():
        ready = [e for e in host.effects if isinstance(e, (InitReady, Play))]
        assert isinstance(ready[0], InitReady)
        assert {e.chunk.init for e in ready if isinstance(e, Play)} == {ready[0].hash}


def test_nobody_is_convicted_and_no_piece_refused(calm: Mesh) -> None:
    assert not [host.convicted for host in calm.world.hosts.values() if host.convicted]
    assert sum(calm.swarm(h).counters.pieces_refused for h in calm.viewers()) == 0


def test_the_same_seed_gives_the_same_trace() -> None:
    def run(seed: int) -> list[object]:
        mesh = Mesh(seed=seed)
        mesh.world.loss = 0.05
        audience(mesh, 4)
        mesh.world.run(4.0)
        return [(host.node, _trace(host)) for host in mesh.world.hosts.values()]

    first = run(3)
    assert run(3) == first
    assert run(4) != first


def _trace(host: Host) -> list[object]:
    """Every effect in order; of parcels the headers, whose proofs and heads name the bodies."""
    return [
        (e.peer, e.message.header if isinstance(e.message, Parcel) else e.message)
        if isinstance(e, Send) else e
        for e in host.effects
    ]  # fmt: skip


def test_the_death_of_a_feeding_viewer_is_hardly_seen() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 6)
    mesh.world.run(6.0)
    victim = max(viewers, key=lambda host: mesh.swarm(host).children.used)
    assert mesh.swarm(victim).children.used
    at = mesh.world.now
    mesh.world.kill(victim.node)
    mesh.world.run(8.0)

    mesh.check()
    for host in mesh.viewers():
        assert mesh.playout(host).counters.stall_s <= 1.0
        assert mesh.gap_s(host, since=at) <= 1.0 + CHUNK_S
        assert victim.node not in mesh.swarm(host).partners


def test_the_death_of_the_seed_is_hardly_seen() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 5)
    mesh.world.run(6.0)
    seed = list(mesh.world.hosts.values())[1]
    at = mesh.world.now
    mesh.world.kill(seed.node)
    mesh.world.run(8.0)

    mesh.check()
    for host in viewers:
        assert mesh.playout(host).counters.stall_s <= 1.0
        assert mesh.gap_s(host, since=at) <= 1.0 + CHUNK_S


def test_any_live_node_is_a_way_in() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 3)
    mesh.world.run(4.0)
    nodes = list(mesh.world.hosts.values())
    at = mesh.world.now
    newcomers = [mesh.watch(50 + n, knows=(node,)) for n, node in enumerate(nodes)]
    mesh.world.run(5.0)

    mesh.check()
    assert len(newcomers) == len(viewers) + 2
    for host in newcomers:
        assert mesh.played[host.node][0][0] < at + START_S
        assert len(mesh.swarm(host).partners) > 1, "partners are introduced to each other"


def test_who_joins_before_the_first_chunk_sees_it() -> None:
    mesh = Mesh()
    mesh.live = False
    viewers = audience(mesh, 3)
    mesh.world.run(4.0)
    mesh.live = True
    at = mesh.world.now
    mesh.world.run(5.0)

    mesh.check()
    for host in viewers:
        assert mesh.played[host.node][0][0] < at + START_S
        assert mesh.seqs(host)[0] <= 1005


def test_a_seed_that_was_there_before_the_first_chunk_carries_the_stream() -> None:
    mesh = Mesh()
    seed = mesh.add(1, Role.SEED, knows=(mesh.origin,))
    mesh.world.run(2.0)
    for number in range(3):
        mesh.watch(10 + number, knows=(seed,))
    mesh.world.run(5.0)

    mesh.check()
    assert mesh.swarm(seed).window.newest > 1000
    assert mesh.swarm(seed).counters.pieces_verified > 0


def test_whoever_was_frozen_for_30_s_is_back_at_live_and_replays_nothing() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 4)
    mesh.world.run(5.0)
    sleeper = viewers[1]
    before = mesh.seqs(sleeper)[-1]
    mesh.world.freeze(sleeper.node)
    mesh.world.run(30.0)
    mesh.world.thaw(sleeper.node)
    at = mesh.world.now
    mesh.world.run(6.0)

    mesh.check()
    edge = mesh.swarm(mesh.origin).window.newest
    back = [(when, p.chunk.seq) for when, p in mesh.played[sleeper.node] if when >= at]
    lag = mesh.lag_s(sleeper, since=at + 3.0)
    assert back[0][0] <= at + 3.0
    assert lag
    assert max(lag) < LAG_S + 0.5
    assert back[-1][1] > edge - 10
    assert len([seq for _, seq in back if seq < before + 100]) <= 10, "the outage was replayed"
    for host in viewers:
        if host is not sleeper:
            assert mesh.gap_s(host, since=8.0) <= 1.0 + CHUNK_S


def test_a_broadcaster_that_restarts_with_a_higher_epoch_is_followed() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 4)
    mesh.world.run(4.0)
    seed = list(mesh.world.hosts.values())[1]
    origin = mesh.restart(epoch=2, after_s=2.0)
    mesh.swarm(seed).learn(origin.node, [origin.address], now=mesh.world.now)
    seed.act()
    at = mesh.world.now
    mesh.world.run(7.0)

    mesh.check()
    for host in viewers:
        assert [effect.epoch.number for effect in effects_of(host, EpochSeen)] == [1, 2]
        news = [when for when, p in mesh.played[host.node] if p.chunk.seq in mesh.studio.signed]
        assert news[0] < at + 3.5
        assert max(mesh.lag_s(host, since=at + 5.0)) < LAG_S + 1.0
        assert not mesh.swarm(host).forked


def test_h04_an_epoch_below_the_mark_is_never_followed() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 3)
    mesh.world.run(3.0)
    for host in viewers:
        assert mesh.swarm(host).epoch == mesh.studio.epoch
    origin = mesh.restart(epoch=0, after_s=1.0)
    seed = list(mesh.world.hosts.values())[1]
    mesh.swarm(seed).learn(origin.node, [origin.address], now=mesh.world.now)
    seed.act()
    mesh.world.run(4.0)

    for host in viewers:
        assert not [s for s in mesh.seqs(host) if s in mesh.studio.signed]


def test_the_end_reaches_everybody_after_the_last_chunk() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 5)
    mesh.world.run(4.0)
    mesh.end()
    mesh.world.run(3.0)

    mesh.check()
    last = mesh.studio.made - 1 + 1000
    for host in viewers:
        assert mesh.swarm(host).ended
        assert mesh.seqs(host)[-1] == last
        told = [e for e in host.effects if isinstance(e, (Note, Play))]
        assert isinstance(told[-1], Note), "the end is told after the last chunk"
        assert [e.event for e in told if isinstance(e, Note)] == ["ended"]
        assert mesh.stalls(host) == 0


def test_h11_silence_is_not_the_end() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 3)
    mesh.world.run(3.0)
    mesh.live = False
    mesh.world.run(10.0)
    mesh.live = True
    at = mesh.world.now
    mesh.world.run(5.0)

    for host in viewers:
        assert not mesh.swarm(host).ended
        assert mesh.seqs(host, since=at + 2.0), "it goes on when the broadcaster does"


@pytest.mark.parametrize(("loss", "stall_s", "twice"), [(0.02, 0.5, 0.05), (0.10, 2.0, 0.12)])
def test_lost_parcels_are_fetched_again(loss: float, stall_s: float, twice: float) -> None:
    """Bytes that come twice are a matter of luck: the mean of two worlds counts."""
    duplicates = []
    for seed in (1, 2):
        mesh = Mesh(seed=seed)
        mesh.world.loss = loss
        viewers = audience(mesh, 6)
        mesh.world.run(10.0)

        mesh.check()
        duplicates.append(mesh.duplicates(viewers))
        for host in viewers:
            assert mesh.playout(host).counters.stall_s <= stall_s
            assert max(mesh.lag_s(host, since=6.0)) < 2.0
            assert len(mesh.seqs(host)) > 40
    assert mean(duplicates) <= twice


def test_a_chunk_of_which_not_even_the_head_comes_is_asked_for_in_time() -> None:
    """Calm partners may tell of it two seconds later: the next head must be enough."""
    mesh = Mesh()
    victim = audience(mesh, 6)[0]
    mesh.world.run(10.0)
    lost = mesh.swarm(victim).window.newest + 3

    def asked() -> bool:
        sent = (e.message for e in effects_of(victim, Send) if isinstance(e.message, m.Want))
        return any(lost in dict(want.items) for want in sent)

    def swallows(whom: NodeId, message: object) -> bool:
        is_of_it = isinstance(message, Parcel) and getattr(message.header, "seq", -1) == lost
        return whom == victim.node and (is_of_it or isinstance(message, m.Map)) and not asked()

    mesh.world.swallows = swallows
    mesh.world.run(3.0)
    mesh.check()
    assert asked()
    assert lost in mesh.seqs(victim)
    assert mesh.stalls(victim) == 0


def test_slow_uplinks_are_filled_but_not_flooded() -> None:
    """Six viewers with hardly more upload than the stream has: seed and origin make up for it."""
    mesh = Mesh()
    viewers = audience(mesh, 6, up_bps=1.5e6)
    mesh.world.run(12.0)

    mesh.check()
    assert mesh.duplicates(viewers) <= 0.2
    for host in viewers:
        assert mesh.playout(host).counters.stall_s <= 1.0
        assert sum(map(host.backlog, mesh.swarm(host).partners)) < 512 * 1024
        assert max(mesh.lag_s(host, since=8.0)) < 2.5


def test_what_is_asked_for_is_sent_in_time_or_not_at_all() -> None:
    """Whoever waits longer asks somebody else too, and the answer comes twice."""
    mesh = Mesh()
    (viewer,) = audience(mesh, 1, up_bps=1.5e6)
    mesh.world.run(5.0)
    asker = Stranger(mesh, 66)
    asker.dial(viewer)
    mesh.world.run(0.5)
    swarm = mesh.swarm(viewer)
    seqs = list(swarm.window)[-24:]
    asker.tell(m.Want(mesh.stream, 0, tuple((seq, b"\7") for seq in seqs), heads=False))
    mesh.world.run(0.05)

    room = ANSWER_S * swarm.mesh.config.copies * swarm.mesh.rate
    assert 0.5 * room < viewer.backlog(asker.node) < room + 2 * PIECE_BYTES
    said = [e.message for e in effects_of(viewer, Send) if e.peer == asker.node]
    assert any(isinstance(word, m.Lack) for word in said)


def maps_in(mesh: Mesh, host: Host, seconds: float) -> Counter[NodeId]:
    """How many each partner of `host` is sent."""
    before = len(list(effects_of(host, Send)))
    mesh.world.run(seconds)
    sent = list(effects_of(host, Send))[before:]
    return Counter(effect.peer for effect in sent if isinstance(effect.message, m.Map))


def test_maps_are_rare_while_all_is_calm_and_frequent_where_anybody_asks(calm: Mesh) -> None:
    viewer = calm.viewers()[0]
    swarm = calm.swarm(viewer)
    children = swarm.children.peers()
    told = maps_in(calm, viewer, 8.0)
    assert swarm.children.peers() == children
    assert 0 < len(children) < len(swarm.partners)
    for peer in swarm.partners:
        round_s = 2 * CALM_ROUND_S if peer in children else CALM_ROUND_S
        assert told[peer] == pytest.approx(8.0 / round_s, abs=1)

    before = len(list(effects_of(viewer, Send)))
    calm.world.run(swarm._giver.map_at - calm.world.now + MAP_SLACK_S + 0.001)
    said = [e for e in list(effects_of(viewer, Send))[before:] if isinstance(e.message, m.Map)]
    assert {effect.peer for effect in said} >= set(swarm.partners) - children, "at once"
    news = {id(effect.message) for effect in said if effect.peer not in children}
    assert len(news) == 1, "with one map"

    asker = calm.swarm(calm.viewers()[1])
    want = m.Want(calm.stream, 0, ((asker.window.newest, b"\1"),), heads=False)
    swarm.receive(asker.me, want, now=calm.world.now)
    told = maps_in(calm, viewer, 4.0)
    assert all(told[peer] == pytest.approx(4.0 / ROUND_S, abs=1) for peer in swarm.partners)


def test_children_to_whom_nothing_is_pushed_are_told_every_calm_round(calm: Mesh) -> None:
    viewer = calm.viewers()[0]
    calm.world.run(NEEDY_S + 1.0)
    giver = calm.swarm(viewer)._giver
    children = giver.mesh.children.peers()
    at = giver.map_at
    for partner in giver.mesh.partners.values():
        partner.told = giver._changes  # As if the broadcast had stood still since.
        partner.told_at = at - CALM_ROUND_S
    giver.mesh.out.clear()
    giver.tell_next(now=at)
    told = {e.peer for e in giver.mesh.out if isinstance(e, Send)}
    assert told == set(giver.mesh.partners) >= children != set()


def test_whoever_promised_more_than_it_can_carry_takes_fewer_children_until_it_can() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 6, up_bps=0.9e6)
    mesh.world.run(10.0)
    crowded = [host for host in viewers if mesh.swarm(host).children.slots < 4]
    assert crowded, "nobody noticed"

    for host in viewers:
        host.up_bps = float("inf")
    mesh.world.run(1.0)  # What waits in their queues goes.
    before = [mesh.swarm(host).children.slots for host in crowded]
    mesh.world.run(12.0)
    mesh.check()
    after = [mesh.swarm(host).children.slots for host in crowded]
    assert all(b > a for a, b in zip(before, after, strict=True))


def test_a_viewer_without_upload_is_carried_by_the_others() -> None:
    mesh = Mesh()
    audience(mesh, 3)
    seed = list(mesh.world.hosts.values())[1]
    leech = mesh.watch(40, knows=(seed,), config=Config(copies=0.0))
    mesh.world.run(8.0)

    mesh.check()
    assert mesh.swarm(leech).counters.given == 0
    assert mesh.stalls(leech) == 0
    assert len(mesh.seqs(leech)) > 25


def renditions(mesh: Mesh, host: Host, *, since: float = 0.0) -> list[int]:
    return [p.chunk.rendition for at, p in mesh.played[host.node] if at >= since]


def test_a_viewer_goes_down_when_its_feeder_can_no_longer_and_up_when_it_can_again() -> None:
    mesh = Mesh(bitrates=(300_000, 1_500_000))
    seed = mesh.add(1, Role.SEED, knows=(mesh.origin,))
    mesh.world.run(1.0)
    host = mesh.watch(10, knows=(seed,))
    mesh.world.run(5.0)
    assert set(renditions(mesh, host)) == {1}

    mesh.origin.up_bps = seed.up_bps = 1_000_000  # Less than the high one, more than the low one.
    mesh.world.run(15.0)
    assert renditions(mesh, host)[-1] == 0, "too late for the high rendition"

    at = mesh.world.now
    mesh.origin.up_bps = seed.up_bps = float("inf")
    mesh.world.run(30.0)

    mesh.check()
    assert renditions(mesh, host)[-1] == 1
    assert mesh.gap_s(host, since=at + 5.0) < 1.0
    chunks = [play.chunk for _, play in mesh.played[host.node]]
    for a, b in pairwise(chunks):
        assert a.rendition == b.rendition or b.key, "a switch is at a key frame"


def test_a_pinned_rendition_is_kept() -> None:
    mesh = Mesh(bitrates=(300_000, 1_500_000))
    seed = mesh.add(1, Role.SEED, knows=(mesh.origin,))
    mesh.world.run(1.0)
    host = mesh.watch(10, knows=(seed,), config=Config(rendition=0))
    mesh.world.run(15.0)

    mesh.check()
    assert set(renditions(mesh, host)) == {0}


def test_thirty_nodes_know_only_the_seed_and_all_of_them_play() -> None:
    """A full seed hands over others: whoever comes last still finds partners."""
    began = time.process_time()
    mesh = Mesh()
    viewers = audience(mesh, 28, every_s=0.05)
    mesh.world.run(4.5)

    mesh.check()
    assert time.process_time() - began < 20.0  # 10 s on a machine that does nothing else.
    assert [number for number, host in enumerate(viewers) if not mesh.seqs(host)] == []
    assert sum(mesh.stalls(host) for host in viewers) <= 2
    assert max(mesh.playout(host).counters.stall_s for host in viewers) <= 0.3
    assert mesh.offload(viewers) >= 0.8
    assert mesh.duplicates(viewers) <= 0.03


def test_who_leaves_says_so_and_nobody_waits_for_it() -> None:
    mesh = Mesh()
    viewers = audience(mesh, 4)
    mesh.world.run(4.0)
    gone = viewers[0]
    mesh.swarm(gone).leave("bye")
    gone.act()
    mesh.world.run(0.1)
    for host in viewers[1:]:
        assert gone.node not in mesh.swarm(host).partners
    mesh.world.kill(gone.node)
    mesh.world.run(4.0)

    mesh.check()
    for host in viewers[1:]:
        assert mesh.stalls(host) == 0


def test_children_share_what_is_sent() -> None:
    mesh = Mesh()
    viewers = [mesh.watch(10 + n, knows=(mesh.origin,)) for n in range(3)]
    mesh.world.run(5.0)
    assert all(mesh.seqs(host) for host in viewers)
    sent = [
        e.message.header for e in effects_of(mesh.origin, Send) if isinstance(e.message, Parcel)
    ]
    assert len({id(header) for header in sent}) < len(sent), "each child got one of its own"
