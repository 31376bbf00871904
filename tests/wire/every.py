"""Every message that nodes exchange: one example of each, and strategies made from the types."""

from __future__ import annotations

from typing import Any

import msgspec.inspect as types
from hypothesis import strategies as st

from p2pstream.dht import messages as dht
from p2pstream.dht.contact import WireContact
from p2pstream.dht.messages import DHT_MESSAGES
from p2pstream.net.link import Hello
from p2pstream.swarm import messages as swarm
from p2pstream.swarm.messages import SWARM_MESSAGES
from p2pstream.wire.codec import Codec, Message

CLASSES: tuple[type[Message], ...] = (Hello, *DHT_MESSAGES, *SWARM_MESSAGES)
CODEC = Codec(*CLASSES)

_ID = bytes(range(32))
EXAMPLES: dict[type[Message], Message] = {
    type(message): message
    for message in (
        Hello("p2pstream/0.1.0", "192.0.2.1", 4433),
        dht.Ping(1),
        dht.Pong(1),
        dht.FindNode(1, _ID),
        dht.Nodes(1, (WireContact(_ID, bytes(4), 4433),), bytes(16)),
        dht.FindProviders(1, _ID),
        dht.Providers(1, (b"record",), (WireContact(_ID, bytes(16), 4433),), bytes(16)),
        dht.Announce(1, _ID, bytes(16), b"record"),
        dht.Stored(1),
        dht.Denied(1, 2),
        swarm.Join(_ID, 2, b"certificate", b"head"),
        swarm.Map(_ID, 1, 1000, (b"\x01", b""), 1000, bytes(4), (b"abcd", b"", b"", b""), bytes(4)),
        swarm.Subscribe(_ID, 1, 15, 1000),
        swarm.Refuse(_ID, 1, 15),
        swarm.Want(_ID, 1, ((1000, b"\x07"),), heads=True),
        swarm.Lack(_ID, 1, ((1000, b"\x07"),)),
        swarm.Peers(_ID, ((_ID, "192.0.2.1", 4433),)),
        swarm.Leave(_ID, "bye"),
        swarm.WantInit(_ID, bytes(16)),
        swarm.InitFile(_ID, b"packed"),
        swarm.Piece(_ID, 1000, 1, 2, 3, b"head", bytes(64)),
    )
}


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Messages of `kind` with anything in their fields that the field's type allows."""
    shape = types.type_info(kind)
    assert isinstance(shape, types.StructType)
    return st.builds(_build, st.just(kind), *(_values(f.type) for f in shape.fields)).filter(bool)


def _build(kind: type[Any], *values: Any) -> Any:
    try:
        return kind(*values)
    except ValueError:  # What `__post_init__` refuses.
        return None


def _values(shape: types.Type) -> st.SearchStrategy[Any]:  # noqa: PLR0911  # A case a type.
    match shape:
        case types.IntType(ge=low, le=high):
            return st.integers(low, high) | st.sampled_from([low, high])
        case types.BoolType():
            return st.booleans()
        case types.BytesType(min_length=low, max_length=high):
            assert high is not None, "every field has a limit"
            return st.binary(min_size=low or 0, max_size=min(high, (low or 0) + 40))
        case types.StrType(max_length=high):
            assert high is not None, "every field has a limit"
            return st.text(max_size=high)
        case types.VarTupleType(item_type=item, min_length=low, max_length=high):
            assert high is not None, "every field has a limit"
            few = min(high, max(low or 0, 6))
            return st.lists(_values(item), min_size=low or 0, max_size=few).map(tuple)
        case types.TupleType(item_types=items):
            return st.tuples(*map(_values, items))
        case types.StructType() if shape.cls is WireContact:
            hosts = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
            return st.builds(WireContact, st.binary(min_size=32, max_size=32), hosts,
                             st.integers(0, 65535))  # fmt: skip
    raise AssertionError(f"teach me {shape}")


def largest(kind: type[Message]) -> Message:
    """The longest message of `kind` that its field types allow."""
    shape = types.type_info(kind)
    assert isinstance(shape, types.StructType)
    return kind(*(_most(field.type) for field in shape.fields))


def _most(shape: types.Type) -> Any:  # noqa: PLR0911  # A case a type.
    match shape:
        case types.IntType(le=high):
            return high
        case types.BoolType():
            return True
        case types.BytesType(max_length=high):
            return b"\xff" * (high or 0)
        case types.StrType(max_length=high):
            return "\U0001f409" * (high or 0)
        case types.VarTupleType(item_type=item, max_length=high):
            return (_most(item),) * (high or 0)
        case types.TupleType(item_types=items):
            return tuple(map(_most, items))
        case types.StructType():
            return WireContact(b"\xff" * 32, b"\xff" * 16, 65535)
    raise AssertionError(f"teach me {shape}")
