"""Peers that lie, in a mesh that plays on.

After each attack: every chunk that was played is what the broadcaster signed, nobody honest was
convicted, no table grew beyond its bounds (`Mesh.check`), and the picture never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from p2pstream.core import Dial, Parcel
from p2pstream.dht.addresses import may_dial
from p2pstream.identity import NodeId, StreamKey
from p2pstream.stream import head as heads
from p2pstream.stream.chunker import Signed
from p2pstream.stream.epoch import certify
from p2pstream.stream.head import END, KEY, Part
from p2pstream.stream.merkle import Tree
from p2pstream.swarm import messages as m
from p2pstream.swarm.limbo import PIECES_MAX, PIECES_MAX_PER_PEER
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import Play
from p2pstream.swarm.taker import SPENT_S
from p2pstream.wire.codec import Message
from tests.world.fabric import effects_of, wall
from tests.world.mesh import CHUNK_S, Mesh, entries
from tests.world.stranger import Stranger

EVIL = StreamKey(b"evil" * 8)


class Scene:
    """A seed and three viewers that play, and a stranger that is about to join them."""

    def __init__(self, *, role: Role = Role.VIEWER, number: int = 66) -> None:
        self.mesh = Mesh()
        self.mesh.world.run(0.5)
        seed = self.mesh.add(1, Role.SEED, knows=(self.mesh.origin,))
        self.mesh.world.run(0.5)
        self.viewers = [self.mesh.watch(10 + n, knows=(seed,)) for n in range(3)]
        self.honest = [seed, *self.viewers]
        self.mesh.world.run(3.0)
        self.stranger = Stranger(self.mesh, number, role)

    def meet(self) -> None:
        """The stranger becomes everybody's partner."""
        self.stranger.dial(*self.honest)
        self.mesh.world.run(0.2)
        for host in self.honest:
            assert self.stranger.node in self.mesh.swarm(host).partners

    def run(self, seconds: float) -> None:
        self.mesh.world.run(seconds)

    def check(self, *, gap_s: float = 0.5) -> None:
        self.mesh.check()
        for host in self.viewers:
            assert self.mesh.gap_s(host, since=3.5) <= gap_s + CHUNK_S, "the picture stopped"
            assert self.mesh.playout(host).counters.skipped == 0

    def guilty(self) -> bool:
        """Whether everybody has found the stranger out, and has no more to do with it."""
        return all(
            self.stranger.node in host.banned
            and self.stranger.node not in self.mesh.swarm(host).partners
            for host in self.honest
        )

    def innocent(self) -> bool:
        return not any(self.stranger.node in host.banned for host in self.honest)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


TWISTS: dict[str, Callable[[bytes], bytes]] = {
    "one bit": flip,
    "too short": lambda data: data[:-1],
    "too long": lambda data: data + b"\0",
    "nothing": lambda _: b"",
    "noise": lambda data: Random(1).randbytes(len(data)),
}


@pytest.mark.parametrize("twist", TWISTS.values(), ids=TWISTS)
def test_h01_one_wrong_piece_is_enough(scene: Scene, twist: Callable[[bytes], bytes]) -> None:
    """Of a chunk that nobody else has yet: it is the first to bring the piece."""
    scene.meet()
    told: list[int] = []

    def strike(signed: Signed) -> None:
        if not told:
            told.append(signed.head.seq)
            scene.stranger.tell(scene.stranger.piece(signed, 1, twist=twist))

    scene.mesh.publish_after_s = 0.04
    scene.mesh.before_publish = strike
    scene.run(3.0)

    scene.check()
    assert scene.guilty()
    for host in scene.honest:
        assert len([c for c in host.convicted if c[0] == scene.stranger.node]) == 1
        assert scene.mesh.swarm(host).counters.pieces_refused == 1


def test_h01_a_parent_that_pushes_wrong_pieces_is_gone_at_the_first(scene: Scene) -> None:
    """It boasts until it is chosen, and then pushes lies."""
    children: set[NodeId] = set()

    def listen(peer: NodeId, message: object) -> None:
        if isinstance(message, m.Subscribe) and message.substreams:
            children.add(peer)

    def lie(signed: Signed) -> None:
        for peer in sorted(children):
            for index in range(len(signed.pieces[0])):
                scene.stranger.say(peer, scene.stranger.piece(signed, index, twist=flip))
        scene.stranger.host.act()

    scene.stranger.on = listen
    scene.mesh.before_publish = lie
    scene.meet()
    scene.stranger.every(0.2, lambda: scene.stranger.tell(scene.stranger.boast()),
                         until=scene.mesh.world.now + 3)  # fmt: skip
    # Its feeders die: somebody must take the stranger as a parent.
    scene.mesh.world.kill(scene.viewers.pop().node, noticed_after_s=1.0)
    scene.honest.pop()
    scene.run(5.0)

    scene.mesh.check()
    assert children
    for host in scene.honest:
        assert (host.node in children) == (scene.stranger.node in host.banned)


