"""The broadcast of a run: random bytes of the right sizes at the right times, really signed."""

from __future__ import annotations

from p2pstream.identity import StreamKey
from p2pstream.node.broadcaster import SEQ_MS
from p2pstream.stream.chunk import TICKS_PER_S, Init
from p2pstream.stream.chunker import Chunker, Signed
from p2pstream.stream.epoch import Epoch, certify
from p2pstream.stream.head import KEY
from simulations.fabric.dice import die, secret

KEY_FRAME = 1.6  # Size of a chunk with a key frame, of the mean. Measured: x264, a key a second.
# Chunks are cut from this, anywhere: fresh bytes for each were 3 % of a run with 30 hosts.
NOISE_BYTES = 1 << 20
REMEMBERED = 512  # Seqs whose bytes the checkers can still ask for.


class Studio:
    """Makes the signed chunks. bitrates_kbps: of the renditions, media only."""

    def __init__(
        self, seed: int, *, bitrates_kbps: tuple[float, ...], chunk_s: float, gop_chunks: int
    ) -> None:
        self.root = StreamKey(secret(seed, "stream"))
        self.stream = self.root.stream_id
        self.bitrates_kbps, self.chunk_s, self.gop_chunks = bitrates_kbps, chunk_s, gop_chunks
        self.rng = die(seed, "media")
        self.noise = self.rng.randbytes(NOISE_BYTES)
        self.seed = seed
        self.epochs = 0
        self.bytes_made = 0  # Of the largest rendition.
        self.sent: dict[tuple[int, int], tuple[bytes, ...]] = {}  # (seq, rendition) -> pieces
        self.made_at: dict[int, float] = {}  # By seq: world time of publication.

    def begin(self, wall_s: float) -> Epoch:
        """A broadcaster starts, or starts again: a new epoch, and the time line from 0."""
        self.epochs += 1
        signer = StreamKey(secret(self.seed, "signer", self.epochs))
        now_ms = int(wall_s * 1000)
        epoch = certify(
            self.root, self.epochs, signer.public, now_ms=now_ms,
            bitrate_max=int(2000 * sum(self.bitrates_kbps)), title="a simulation",
        )  # fmt: skip
        self.chunker = Chunker(signer, epoch, first_seq=now_ms // SEQ_MS)
        self.made = 0
        return epoch

    def inits(self) -> list[Init]:
        return [
            Init(n, f"{n}p", 640, 360, int(1000 * rate), "avc1.4d401e,mp4a.40.2", b"init %d" % n)
            for n, rate in enumerate(self.bitrates_kbps)
        ]

    def _some(self, count: int) -> bytes:
        """So many bytes, of no meaning."""
        noise = self.noise * (1 + count // NOISE_BYTES)
        at = self.rng.randrange(len(noise) - count + 1)
        return noise[at : at + count]

    def next(self, inits: list[bytes], *, wall_s: float, now: float) -> Signed:
        """The group that was captured in the last `chunk_s`."""
        key = self.made % self.gop_chunks == 0
        factor = KEY_FRAME if key else (self.gop_chunks - KEY_FRAME) / max(1, self.gop_chunks - 1)
        chunks = {
            n: (inits[n], self._some(int(rate * 125 * self.chunk_s * factor)))
            for n, rate in enumerate(self.bitrates_kbps)
        }
        ticks = int(self.chunk_s * TICKS_PER_S)
        signed = self.chunker.sign(
            chunks, captured_ms=int((wall_s - self.chunk_s) * 1000), pts=self.made * ticks,
            duration=ticks, flags=KEY if key else 0,
        )  # fmt: skip
        self.made += 1
        self.bytes_made += max(len(data) for _, data in chunks.values())
        seq = signed.head.seq
        self.made_at[seq] = now
        for rendition, pieces in signed.pieces.items():
            self.sent[seq, rendition] = tuple(piece.data for piece in pieces)
        while len(self.sent) > REMEMBERED * len(self.bitrates_kbps):
            del self.sent[next(iter(self.sent))]
        return signed
