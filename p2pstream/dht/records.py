"""Provider records: who has a stream, signed by that node itself, and the shelf they lie on.

A record is one fixed layout of bytes, so there is one encoding of each and nothing to canonise:

    version 1 | key 32 | public key 32 | seq u64 | expires u64 (Unix s) | count u8
    | count times: 4 or 6, IP address 4 or 16, port u16 | signature 64

The signature covers a domain label and all bytes before it. A node replaces its own record under
a key by one with a higher `seq`, and nobody else can. Whoever stores records has checked them, so
one that does not verify convicts the node that told it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from p2pstream.dht.addresses import pack_host, subnet_small, unpack_host
from p2pstream.dht.messages import RECORD_BYTES_MAX, Reason
from p2pstream.errors import BadMessage
from p2pstream.identity import (
    ID_BYTES,
    KEY_BYTES,
    SIGNATURE_BYTES,
    Address,
    NodeId,
    PublicKey,
    node_id,
)

SIGNATURE_LABEL = b"p2pstream provider record v1\0"
VERSION = 1
ADDRESSES_MAX = 4  # security/architecture.md 5.4.
TIME_MAX = 2**53 - 1  # As wire.codec: any language can hold it exactly.
FAMILIES = {4: 4, 6: 16}  # IP version -> bytes of its addresses.

EXPIRY_S_MAX = 300  # security/architecture.md 5.4: how far ahead a record may expire.
RECORDS_STORED_MAX = 20_000  # The same: per node.
STORE_BYTES_MAX = 16 * 1024 * 1024  # The same.
PROVIDERS_MAX = 100  # The same: per key.
PROVIDERS_SUBNET_MAX = 8  # The same: per key and /24.
RECORDS_REMEMBERED = 512  # Whoever looks a key up is told of the same ones by everybody. 0.5 MiB.
# Of the whole store, per /24: whoever has one /24 cannot flush it. Wild guess: 5 %.
SUBNET_RECORDS_MAX = 1000


class Forged(BadMessage):
    """A record whose signature is not its node's."""


@dataclass(frozen=True, slots=True)
class Record:
    """A node's word that it provides `key`, checked. data: the bytes it came as.

    expires: Unix seconds.
    """

    key: bytes
    node: NodeId
    public: PublicKey
    addresses: tuple[Address, ...]
    expires: int
    seq: int
    data: bytes


def make_record(
    key: bytes,
    addresses: tuple[Address, ...],
    *,
    expires: int,
    seq: int,
    public: PublicKey,
    sign: Callable[[bytes], bytes],
) -> Record:
    """Our own record."""
    assert len(key) == ID_BYTES, "a key is 32 bytes"
    assert len(addresses) <= ADDRESSES_MAX, f"at most {ADDRESSES_MAX} addresses"
    body = b"".join(
        [
            VERSION.to_bytes(1),
            key,
            public,
            seq.to_bytes(8),
            expires.to_bytes(8),
            len(addresses).to_bytes(1),
            *map(_pack_address, addresses),
        ]
    )
    data = body + sign(SIGNATURE_LABEL + body)
    return Record(bytes(key), node_id(public), public, addresses, expires, seq, data)


def parse_record(data: bytes) -> Record:
    """The record in bytes from a stranger. Raises `BadMessage` (`Forged` for a bad signature)."""
    record = read_record(data)
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if not record.public.verify(signature, SIGNATURE_LABEL + body):
        raise Forged(f"forged: provider record of {record.node}")
    return record


@lru_cache(RECORDS_REMEMBERED)
def read_record(data: bytes) -> Record:
    """As `parse_record`, for bytes that have been verified before."""
    if len(data) > RECORD_BYTES_MAX:
        raise BadMessage(f"record of {len(data)} bytes, more than {RECORD_BYTES_MAX}")
    reader = _Reader(data)
    if reader.number(1) != VERSION:
        raise BadMessage("record of an unknown version")
    key, public = reader.take(ID_BYTES), PublicKey(reader.take(KEY_BYTES))
    seq, expires, count = reader.number(8), reader.number(8), reader.number(1)
    if max(seq, expires) > TIME_MAX or count > ADDRESSES_MAX:
        raise BadMessage("record with a number out of range")
    addresses = tuple(_read_address(reader) for _ in range(count))
    reader.take(SIGNATURE_BYTES)
    reader.finish()
    return Record(key, node_id(public), public, addresses, expires, seq, bytes(data))


@dataclass(slots=True, eq=False)
class _Kept:
    """A record on the shelf: its bytes, and what is needed to sort it."""

    key: bytes
    node: NodeId
    data: bytes
    seq: int
    expires: int
    subnet: bytes | None
    place: int  # In the list that random eviction draws from.