def next_head(scene: Scene, key: StreamKey, **changes: object) -> heads.Head:
    """A head that would be the next one, signed with `key`."""
    newest = scene.stranger.newest().head
    fields: dict[str, object] = {
        "seq": newest.seq + 1, "previous": newest.hash, "pts": newest.pts + newest.duration,
        "captured_ms": int(wall(scene.mesh.world.now) * 1000), "duration": newest.duration,
        "flags": KEY, "parts": newest.parts,
    }  # fmt: skip
    return heads.sign(key, scene.mesh.studio.epoch, **fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["piece", "join", "end", "huge"])
def test_h02_p05_a_head_signed_with_another_key_is_the_last_one(scene: Scene, kind: str) -> None:
    scene.meet()
    head = next_head(scene, EVIL)
    if kind == "end":
        head = next_head(scene, EVIL, flags=END, duration=0, parts=())
    if kind == "huge":
        head = next_head(scene, EVIL, seq=2**53 - 1)
    parcel = scene.stranger.piece(scene.stranger.newest(), raw=head.raw)
    verified = [scene.mesh.swarm(host).counters.heads_verified for host in scene.honest]
    for _ in range(100):
        scene.stranger.tell(scene.stranger.join(head=head.raw) if kind != "piece" else parcel)
    scene.run(0.1)

    assert scene.guilty()
    assert not any(scene.mesh.swarm(host).ended for host in scene.honest)
    after = [scene.mesh.swarm(host).counters.heads_verified for host in scene.honest]
    assert all(b - a <= 1 for a, b in zip(verified, after, strict=True))
    scene.run(2.0)
    scene.check()


def test_h02_a_head_of_another_stream_convicts(scene: Scene) -> None:
    scene.meet()
    now_ms = int(wall(scene.mesh.world.now) * 1000)
    other = certify(EVIL, 1, EVIL.public, now_ms=now_ms, bitrate_max=10**6, title="")
    newest = scene.stranger.newest().head
    head = heads.sign(
        EVIL, other, seq=newest.seq + 1, previous=newest.hash, captured_ms=now_ms, pts=0,
        duration=newest.duration, flags=KEY, parts=newest.parts,
    )  # fmt: skip
    scene.stranger.tell(scene.stranger.join(head=head.raw))
    scene.run(2.0)

    scene.check()
    assert scene.guilty()


def test_h02_a_certificate_of_another_stream_convicts(scene: Scene) -> None:
    now_ms = int(wall(scene.mesh.world.now) * 1000)
    scene.stranger.certificate = certify(
        EVIL, 9, EVIL.public, now_ms=now_ms, bitrate_max=10**6, title=""
    ).raw
    scene.stranger.dial(*scene.honest)
    scene.run(2.0)

    scene.check()
    assert scene.guilty()


def test_h03_yesterday_is_never_shown_as_live() -> None:
    """All that a newcomer can reach replays yesterday's stream; then one honest node appears."""
    mesh = Mesh()
    mesh.world.run(2.0)
    old = list(mesh.studio.signed.values())
    replayers = []
    for n in range(3):
        stranger = Stranger(mesh, 60 + n)
        replayers.append(stranger)

    def replay(stranger: Stranger) -> Callable[[NodeId, object], None]:
        def on(peer: NodeId, message: object) -> None:
            if isinstance(message, (m.Join, m.Want, m.Subscribe)):
                stranger.say(peer, stranger.boast(base=old[0].head.seq, key=old[0].head.seq))
                stranger.say(peer, *(stranger.piece(signed) for signed in old))

        return on

    for stranger in replayers:
        stranger.on = replay(stranger)
    mesh.over = True
    mesh.world.kill(mesh.origin.node)
    mesh.world.run(86_500.0)
    host = mesh.watch(10, knows=tuple(stranger.host for stranger in replayers))
    mesh.world.run(20.0)

    assert not effects_of(host, Play)
    assert mesh.swarm(host).window.newest == -1
    assert not mesh.swarm(host).ended
    mesh.check()


