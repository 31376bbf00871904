"""The routing table, driven by hand and by random histories."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.dht.addresses import may_dial, pack_host, plain, subnet_large, subnet_small
from p2pstream.dht.contact import Contact
from p2pstream.dht.table import (
    BUCKET_SIZE,
    FRESH_S,
    PROBE_GAP_S,
    RICH,
    SPARES_MAX,
    SUBNET_BUCKET_MAX,
    SUBNET_TABLE_MAX,
    RoutingTable,
)
from p2pstream.identity import NodeId

LOCAL = NodeId(bytes(32))
TOP = 1 << 255  # All of these ids share the farthest bucket.


def contact(n: int, host: str | None = None, port: int = 4000) -> Contact:
    host = host or f"{20 + n // 250}.{n % 250}.1.1"
    return Contact(NodeId((TOP | n).to_bytes(32)), (host, port))


def full_table() -> RoutingTable:
    table = RoutingTable(LOCAL)
    for n in range(BUCKET_SIZE):
        assert table.heard(contact(n), now=0.0) is None
    return table


def live(table: RoutingTable) -> set[NodeId]:
    return {entry.contact.node for entry in table}


def test_a_full_bucket_asks_its_stalest_contact_to_prove_itself() -> None:
    table = full_table()

    assert table.heard(contact(99), now=FRESH_S) == contact(0)
    assert table.heard(contact(98), now=FRESH_S + 1) is None, "one probe at a time"
    table.heard(contact(0), now=FRESH_S + 2)
    late = FRESH_S + PROBE_GAP_S
    assert table.heard(contact(98), now=late) == contact(1)
    assert live(table) == {contact(n).node for n in range(BUCKET_SIZE)}


def test_contacts_heard_a_moment_ago_need_not_prove_themselves() -> None:
    assert full_table().heard(contact(99), now=FRESH_S - 1) is None


def test_a_silent_contact_gives_way_to_the_freshest_spare() -> None:
    table = full_table()
    table.heard(contact(98), now=1.0)
    table.heard(contact(99), now=1.0)

    table.silent(contact(0))

    assert contact(0).node not in live(table)
    assert contact(99).node in live(table)


def test_a_silent_contact_without_a_spare_stays_in_doubt_and_is_not_told_to_others() -> None:
    """Our own link may be the one that is down."""
    table = RoutingTable(LOCAL)
    table.heard(contact(1), now=0.0)

    table.silent(contact(1))

    assert live(table) == {contact(1).node}
    assert table.closest(LOCAL) == []
    assert table.closest(LOCAL, doubtful=True) == [contact(1)]
    table.heard(contact(1), now=1.0)
    assert table.closest(LOCAL) == [contact(1)]


def test_a_newcomer_takes_the_place_of_one_in_doubt() -> None:
    table = full_table()
    table.silent(contact(3))

    table.heard(contact(99), now=1.0)

    assert contact(99).node in live(table)
    assert contact(3).node not in live(table)


def test_a_wrong_address_told_of_a_contact_does_not_put_it_in_doubt() -> None:
    table = full_table()

    table.silent(contact(3, host="9.9.9.9"))

    assert contact(3) in table.closest(contact(3).node)


def test_whoever_answers_at_an_address_replaces_who_was_there() -> None:
    table = RoutingTable(LOCAL)
    table.heard(contact(1, host="127.0.0.1"), now=0.0)

    table.heard(contact(2, host="127.0.0.1"), now=1.0)

    assert live(table) == {contact(2).node}


def test_d03_ten_thousand_ids_of_one_subnet_get_two_places_in_a_bucket_and_ten_in_all() -> None:
    table = full_table()
    old = live(table)
    for n in range(10_000):
        number = (1 << (255 - n % 40)) | n  # Spread over 40 buckets.
        node = NodeId(number.to_bytes(32))
        table.heard(Contact(node, ("45.1.2.3", 1024 + n)), now=1.0)

    mine = [entry for entry in table if entry.contact.address[0] == "45.1.2.3"]
    by_bucket = Counter(table.index(entry.contact.node) for entry in mine)
    assert max(by_bucket.values()) <= SUBNET_BUCKET_MAX
    assert len(mine) <= SUBNET_TABLE_MAX
    assert old <= live(table)


def test_nodes_on_one_machine_or_lan_are_not_limited_by_subnet() -> None:
    table = RoutingTable(LOCAL)
    for n in range(BUCKET_SIZE):
        table.heard(contact(n, host="127.0.0.1", port=4000 + n), now=0.0)

    assert len(table) == BUCKET_SIZE


events = st.lists(
    st.tuples(
        st.sampled_from(["heard", "heard", "silent", "remove"]),
        st.integers(0, 60),
        st.sampled_from(["45.1.2.3", "45.1.2.4", "45.1.3.1", "46.1.1.1", "127.0.0.1", "2a00::1"]),
        st.integers(1000, 1060),
    ),
    max_size=120,
)


@settings(max_examples=60)
@given(events)
def test_no_history_breaks_the_bounds_of_the_table(
    history: list[tuple[str, int, str, int]],
) -> None:
    table = RoutingTable(LOCAL)
    for now, (kind, n, host, port) in enumerate(history):
        one = Contact(NodeId(((n % 3 + 1 << 250) | n).to_bytes(32)), (host, port))
        if kind == "heard":
            table.heard(one, now=float(now))
        elif kind == "silent":
            table.silent(one)
        else:
            table.remove(one.node)
        check(table)


def check(table: RoutingTable) -> None:
    known = []
    for bucket in table._buckets.values():
        assert len(bucket.live) <= BUCKET_SIZE
        assert len(bucket.spares) <= SPARES_MAX
        assert not bucket.live.keys() & bucket.spares.keys()
        small = Counter(subnet_small(entry.contact.address[0]) for entry in bucket)
        assert all(small[net] <= SUBNET_BUCKET_MAX for net in small if net)
        known += list(bucket)
    large = Counter(subnet_large(entry.contact.address[0]) for entry in known)
    del large[None]
    assert large == table._by_subnet
    assert all(count <= SUBNET_TABLE_MAX for count in large.values())
    assert {entry.contact.address: entry.contact.node for entry in known} == table._by_address
    assert len(known) == len(table._by_address), "one entry per address"


# Ids from all buckets, near ones too: an integer below a power of two of any size.
IDS = st.integers(1, 255).flatmap(lambda size: st.integers(1, 1 << size))


@given(IDS, st.sets(IDS, max_size=200), IDS)
def test_closest_is_sorted_and_misses_nobody_nearer(
    local: int, nodes: set[int], target: int
) -> None:
    table = RoutingTable(NodeId(local.to_bytes(32)))
    for n, node in enumerate(nodes - {local}):
        there = Contact(NodeId(node.to_bytes(32)), contact(n).address)
        table.heard(there, now=0.0)
    goal = NodeId(target.to_bytes(32))

    found = [one.node ^ goal for one in table.closest(goal, count=8)]

    assert found == sorted(node ^ goal for node in live(table))[:8]


FORBIDDEN = [
    ("169.254.169.254", 80),
    ("224.0.0.1", 4000),
    ("0.0.0.0", 4000),
    ("::ffff:127.0.0.1", 4000),
    ("::ffff:8.8.8.8", 4000),
    ("64:ff9b::7f00:1", 4000),
    ("2002:7f00:1::1", 4000),
    ("fe80::1", 4000),
    ("ff02::1", 4000),
    ("255.255.255.255", 4000),
    ("8.8.8.8", 0),
    ("8.8.8.8", 25),
    ("8.8.8.8", 53),
    ("example.org", 4000),
]


def test_d07_addresses_that_are_no_plain_hosts_are_never_dialled() -> None:
    for address in FORBIDDEN:
        assert not may_dial(address, allow_private=True), address
        assert not may_dial(address, allow_private=False), address


def test_d07_addresses_of_this_machine_and_lan_are_dialled_in_lan_mode_only() -> None:
    for host in ("127.0.0.1", "::1", "10.0.0.7", "192.168.1.2", "172.16.0.1", "fd00::1"):
        assert not may_dial((host, 4000), allow_private=False), host
        assert may_dial((host, 4000), allow_private=True), host
    assert may_dial(("8.8.8.8", 4000), allow_private=False)
    assert may_dial(("2a00:1450::1", 4000), allow_private=False)


def test_a_mapped_address_of_a_dual_stack_socket_is_plain_ipv4() -> None:
    assert plain(("::ffff:8.8.8.8", 4000)) == ("8.8.8.8", 4000)
    assert plain(("2a00::1", 4000)) == ("2a00::1", 4000)
    assert pack_host("8.8.8.8") == bytes([8, 8, 8, 8])


def test_a_rich_bucket_lacks_nobody_until_too_many_of_its_contacts_are_in_doubt() -> None:
    table = RoutingTable(LOCAL)
    for n in range(RICH):
        assert table.lacks(contact(n))
        table.heard(contact(n), now=0.0)
    assert not table.lacks(contact(100)), "look-ups find the others"
    assert table.lacks(contact(3)), "it may have moved"

    table.silent(contact(5))

    assert table.lacks(contact(100))
