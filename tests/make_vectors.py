"""Makes docs/vectors.json and the last part of docs/wire.md: `python -m tests.make_vectors`.

Everything is made by the functions that a node uses, from fixed keys, times and bytes, so the same
code gives the same vectors. test_docs.py compares them with what is in the documents.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from p2pstream.access import Seed, Ticket
from p2pstream.dht import messages as d
from p2pstream.dht.contact import Contact, WireContact
from p2pstream.dht.limits import Tokens
from p2pstream.dht.records import make_record
from p2pstream.identity import NodeKey, StreamKey
from p2pstream.net.link import Close, Hello
from p2pstream.net.tls import certificate
from p2pstream.stream.chunk import Init, pieces_of
from p2pstream.stream.chunker import Chunker
from p2pstream.stream.epoch import certify
from p2pstream.stream.head import KEY
from p2pstream.stream.manifest import init_hash, pack_init
from p2pstream.stream.merkle import Tree, leaf_hash
from p2pstream.swarm import messages as m
from p2pstream.wire.codec import Codec, Message, frame

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- vectors: made by tests/make_vectors.py -->", "<!-- end of vectors -->"
MESSAGES: tuple[type[Message], ...] = (Hello, *d.DHT_MESSAGES, *m.SWARM_MESSAGES)

NODE = NodeKey(bytes(range(32)))
OTHER = NodeKey(bytes(range(32, 64)))
ROOT = StreamKey(bytes(range(64, 96)))
SIGNER = StreamKey(bytes(range(96, 128)))
NOW_MS = 1_800_000_000_000
SEQ = 18_000_000_000
CHUNK = bytes(n % 251 for n in range(40_000))  # Three pieces.

# Encodings of nothing we say; each must be refused.
REFUSED = {
    "ping_long_number": ("9210cd0001", "the number 1 in three bytes"),
    "ping_long_array": ("dc00021001", "an array of two with a 16-bit length"),
    "ping_trailing": ("92100100", "a byte after the message"),
    "ping_extra_field": ("93100100", "a field that the message does not have"),
    "ping_missing_field": ("9110", "a field missing"),
    "ping_float": ("9210cb3ff0000000000000", "a float where a number is wanted"),
    "ping_negative": ("9210ff", "-1"),
    "ping_too_large": ("9210cf0000000100000000", "2^32, one more than a u32 holds"),
    "unknown_tag": ("920001", "tag 0, which no message has"),
    "map": ("811001", "a map instead of an array"),
    "extension": ("92d41000", "an extension type"),
    "nothing": ("", "no bytes at all"),
}


def vectors() -> dict[str, Any]:
    """All vectors, by part."""
    return {
        "keys": _keys(),
        "close_codes": {code.word: int(code) for code in Close},
        "stream": _stream(),
        "messages": {name: _described(message) for name, message in messages().items()},
        "parcel": _parcel(),
        "refused": {name: {"bytes": data, "why": why} for name, (data, why) in REFUSED.items()},
    }


def messages() -> dict[str, Message]:
    """One of each message, by the name of its class."""
    stream, now_s = bytes(ROOT.stream_id), NOW_MS // 1000
    epoch, (first, _) = _epoch(), _heads()
    contact = WireContact.of(Contact(OTHER.node_id, ("203.0.113.7", 7441)))
    contact6 = WireContact.of(Contact(NODE.node_id, ("2001:db8::1", 7440)))
    token, record = _token(), _record(now_s)
    proof = first.pieces[0][1].proof
    made: list[Message] = [
        Hello("p2pstream/0.1.0", "203.0.113.7", 7441),
        d.Ping(1),
        d.Pong(1),
        d.FindNode(0xDEADBEEF, stream),
        d.Nodes(0xDEADBEEF, (contact, contact6), token),
        d.FindProviders(2, stream),
        d.Providers(2, (record,), (contact,), token),
        d.Announce(3, stream, token, record),
        d.Stored(3),
        d.Denied(3, d.Reason.BUSY),
        m.Join(stream, m.Role.VIEWER, epoch.raw, first.head.raw),
        m.Map(
            stream, 0, SEQ - 2, (m.pack_mask(0b111), b"", m.pack_mask(0b101)), SEQ - 2,
            bytes([1, 1, 2, m.NO_HOPS]), (bytes(OTHER.node_id[:4]), bytes(OTHER.node_id[:4]),
            bytes(NODE.node_id[:4]), b""), bytes([3, 3, 2, 0]),
        ),
        m.Subscribe(stream, 0, 0b0101, SEQ + 1),
        m.Refuse(stream, 0, 0b0001),
        m.Want(stream, 0, ((SEQ, m.pack_mask(0b010)),), heads=True),
        m.Lack(stream, 0, ((SEQ, m.pack_mask(0b010)),)),
        m.Peers(stream, ((bytes(OTHER.node_id), "203.0.113.7", 7441),)),
        m.Leave(stream, "full"),
        m.WantInit(stream, init_hash(pack_init(_init()))),
        m.InitFile(stream, pack_init(_init())),
        m.Piece(stream, SEQ, 0, 1, 0, first.head.raw, proof),
    ]  # fmt: skip
    return {type(message).__name__: message for message in made}


def markdown(made: dict[str, Any]) -> str:
    """The vectors as the last part of docs/wire.md."""
    lines = [BEGIN]
    for part, title in (("keys", "Keys, ids, certificate, ticket"), ("stream", "Stream")):
        lines += [f"### {title}", ""]
        for name, value in made[part].items():
            lines += [f"`{name}`", "", "```", *_wrapped(str(value)), "```", ""]
    lines += ["### Messages", "", "Each without its frame.", ""]
    for name, entry in made["messages"].items():
        lines += [f"`{name}` ({entry['tag']})", "", "```", *_wrapped(entry["bytes"]), "```", ""]
    lines += [
        "### Parcel",
        "",
        "The `Piece` above, framed; its body follows, up to the stream's end.",
    ]
    lines += ["", "```", *_wrapped(made["parcel"]["header_frame"]), "```", ""]
    lines += ["### Refused", "", "| bytes | what is wrong |", "|---|---|"]
    lines += [f"| `{e['bytes'] or ' '}` | {e['why']} |" for e in made["refused"].values()]
    return "\n".join([*lines, "", END])


def documents() -> dict[Path, str]:
    """What the two files should say."""
    made, wire = vectors(), DOCS / "wire.md"
    before, _, rest = wire.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    return {
        DOCS / "vectors.json": json.dumps(made, indent=1) + "\n",
        wire: before + markdown(made) + after,
    }


def _keys() -> dict[str, Any]:
    der = certificate(NODE).public_bytes(Encoding.DER)
    seeds = (
        Seed(NODE.node_id, ("203.0.113.7", 7440)),
        Seed(OTHER.node_id, ("2001:db8::1", 7441)),
    )
    return {
        "node_seed": NODE.seed.hex(),
        "node_public": NODE.public.hex(),
        "node_id": NODE.node_id.hex(),
        "other_node_seed": OTHER.seed.hex(),
        "other_node_id": OTHER.node_id.hex(),
        "root_seed": ROOT.seed.hex(),
        "root_public": ROOT.public.hex(),
        "stream_id": ROOT.stream_id.hex(),
        "signer_seed": SIGNER.seed.hex(),
        "signer_public": SIGNER.public.hex(),
        "certificate_der": der.hex(),
        "certificate_sha256": sha256(der).hexdigest(),
        "ticket": str(Ticket(ROOT.stream_id, seeds)),
    }


def _stream() -> dict[str, Any]:
    pieces = pieces_of(CHUNK)
    tree = Tree(pieces)
    packed = pack_init(_init())
    first, end = _heads()
    return {
        "epoch_certificate": _epoch().raw.hex(),
        "init_packed": packed.hex(),
        "init_hash": init_hash(packed).hex(),
        "leaf_hashes": " ".join(leaf_hash(piece).hex() for piece in pieces),
        "merkle_root": tree.root.hex(),
        **{f"merkle_proof_{n}": tree.proof(n).hex() for n in range(len(pieces))},
        "head": first.head.raw.hex(),
        "head_hash": first.head.hash.hex(),
        "end_head": end.head.raw.hex(),
        "provider_record": _record(NOW_MS // 1000).hex(),
        "write_token": _token().hex(),
    }


def _parcel() -> dict[str, Any]:
    header = frame(Codec(m.Piece).pack(messages()["Piece"]))
    body = pieces_of(CHUNK)[1]
    return {"header_frame": header.hex(), "body_sha256": sha256(body).hexdigest()}


def _described(message: Message) -> dict[str, Any]:
    tag, *fields = msgspec.to_builtins(message, builtin_types=(bytes,), enc_hook=bytes)
    return {
        "tag": tag,
        "fields": dict(zip(message.__struct_fields__, map(_plain, fields), strict=True)),
        "bytes": Codec(type(message)).pack(message).hex(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _init() -> Init:
    return Init(0, "720p", 1280, 720, 2_500_000, "avc1.4d401f,mp4a.40.2", bytes(range(64)))


def _epoch() -> Any:
    return certify(
        ROOT, 7, SIGNER.public, now_ms=NOW_MS, bitrate_max=80_000_000, title="A tést, ünïcode"
    )


def _heads() -> tuple[Any, Any]:
    """Of a key chunk in two renditions, and the end after it."""
    chunker = Chunker(SIGNER, _epoch(), first_seq=SEQ)
    digest = init_hash(pack_init(_init()))
    first = chunker.sign(
        {0: (digest, CHUNK), 1: (bytes(16), b"hello")},
        captured_ms=NOW_MS + 1000, pts=90_000, duration=18_000, flags=KEY,
    )  # fmt: skip
    return first, chunker.end(captured_ms=NOW_MS + 1200, pts=108_000)


def _record(now_s: int) -> bytes:
    return make_record(
        bytes(ROOT.stream_id), (("203.0.113.7", 7440), ("2001:db8::1", 7440)),
        expires=now_s + 240, seq=now_s * 1000, public=NODE.public, sign=NODE.sign,
    ).data  # fmt: skip


def _token() -> bytes:
    return Tokens(bytes(range(32))).make(
        "203.0.113.7", bytes(ROOT.stream_id), OTHER.node_id, now=1000.0
    )


def _wrapped(text: str, width: int = 96) -> list[str]:
    return [text[at : at + width] for at in range(0, len(text), width)] or [""]


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
