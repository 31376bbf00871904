"""Packet protection of many 1-RTT packets at once (RFC 9001 5.3, 5.4). No hands, no state.

The packets of a train have one length; only the last one may be shorter. So a field of their
headers is a column of the train, which a few calls treat as a whole, however many packets there
are: in Python, calls are what a packet costs.
"""
# ruff: noqa: SLF001  # `names.py` checks what is used here.

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Any

from aioquic.quic.packet import decode_packet_number
from cryptography.exceptions import InvalidTag

from p2pstream.net.frames import BYTE, cutter

NUMBER_BYTES = 2  # Of a packet number, as aioquic sends it: up to 32,768 in flight.
NUMBERS = 1 << 8 * NUMBER_BYTES
TAG_BYTES = 16  # RFC 9001 5.3.
NONCE_BYTES = 12
SAMPLE_BYTES = 16  # RFC 9001 5.4.2: from four bytes after the start of the packet number.
SAMPLE_AT = 4
PAYLOAD_BYTES_MIN = SAMPLE_AT - NUMBER_BYTES  # RFC 9001 5.4.2: so that there is a whole sample.

_UNMASKED = bytes(value & 0x1F for value in range(256))  # RFC 9001 5.4.1: of the first byte.
_COUNTING = bytes(range(256)) * 2

# The two bytes of packet numbers, a column each.
Columns = tuple[bytes, bytes]


def counted(first: int, count: int) -> Columns:
    """`count` numbers, at most 256, from `first` on."""
    high, low = first >> 8 & 0xFF, first & 0xFF
    before = min(count, 0x100 - low)
    highs = BYTE[high] * before + BYTE[high + 1 & 0xFF] * (count - before)
    return highs, _COUNTING[low : low + count]


