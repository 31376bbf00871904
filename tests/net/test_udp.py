"""Trains of datagrams: how they are made up, and a kernel that does not like them."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from p2pstream.net.udp import TRAIN_BYTES_MAX, TRAIN_MAX, Datagram, Udp, joined, open_udp

HERE, THERE = ("127.0.0.1", 1), ("127.0.0.1", 2)


@pytest.mark.parametrize(
    ("sizes", "trains"),
    [
        ([100], [1]),
        ([100, 100, 100], [3]),
        ([100, 100, 60], [3]),
        ([100, 60, 60], [2, 1]),
        ([60, 100, 100], [1, 2]),
        ([100] * (TRAIN_MAX + 2), [TRAIN_MAX, 2]),
        ([16_000] * 6, [TRAIN_BYTES_MAX // 16_000, 2]),
        ([65_507, 1], [1, 1]),
    ],
)
def test_a_train_has_one_length_but_for_its_end(sizes: list[int], trains: list[int]) -> None:
    datagrams = [(bytes(size), HERE) for size in sizes]
    assert _lengths(datagrams) == trains


def test_a_train_has_one_address() -> None:
    assert _lengths([(b"a", HERE), (b"b", HERE), (b"c", THERE), (b"d", HERE)]) == [2, 1, 1]


async def test_trains_arrive_as_they_left() -> None:
    a, b = await open_udp("127.0.0.1", 0), await open_udp("127.0.0.1", 0)
    sent = [bytes([n]) * (1400 if n % 7 else 900) for n in range(100)]
    a.send(joined([(data, b.address) for data in sent]))
    assert await _receive(b, 100) == sent
    assert a.unsent == 0
    a.close()
    b.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
async def test_a_kernel_that_refuses_trains_gets_single_datagrams(code: int) -> None:
    a, b = await open_udp("127.0.0.1", 0), await open_udp("127.0.0.1", 0)
    a._kernel = kernel = _Refusing(a._kernel, code)  # type: ignore[assignment]
    a.sends_trains = True
    sent = [bytes([n]) * 1000 for n in range(20)]
    a.send(joined([(data, b.address) for data in sent]))
    assert await _receive(b, 20) == sent
    assert not a.sends_trains, "and never again"
    a.send(joined([(data, b.address) for data in sent]))
    assert await _receive(b, 20) == sent
    assert kernel.refused == 1
    a.close()
    b.close()


async def test_a_path_too_narrow_for_them_all_says_nothing_about_trains() -> None:
    a = await open_udp("127.0.0.1", 0)
    a._kernel = _Refusing(a._kernel, errno.EMSGSIZE)  # type: ignore[assignment]
    a.sends_trains = True

    def refuse(_data: bytes, _address: Any) -> None:
        raise OSError(errno.EMSGSIZE, "Message too long")

    a._send_nowait = refuse
    a.send([(bytes(5 * 1400), 1400, HERE)])
    assert a.sends_trains
    assert a.unsent == 5
    a.close()


async def test_a_full_queue_loses_the_train() -> None:
    a = await open_udp("127.0.0.1", 0)
    a._kernel = _Refusing(a._kernel, errno.EAGAIN)  # type: ignore[assignment]
    a.sends_trains = True
    a.send([(bytes(5 * 1400), 1400, HERE)])
    assert a.unsent == 5
    a.close()


class _Refusing:
    """A socket whose `sendmsg` fails."""

    def __init__(self, kernel: Any, code: int) -> None:
        self._kernel = kernel
        self._code = code
        self.refused = 0

    def sendmsg(self, *_args: Any) -> int:
        self.refused += 1
        raise OSError(self._code, "no")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)


def _lengths(datagrams: list[Datagram]) -> list[int]:
    trains = joined(datagrams)
    assert b"".join(data for data, _, _ in trains) == b"".join(data for data, _ in datagrams)
    return [-(-len(data) // size) for data, size, _ in trains]


async def _receive(udp: Udp, count: int) -> list[bytes]:
    out: list[bytes] = []
    while len(out) < count:
        for data, size, _ in await udp.receive(64):
            out += [data[at : at + size] for at in range(0, len(data), size)]
    return out