def test_h03_old_heads_under_a_certificate_of_today_are_stale() -> None:
    scene = Scene()
    scene.meet()
    old = [next_head(scene, scene.mesh.studio.signer, captured_ms=int(wall(-3600) * 1000), seq=seq)
           for seq in (5, 2000, 10**9)]  # fmt: skip
    for head in old:
        scene.stranger.tell(scene.stranger.join(head=head.raw))
    scene.run(0.1)

    for host in scene.honest:
        assert scene.mesh.swarm(host).window.newest < 1100
        assert not {5, 2000, 10**9} & set(scene.mesh.swarm(host).window)
    assert scene.innocent(), "our own clock may be wrong: hang up, but do not ban"
    scene.run(2.0)
    scene.check()


def test_p01_who_announces_everything_and_serves_nothing_costs_nothing(scene: Scene) -> None:
    scene.meet()
    scene.stranger.every(0.2, lambda: scene.stranger.tell(scene.stranger.boast()),
                         until=scene.mesh.world.now + 8)  # fmt: skip
    scene.run(8.0)

    scene.check()
    heard = [said for _, said in scene.stranger.heard if isinstance(said, (m.Want, m.Subscribe))]
    assert heard, "it was believed at first"
    for host in scene.viewers:
        assert scene.mesh.stalls(host) <= 1
        assert max(scene.mesh.lag_s(host, since=4.0)) < 2.0


def test_p01_most_partners_serve_nothing() -> None:
    scene = Scene()
    crowd = [Stranger(scene.mesh, 70 + n) for n in range(6)]
    for stranger in crowd:
        stranger.dial(*scene.honest)
        stranger.every(0.25, lambda s=stranger: s.tell(s.boast()),  # type: ignore[misc]
                       until=scene.mesh.world.now + 6)  # fmt: skip
    scene.run(6.0)

    scene.check(gap_s=2.0)
    for host in scene.viewers:
        assert scene.mesh.playout(host).counters.stall_s < 2.5


FAR = 2**53 - 70


def test_claims_from_the_far_future_lead_nobody_astray(scene: Scene) -> None:
    """What a partner says it holds is a hint: it cannot move the live edge, only a head can."""
    scene.meet()
    far = scene.stranger.boast(base=FAR, key=FAR)
    scene.stranger.every(0.5, lambda: scene.stranger.tell(far), until=scene.mesh.world.now + 6)
    at = scene.mesh.world.now + 1.0
    scene.run(1.0)
    newcomer = scene.mesh.watch(30, knows=(scene.stranger.host, *scene.viewers))
    replaced = [scene.mesh.swarm(host).counters.parents_replaced for host in scene.viewers]
    scene.run(5.0)

    scene.check()
    assert scene.mesh.seqs(newcomer), "a newcomer starts where the stream is"
    assert scene.mesh.played[newcomer.node][0][0] < at + 3.0
    after = [scene.mesh.swarm(host).counters.parents_replaced for host in scene.viewers]
    assert sum(after) - sum(replaced) <= 24, "honest parents are not behind a lie"


def test_lost_pieces_are_still_fetched_while_somebody_boasts_of_the_future(scene: Scene) -> None:
    scene.meet()
    scene.mesh.world.loss = 0.1
    far = scene.stranger.boast(base=FAR, key=FAR)
    scene.stranger.every(0.5, lambda: scene.stranger.tell(far), until=scene.mesh.world.now + 6)
    scene.run(6.0)

    scene.mesh.check()
    for host in scene.viewers:
        assert scene.mesh.playout(host).counters.stall_s <= 2.0
        assert len(scene.mesh.seqs(host, since=4.0)) > 22


