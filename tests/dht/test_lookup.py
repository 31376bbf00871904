"""One look-up, led by hand."""

from __future__ import annotations

from p2pstream.dht.contact import Contact, WireContact
from p2pstream.dht.lookup import (
    ALPHA,
    ALPHA_START,
    CANDIDATES_MAX,
    LOOKUP_S_MAX,
    MISLED_MAX,
    QUERIES_MAX,
    Lookup,
)
from p2pstream.identity import NodeId

TARGET = NodeId(bytes(32))
TOKEN = bytes(16)


def contact(n: int) -> Contact:
    return Contact(NodeId(n.to_bytes(32)), ("8.1.1.1", 1000 + n))


def numbers(contacts: list[Contact]) -> list[int]:
    return [int.from_bytes(one.node) for one in contacts]


def lookup(*known: int, k: int = 4, patient: bool = True) -> Lookup:
    new = Lookup(TARGET, now=0.0, k=k, patient=patient)
    new.add(map(contact, known))
    return new


def test_it_asks_the_nearest_first_and_alpha_at_a_time_once_somebody_answered() -> None:
    way = lookup(*range(50, 70), k=16)

    assert numbers(way.next()) == list(range(50, 50 + ALPHA_START))
    for n in range(50, 50 + ALPHA_START):
        way.answered(contact(n).node, TOKEN)
    assert numbers(way.next()) == [58, 59, 60]
    assert len(way.next()) == 0
    assert ALPHA == 3


def test_it_ends_when_the_k_closest_have_answered() -> None:
    way = lookup(10, 20, 30, 40, 50, 60)
    assert numbers(way.next()) == [10, 20, 30, 40]
    for n in (10, 20, 30):
        way.answered(contact(n).node, TOKEN)
    assert not way.over(now=1.0)
    way.add([contact(5)], source=contact(10).node)
    way.answered(contact(40).node, TOKEN)

    assert numbers(way.next()) == [5], "a nearer one turned up"
    way.answered(contact(5).node, TOKEN)
    assert way.over(now=1.0)
    assert numbers([one.contact for one in way.closest()]) == [5, 10, 20, 30]


def test_a_late_node_gives_its_turn_to_the_next_but_its_answer_counts() -> None:
    way = lookup(10, 20, 30, 40, 50)
    way.next()
    way.slow(contact(10).node)

    assert numbers(way.next()) == [50]
    way.answered(contact(10).node, TOKEN)
    assert numbers([one.contact for one in way.closest()]) == [10]


def test_a_patient_one_waits_for_the_late_and_an_impatient_one_does_not() -> None:
    for patient in (True, False):
        way = lookup(10, 20, patient=patient)
        way.next()
        way.answered(contact(20).node, TOKEN)
        way.slow(contact(10).node)
        assert way.over(now=1.0) is not patient
        way.failed(contact(10).node)
        assert way.over(now=1.0)


def test_it_waits_for_somebody_to_ask_but_no_longer_than_its_time() -> None:
    way = lookup()

    assert not way.over(now=LOOKUP_S_MAX - 1)
    assert way.over(now=LOOKUP_S_MAX)


def test_it_never_asks_more_than_its_queries() -> None:
    way = lookup(10_000)
    n, asked = 9_999, way.next()
    while asked:
        for one in asked:
            way.add([contact(n), contact(n - 1)], source=one.node)
            way.answered(one.node, TOKEN)
            n -= 2
        asked = way.next()

    assert way.queries == QUERIES_MAX
    assert way.over(now=1.0)


def test_who_has_answered_counts_when_it_goes_on_for_more() -> None:
    way = lookup(10, 20, 30, k=2)
    way.next()
    way.answered(contact(10).node, TOKEN)

    way.resume(now=15.0, k=3)

    assert numbers(way.next()) == [20, 30], "nobody listens for the answer of 20 any more"
    way.answered(contact(20).node, TOKEN)
    assert not way.over(now=25.0)
    way.answered(contact(30).node, TOKEN)
    assert way.over(now=25.0)
    assert numbers([one.contact for one in way.closest()]) == [10, 20, 30]


def test_one_that_was_over_goes_on_for_more_too() -> None:
    way = lookup(10, 20, 30, k=2)
    for one in way.next():
        way.answered(one.node, TOKEN)
    assert way.over(now=1.0)

    way.resume(now=15.0, k=3)

    assert not way.over(now=15.0)
    assert numbers(way.next()) == [30]


def test_it_keeps_the_nearest_candidates_only() -> None:
    way = lookup(*range(1, CANDIDATES_MAX + 100))

    assert len(way) == CANDIDATES_MAX
    assert way.candidate(contact(1).node)


def test_a_node_that_names_the_dead_is_not_believed_on_its_word_alone() -> None:
    way = lookup(1000, 1001)
    way.next()
    way.answered(contact(1000).node, TOKEN)
    way.add(map(contact, range(1, 17)), source=contact(1000).node)
    for _ in range(MISLED_MAX):
        for one in way.next():
            way.failed(one.node)

    way.answered(contact(1001).node, TOKEN)
    way.vouch([WireContact.of(contact(15))], source=contact(1001).node)

    assert numbers(way.next()) == [15], "somebody else has seen it too"
    way.failed(contact(15).node)
    assert way.over(now=1.0)
