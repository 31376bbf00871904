"""Limits on strangers, rates, and bans."""

from __future__ import annotations

import pytest

from p2pstream.identity import NodeId
from p2pstream.net import doorman
from p2pstream.net.doorman import BAN_S, BANS_MAX, UNPROVEN, Bans, Bucket, Doorman


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(10, 5)
    assert sum(bucket.take(now=100.0) for _ in range(20)) == 5
    assert bucket.ready_at(now=100.0) == pytest.approx(100.1)
    assert sum(bucket.take(now=101.0 + i / 100) for i in range(100)) == 5 + 9
    assert not bucket.take(now=50.0), "time that goes back gives nothing"


def test_private_addresses_are_not_counted_by_network() -> None:
    door = Doorman()
    for port in range(40):
        for host in ("127.0.0.1", "192.168.1.7", "::1", "fe80::1%eth0"):
            assert door.refuses((host, port), now=0.0) == ""
    assert not door._by_prefix
    assert not door._knocks


@pytest.mark.parametrize(
    ("host", "most"),
    [("5.6.7.8", 8), ("5.6.7.{}", 24), ("5.6.{}.1", 64), ("2a00::{}", 8), ("2a00:0:0:{}::1", 8)],
)
def test_each_network_has_its_limit(host: str, most: int) -> None:
    door = Doorman()
    inside = 0
    for number in range(100):
        address = (host.format(number), 1)
        if not door.refuses(address, proven=True, now=number * 10.0):
            door.enter(address, inbound=True)
            door.settled()
            inside += 1
    assert inside == most
    for number in range(inside):
        door.leave((host.format(number), 1), inbound=True)
    assert not door._by_prefix
    assert (door.connections, door.inbound, door.half_open) == (0, 0, 0)


def test_connections_are_limited_in_all_and_inbound() -> None:
    door = Doorman()
    for _ in range(doorman.INBOUND_MAX):
        door.enter(("10.0.0.1", 1), inbound=True)
        door.settled()
    assert door.refuses(("10.0.0.1", 1), now=0.0) == "full"
    door = Doorman()
    for _ in range(doorman.CONNECTIONS_MAX):
        door.enter(("10.0.0.1", 1), inbound=False)
    assert door.refuses(("10.0.0.1", 1), now=0.0) == "full"


def test_half_open_ones_are_limited() -> None:
    door = Doorman()
    for _ in range(doorman.HALF_OPEN_MAX):
        door.enter(("10.0.0.1", 1), inbound=True)
    assert door.refuses(("10.0.0.1", 1), proven=True, now=0.0) == "half_open"
    door.settled()
    assert door.refuses(("10.0.0.1", 1), proven=True, now=0.0) == ""


def test_s01_with_many_half_open_strangers_prove_their_address_first() -> None:
    door = Doorman()
    for _ in range(doorman.HALF_OPEN_CALM):
        assert door.refuses(("10.0.0.1", 1), now=0.0) == ""
        door.enter(("10.0.0.1", 1), inbound=True)
    assert door.refuses(("10.0.0.1", 1), now=0.0) == UNPROVEN
    assert door.refuses(("10.0.0.1", 1), proven=True, now=0.0) == ""
    door.settled()
    assert door.refuses(("10.0.0.1", 1), now=0.0) == ""


def test_s01_who_uses_anothers_address_does_not_use_up_its_knocks() -> None:
    door = Doorman()
    words = [door.refuses(("5.6.7.8", 1), now=0.0) for _ in range(100)]
    assert words.count("") == doorman.HANDSHAKES_BURST
    assert words[-1] == UNPROVEN
    proven = [door.refuses(("5.6.7.8", 1), proven=True, now=0.0) for _ in range(100)]
    assert proven.count("") == doorman.HANDSHAKES_BURST
    assert proven[-1] == "too_often"


def test_addresses_that_knocked_are_forgotten_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doorman, "KNOCKERS_MAX", 100)
    door = Doorman()
    for number in range(1000):
        door.refuses((f"5.{number % 250}.{number // 250}.1", 1), now=0.0)
    assert len(door._knocks) == 100


def test_a_ban_grows_and_is_forgotten_after_a_day_of_innocence() -> None:
    bans, peer = Bans(), NodeId(b"p" * 32)
    now = 0.0
    for span in (*BAN_S, BAN_S[-1]):
        assert bans.add(peer, now=now) == now + span
        assert bans.holds(peer, now=now + span - 0.1)
        now += span
        assert not bans.holds(peer, now=now)
    now += 2 * doorman.BAN_MEMORY_S
    assert bans.add(peer, now=now) == now + BAN_S[0]


def test_bans_are_bounded() -> None:
    bans = Bans()
    for number in range(BANS_MAX + 10):
        bans.add(NodeId(number.to_bytes(32)), now=0.0)
    assert len(bans) == BANS_MAX
    assert not bans.holds(NodeId((0).to_bytes(32)), now=1.0)
    assert bans.holds(NodeId((BANS_MAX).to_bytes(32)), now=1.0)