def test_a_flood_of_everything_fills_no_memory(scene: Scene) -> None:
    scene.meet()
    rng, stream = Random(5), scene.mesh.stream

    def seqs() -> list[int]:
        top = rng.choice([1100, 2**32, 2**53 - 1])
        return sorted({rng.randrange(top) for _ in range(60)})

    def masks() -> tuple[tuple[int, bytes], ...]:
        return tuple((seq, b"\xff" * 32) for seq in seqs())

    def unheard_head() -> bytes:
        """Of an epoch whose certificate nobody has: it cannot be checked."""
        epoch = certify(EVIL, 99, EVIL.public, now_ms=0, bitrate_max=1, title="")
        return heads.sign(
            EVIL, epoch, seq=rng.randrange(2**53), previous=bytes(32), captured_ms=0, pts=0,
            duration=1, flags=0, parts=[Part(0, bytes(16), 1, bytes(32))],
        ).raw  # fmt: skip

    def flood() -> None:
        rendition = rng.randrange(64)
        scene.stranger.tell(
            m.Want(stream, rendition, masks(), heads=True),
            m.Lack(stream, rendition, masks()),
            m.Subscribe(stream, rendition, 15, rng.randrange(2**53)),
            m.Refuse(stream, rendition, 15),
            m.Peers(stream, tuple((rng.randbytes(32), "192.0.2.1", 9) for _ in range(16))),
            m.Map(stream, rendition, rng.randrange(2**53), (b"\x55" * 32,) * 64, 2**53 - 1,
                  b"\xff" * 4, (b"abcd",) * 4, b"\xff" * 4),
            m.WantInit(stream, rng.randbytes(16)),
            m.InitFile(stream, rng.randbytes(500)),
            scene.stranger.join(head=unheard_head()),
        )  # fmt: skip

    before = max(entries(scene.mesh.swarm(host)) for host in scene.honest)
    scene.stranger.every(0.1, flood, until=scene.mesh.world.now + 3)
    scene.run(3.2)

    after = max(entries(scene.mesh.swarm(host)) for host in scene.honest)
    assert after < before + 3_000, f"{before} entries became {after}"
    scene.check(gap_s=1.0)


def test_who_has_no_upload_left_is_asked_for_nothing_for_a_moment(scene: Scene) -> None:
    """Or refusals and new requests chase each other, as fast as the round trip lets them."""
    scene.meet()
    swarm, now = scene.mesh.swarm(scene.viewers[0]), scene.mesh.world.now
    partner = swarm.partners[scene.stranger.node]
    scene.stranger.tell(scene.stranger.boast())
    scene.run(0.05)
    seq = partner.edge(0)
    partner.asked[seq, 0, 0] = now
    scene.stranger.tell(m.Lack(scene.mesh.stream, 0, ((seq, b"\1"),)))
    scene.run(0.05)

    def may_be_asked(index: int, at: float) -> bool:
        holders = swarm._taker._holders(seq, 0, index, now=at)
        return partner.node in {holder.peer for holder in holders}

    now = scene.mesh.world.now
    assert not may_be_asked(1, now)
    assert may_be_asked(1, now + SPENT_S)
    assert not may_be_asked(0, now + SPENT_S), "it has said that it cannot send this one"


def test_candidates_from_one_peer_do_not_push_out_all_others(scene: Scene) -> None:
    scene.meet()
    victim = scene.viewers[0]
    rng = Random(5)
    for _ in range(40):
        names = tuple((rng.randbytes(32), "192.0.2.1", 9) for _ in range(16))
        scene.stranger.tell(m.Peers(scene.mesh.stream, names))
    scene.run(1.0)

    known = scene.mesh.swarm(victim).candidates
    honest = [h.node for h in scene.honest if h is not victim]
    picked = known.pick(1000, besides=(), now=1e9, rng=rng)
    assert {candidate.node for candidate in picked} & set(honest)


def test_d07_nobody_is_dialled_by_name(scene: Scene) -> None:
    scene.meet()
    odd = ["localhost", "example.org", "", "fe80::1%eth0", "1.2.3", "a" * 45, "0x7f.1"]
    peers = tuple((bytes([n + 1]) * 32, host, 4433) for n, host in enumerate(odd))
    scene.stranger.tell(m.Peers(scene.mesh.stream, peers))
    scene.run(1.5)

    dialled = {a for h in scene.honest for d in effects_of(h, Dial) for a in d.addresses}
    names = {host for host, port in dialled if may_dial((host, port), allow_private=True)}
    assert not names & set(odd), "an address is an IP address, never a host name"
    scene.check()


def test_pieces_without_heads_wait_in_a_small_room(scene: Scene) -> None:
    scene.meet()
    newest = scene.stranger.newest()
    kept = newest.pieces[0][0]

    def push() -> None:
        for n in range(50):
            header = m.Piece(scene.mesh.stream, newest.head.seq + 30 + n, 0, 0, 0, b"", b"")
            scene.stranger.tell(Parcel(header, kept.data))

    before = [entries(scene.mesh.swarm(host)) for host in scene.honest]
    scene.stranger.every(0.1, push, until=scene.mesh.world.now + 2)
    scene.run(1.9)
    after = [entries(scene.mesh.swarm(host)) for host in scene.honest]
    assert all(b - a <= PIECES_MAX_PER_PEER + PIECES_MAX + 1000
               for a, b in zip(before, after, strict=True))  # fmt: skip
    scene.run(2.0)

    scene.check()


