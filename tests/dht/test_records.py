"""Provider records: their bytes, and the shelf they lie on."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.dht.limits import METERED_MAX, TOKEN_WINDOW_S, Meter, Tokens
from p2pstream.dht.messages import RECORD_BYTES_MAX, Reason
from p2pstream.dht.records import (
    ADDRESSES_MAX,
    EXPIRY_S_MAX,
    PROVIDERS_MAX,
    PROVIDERS_SUBNET_MAX,
    RECORDS_REMEMBERED,
    RECORDS_STORED_MAX,
    SUBNET_RECORDS_MAX,
    Forged,
    Record,
    Store,
    make_record,
    parse_record,
    read_record,
)
from p2pstream.errors import BadMessage
from p2pstream.identity import Address, NodeId
from tests.dht.network import WALL_S, key_of, public_of, topic

NOW = WALL_S
HOME = ("8.1.2.3", 4000)


def record(
    n: int = 1,
    *,
    key: bytes = topic(1),
    seq: int = 1,
    life_s: float = 200,
    addresses: tuple[Address, ...] = (HOME,),
) -> Record:
    node = key_of(n)
    return make_record(
        key, addresses, expires=int(NOW + life_s), seq=seq, public=node.public, sign=node.sign
    )


def unsigned(n: int, *, key: bytes, data: bytes = bytes(222)) -> Record:
    """A record as the parser would make it, without the cost of signing."""
    node = NodeId(n.to_bytes(32))
    return Record(key, node, public_of(1)[1], (HOME,), int(NOW + 200), 1, data[:-8] + bytes(8))


def test_a_record_survives_its_bytes() -> None:
    made = record(addresses=(HOME, ("2a00::1", 1), ("10.0.0.1", 65535), ("8.8.8.8", 2)))

    assert parse_record(made.data) == made
    assert len(made.data) <= RECORD_BYTES_MAX


def test_a_record_of_another_signer_is_forged() -> None:
    made = make_record(
        topic(1), (HOME,), expires=1, seq=1, public=key_of(1).public, sign=key_of(2).sign
    )
    with pytest.raises(Forged):
        parse_record(made.data)


def test_more_than_a_thousand_bytes_are_no_record() -> None:
    with pytest.raises(BadMessage, match="more than 1000"):
        parse_record(record().data + bytes(RECORD_BYTES_MAX))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_record(data)


@settings(max_examples=150)
@given(st.integers(0, len(record().data) * 8 - 1))
def test_a_record_with_any_bit_flipped_is_refused(bit: int) -> None:
    data = bytearray(record().data)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadMessage):
        parse_record(bytes(data))


@given(st.integers(0, len(record().data) - 1), st.binary(min_size=1, max_size=4))
def test_a_record_cut_short_or_with_bytes_to_spare_is_refused(cut: int, extra: bytes) -> None:
    for data in (record().data[:cut], record().data + extra):
        with pytest.raises(BadMessage):
            parse_record(data)


def test_a_record_has_four_addresses_at_most() -> None:
    with pytest.raises(AssertionError):
        record(addresses=(HOME,) * (ADDRESSES_MAX + 1))


def test_records_read_before_are_remembered_up_to_a_limit() -> None:
    key = topic(1)
    for seq in range(RECORDS_REMEMBERED + 10):
        read = make_record(
            key, (), expires=1, seq=seq, public=key_of(1).public, sign=lambda _: bytes(64)
        )
        assert read_record(read.data) == read
    assert read_record.cache_info().currsize == RECORDS_REMEMBERED


def test_a_newer_record_replaces_an_older_one_and_never_the_other_way() -> None:
    store = Store(random.Random(1))
    old, new, other = record(seq=5), record(seq=6), record(seq=6, life_s=100)

    assert store.put(old, HOME[0], wall_s=NOW) is None
    assert store.put(new, HOME[0], wall_s=NOW) is None
    assert store.put(new, HOME[0], wall_s=NOW) is None, "once more is harmless"
    assert store.put(old, HOME[0], wall_s=NOW) is Reason.OLD
    assert store.put(other, HOME[0], wall_s=NOW) is Reason.CONFLICT
    assert store.some(topic(1), 20, wall_s=NOW) == [new.data]


def test_records_expire_in_wall_time_and_within_five_minutes() -> None:
    store = Store(random.Random(1))

    assert store.put(record(life_s=EXPIRY_S_MAX + 1), HOME[0], wall_s=NOW) is Reason.TOO_LONG
    assert store.put(record(life_s=365 * 86400), HOME[0], wall_s=NOW) is Reason.TOO_LONG
    assert store.put(record(life_s=0), HOME[0], wall_s=NOW) is Reason.EXPIRED
    assert store.put(record(life_s=100), HOME[0], wall_s=NOW) is None
    assert store.some(topic(1), 20, wall_s=NOW + 100) == []
    assert store.expire(wall_s=NOW + 100) == 1
    assert (len(store), store.size) == (0, 0)


def test_a_key_has_a_hundred_providers_and_eight_of_one_subnet() -> None:
    store = Store(random.Random(1))
    for n in range(3 * PROVIDERS_MAX):
        host = f"45.{n % 250}.{n // 250}.1" if n % 2 else "46.1.1.1"
        store.put(unsigned(n, key=topic(1)), host, wall_s=NOW)

    kept = store._by_key[topic(1)].values()
    assert len(kept) == PROVIDERS_MAX
    subnets = Counter(one.subnet for one in kept)
    assert max(subnets.values()) <= PROVIDERS_SUBNET_MAX


def test_a_demo_on_one_machine_may_have_a_hundred_providers() -> None:
    store = Store(random.Random(1))
    for n in range(2 * PROVIDERS_MAX):
        store.put(unsigned(n, key=topic(1)), "127.0.0.1", wall_s=NOW)

    assert len(store) == PROVIDERS_MAX


def test_one_subnet_cannot_flush_the_store() -> None:
    store = Store(random.Random(1), records_max=2 * SUBNET_RECORDS_MAX)
    store.put(record(), "127.0.0.1", wall_s=NOW)
    reasons = {
        store.put(unsigned(n, key=n.to_bytes(32)), "45.1.1.1", wall_s=NOW) for n in range(5000)
    }

    assert reasons == {None, Reason.FULL}
    assert len(store) == SUBNET_RECORDS_MAX + 1
    assert store.some(topic(1), 1, wall_s=NOW)


def test_the_store_is_bounded_in_records_and_in_bytes() -> None:
    few = Store(random.Random(1), records_max=10)
    small = Store(random.Random(1), bytes_max=2220)
    for n in range(100):
        few.put(unsigned(n, key=n.to_bytes(32)), f"45.{n}.1.1", wall_s=NOW)
        small.put(unsigned(n, key=n.to_bytes(32)), f"45.{n}.1.1", wall_s=NOW)

    assert len(few) == 10
    assert small.size <= 2220
    assert small.size == sum(map(len, small))


def test_d06_a_full_store_takes_less_than_32_mib_and_an_honest_record_returns_to_it() -> None:
    """A quarter of the real store, against a quarter of the memory."""
    store = Store(random.Random(1), records_max=RECORDS_STORED_MAX // 4)
    tracemalloc.start()
    for n in range(RECORDS_STORED_MAX // 3):
        data = n.to_bytes(8) + bytes(214)
        host = f"45.{n // 250}.1.1"
        store.put(unsigned(n, key=n.to_bytes(32), data=data), host, wall_s=NOW)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(store) == RECORDS_STORED_MAX // 4
    assert taken < 8 * 1024 * 1024, f"{taken / 2**20:.1f} MiB"
    print(f"{4 * taken / 2**20:.1f} MiB when full")
    assert store.put(record(), HOME[0], wall_s=NOW) is None
    assert store.some(topic(1), 1, wall_s=NOW) == [record().data]


def test_a_token_is_good_for_its_asker_and_key_and_for_five_minutes_at_most() -> None:
    tokens = Tokens(bytes(32))
    node, key = public_of(1)[0], topic(1)
    token = tokens.make("8.1.1.1", key, node, now=0.0)

    assert tokens.good(token, "8.1.1.1", key, node, now=TOKEN_WINDOW_S)
    assert not tokens.good(token, "8.1.1.1", key, node, now=300.0)
    assert not tokens.good(token, "8.1.1.2", key, node, now=0.0)
    assert not tokens.good(token, "8.1.1.1", topic(2), node, now=0.0)
    assert not tokens.good(token, "8.1.1.1", key, public_of(2)[0], now=0.0)
    assert not Tokens(bytes(31) + b"1").good(token, "8.1.1.1", key, node, now=0.0)


def test_a_meter_lets_a_burst_through_and_then_a_rate_and_forgets_the_oldest_askers() -> None:
    meter = Meter(per_s=10, burst=50)

    assert sum(meter.take("a", now=0.0) for _ in range(100)) == 50
    assert sum(meter.take("a", now=1.0) for _ in range(100)) == 10
    for n in range(2 * METERED_MAX):
        meter.take(n, now=1.0)
    assert len(meter) == METERED_MAX
