"""Heads, signed well or not, and pieces under a head: taken in, or a `PeerError`."""

from __future__ import annotations

from contextlib import suppress

from p2pstream.errors import PeerError
from p2pstream.identity import SIGNATURE_BYTES
from p2pstream.stream import head as heads
from p2pstream.stream.merkle import HASH_BYTES, PROOF_HASHES_MAX
from p2pstream.stream.window import Window
from tests.fuzz.bites import Bites
from tests.stream.made import EPOCH, NOW_MS, SIGNER, signed_chunks

SIGNED = signed_chunks(2, size=40_000, renditions=2)


def one(data: bytes) -> int:
    """The first byte says what is done with the others."""
    bites = Bites(data)
    with suppress(PeerError):
        bites.choose([_as_it_came, _signed, _piece])(bites)
    return 1


def seeds() -> list[bytes]:
    """Heads of media and of the end, and the place of a piece with its proof."""
    out = []
    for signed in SIGNED:
        raw = signed.head.raw
        out += [b"\0" + raw, b"\1" + raw[:-SIGNATURE_BYTES]]
    proof = SIGNED[0].pieces[0][0].proof
    return [*out, b"\2\0\0\0\0" + bytes([len(proof) // HASH_BYTES]) + proof]


def _as_it_came(bites: Bites) -> None:
    _take(bites.rest())


def _signed(bites: Bites) -> None:
    body = bites.rest()
    _take(body + SIGNER.sign(body))


def _take(raw: bytes) -> None:
    window, head = Window(), heads.parse(raw)
    assert head.raw == raw
    head.verify(EPOCH, wall_ms=NOW_MS)
    for part in head.parts:
        assert head.part(part.rendition) == part
    assert window.add_head(head)
    assert window.newest == head.seq


def _piece(bites: Bites) -> None:
    """One of the pieces that there are, with a byte of it changed or not, as whatever is said."""
    window, signed = Window(), SIGNED[0]
    window.add_head(signed.head)
    of, number = bites.number() % 2, bites.number() % 2
    data = bytearray(signed.pieces[of][number].data)
    rendition, index = bites.number(), bites.number()
    proof = bites.take(HASH_BYTES * (bites.number() % (PROOF_HASHES_MAX + 2)))
    if bites:
        data[bites.number(2) % len(data)] = bites.number()
    assert window.add_piece(signed.head.seq, rendition, index, bytes(data), proof)
    true = signed.pieces[rendition][index]
    assert (bytes(data), proof) == (true.data, true.proof)