def test_h01_a_lie_that_waited_for_its_head_convicts_its_own_sender(scene: Scene) -> None:
    scene.meet()
    seq = scene.stranger.newest().head.seq + 3
    header = m.Piece(scene.mesh.stream, seq, 0, 0, 0, b"", b"")
    scene.stranger.tell(Parcel(header, b"lie" * 1000))
    scene.run(1.5)

    assert scene.guilty()
    scene.check()


def test_who_wants_everything_gets_what_we_can_spare(scene: Scene) -> None:
    scene.meet()
    seqs = list(scene.mesh.swarm(scene.viewers[0]).window)[-60:]
    want = m.Want(scene.mesh.stream, 0, tuple((seq, b"\xff" * 32) for seq in seqs), heads=True)
    given = [scene.mesh.swarm(host).counters.given for host in scene.honest]
    scene.stranger.every(0.1, lambda: scene.stranger.tell(want),
                         until=scene.mesh.world.now + 4)  # fmt: skip
    scene.run(4.0)

    scene.check()
    for host, before in zip(scene.honest, given, strict=True):
        copies = 16.0 if host is scene.honest[0] else 4.0
        budget = copies * 125_000 * 1.2 * (4.0 + 2.0)  # Four seconds, and a burst of two.
        assert scene.mesh.swarm(host).counters.given - before < 1.5 * budget


def test_who_subscribes_to_everything_leaves_room_by_the_rules(scene: Scene) -> None:
    scene.meet()
    for rendition in range(64):
        scene.stranger.tell(m.Subscribe(scene.mesh.stream, rendition, 65535, 0))
    scene.run(2.0)

    scene.check()
    for host in scene.viewers:
        children = scene.mesh.swarm(host).children
        mine = [f for f in children.feeds_of(scene.stranger.node) if f[0] != 0]
        assert children.used <= children.slots
        assert not mine, "no room is kept for renditions that do not exist"


@pytest.mark.parametrize("role", [Role.ORIGIN, Role.SEED])
def test_a_role_is_only_a_claim(role: Role) -> None:
    scene = Scene(role=role)
    scene.meet()
    scene.stranger.every(0.2, lambda: scene.stranger.tell(scene.stranger.boast()),
                         until=scene.mesh.world.now + 4)  # fmt: skip
    scene.run(4.0)

    scene.check()


def test_hops_that_are_lies_harm_nobody(scene: Scene) -> None:
    """It serves well, but says it is the broadcaster, or at the end of the world."""
    scene.meet()
    for hops in (0, 254, 255):
        signed = scene.stranger.newest()
        parcel = scene.stranger.piece(signed)
        header = m.Piece(scene.mesh.stream, signed.head.seq, 0, 0, hops, signed.head.raw,
                         parcel.header.proof)  # type: ignore[attr-defined]  # fmt: skip
        scene.stranger.tell(Parcel(header, parcel.body))
        scene.run(0.7)
    scene.run(1.0)

    scene.check()
    assert scene.innocent()


def test_garbage_in_every_field_raises_our_errors_only(scene: Scene) -> None:
    """The core itself never crashes: whatever passes the codec is answered, ignored or blamed."""
    rng, stream = Random(8), scene.mesh.stream
    newest = scene.stranger.newest()
    odd: list[Message | Parcel] = [
        m.Map(stream, 0, 5, (b"\0",), 0, b"\0" * 4, (b"",) * 4, b"\0" * 4),
        m.Want(stream, 0, ((5, b"\1\0"),), heads=False),
        m.Lack(stream, 63, ((2**53 - 1, b"\xff\0"),)),
        m.Map(stream, 0, 2**53 - 1, (b"\xff" * 32,) * 64, 0, b"\0" * 4, (b"",) * 4, bytes(4)),
        m.Join(b"x" * 32, 0, b"", b""),
        m.Join(stream, 2, rng.randbytes(300), b""),
        m.Join(stream, 2, b"", rng.randbytes(300)),
        m.Join(stream, 0, scene.mesh.studio.epoch.raw[:-1], newest.head.raw),
        m.Map(b"y" * 32, 0, 5, (b"\1",), 0, b"\0" * 4, (b"",) * 4, bytes(4)),
        Parcel(m.Piece(stream, 2**53 - 1, 63, 255, 255, b"", bytes(31)), b""),
        Parcel(m.Piece(stream, newest.head.seq, 63, 255, 255, b"", bytes(31)), b""),
        Parcel(m.Piece(stream, newest.head.seq, 0, 0, 0, rng.randbytes(400), b""), b""),
        Parcel(m.Piece(b"z" * 32, newest.head.seq, 0, 0, 0, newest.head.raw, b""), b""),
        Parcel(m.Leave(stream, "not a header"), b"body"),
        newest_piece_without_parcel(stream),
    ]
    for n, message in enumerate(odd):
        stranger = Stranger(scene.mesh, 200 + n)
        stranger.dial(*scene.honest)
        scene.run(0.1)
        stranger.tell(message)
        scene.run(0.1)
        stranger.host.alive = False
        for host in scene.honest:
            scene.mesh.world.unlink(host.node, stranger.node, "gone")

    scene.check()


