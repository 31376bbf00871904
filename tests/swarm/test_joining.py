"""How a newcomer finds its partners: whom it dials, when it asks others, and what it is told."""

from __future__ import annotations

from functools import partial

import pytest

from p2pstream.core import Dial, Send
from p2pstream.identity import NodeId
from p2pstream.swarm import messages as m
from p2pstream.swarm.partners import PARTNERS_WANTED
from p2pstream.swarm.protocol import JOINING_S, UPKEEP_S
from tests.world.fabric import Host, effects_of
from tests.world.mesh import Mesh
from tests.world.stranger import Stranger

KNOWN = 3 * PARTNERS_WANTED


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def strangers(mesh: Mesh) -> list[Stranger]:
    """Nodes that may be dialled, and say nothing of themselves."""
    some = [Stranger(mesh, 100 + n) for n in range(KNOWN)]
    for one in some:
        one.joins = False
    return some


def newcomer(mesh: Mesh, others: list[Stranger]) -> Host:
    return mesh.watch(1, knows=tuple(other.host for other in others))


def dials(host: Host) -> int:
    return len(list(effects_of(host, Dial)))


def refuse(one: Stranger, peer: NodeId, heard: object) -> None:
    if isinstance(heard, m.Join):
        one.say(peer, m.Leave(heard.stream, "full"))


def test_whoever_is_asked_counts_as_a_partner_to_be_and_no_more_are_dialled(mesh: Mesh) -> None:
    host = newcomer(mesh, strangers(mesh))
    mesh.world.run(JOINING_S / 2)

    assert dials(host) == PARTNERS_WANTED


def test_others_are_asked_when_those_who_were_do_not_answer(mesh: Mesh) -> None:
    host = newcomer(mesh, strangers(mesh))
    mesh.world.run(JOINING_S + 2 * UPKEEP_S)

    assert dials(host) >= 2 * PARTNERS_WANTED


def test_whoever_is_refused_asks_the_next_at_once(mesh: Mesh) -> None:
    others = strangers(mesh)
    for one in others:
        one.on = partial(refuse, one)
    host = newcomer(mesh, others)
    mesh.world.run(JOINING_S / 2)

    assert dials(host) == KNOWN


def test_only_whoever_asks_to_join_is_told_of_others(mesh: Mesh) -> None:
    host = mesh.watch(1, knows=(mesh.origin,))
    mesh.world.run(0.5)

    def told(teller: Host) -> int:
        sends = effects_of(teller, Send)
        return sum(isinstance(send.message, m.Peers) for send in sends)

    assert (told(mesh.origin), told(host)) == (1, 0)