def seal(payloads: Sequence[bytes], first: int, header: bytes, keys: Any) -> bytes:
    """A train of packets, numbered from `first` on; what follows on 65,535 is in another one.

    header: what all of them begin with, up to the number. keys: aioquic's, of one direction.
    """
    count, at = len(payloads), len(header)
    highs, lows = counted(first, count)
    headers = _headers(header, highs, lows)
    nonces = _nonces(keys.aead._iv ^ first // NUMBERS * NUMBERS, highs, lows)
    parts = [b""] * (2 * count)
    parts[::2] = headers
    parts[1::2] = map(keys.aead._aead.encrypt, nonces, payloads, headers)
    train = bytearray().join(parts)
    size = at + NUMBER_BYTES + len(parts[1])
    hidden = _xor(header[:1] * count + highs + lows, _masks(train, size, count, at, keys.hp))
    train[::size] = hidden[:count]
    train[at::size] = hidden[count:-count]
    train[at + 1 :: size] = hidden[-count:]
    return bytes(train)


def seal_one(payload: bytes, number: int, header: bytes, keys: Any) -> bytes:
    """As `seal`, of one packet: a third of the calls."""
    short = (number % NUMBERS).to_bytes(NUMBER_BYTES)
    nonce = (keys.aead._iv ^ number).to_bytes(NONCE_BYTES)
    sealed: bytes = keys.aead._aead.encrypt(nonce, payload, header + short)
    mask = _mask(sealed[SAMPLE_AT - NUMBER_BYTES :][:SAMPLE_BYTES], keys.hp)
    hidden = BYTE[short[0] ^ mask[1]] + BYTE[short[1] ^ mask[2]]
    return b"".join((BYTE[header[0] ^ mask[0] & 0x1F], header[1:], hidden, sealed))


def unmask_one(data: bytes, at: int, keys: Any) -> tuple[int, int]:
    """As `unmask`, of one packet: its first byte and the two of its number."""
    mask = _mask(data[at + SAMPLE_AT : at + SAMPLE_AT + SAMPLE_BYTES], keys.hp)
    number = (data[at] ^ mask[1]) << 8 | data[at + 1] ^ mask[2]
    return data[0] ^ mask[0] & 0x1F, number


def unseal_one(data: bytes, at: int, first: int, number: int, keys: Any) -> bytes | None:
    """As `unseal`, of one packet. number: all of it."""
    header = BYTE[first] + data[1:at] + (number % NUMBERS).to_bytes(NUMBER_BYTES)
    nonce = (keys.aead._iv ^ number).to_bytes(NONCE_BYTES)
    try:
        payload: bytes = keys.aead._aead.decrypt(nonce, data[at + NUMBER_BYTES :], header)
    except InvalidTag:
        return None
    return payload


def unmask(data: bytes, size: int, count: int, at: int, keys: Any) -> tuple[bytes, Columns]:
    """The first bytes of packets, and the numbers at `at`, if these have two bytes each."""
    stop = size * (count - 1) + at + NUMBER_BYTES
    hidden = data[:stop:size] + data[at:stop:size] + data[at + 1 : stop : size]
    clear = _xor(hidden, _masks(data, size, count, at, keys.hp))
    return clear[:count], (clear[count:-count], clear[-count:])


def whole_numbers(numbers: Columns, expected: int) -> Sequence[int]:
    """Packet numbers (RFC 9000 A.3); a `range` when each follows upon the one before."""
    count, short = len(numbers[0]), numbers[0][0] << 8 | numbers[1][0]
    first = decode_packet_number(short, 16, expected)
    if short + count <= NUMBERS and numbers == counted(first, count):
        return range(first, first + count)
    shorts = (high << 8 | low for high, low in zip(*numbers, strict=True))
    return [decode_packet_number(short, 16, expected) for short in shorts]


def unseal(
    data: bytes, size: int, header: bytes, numbers: Columns, above: int, keys: Any
) -> list[bytes | None]:
    """The payloads of a train's packets; None for one that the peer has not sealed.

    above: what all packet numbers have above their last two bytes.
    """
    count, at = len(numbers[0]), len(header) + NUMBER_BYTES
    last = size * (count - 1) + at
    bodies = [*cutter(at, size - at, 0, count - 1)(data), data[last : last + size - at]]
    nonces = _nonces(keys.aead._iv ^ above, *numbers)
    jobs = zip(nonces, bodies, _headers(header, *numbers), strict=True)
    decrypt = keys.aead._aead.decrypt
    out: list[bytes | None] = []
    while len(out) < count:
        try:
            out.extend(starmap(decrypt, jobs))
        except InvalidTag:  # Of the job that was taken last; those before are in `out`.
            out.append(None)
    return out


def _headers(header: bytes, highs: bytes, lows: bytes) -> tuple[bytes, ...]:
    if len(lows) == 1:
        return (header + highs + lows,)
    size = len(header) + NUMBER_BYTES
    out = bytearray(header + b"\x00\x00") * len(lows)
    out[size - 2 :: size] = highs
    out[size - 1 :: size] = lows
    return cutter(0, size, 0, len(lows))(out)


def _nonces(secret: int, highs: bytes, lows: bytes) -> tuple[bytes, ...]:
    """RFC 9001 5.3. secret: the IV, and in it already what is above the last two bytes."""
    if len(lows) == 1:
        return ((secret ^ highs[0] << 8 ^ lows[0]).to_bytes(NONCE_BYTES),)
    iv, count = secret.to_bytes(NONCE_BYTES), len(lows)
    out = bytearray(iv) * count
    ends = _xor(highs + lows, iv[-2:-1] * count + iv[-1:] * count)
    out[NONCE_BYTES - 2 :: NONCE_BYTES] = ends[:count]
    out[NONCE_BYTES - 1 :: NONCE_BYTES] = ends[count:]
    return cutter(0, NONCE_BYTES, 0, count)(out)


def _masks(data: bytes | bytearray, size: int, count: int, at: int, protection: Any) -> bytes:
    """Three columns, joined: what hides the first byte, and the number's (RFC 9001 5.4.3, 4)."""
    at += SAMPLE_AT
    samples = cutter(at, SAMPLE_BYTES, size - at - SAMPLE_BYTES, count)(data)
    if protection._is_chacha20:
        masks = b"".join([protection._mask(one)[:5].ljust(SAMPLE_BYTES) for one in samples])
    else:
        masks = protection._encryptor.update(b"".join(samples))
    return masks[::16].translate(_UNMASKED) + masks[1::16] + masks[2::16]


def _mask(sample: bytes, protection: Any) -> bytes:
    """What hides one packet's first byte and number, and more."""
    if protection._is_chacha20:
        return bytes(protection._mask(sample))
    return bytes(protection._encryptor.update(sample))


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(other))