def newest_piece_without_parcel(stream: bytes) -> Message:
    return m.Piece(stream, 1, 0, 0, 0, b"", b"")


def test_h05_two_heads_for_one_seq_are_seen_and_only_one_is_kept(scene: Scene) -> None:
    """The broadcaster cheats: the same seq twice, both with a good signature."""
    scene.meet()
    studio = scene.mesh.studio
    original = scene.stranger.newest()
    twin = heads.sign(
        studio.signer, studio.epoch, seq=original.head.seq, previous=original.head.previous,
        captured_ms=original.head.captured_ms + 1, pts=original.head.pts,
        duration=original.head.duration, flags=original.head.flags,
        parts=[Part(0, original.head.parts[0].init, 5, bytes(32))],
    )  # fmt: skip
    scene.run(0.15)
    scene.stranger.tell(scene.stranger.join(head=twin.raw))
    scene.run(2.0)

    scene.check()
    for host in scene.honest:
        swarm = scene.mesh.swarm(host)
        assert swarm.forked
        kept = swarm.window.head(original.head.seq)
        assert kept is not None
        assert kept.hash == original.head.hash
        notes = [e for e in host.effects if getattr(e, "event", "") == "forked"]
        assert len(notes) == 1, "told once"
    assert scene.innocent(), "whoever passes it on did not make it"


def test_h05_nobody_is_convicted_for_what_a_cheating_broadcaster_told_it(scene: Scene) -> None:
    """Half of the mesh got one truth, half the other; none of them could know."""
    scene.meet()
    studio = scene.mesh.studio
    data = b"another truth"
    told: list[heads.Head] = []

    def cheat(signed: Signed) -> None:
        if told:
            return
        original = signed.head
        told.append(heads.sign(
            studio.signer, studio.epoch, seq=original.seq, previous=original.previous,
            captured_ms=original.captured_ms + 1, pts=original.pts, duration=original.duration,
            flags=original.flags,
            parts=[Part(0, original.parts[0].init, len(data), Tree([data]).root)],
        ))  # fmt: skip
        studio.sent[original.seq, 0] = data  # What these two may play.
        header = m.Piece(scene.mesh.stream, original.seq, 0, 0, 1, told[0].raw, b"")
        for host in scene.honest[2:]:
            scene.stranger.say(host.node, Parcel(header, data))
        scene.stranger.host.act()

    scene.mesh.publish_after_s = 0.04
    scene.mesh.before_publish = cheat
    scene.run(3.0)

    assert scene.innocent()
    honest = {host.node for host in scene.honest} | {scene.mesh.origin.node}
    for host in scene.honest:
        assert not [c for c in host.convicted if c[0] in honest], host.convicted
    assert any(scene.mesh.swarm(host).forked for host in scene.honest)
    for host in scene.viewers:
        assert len(scene.mesh.seqs(host, since=scene.mesh.world.now - 2.0)) >= 7


def test_a_banned_peer_does_not_come_back(scene: Scene) -> None:
    scene.meet()
    scene.stranger.tell(scene.stranger.piece(scene.stranger.newest(), 0, twist=flip, head=False))
    scene.run(0.5)
    scene.stranger.tell(scene.stranger.join(head=next_head(scene, EVIL).raw))
    scene.run(0.1)
    assert scene.guilty()
    scene.stranger.dial(*scene.honest)
    scene.run(5.0)

    scene.check()
    for host in scene.honest:
        assert scene.stranger.node not in scene.mesh.swarm(host).partners
