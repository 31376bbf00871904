"""A node and where it is: as we use it, and as it travels (docs/wire.md, part 5)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pstream.dht.addresses import pack_host, unpack_host
from p2pstream.identity import Address, NodeId
from p2pstream.wire.codec import U16, Digest

Host = Annotated[bytes, Meta(min_length=4, max_length=16)]


class Contact(msgspec.Struct, frozen=True):
    """A node, and where it is. A struct of msgspec: they are made for each answer."""

    node: NodeId
    address: Address


class WireContact(msgspec.Struct, frozen=True, array_like=True):
    """A contact as it travels: id, 4 or 16 bytes of IP address, UDP port."""

    node: Digest
    host: Host
    port: U16

    def __post_init__(self) -> None:
        if len(self.host) not in {4, 16}:
            raise ValueError("a host has 4 or 16 bytes")

    @staticmethod
    def of(contact: Contact) -> WireContact:
        host, port = contact.address
        return WireContact(bytes(contact.node), pack_host(host), port)

    def contact(self) -> Contact:
        return Contact(NodeId(self.node), (unpack_host(self.host), self.port))
