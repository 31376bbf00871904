"""Many packets protected at once, against aioquic, which protects one."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.tls import CipherSuite

from p2pstream.net.protection import (
    counted,
    seal,
    seal_one,
    unmask,
    unmask_one,
    unseal,
    unseal_one,
    whole_numbers,
)

CID = bytes(range(8))
HEADER = b"\x41" + CID
CIPHERS = [CipherSuite.AES_128_GCM_SHA256, CipherSuite.CHACHA20_POLY1305_SHA256]


def keys(cipher: CipherSuite = CIPHERS[0]) -> Any:
    pair = CryptoPair()
    pair.send.setup(cipher_suite=cipher, secret=bytes(32), version=1)
    return pair.send


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("sizes", [[4], [1400], [1400] * 44, [100, 100, 7], [4, 4, 4]])
@pytest.mark.parametrize("first", [0, 250, 255, 65_480, 0x12_FFF0 - 64])
def test_a_train_is_its_packets_sealed_one_by_one(
    cipher: CipherSuite, sizes: list[int], first: int
) -> None:
    ours = keys(cipher)
    payloads = [bytes([at % 256]) * size for at, size in enumerate(sizes)]
    alone = [
        ours.encrypt_packet(HEADER + (number & 0xFFFF).to_bytes(2), payload, number)
        for number, payload in enumerate(payloads, first)
    ]
    train = seal(payloads, first, HEADER, ours)
    assert train == b"".join(alone)
    size = len(alone[0])
    firsts, numbers = unmask(train, size, len(sizes), 9, ours)
    assert firsts == b"\x41" * len(sizes)
    assert whole_numbers(numbers, first) == range(first, first + len(sizes))
    above = first & ~0xFFFF
    assert unseal(train, size, HEADER, numbers, above, ours) == payloads


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("number", [0, 255, 256, 65_535, 65_536, 0x12_FFF0])
def test_one_packet_is_a_train_of_one(cipher: CipherSuite, number: int) -> None:
    ours = keys(cipher)
    packet = seal_one(b"what is said", number, HEADER, ours)
    assert packet == seal([b"what is said"], number, HEADER, ours)
    assert unmask_one(packet, 9, ours) == (HEADER[0], number & 0xFFFF)
    assert unseal_one(packet, 9, HEADER[0], number, ours) == b"what is said"
    assert unseal_one(packet[:-1] + b"?", 9, HEADER[0], number, ours) is None


def test_what_is_not_sealed_leaves_the_others_alone() -> None:
    ours = keys()
    payloads = [bytes([at]) * 50 for at in range(6)]
    train = bytearray(seal(payloads, 7, HEADER, ours))
    size = len(train) // 6
    for at in (0, 3, 5):
        train[size * at + 40] ^= 1
    _, numbers = unmask(bytes(train), size, 6, 9, ours)
    opened = unseal(bytes(train), size, HEADER, numbers, 0, ours)
    assert opened == [None, payloads[1], payloads[2], None, payloads[4], None]


@pytest.mark.parametrize("first", [0, 200, 255, 0xFF_FFF0])
def test_counting(first: int) -> None:
    highs, lows = counted(first, 64)
    numbers = [number & 0xFFFF for number in range(first, first + 64)]
    assert [high << 8 | low for high, low in zip(highs, lows, strict=True)] == numbers


def test_numbers_that_do_not_follow_each_other() -> None:
    columns = bytes([1, 1, 0]), bytes([5, 7, 9])
    assert whole_numbers(columns, 0x1_0000) == [0x1_0105, 0x1_0107, 0x1_0009]
    assert whole_numbers((b"\xff\x00", b"\xff\x00"), 0xFFFF) == [0xFFFF, 0x1_0000]
