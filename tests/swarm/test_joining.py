"""How a newcomer finds its partners: whom it dials, when it asks others, and what it is told."""

from __future__ import annotations

from functools import partial

import pytest

from p2pstream.core import Dial, Send
from p2pstream.identity import NodeId
from p2pstream.swarm import messages as m
from p2pstream.swarm.messages import Role
from p2pstream.swarm.partners import PARTNERS_WANTED
from p2pstream.swarm.protocol import JOINING_S, UPKEEP_S, Config
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


def test_whoever_joined_before_anybody_knew_the_broadcaster_hears_of_it(mesh: Mesh) -> None:
    """The broadcaster has no room for the seed, and the seed's only partner met it later."""
    mesh.swarm(mesh.origin).mesh.config = Config(partners_max=1)
    seed = mesh.add(1, Role.SEED)
    viewer = mesh.watch(2, knows=(seed,))
    mesh.world.run(1.0)
    assert mesh.swarm(viewer).partners.keys() == {seed.node}
    mesh.swarm(viewer).learn(mesh.origin.node, [mesh.origin.address], now=mesh.world.now)
    viewer.act()
    mesh.world.run(3.0)

    assert mesh.swarm(seed).partners.keys() == {viewer.node}
    assert mesh.swarm(seed).window.newest > 0


@pytest.mark.parametrize("certified", [True, False])
def test_an_epoch_is_told_to_those_who_may_not_know_it(mesh: Mesh, *, certified: bool) -> None:
    """Once, and to nobody who spoke of it first."""
    epoch = mesh.studio.epoch.raw
    early, late = Stranger(mesh, 100), Stranger(mesh, 101)
    early.certificate = epoch if certified else b""
    host = newcomer(mesh, [early])
    mesh.world.run(0.5)
    late.dial(host)
    mesh.world.run(3.0)

    told = [e.message for e in effects_of(host, Send) if e.peer == early.node]
    joins = [word.certificate for word in told if isinstance(word, m.Join)]
    assert joins == ([b""] if certified else [b"", epoch])


def test_whoever_joins_without_an_epoch_is_told_of_it(mesh: Mesh) -> None:
    """It was asked to join before we knew, and answers now that we do."""
    late = Stranger(mesh, 100)
    late.certificate, late.joins = b"", False
    host = newcomer(mesh, [late])
    mesh.world.run(0.5)
    mesh.swarm(host).learn(mesh.origin.node, [mesh.origin.address], now=mesh.world.now)
    host.act()
    mesh.world.run(0.5)
    late.tell(late.join())
    mesh.world.run(0.5)

    joins = [word.certificate for _, word in late.heard if isinstance(word, m.Join)]
    assert joins == [b"", mesh.studio.epoch.raw]
