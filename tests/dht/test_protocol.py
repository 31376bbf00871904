"""One node of the DHT, as transcripts: what arrives, and what it does."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from math import inf

import pytest

from p2pstream.core import Dial, Hangup, Happening, LinkDown, LinkUp, Send
from p2pstream.dht.contact import Contact, WireContact
from p2pstream.dht.lookup import ALPHA, ALPHA_START
from p2pstream.dht.messages import (
    Announce,
    Denied,
    FindNode,
    FindProviders,
    Nodes,
    Ping,
    Pong,
    Providers,
    Reason,
    Stored,
)
from p2pstream.dht.protocol import (
    LEADS_MAX,
    LOOKUPS_MAX,
    PROVIDED_MAX,
    PUTS_BURST,
    QUERIES_ALL_BURST,
    QUERIES_BURST,
    TRAIL_S,
    TRAILS_MAX,
    Config,
    Dht,
    Found,
    LookupDone,
    Provided,
)
from p2pstream.dht.queries import (
    ASKING_MAX,
    DEAD_S,
    DIAL_DEAD_S,
    LINK_IDLE_S,
    LINKS_DIALLED_MAX,
)
from p2pstream.dht.records import Record, make_record
from p2pstream.dht.table import RICH
from p2pstream.dht.tasks import RETRY_S_MIN
from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.identity import Address, NodeId
from p2pstream.wire.codec import Message
from tests.dht.network import key_of, make_dht, public_of, topic, wall

KEY = topic(1)
US = 0
SEEN_AS = ("7.7.7.7", 4000)


class Talk:
    """A node and the peers that a test speaks for. `said` takes what it wants sent to a peer."""

    def __init__(self, config: Config | None = None) -> None:
        self.dht: Dht = make_dht(key_of(US), config=config)
        self.now = 100.0
        self.log: list[object] = []

    def hear(self, n: int, happening: Happening) -> None:
        self.dht.receive(node(n), happening, now=self.now)

    def link(self, n: int, *, address: Address | None = None, dialled: bool = False) -> None:
        self.hear(n, LinkUp(address or home(n), dialled, SEEN_AS))

    def effects(self) -> list[object]:
        new = list(self.dht.effects())
        self.log += new
        return new

    def said(self, n: int) -> list[Message]:
        sends = [e for e in self.effects() if isinstance(e, Send) and e.peer == node(n)]
        return [send.message for send in sends if isinstance(send.message, Message)]

    def ask(self, n: int, query: Message) -> Message:
        """The answer to `query`."""
        self.effects()
        self.hear(n, query)
        return self.said(n)[0]

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.dht.wake_at() <= end:
            self.now = max(self.now, self.dht.wake_at())
            self.dht.wake(now=self.now)
            assert self.dht.wake_at() > self.now
        self.now = end

    def token(self, n: int, key: bytes = KEY) -> bytes:
        answer = self.ask(n, FindNode(1, key))
        assert isinstance(answer, Nodes)
        return answer.token


def node(n: int) -> NodeId:
    return public_of(n)[0]


def home(n: int) -> Address:
    return (f"{20 + n // 200}.{n % 200}.1.1", 4000)


def contact(n: int) -> Contact:
    return Contact(node(n), home(n))


def wire(*numbers: int) -> tuple[WireContact, ...]:
    return tuple(WireContact.of(contact(n)) for n in numbers)


def record(
    n: int,
    now: float,
    *,
    key: bytes = KEY,
    seq: int = 1,
    life_s: float = 200,
    addresses: tuple[Address, ...] = (("9.9.9.9", 4000),),
    signer: int | None = None,
) -> Record:
    return make_record(
        key,
        addresses,
        expires=int(wall(now) + life_s),
        seq=seq,
        public=key_of(n).public,
        sign=key_of(n if signer is None else signer).sign,
    )


TOKEN = bytes(16)


def test_an_idle_node_has_nothing_to_wake_for() -> None:
    assert Talk().dht.wake_at() == inf


def test_a_viewer_finds_providers_through_one_seed() -> None:
    t = Talk()
    t.dht.learn(contact(1), now=t.now)
    number = t.dht.find(KEY, now=t.now)

    assert t.effects() == [Dial(node(1), (home(1),))]
    t.link(1, dialled=True)
    (query,) = t.said(1)
    assert isinstance(query, FindProviders)
    assert query.key == KEY
    found = record(2, t.now)
    t.now += 0.1
    t.hear(1, Providers(query.rid, (found.data,), (), TOKEN))

    first, done = t.effects()
    assert first == Found(number, KEY, (found,))
    assert isinstance(done, LookupDone)
    assert (done.lookup, done.found, done.queries, done.hops) == (number, 1, 1, 1)
    assert done.seconds == pytest.approx(0.1)
    assert done.closest == (contact(1),)


def test_a_record_is_announced_at_the_only_node_there_is() -> None:
    t = Talk()
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    assert t.effects() == []
    t.dht.learn(contact(1), now=t.now)
    assert t.effects() == [Dial(node(1), (home(1),))], "as soon as somebody is known"
    t.link(1, dialled=True)
    (query,) = t.said(1)
    assert isinstance(query, FindNode)
    t.hear(1, Nodes(query.rid, (), b"t" * 16))

    (put,) = t.said(1)
    assert isinstance(put, Announce)
    assert (put.key, put.token) == (KEY, b"t" * 16)
    t.hear(1, Stored(put.rid))
    assert t.effects() == [Provided(KEY, 1)]


def test_a_provider_with_few_holders_tells_a_newcomer_soon() -> None:
    t = Talk()
    t.link(1)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    query = t.said(1)[0]
    assert isinstance(query, FindNode)
    t.hear(1, Nodes(query.rid, (), TOKEN))
    put = t.said(1)[0]
    assert isinstance(put, Announce)
    t.hear(1, Stored(put.rid))

    t.sleep(0.1)
    t.link(2)
    t.sleep(2 * RETRY_S_MIN)

    assert any(isinstance(message, FindNode) for message in t.said(2))


def test_a_provider_republishes_well_before_its_record_expires() -> None:
    t = Talk(Config(replicas_min=1))
    t.link(1)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    seen = []
    for _ in range(1200):
        for message in t.said(1):
            if isinstance(message, FindNode):
                t.hear(1, Nodes(message.rid, (), TOKEN))
            elif isinstance(message, Announce):
                seen.append(t.now)
                t.hear(1, Stored(message.rid))
            elif isinstance(message, Ping):
                t.hear(1, Pong(message.rid))
        t.sleep(0.5)

    gaps = [b - a for a, b in pairwise(seen)]
    assert 4 <= len(gaps) <= 6
    assert all(100 < gap < 125 for gap in gaps)


def found(*numbers: int) -> Talk:
    """A node that has just looked for KEY: these answered, each with a token of its own."""
    t = Talk()
    for n in numbers:
        t.link(n)
    t.dht.find(KEY, now=t.now)
    t.effects()
    for n in numbers:
        (query,) = (q.message for q in t.dht._queries._asking.values() if q.node == node(n))
        t.hear(n, Providers(query.rid, (), (), bytes([n]) * 16))
    assert any(isinstance(effect, LookupDone) for effect in t.effects())
    return t


def test_whoever_answered_a_find_is_not_asked_again_before_it_gets_the_record() -> None:
    t = found(1, 2)
    t.sleep(1.0)
    t.effects()
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)

    sends = [effect for effect in t.effects() if isinstance(effect, Send)]
    tokens = {s.peer: s.message.token for s in sends if isinstance(s.message, Announce)}
    assert tokens == {node(n): bytes([n]) * 16 for n in (1, 2)}
    assert len(sends) == 2


def test_a_further_round_of_providing_asks_only_whom_the_one_before_has_not() -> None:
    t = found(1, 2)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    for effect in t.effects():
        if isinstance(effect, Send) and isinstance(effect.message, Announce):
            t.dht.receive(effect.peer, Stored(effect.message.rid), now=t.now)
    t.link(3)
    t.sleep(2 * RETRY_S_MIN)

    sends = [effect for effect in t.effects() if isinstance(effect, Send)]
    assert [(s.peer, type(s.message)) for s in sends] == [(node(3), FindNode)]


def test_whose_token_is_no_good_is_asked_for_another() -> None:
    t = found(1)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    (put,) = t.said(1)
    assert isinstance(put, Announce)
    t.hear(1, Denied(put.rid, Reason.BAD_TOKEN))
    t.sleep(2 * RETRY_S_MIN)
    assert isinstance(t.said(1)[0], FindNode)


def test_many_are_asked_at_first_only_where_no_links_stand() -> None:
    linked, cold = Talk(), Talk()
    for n in range(1, 11):
        linked.link(n)
        cold.dht.learn(contact(n), now=cold.now)
    linked.dht.find(KEY, now=linked.now)
    cold.dht.find(KEY, now=cold.now)
    assert sum(isinstance(effect, Send) for effect in linked.effects()) == ALPHA
    assert sum(isinstance(effect, Dial) for effect in cold.effects()) == ALPHA_START


def test_what_a_find_learned_is_used_once_and_while_it_is_young() -> None:
    t = found(1)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    assert isinstance(t.said(1)[0], Announce)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    t.hear(1, LinkDown("gone"))
    t.link(1)
    t.sleep(2 * RETRY_S_MIN)
    assert isinstance(t.said(1)[-1], FindNode)

    t = found(1)
    t.sleep(TRAIL_S)
    t.said(1)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    assert isinstance(t.said(1)[-1], FindNode)


def test_tokens_for_where_we_were_are_not_used_where_we_are() -> None:
    t = found(1)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    put = t.said(1)[0]
    assert isinstance(put, Announce)
    t.hear(1, Stored(put.rid))
    t.dht.find(KEY, now=t.now)
    (query,) = t.said(1)
    assert isinstance(query, FindProviders)
    t.hear(1, Providers(query.rid, (), (), TOKEN))

    t.dht.provide(KEY, (("9.9.9.9", 1),), now=t.now)

    assert isinstance(t.said(1)[0], FindNode)


def test_finds_to_go_on_from_are_bounded() -> None:
    t = Talk()
    t.link(1)
    for n in range(2 * TRAILS_MAX):
        t.dht.find(topic(n), now=t.now)
        (query,) = t.said(1)
        assert isinstance(query, FindProviders)
        t.hear(1, Providers(query.rid, (), (), TOKEN))
        assert len(t.dht._trails) <= TRAILS_MAX


def test_what_is_withdrawn_is_announced_no_more() -> None:
    t = Talk()
    t.link(1)
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    t.dht.withdraw(KEY)
    query = t.said(1)[0]
    assert isinstance(query, FindNode)
    t.hear(1, Nodes(query.rid, (), TOKEN))

    assert t.said(1) == []
    assert len(t.dht) == 0


def test_our_own_record_is_told_to_those_who_ask_us() -> None:
    t = Talk()
    t.dht.provide(KEY, (SEEN_AS,), now=t.now)
    t.link(1)
    answer = t.ask(1, FindProviders(7, KEY))

    assert isinstance(answer, Providers)
    assert len(answer.records) == 1


def test_find_looks_into_our_own_store_first() -> None:
    t = Talk()
    t.link(1)
    mine = record(1, t.now)
    assert t.ask(1, Announce(2, KEY, t.token(1), mine.data)) == Stored(2)

    number = t.dht.find(KEY, now=t.now)

    assert Found(number, KEY, (mine,)) in t.effects()


def test_a_peer_that_links_to_us_is_in_the_table_unasked_and_moves_with_its_link() -> None:
    t = Talk()
    t.link(1)
    assert t.dht.contacts() == [contact(1)]

    t.link(1, address=("99.9.9.9", 1))

    assert t.dht.contacts() == [Contact(node(1), ("99.9.9.9", 1))]
    assert t.effects() == []


def test_links_fill_half_a_bucket_the_other_half_is_for_those_who_answer() -> None:
    t = Talk()
    far = of_bucket(256, t, 20)
    for n in far:
        t.link(n)
    assert t.dht.contacts() == [contact(n) for n in far[:RICH]]

    t.dht.find(node(far[-1]), now=t.now)
    n, asking = far[-1], t.dht._queries._asking
    first = next(iter(asking.values()))
    t.dht.receive(first.node, Providers(first.message.rid, (), wire(n), TOKEN), now=t.now)
    query = next(one for one in asking.values() if one.node == node(n))
    t.hear(n, Providers(query.message.rid, (), (), TOKEN))

    assert contact(n) in t.dht.contacts()


def of_bucket(index: int, t: Talk, count: int) -> list[int]:
    """The numbers of nodes that belong in that bucket."""
    numbers = (n for n in range(1, 1000) if t.dht._table.index(node(n)) == index)
    return list(islice(numbers, count))


def test_a_bucket_that_newcomers_have_filled_is_not_refreshed() -> None:
    for count in (3, 8):
        t = Talk()
        t.dht._refresh_at = t.now
        for n in of_bucket(256, t, count) + of_bucket(255, t, 1):
            t.link(n)
        t.sleep(0.1)
        asked = [e for e in t.effects() if isinstance(e, Send) and isinstance(e.message, FindNode)]
        assert bool(asked) is (count == 3)


def test_a_refresh_ends_when_a_bucket_s_worth_of_nodes_has_answered() -> None:
    t = Talk()
    far = of_bucket(256, t, 400)
    for n in [*far[:3], *of_bucket(255, t, 1)]:
        t.link(n)
    t.dht._refresh_at = t.now
    t.sleep(0.1)
    (task,) = t.dht._tasks.values()
    way = sorted(far, key=lambda n: node(n) ^ task.lookup.target, reverse=True)
    asked = 0
    while queries := list(t.dht._queries._asking.values()):
        n = next(n for n in range(1000) if node(n) == queries[0].node)
        if queries[0].sent_at is None:
            t.link(n, dialled=True)
        nearer = way[way.index(n) + 1 :][:2] if n in way else []
        t.hear(n, Nodes(queries[0].message.rid, wire(*nearer), TOKEN))
        asked += 1

    assert 8 <= asked <= 12


def test_d03_whoever_links_in_thousands_from_one_subnet_gets_ten_places_and_no_answer() -> None:
    t = Talk()
    t.link(1)
    for n in range(2, 3000):
        t.link(n, address=(f"45.1.2.{n % 250}", 1024 + n))

    buckets = Counter(t.dht._table.index(one.node) for one in t.dht.contacts()[1:])
    assert t.dht.contacts()[0] == contact(1)
    assert 2 < buckets.total() <= 10
    assert max(buckets.values()) <= 2
    assert t.effects() == []


def test_a_node_that_only_asks_leaves_the_table_when_asked_first() -> None:
    t = Talk()
    t.link(1)
    t.dht.find(KEY, now=t.now)
    (query,) = t.said(1)
    assert isinstance(query, FindProviders)
    t.hear(1, Denied(query.rid, Reason.CLIENT))
    assert t.dht.contacts() == []

    client = Talk(Config(serving=False))
    client.link(1)
    assert client.ask(1, Ping(3)) == Denied(3, Reason.CLIENT)


def test_d04_answers_nobody_asked_for_are_ignored_and_counted() -> None:
    t = Talk()
    t.link(1)
    t.link(2)
    t.said(2)
    t.dht.find(KEY, now=t.now)
    (query,) = [m for m in t.said(1) if isinstance(m, FindProviders)]
    good = Providers(query.rid, (), wire(3), TOKEN)

    t.hear(1, Providers(query.rid ^ 1, (), wire(3), TOKEN))  # Wrong id.
    t.hear(2, good)  # Wrong node.
    t.hear(1, Nodes(query.rid, wire(3), TOKEN))  # Wrong type.
    t.hear(1, Stored(query.rid))
    assert t.dht.counters.unsolicited == 4
    assert t.effects() == []

    t.hear(1, good)
    assert Dial(node(3), (home(3),)) in t.effects()
    t.hear(1, good)  # A second time.
    assert t.dht.counters.unsolicited == 5


def test_d05_every_bad_put_is_refused_with_a_reason_and_changes_nothing() -> None:
    t = Talk()
    t.link(1)
    t.link(2)
    stale = t.token(1)
    t.sleep(300)
    token = t.token(1)
    t.link(1, address=("99.1.1.1", 1))
    elsewhere = t.token(1)
    t.link(1)
    first = record(1, t.now, seq=5)
    assert t.ask(1, Announce(2, KEY, token, first.data)) == Stored(2)

    def put(data: bytes, token: bytes = token, n: int = 1) -> Message:
        return t.ask(n, Announce(9, KEY, token, data))

    newer = record(1, t.now, seq=6).data
    assert put(newer, stale) == Denied(9, Reason.BAD_TOKEN)
    assert put(newer, elsewhere) == Denied(9, Reason.BAD_TOKEN)
    assert put(newer, token, n=2) == Denied(9, Reason.BAD_TOKEN)
    assert put(newer, t.token(2), n=2) == Denied(9, Reason.NOT_YOURS)
    assert put(record(1, t.now, seq=4).data) == Denied(9, Reason.OLD)
    assert put(record(1, t.now, seq=5, life_s=100).data) == Denied(9, Reason.CONFLICT)
    assert put(record(1, t.now, seq=6, life_s=365 * 86400).data) == Denied(9, Reason.TOO_LONG)
    assert put(record(1, t.now, seq=6, life_s=-1).data) == Denied(9, Reason.EXPIRED)
    with pytest.raises(BadMessage):
        put(first.data + bytes(1001))
    with pytest.raises(BadMessage):
        put(record(1, t.now, key=topic(2), seq=6).data)
    with pytest.raises(Misbehaviour):
        put(record(1, t.now, seq=6, signer=2).data)

    answer = t.ask(2, FindProviders(3, KEY))
    assert isinstance(answer, Providers)
    assert answer.records == (first.data,)


def test_whoever_tells_a_forged_record_is_convicted_and_the_query_stays_open() -> None:
    t = Talk()
    t.link(1)
    t.dht.find(KEY, now=t.now)
    (query,) = t.said(1)
    assert isinstance(query, FindProviders)
    forged = record(3, t.now, signer=4).data

    with pytest.raises(Misbehaviour):
        t.hear(1, Providers(query.rid, (forged,), wire(3), TOKEN))
    assert t.effects() == []
    t.hear(1, LinkDown("banned"))
    (done,) = t.effects()
    assert isinstance(done, LookupDone)
    assert done.found == 0


def test_d07_addresses_of_strangers_that_are_no_plain_hosts_are_never_dialled() -> None:
    bad = [("127.0.0.1", 4000), ("169.254.169.254", 80), ("8.8.8.8", 53), ("10.0.0.1", 4000)]
    t = Talk()
    t.link(1)
    t.dht.find(KEY, now=t.now)
    (query,) = t.said(1)
    assert isinstance(query, FindProviders)
    contacts = tuple(WireContact.of(Contact(node(9 + i), bad[i])) for i in range(len(bad)))
    named = record(3, t.now, addresses=(bad[0], bad[1], ("8.8.8.8", 4000), bad[2]))
    t.hear(1, Providers(query.rid, (named.data,), contacts, TOKEN))

    (found, _) = t.effects()
    assert isinstance(found, Found)
    assert found.records[0].addresses == (("8.8.8.8", 4000),)
    assert not any(isinstance(effect, Dial) for effect in t.log)
    assert t.dht.counters.bad_addresses == len(bad) + 3
    t.dht.learn(Contact(node(9), bad[0]), now=t.now)
    assert t.effects() == []


def test_d07_lan_mode_believes_addresses_of_this_machine() -> None:
    t = Talk(Config(allow_private=True))
    t.dht.learn(Contact(node(9), ("127.0.0.1", 4000)), now=t.now)
    t.dht.find(KEY, now=t.now)

    assert t.effects() == [Dial(node(9), (("127.0.0.1", 4000),))]


def test_a_node_that_cannot_be_dialled_fails_at_once_and_a_silent_one_after_a_while() -> None:
    for seconds in (0.0, DIAL_DEAD_S):
        t = Talk()
        t.dht.learn(contact(1), now=t.now)
        t.dht.find(KEY, now=t.now)
        t.effects()
        if seconds:
            t.sleep(seconds)
        else:
            t.hear(1, LinkDown("refused"))
        (done,) = t.effects()
        assert isinstance(done, LookupDone)
        assert done.seconds == pytest.approx(seconds)


def test_a_linked_node_that_says_nothing_is_given_up() -> None:
    t = Talk()
    t.link(1)
    t.dht.find(KEY, now=t.now)
    t.effects()

    t.sleep(DEAD_S)

    assert t.dht.contacts() == []
    assert t.dht.counters.dead == 1
    assert any(isinstance(effect, LookupDone) for effect in t.effects())


def test_links_made_for_queries_are_given_back_when_idle_and_others_are_not() -> None:
    t = Talk()
    t.link(5)
    t.said(5)
    t.dht.learn(contact(1), now=t.now)
    t.dht.find(KEY, now=t.now)
    t.link(1, dialled=True)
    (query,) = t.said(1)
    assert isinstance(query, FindProviders)
    t.hear(1, Providers(query.rid, (), (), TOKEN))

    t.sleep(2 * LINK_IDLE_S)

    hangups = [effect for effect in t.effects() if isinstance(effect, Hangup)]
    assert hangups == [Hangup(node(1), "idle")]


def test_one_address_asks_fifty_times_at_once_and_then_ten_times_a_second() -> None:
    t = Talk()
    for n in (1, 2):
        t.link(n, address=("8.8.8.8", 4000 + n))
    answers = [t.ask(1 + i % 2, Ping(i)) for i in range(80)]
    assert sum(isinstance(answer, Pong) for answer in answers) == QUERIES_BURST
    assert answers[-1] == Denied(79, Reason.BUSY)

    t.now += 1.0
    answers = [t.ask(1, Ping(i)) for i in range(80)]
    assert sum(isinstance(answer, Pong) for answer in answers) == 10


def test_on_one_machine_every_node_has_its_own_allowance_within_that_of_all() -> None:
    t = Talk(Config(allow_private=True))
    answered = 0
    for n in range(1, 21):
        t.link(n, address=("127.0.0.1", 4000 + n))
        answered += sum(isinstance(t.ask(n, Ping(i)), Pong) for i in range(20))

    assert answered == 400 == QUERIES_ALL_BURST


def test_a_node_puts_twelve_times_at_once_and_then_four_times_a_minute() -> None:
    t = Talk()
    t.link(1)
    token = t.token(1)

    def puts(count: int, first: int) -> int:
        made = [record(1, t.now, seq=first + i).data for i in range(count)]
        return sum(isinstance(t.ask(1, Announce(1, KEY, token, one)), Stored) for one in made)

    assert puts(20, 1) == PUTS_BURST
    t.now += 60
    assert puts(20, 100) == 4


def test_what_we_were_told_to_start_from_is_bounded() -> None:
    t = Talk()
    for n in range(1, 3 * LEADS_MAX):
        t.dht.learn(contact(n), now=t.now)

    assert len(t.dht._leads) == LEADS_MAX
    assert node(3 * LEADS_MAX - 1) in t.dht._leads


def test_more_keys_than_a_node_may_provide_are_our_own_fault() -> None:
    t = Talk()
    for n in range(PROVIDED_MAX):
        t.dht.provide(topic(n), (SEEN_AS,), now=t.now)
    t.dht.provide(topic(0), (("7.7.7.8", 1),), now=t.now)
    with pytest.raises(AssertionError):
        t.dht.provide(topic(PROVIDED_MAX), (SEEN_AS,), now=t.now)


def test_look_ups_queries_and_links_of_our_own_are_bounded() -> None:
    t = Talk()
    for n in range(1, 120):
        t.dht.learn(contact(n), now=t.now)
    for n in range(3 * LOOKUPS_MAX):
        t.dht.find(topic(n), now=t.now)
        assert len(t.dht._tasks) <= LOOKUPS_MAX
        assert len(t.dht._queries) <= ASKING_MAX
    dials = [effect for effect in t.effects() if isinstance(effect, Dial)]
    assert len(dials) == len({dial.peer for dial in dials})

    for n in range(200, 210 + LINKS_DIALLED_MAX):
        t.dht._queries._dialling.add(node(n))
        t.link(n, dialled=True)
        t.effects()
        for asking in list(t.dht._queries._asking.values()):
            if asking.node == node(n):
                t.hear(n, Pong(asking.message.rid))
        assert len(t.dht._queries.ours) <= LINKS_DIALLED_MAX + 1


def test_a_node_that_lost_everybody_tries_its_first_contacts_again_less_and_less_often() -> None:
    t = Talk()
    t.dht.learn(contact(1), now=t.now)
    t.dht.join(now=t.now)
    dials = []
    for _ in range(1200):
        for effect in t.effects():
            if isinstance(effect, Dial):
                dials.append(t.now)
                t.hear(1, LinkDown("no answer"))
        t.sleep(0.5)

    assert 8 <= len(dials) <= 16, dials
    t.link(1)
    assert t.dht.contacts() == [contact(1)]
