"""The shape every protocol shares, so that one loop can run them all, here and in a simulation.

A core is a plain object without hands: no `async`, no socket, no clock, no global dice. Time comes
in as `now` (seconds of a clock that never goes back), dice as `rng`. What it wants done comes out
as effects. The design is that of quinn-proto and aioquic (sans-IO).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Protocol

import msgspec

from p2pstream.identity import Address, NodeId
from p2pstream.wire.codec import Message


class Parcel(msgspec.Struct, frozen=True):
    """A message with a body too large for the control stream. Travels on a stream of its own.

    A struct of msgspec, as `Send` and `Push` are: these are made for each piece.
    """

    header: Message
    body: bytes


# What happens to a core, besides messages from peers. `peer` is the one it is about.


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A connection to a peer stands, proven to be that peer's.

    address: where the peer is, as we see it. dialled: we called them. seen_as: where we are, as
    the peer sees us (its claim: believe it when several peers agree).
    """

    address: Address
    dialled: bool
    seen_as: Address


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection to a peer ended, or could not be made."""

    reason: str


Happening = Message | Parcel | LinkUp | LinkDown

# What a core wants done.


class Send(msgspec.Struct, frozen=True):
    """Carry `message` to `peer`. It is dropped when it cannot be sent before `expires_at`."""

    peer: NodeId
    message: Message | Parcel
    expires_at: float = inf


class Push(msgspec.Struct, frozen=True):
    """Carry `parcel` to each of `peers`: as a `Send` to one after another, for the price of one."""

    peers: list[NodeId]
    parcel: Parcel
    expires_at: float = inf

    def sends(self) -> list[Send]:
        """The same, for those who look at each."""
        return [Send(peer, self.parcel, self.expires_at) for peer in self.peers]


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to `peer` at one of `addresses`; answered by `LinkUp` or `LinkDown`."""

    peer: NodeId
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Hangup:
    """We have no more business with `peer`. guilty: it lied, so ban it."""

    peer: NodeId
    reason: str
    guilty: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Something for people and their tools: one event, as `--json` prints it."""

    event: str
    fields: dict[str, str | int | float | bool | None]


class Effect(Protocol):
    """Anything a core wants done; each protocol adds its own to those above."""


class Core(Protocol):
    """A protocol without hands. Tell it what happened, then ask what it wants."""

    def receive(self, peer: NodeId, message: Happening, *, now: float) -> None:
        """Something arrived from `peer`, or happened to the link to it.

        Raises `PeerError` when the peer is at fault; the core's state is then as before.
        """

    def wake(self, *, now: float) -> None:
        """The time given by `wake_at` has come. Waking early is harmless."""

    def wake_at(self) -> float:
        """When to call `wake` next; `inf` when nothing is due."""

    def effects(self) -> Iterable[Effect]:
        """What to do now, oldest first. Reading empties the list."""


class Roads(Protocol):
    """What a core may look at (never touch) of the network below it."""

    def backlog(self, peer: NodeId) -> int:
        """Bytes accepted for `peer` that have not left yet. Back-pressure is data."""

    def rtt_s(self, peer: NodeId) -> float:
        """Smoothed round-trip time to `peer` in seconds."""
