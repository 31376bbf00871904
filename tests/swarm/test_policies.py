"""The policies as pure functions: parents, children, pulls, limits."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from p2pstream.errors import BadMessage
from p2pstream.identity import NodeId
from p2pstream.stream.window import HEADS_MAX
from p2pstream.swarm import limbo, scheduler
from p2pstream.swarm import messages as m
from p2pstream.swarm.limbo import Limbo
from p2pstream.swarm.messages import (
    MAPS_CACHED,
    NO_HOPS,
    SUBSTREAMS,
    Role,
    bits,
    pack_mask,
    pack_masks,
    unpack_mask,
    unpack_masks,
)
from p2pstream.swarm.partners import (
    CANDIDATES_MAX,
    DOUBT_S,
    QUIET_S,
    RENDITIONS_HEARD_MAX,
    RETRY_S,
    RETRY_S_MAX,
    STALE_MAX,
    Candidates,
    Partner,
)
from p2pstream.swarm.push import (
    DIRECT_MIN,
    HOPS_MAX,
    Children,
    Offer,
    choose_parent,
    feeds_of,
    origin_probability,
    stay_at_origin,
)
from p2pstream.swarm.scheduler import (
    ASKED_MAX,
    IN_FLIGHT_MAX,
    Holder,
    Missing,
    choose,
    wait_until,
)

STREAM = bytes(32)


def node(n: int) -> NodeId:
    return NodeId(n.to_bytes(2) + bytes(30))


ids = st.binary(min_size=32, max_size=32).map(NodeId)

# Masks.


@given(st.integers(0, 2**256 - 1))
def test_a_set_of_pieces_has_one_encoding(mask: int) -> None:
    data = pack_mask(mask)

    assert unpack_mask(data) == mask
    assert sum(1 << bit for bit in bits(mask)) == mask
    with pytest.raises(BadMessage, match="non_canonical"):
        unpack_mask(data + b"\0")


@given(st.binary(max_size=32))
def test_any_bytes_are_a_set_or_a_bad_message(data: bytes) -> None:
    try:
        mask = unpack_mask(data)
    except BadMessage:
        assert data[-1:] == b"\0"
        return
    assert pack_mask(mask) == data


def test_whole_maps_are_packed_and_unpacked_alike_and_a_bounded_number_is_remembered() -> None:
    for n in range(1, 2 * MAPS_CACHED):
        masks = (n, 0, n << 8)
        assert unpack_masks(pack_masks(masks)) == masks
    assert pack_masks.cache_info().currsize == unpack_masks.cache_info().currsize == MAPS_CACHED


def test_every_substream_carries_its_share_even_of_small_chunks() -> None:
    carried = [m.substream_of(seq, index) for seq in range(1000, 1008) for index in range(2)]

    assert {carried.count(s) for s in range(SUBSTREAMS)} == {4}


# Parents.

NEAR = Offer(node(1), Role.VIEWER, hops=2, rtt_s=0.02, behind=0, already=0, slots=8)


@pytest.mark.parametrize(
    "worse",
    [
        replace(NEAR, peer=node(2), hops=4),
        replace(NEAR, peer=node(2), rtt_s=0.2),
        replace(NEAR, peer=node(2), behind=3),
        replace(NEAR, peer=node(2), already=3),
        replace(NEAR, peer=node(2), slots=1),
        replace(NEAR, peer=node(2), role=Role.SEED),
        replace(NEAR, peer=node(2), hops=HOPS_MAX),
    ],
)
def test_the_better_parent_is_chosen_whatever_the_dice(worse: Offer) -> None:
    for seed in range(50):
        assert choose_parent([worse, NEAR], partners=5, rng=Random(seed)) == NEAR


def test_nobody_adopts_a_loop() -> None:
    far = replace(NEAR, hops=HOPS_MAX)

    assert choose_parent([far, replace(far, hops=NO_HOPS)], partners=5, rng=Random(1)) is None
    assert choose_parent([], partners=5, rng=Random(1)) is None


def test_few_of_ten_ask_the_origin() -> None:
    origin = replace(NEAR, peer=node(9), role=Role.ORIGIN, hops=0)
    asked = sum(
        choose_parent([origin, NEAR], partners=10, rng=Random(seed)) == origin
        for seed in range(500)
    )

    assert 20 <= asked <= 100  # One in ten by the rule of libswift.


def test_libswifts_rule_in_numbers() -> None:
    assert origin_probability(0) == origin_probability(1) == 1.0
    assert origin_probability(5) == 1 / 5
    assert origin_probability(10) == 1 / 10
    assert origin_probability(15) == 1 / 5
    assert origin_probability(20) == origin_probability(1000) == 1.0


def may_leave_origin(me: NodeId, direct: set[NodeId], substream: int) -> bool:
    return len(stay_at_origin(me, direct - {me}, substream)) >= DIRECT_MIN


@given(st.sets(ids, min_size=1, max_size=30), st.integers(0, SUBSTREAMS - 1))
def test_the_origin_is_never_left_by_all_at_once(nodes: set[NodeId], substream: int) -> None:
    """Everybody decides at the same moment, each seeing all the others."""
    staying = [me for me in nodes if not may_leave_origin(me, nodes, substream)]

    assert len(staying) >= min(DIRECT_MIN, len(nodes))


@given(st.sets(ids, min_size=8, max_size=8))
def test_the_direct_places_are_not_all_the_same(nodes: set[NodeId]) -> None:
    staying = [
        frozenset(me for me in nodes if not may_leave_origin(me, nodes, substream))
        for substream in range(SUBSTREAMS)
    ]

    assert all(len(stay) == DIRECT_MIN for stay in staying)


# Partners.


def test_who_is_silent_may_be_dead_sooner_when_it_lets_us_wait() -> None:
    partner = Partner(NodeId(bytes(32)), ("", 0), Role.VIEWER, 10.0, 10.0, dialled=True)
    assert not partner.quiet(10.0 + QUIET_S)
    assert partner.quiet(10.1 + QUIET_S)

    partner.doubted_at = 10.0 + DOUBT_S / 2
    assert not partner.quiet(12.0)  # It had just spoken.
    partner.doubted_at = 10.1 + DOUBT_S
    assert partner.quiet(12.0)
    partner.heard_at = 11.9
    assert not partner.quiet(12.0)


# Children.


def test_a_child_has_just_what_it_asked_for_last() -> None:
    children = Children(8)

    assert children.subscribe(node(1), 0, 0b0011, 100) == (0b0011, 0)
    assert children.subscribe(node(1), 0, 0b0110, 200) == (0b0100, 0)
    assert children.feeds_of(node(1)) == [(0, 1), (0, 2)]
    assert (children.used, children.free((0, 0))) == (2, 6)
    assert children.of((0, 1)) == {node(1): 100}, "substream 1 from 100 on"
    assert children.of((0, 2)) == {node(1): 200}, "substream 2 only from 200 on"

    children.forget(node(1))
    assert children.used == 0


def test_who_finds_no_room_is_told_so() -> None:
    children = Children(5)

    assert children.subscribe(node(1), 0, 0b1111, 0) == (0b1111, 0)
    assert children.subscribe(node(2), 0, 0b1111, 0) == (0b0001, 0b1110)
    assert children.subscribe(node(3), 0, 0b0001, 0) == (0, 0b0001)
    assert children.free((0, 0)) == 0


def test_room_is_kept_for_feeds_without_a_child() -> None:
    """Or the few who are fed firsthand give all they have to the substreams that come first."""
    children = Children(8)
    children.keep(feeds_of(0), firsthand=())
    for peer in range(1, 9):
        children.subscribe(node(peer), 0, 0b0001, 0)

    assert children.used == 5, "three are kept"
    assert [children.free(feed) for feed in feeds_of(0)] == [0, 1, 1, 1]
    assert children.subscribe(node(9), 0, 0b1110, 0) == (0b1110, 0)
    assert children.used == 8

    few = Children(4)
    few.keep(feeds_of(0), firsthand=())
    assert few.free((0, 0)) == 4, "with few it is better to specialise"
    few.keep(feeds_of(0), firsthand={(0, 3)})
    assert few.free((0, 0)) == 3


subscriptions = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 65535), st.integers(0, 2**53))
)


@given(st.integers(0, 20), subscriptions)
def test_no_history_fills_more_than_the_slots(
    slots: int, history: list[tuple[int, int, int, int]]
) -> None:
    children = Children(slots)
    for peer, rendition, mask, since in history:
        added, refused = children.subscribe(node(peer), rendition, mask, since)
        assert added & refused == 0
        assert children.used <= slots
        assert children.free((rendition, 0)) == slots - children.used
        held = sum(1 << s for r, s in children.feeds_of(node(peer)) if r == rendition)
        assert held == mask & 15 & ~refused


def test_a_feed_that_is_taken_away_is_offered_to_nobody_until_things_relax() -> None:
    children = Children(3)
    children.subscribe(node(1), 0, 0b11, 0)
    children.subscribe(node(2), 0, 0b1, 0)

    rendition, substream = children.evict(node(1))
    assert children.feeds_of(node(1)) == [(0, 0)]
    assert (rendition, substream) == (0, 1)
    assert children.free((0, 0)) == 0
    assert children.peers() == {node(1), node(2)}
    assert not children.relax(), "that was all"
    assert children.free((0, 0)) == 1


# Pulls.

PIECE = Missing(1000, 0, 2, known_at=10.0, deadline=11.0, pushed=True, proven=True, asked=())
PEER = Holder(node(1), Role.VIEWER, rtt_s=0.02, queue=0)
BEST = [
    PEER,
    replace(PEER, peer=node(2), rtt_s=0.2),
    replace(PEER, peer=node(3), role=Role.SEED),
    replace(PEER, peer=node(4), role=Role.ORIGIN),
]


def asked_of(holders: list[Holder], piece: Missing = PIECE) -> NodeId | None:
    return choose(piece, holders, rng=Random(1))


def test_what_a_parent_will_push_is_not_asked_for_before_its_deadline_is_near() -> None:
    patient = wait_until(PIECE, 0.02)

    assert 10.5 < patient < PIECE.deadline - 0.2
    assert wait_until(replace(PIECE, deadline=99.0), 0.02) == 10.0 + scheduler.PATIENCE_S
    assert wait_until(replace(PIECE, proven=False), 0.02) < patient, "it may never push"


def test_what_nobody_pushes_is_asked_for_at_once() -> None:
    assert wait_until(replace(PIECE, pushed=False), 0.02) == -inf


def test_the_nearest_idle_peer_is_asked_and_the_origin_last() -> None:
    busy = replace(PEER, queue=20)
    assert asked_of([busy, *BEST[1:]]) == node(3)
    assert asked_of([*BEST[1:2], BEST[3]]) == node(2)
    assert asked_of(BEST[3:]) == node(4)
    assert asked_of([]) is None
    assert asked_of([replace(PEER, queue=ASKED_MAX)]) is None


def test_who_says_that_it_holds_the_piece_is_asked_before_who_should() -> None:
    assert asked_of([replace(PEER, told=False), replace(PEER, peer=node(2))]) == node(2)
    assert asked_of([replace(PEER, told=False)]) == PEER.peer


def test_a_request_is_hedged_when_its_answer_is_late() -> None:
    asked = replace(PIECE, asked=((PEER.peer, 10.9),))

    assert wait_until(asked, PEER.rtt_s) == 10.9 + scheduler.ANSWER_S + 2 * PEER.rtt_s
    assert asked_of(BEST, asked) == node(3), "of another partner"


def test_no_more_than_three_copies_are_on_their_way() -> None:
    asked = tuple((node(n), 10.0) for n in range(1, IN_FLIGHT_MAX + 1))

    assert wait_until(replace(PIECE, asked=asked), 0.02) == inf


holders = st.lists(
    st.builds(Holder, ids, st.sampled_from(Role), st.floats(0, 1), st.integers(0, ASKED_MAX + 5)),
    max_size=8,
    unique_by=lambda holder: holder.peer,
)


@given(holders, st.integers(0, 5), st.integers(0, 99))
def test_any_choice_keeps_the_limits(some: list[Holder], asked: int, seed: int) -> None:
    peers = tuple((holder.peer, 5.0) for holder in some[:asked])
    chosen = choose(replace(PIECE, asked=peers), some, rng=Random(seed))

    if chosen is not None:
        assert chosen not in dict(peers)
        assert next(h for h in some if h.peer == chosen).queue < ASKED_MAX


def test_requests_are_grouped_by_partner_and_rendition() -> None:
    grouped = scheduler.by_peer(
        [(node(1), PIECE), (node(1), replace(PIECE, index=0)), (node(2), PIECE),
         (node(1), replace(PIECE, seq=1001)), (node(1), replace(PIECE, rendition=1))]
    )  # fmt: skip

    assert grouped == {
        (node(1), 0): {1000: 0b101, 1001: 0b100},
        (node(2), 0): {1000: 0b100},
        (node(1), 1): {1000: 0b100},
    }


# Limbo.


def waiting(seq: int) -> m.Piece:
    return m.Piece(STREAM, seq, 0, 0, 0, b"", b"")


def test_what_waits_is_released_by_its_head_once() -> None:
    room = Limbo()
    assert room.add(node(1), waiting(5), b"a", now=0.0)
    assert room.add(node(2), waiting(6), b"b", now=0.0)

    assert [(w.peer, w.body) for w in room.release(5)] == [(node(1), b"a")]
    assert room.release(5) == []
    assert len(room) == 1
    room.forget(node(2))
    assert len(room) == 0


def test_no_peer_fills_the_room_and_nobody_waits_for_ever() -> None:
    room = Limbo()
    taken = [room.add(node(1), waiting(n), b"", now=0.0) for n in range(100)]
    assert sum(taken) == len(room) == limbo.PIECES_MAX_PER_PEER

    for peer in range(2, 30):
        for n in range(20):
            room.add(node(peer), waiting(n), b"", now=0.5)
    assert len(room) == limbo.PIECES_MAX

    assert room.add(node(1), waiting(7), b"", now=0.5 + limbo.WAIT_S)
    assert len(room) == 1


# What a partner says.


def partner() -> Partner:
    return Partner(node(1), ("192.0.2.1", 1), Role.VIEWER, 0.0, 0.0, dialled=True)


def a_map(base: int, masks: tuple[bytes, ...], rendition: int = 0) -> m.Map:
    return m.Map(STREAM, rendition, base, masks, base, bytes(4), (b"",) * 4, bytes(4))


def test_a_map_replaces_what_was_said_from_its_base_on() -> None:
    one = partner()
    one.learn_map(a_map(10, (b"\x03", b"", b"\x01")), 12)
    one.learn_map(a_map(12, (b"\x03", b"\x07")), 14)

    assert [one.holds(0, seq) for seq in range(10, 15)] == [3, 0, 3, 7, 0]
    assert one.edge(0) == 13
    assert one.holds(5, 10) == 0
    assert one.edge(5) == -1
    one.learn_map(a_map(12, (b"\x01",)), 14)
    assert [one.holds(0, seq) for seq in range(10, 15)] == [3, 0, 1, 0, 0], "what came before stays"
    assert one.edge(0) == 12
    one.learn_map(a_map(15, (b"\x01",)), 17)
    assert [one.holds(0, seq) for seq in range(10, 17)] == [3, 0, 1, 0, 0, 1, 0], "nothing between"
    one.learn_map(a_map(80, (b"\x01",) * HEADS_MAX), 150)
    assert [one.holds(0, seq) for seq in (10, 12, 80)] == [0, 0, 1], "but not for ever"
    one.learn_map(a_map(80, (b"", b"")), 150)
    assert one.edge(0) == -1


def test_who_keeps_up_is_thought_to_hold_what_it_has_not_told_of_yet() -> None:
    one = partner()
    assert not one.may_hold(0, 1, 5), "it has told nothing"
    one.learn_map(a_map(10, (b"\x01", b"\x01")), newest=13)  # Two behind then.

    assert not one.may_hold(0, 11, 20), "it told of that one"
    assert [seq for seq in range(8, 20) if one.may_hold(0, seq, 15)] == [12]


claims = st.lists(
    st.tuples(st.integers(0, 63), st.integers(0, 2**53 - 64), st.integers(0, 64)), max_size=60
)


@given(claims)
def test_no_talk_fills_the_memory_for_a_partner(said: list[tuple[int, int, int]]) -> None:
    one = partner()
    for rendition, seq, length in said:
        one.learn_map(a_map(seq, (b"\x01",) * length, rendition), 0)

        assert len(one.heard) <= RENDITIONS_HEARD_MAX
        assert all(len(heard.masks) <= HEADS_MAX for heard in one.heard.values())


def test_what_has_left_the_window_is_forgotten() -> None:
    one = partner()
    one.learn_map(a_map(10, (b"\x01", b"") * 5), 20)
    one.knows |= set(range(STALE_MAX + 1))
    one.asked = {(9, 0, 0): 1.0, (15, 0, 0): 1.0}
    one.forget_before(15)

    assert min(one.knows) == 15
    assert list(one.asked) == [(15, 0, 0)]
    assert one.holds_any(18)
    assert not one.holds_any(19), "it said so"
    assert not one.holds_any(99), "it said nothing of it"


def test_a_second_encoding_of_a_set_is_refused() -> None:
    with pytest.raises(BadMessage, match="non_canonical"):
        partner().learn_map(a_map(0, (b"\0",)), 0)
    with pytest.raises(BadMessage, match="non_canonical"):
        partner().learn_map(a_map(0, (b"\1\0",)), 0)


# Candidates.

ADDRESS = ("192.0.2.1", 4433)


def test_who_fails_is_asked_again_later_and_later() -> None:
    known = Candidates()
    known.learn(node(1), [ADDRESS])
    now, pauses = 0.0, []
    for _ in range(8):
        known.failed(node(1), now=now)
        pause = next(
            p / 10 for p in range(10_000)
            if known.pick(1, besides=(), now=now + p / 10, rng=Random(1))
        )  # fmt: skip
        pauses.append(pause)
        now += pause

    assert pauses[:5] == [RETRY_S * 2**n for n in range(5)]
    assert pauses[-1] == RETRY_S_MAX
    known.worked(node(1))
    assert known.pick(1, besides=(), now=now, rng=Random(1))
    known.failed(node(1), now=now)
    known.hurry()
    assert known.pick(1, besides=(), now=now, rng=Random(1))


def test_only_those_that_can_be_dialled_are_picked() -> None:
    known = Candidates()
    known.learn(node(1), [ADDRESS])
    known.learn(node(2), [])
    known.learn(node(3), [ADDRESS])
    known.forget(node(3))

    assert [c.node for c in known.pick(9, besides=(), now=0.0, rng=Random(1))] == [node(1)]
    assert known.pick(9, besides=[node(1)], now=0.0, rng=Random(1)) == []


def test_no_talk_fills_the_list_of_candidates() -> None:
    known = Candidates()
    for n in range(1000):
        known.learn(node(n), [ADDRESS])
        known.learn(node(n), [("192.0.2.2", n), ("192.0.2.3", n)])
        known.learn(node(n), [("192.0.2.4", n), ("192.0.2.5", n)])

    assert len(known) <= CANDIDATES_MAX
    everybody = known.pick(1000, besides=(), now=0.0, rng=Random(1))
    assert max(len(candidate.addresses) for candidate in everybody) <= 4
