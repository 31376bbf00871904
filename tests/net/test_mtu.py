"""The search for the length of datagrams (RFC 8899), as a policy."""

from __future__ import annotations

from p2pstream.net.mtu import (
    BASE_BYTES,
    DOUBT_S,
    DOUBTS,
    INTERNET_SIZES,
    JUMBO_BYTES,
    PROBES_MAX,
    RAISE_S,
    TIMEOUTS_MAX,
    PathSize,
    sizes_to,
)


def carry(path: PathSize, limit: int, now: float = 0.0) -> list[int]:
    """Probe until nothing is left to probe, on a path of that width; the sizes tried."""
    tried = []
    while size := path.probe(now=now):
        tried.append(size)
        path.sent()
        assert not path.probe(now=now), "one at a time"
        if size <= limit:
            path.arrived(size, now=now)
        else:
            path.vanished(size, now=now)
    return tried


def test_only_near_paths_are_tried_with_jumbo_datagrams() -> None:
    assert sizes_to(("127.0.0.1", 1))[0] == sizes_to(("::1", 1))[0] == JUMBO_BYTES
    assert sizes_to(("10.0.0.1", 1)) == sizes_to(("fe80::1%eth0", 1)) == INTERNET_SIZES


def test_the_longest_comes_first_and_three_losses_are_enough() -> None:
    path = PathSize(INTERNET_SIZES)
    assert path.size == BASE_BYTES
    assert carry(path, 1452) == [1452]
    assert path.size == 1452
    path = PathSize(INTERNET_SIZES)
    assert carry(path, 1300) == [1452] * PROBES_MAX + [1392] * PROBES_MAX + [1232]
    assert path.size == 1232


def test_more_is_tried_again_after_a_while() -> None:
    path = PathSize(INTERNET_SIZES)
    carry(path, 1200)
    assert path.size == BASE_BYTES
    assert not carry(path, 9000, RAISE_S - 1)
    assert carry(path, 9000, RAISE_S) == [1452]
    assert path.size == 1452


def test_lost_long_datagrams_raise_a_doubt_which_a_probe_settles() -> None:
    path = PathSize(INTERNET_SIZES)
    carry(path, 1452)
    for _ in range(DOUBTS):
        assert not path.probe(now=1)
        path.doubt(now=1)
    assert carry(path, 1452, 1) == [1452], "it was only loss"
    assert path.size == 1452
    for _ in range(DOUBTS):
        path.doubt(now=1 + DOUBT_S / 2)
    assert not path.probe(now=1 + DOUBT_S / 2), "not so often"
    path.doubt(now=1 + DOUBT_S)
    assert carry(path, 1300, 1 + DOUBT_S)[:PROBES_MAX] == [1452] * PROBES_MAX
    assert path.size == 1232


def test_silence_means_short_datagrams_at_once() -> None:
    path = PathSize(INTERNET_SIZES)
    carry(path, 1452)
    path.silence(TIMEOUTS_MAX - 1)
    assert path.size == 1452
    path.silence(TIMEOUTS_MAX)
    assert path.size == BASE_BYTES
    assert path.probe(now=0) == 1452