class Store:
    """Records that others put here, bounded in every direction (security/architecture.md 5.4).

    Who must make room is drawn at random: with first-in-first-out, a burst would empty the shelf.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        records_max: int = RECORDS_STORED_MAX,
        bytes_max: int = STORE_BYTES_MAX,
    ) -> None:
        self._rng = rng
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._by_key: dict[bytes, dict[NodeId, _Kept]] = {}
        self._all: list[_Kept] = []
        self._by_subnet: Counter[bytes] = Counter()
        self.size = 0  # Bytes of records.

    def __len__(self) -> int:
        return len(self._all)

    def put(self, record: Record, host: str, *, wall_s: float) -> Reason | None:
        """Keep `record`, put from `host`. Returns why not, if not; nothing has changed then."""
        if record.expires <= wall_s:
            return Reason.EXPIRED
        if record.expires > wall_s + EXPIRY_S_MAX:
            return Reason.TOO_LONG
        old = self._by_key.get(record.key, {}).get(record.node)
        if old is not None and record.seq <= old.seq:
            if record.seq < old.seq:
                return Reason.OLD
            return None if record.data == old.data else Reason.CONFLICT
        subnet = subnet_small(host)
        others = self._by_subnet[subnet] if subnet else 0
        if others >= SUBNET_RECORDS_MAX and (old is None or old.subnet != subnet):
            return Reason.FULL
        if old is not None:
            self._drop(old)
        self._make_room(record, subnet)
        self._keep(record, subnet)
        return None

    def some(self, key: bytes, count: int, *, wall_s: float) -> list[bytes]:
        """Up to `count` live records under `key`, in random order."""
        live = [kept.data for kept in self._by_key.get(key, {}).values() if kept.expires > wall_s]
        return self._rng.sample(live, min(count, len(live)))

    def remove(self, key: bytes, node: NodeId) -> None:
        """Forget the record of `node` under `key`, if there is one."""
        kept = self._by_key.get(key, {}).get(node)
        if kept is not None:
            self._drop(kept)

    def expire(self, *, wall_s: float) -> int:
        """Drop what has expired, and say how many."""
        gone = [kept for kept in self._all if kept.expires <= wall_s]
        for kept in gone:
            self._drop(kept)
        return len(gone)

    def _make_room(self, record: Record, subnet: bytes | None) -> None:
        same_key = self._by_key.get(record.key, {})
        near = [kept for kept in same_key.values() if subnet and kept.subnet == subnet]
        if len(near) >= PROVIDERS_SUBNET_MAX:
            self._drop(self._rng.choice(near))
        elif len(same_key) >= PROVIDERS_MAX:
            self._drop(self._rng.choice(list(same_key.values())))
        while self._all and (
            len(self._all) >= self._records_max or self.size + len(record.data) > self._bytes_max
        ):
            self._drop(self._rng.choice(self._all))

    def _keep(self, record: Record, subnet: bytes | None) -> None:
        kept = _Kept(
            record.key,
            record.node,
            record.data,
            record.seq,
            record.expires,
            subnet,
            len(self._all),
        )
        self._all.append(kept)
        self._by_key.setdefault(kept.key, {})[kept.node] = kept
        self.size += len(kept.data)
        if subnet is not None:
            self._by_subnet[subnet] += 1

    def _drop(self, kept: _Kept) -> None:
        last = self._all.pop()
        if last is not kept:
            self._all[kept.place] = last
            last.place = kept.place
        same_key = self._by_key[kept.key]
        del same_key[kept.node]
        if not same_key:
            del self._by_key[kept.key]
        self.size -= len(kept.data)
        if kept.subnet is not None:
            self._by_subnet[kept.subnet] -= 1
            if not self._by_subnet[kept.subnet]:
                del self._by_subnet[kept.subnet]

    def __iter__(self) -> Iterator[bytes]:
        return (kept.data for kept in self._all)


class _Reader:
    """Cuts bytes from the front. Raises `BadMessage` when they run out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise BadMessage("record cut short")
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count))

    def finish(self) -> None:
        if self._at != len(self._data):
            raise BadMessage("record with bytes to spare")


def _pack_address(address: Address) -> bytes:
    host, port = address
    packed = pack_host(host)
    family = 4 if len(packed) == FAMILIES[4] else 6
    return family.to_bytes(1) + packed + port.to_bytes(2)


def _read_address(reader: _Reader) -> Address:
    family = reader.number(1)
    if family not in FAMILIES:
        raise BadMessage(f"record with an address of family {family}")
    return unpack_host(reader.take(FAMILIES[family])), reader.number(2)
