"""Playout as transcripts: what arrives when, and what is handed over when."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.playback.playout import (
    BEGIN_S,
    EDGE_SAMPLES_MAX,
    PATIENCE_S,
    TIMELINE_MAX,
    Config,
    Playout,
)

CHUNK_S = 0.2


class Stage:
    """A broadcast of chunks of 0.2 s (a key frame every five), and one viewer's playout.

    Chunk n is captured from 0.2 n to 0.2 (n + 1) and its head and media arrive `delay_s` later.
    """

    def __init__(self, config: Config | None = None, *, delay_s: float = 0.1) -> None:
        self.here: set[int] = set()
        self.playout = Playout(self, config or Config(0.5, 3.0, 4.0))
        self.delay_s = delay_s
        self.now = 0.0
        self.taken: list[tuple[float, int]] = []

    def ready(self, seq: int) -> bool:
        return seq in self.here

    def next_key(self, after: int) -> int | None:
        return max((seq for seq in self.here if seq > after and seq % 5 == 0), default=None)

    def come(self, seq: int, *, at: float | None = None, media: bool = True) -> None:
        """Head and media of `seq` arrive, on time unless `at` says when."""
        self.until((seq + 1) * CHUNK_S + self.delay_s if at is None else at)
        self.playout.saw_head(seq, (seq + 1) * CHUNK_S, CHUNK_S, fresh=True, now=self.now)
        if media:
            self.bring(seq)

    def bring(self, seq: int) -> None:
        """The media of a chunk whose head is here."""
        self.here.add(seq)
        self.playout.arrived(seq, now=self.now)
        self.take()

    def until(self, when: float) -> None:
        """Let time pass; playout is woken when it asks for it, and once a second."""
        while (at := min(self.playout.take_at, self.now + 1.0)) <= when:
            self.now = max(self.now, at)
            self.take()
            if self.playout.take_at <= self.now:
                break  # It waits for a chunk that is not here.
        self.now = max(self.now, when)
        self.take()

    def take(self) -> None:
        self.taken += [(round(self.now, 3), seq) for seq in self.playout.take(now=self.now)]

    @property
    def seqs(self) -> list[int]:
        return [seq for _, seq in self.taken]


def test_on_time_each_chunk_leaves_one_target_after_it_could() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    for seq in range(1, 11):
        stage.come(seq)

    assert stage.taken[:3] == [(0.8, 0), (1.0, 1), (1.2, 2)]
    assert all(round(b - a, 3) == CHUNK_S for (a, _), (b, _) in pairwise(stage.taken))
    assert stage.playout.counters.stalls == stage.playout.counters.late == 0
    assert not stage.playout.stalled


def test_nothing_is_due_before_anything_is_known() -> None:
    playout = Stage().playout

    assert playout.take_at == inf
    assert playout.due(3) == inf
    assert list(playout.take(now=1e9)) == []
    assert playout.buffer_s() == 0.0
    playout.start(3, now=0.0)
    assert playout.take_at == inf
    assert list(playout.take(now=1e9)) == []


def test_a_late_chunk_stalls_once_and_the_target_grows_by_what_it_lacked() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    stage.come(1)
    stage.come(2, media=False)
    stage.come(3)
    due = stage.playout.due(2)
    stage.until(due + 0.1)
    assert stage.playout.stalled
    assert stage.playout.take_at == inf, "only an arrival ends a stall"

    stage.until(due + 0.3)
    stage.bring(2)

    assert stage.seqs == [0, 1, 2]
    assert not stage.playout.stalled
    assert stage.playout.counters.stalls == stage.playout.counters.late == 1
    assert stage.playout.counters.stall_s == pytest.approx(0.3)
    assert stage.playout.target_s == pytest.approx(0.5 + 1.2 * 0.3)
    assert stage.playout.due(3) == pytest.approx(due + CHUNK_S + 1.2 * 0.3)


def test_the_same_lateness_does_not_stall_twice() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    for seq in range(1, 40):
        stage.come(seq, media=seq < 5)
        late = seq - 3  # From the sixth on every chunk's media is 0.6 s later than its head.
        if late >= 5:
            stage.bring(late)

    assert stage.playout.counters.stalls == 1


def test_the_target_never_grows_beyond_its_limit() -> None:
    stage = Stage(Config(target_s=0.5, target_s_max=0.55, behind_s_max=60.0))
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    stage.come(1, media=False)
    stage.until(20.0)
    stage.bring(1)

    assert stage.playout.target_s == 0.55


def test_delay_that_is_not_needed_is_given_back_slowly() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    stage.playout.target_s = 1.0
    for seq in range(1, 30):
        stage.come(seq)
    after_six_s = stage.playout.target_s

    assert 0.7 < after_six_s < 0.9
    for seq in range(30, 200):
        stage.come(seq)
    assert stage.playout.target_s == 0.5
    assert stage.playout.counters.stalls == 0


def test_who_waits_too_long_skips_to_a_key_frame() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    stage.come(1, media=False)  # Lost for ever.
    for seq in range(2, 20):
        stage.come(seq)

    assert stage.seqs[:1] == [0]
    assert stage.seqs[1] % 5 == 0
    assert 1 not in stage.seqs
    assert stage.playout.counters.skipped == stage.seqs[1] - 1
    assert stage.playout.counters.stall_s >= PATIENCE_S - CHUNK_S
    assert stage.seqs[1:] == list(range(stage.seqs[1], stage.seqs[-1] + 1))


def test_without_a_key_frame_there_is_nothing_to_skip_to() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    stage.come(1, media=False)
    for seq in range(2, 5):
        stage.come(seq)
    stage.until(30.0)

    assert stage.seqs == [0]
    assert stage.playout.stalled


def test_what_was_missed_in_a_pause_is_never_replayed() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    for seq in range(1, 6):
        stage.come(seq)
    last = stage.seqs[-1]
    stage.playout.pause()
    assert stage.playout.take_at == inf
    assert stage.playout.last_seq == last
    assert not stage.playout.busy

    with pytest.raises(AssertionError, match="never goes back"):
        stage.playout.start(last, now=stage.now)
    for seq in range(150, 160):
        stage.come(seq)
    stage.playout.start(155, now=stage.now)
    for seq in range(160, 165):
        stage.come(seq)

    assert min(seq for seq in stage.seqs if seq > last) == 155
    assert stage.playout.counters.stalls == 0


def test_when_the_time_line_moves_the_old_chunks_are_played_out_and_then_the_new() -> None:
    """The broadcaster started anew: pts begin at 0 again while time went on."""
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    for seq in range(1, 6):
        stage.come(seq)
    stage.until(10.0)
    for n in range(10):
        seq, now = 1000 + n, 10.0 + n * CHUNK_S
        stage.until(now)
        stage.playout.saw_head(seq, (n + 1) * CHUNK_S, CHUNK_S, fresh=True, now=now)
        stage.bring(seq)

    assert stage.seqs[:6] == list(range(6))
    assert stage.seqs[6:] == list(range(1000, 1000 + len(stage.seqs) - 6))
    lag = [when - (10.0 + (seq - 1000) * CHUNK_S) for when, seq in stage.taken[6:]]
    assert max(lag) <= stage.playout.target_s + 1e-6 < 3.0
    assert stage.playout.counters.skipped == 0, "there were no chunks in between"


def test_nothing_is_due_at_the_end() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    for seq in range(1, 4):
        stage.come(seq)
    stage.playout.end_seq = 4
    assert stage.playout.busy
    stage.until(60.0)

    assert stage.seqs == [0, 1, 2, 3]
    assert not stage.playout.busy
    assert not stage.playout.stalled
    assert stage.playout.take_at == inf
    assert stage.playout.counters.stalls == 0


def test_the_buffer_is_what_is_ready_ahead() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    stage.come(1)
    stage.come(2, media=False)
    stage.come(3)
    assert stage.seqs == [0]  # At 0.9 s; the next is due at 1.0 s.

    assert stage.playout.buffer_s() == pytest.approx(CHUNK_S)
    assert stage.playout.margin_s <= 0.5


def test_a_head_that_is_repeated_late_does_not_move_live() -> None:
    stage = Stage()
    stage.come(0)
    stage.come(1)
    due = stage.playout.due(1)

    stage.playout.saw_head(0, CHUNK_S, CHUNK_S, fresh=False, now=50.0)

    assert stage.playout.due(1) == due


def test_who_waits_for_the_first_chunk_sleeps() -> None:
    """It was due before we joined, so it is no stall; but only an arrival can help."""
    stage = Stage()
    stage.come(0, media=False)
    stage.until(5.0)
    stage.playout.saw_head(20, 21 * CHUNK_S, CHUNK_S, fresh=True, now=stage.now)
    stage.playout.start(0, now=stage.now)
    assert list(stage.playout.take(now=stage.now)) == []

    assert stage.playout.take_at > stage.now, "it would be woken over and over"
    stage.bring(0)
    stage.until(stage.now + BEGIN_S)
    assert stage.seqs == [0]


def test_the_first_chunk_waits_until_the_next_ones_will_be_on_time() -> None:
    stage = Stage()
    for seq in range(8):
        stage.come(seq, media=seq in (0, 1, 2))
    stage.playout.start(0, now=stage.now)
    stage.until(stage.now + 0.05)
    assert stage.seqs == [], "3 is due already"

    for seq in range(3, 8):
        stage.bring(seq)
    assert stage.seqs, "it waits although all is here"
    for seq in range(8, 20):
        stage.come(seq)
    assert stage.playout.counters.stalls == 0


def test_whoever_begins_without_a_buffer_plays_later_instead_of_stalling() -> None:
    stage = Stage()
    for seq in range(30):
        stage.come(seq, media=False)
        if seq == 3:
            stage.playout.start(0, now=stage.now)
        if seq >= 4:
            stage.bring(seq - 4)  # 0.8 s late, each; the target is 0.5 s.

    assert stage.seqs[:2] == [0, 1]
    assert stage.playout.counters.stalls == 0
    assert 0.8 < stage.playout.target_s < 1.5


events = st.lists(
    st.tuples(
        st.sampled_from(["head", "media", "take", "jump", "pause", "restart"]),
        st.integers(0, 12),
        st.floats(0, 3),
    ),
    max_size=80,
)


@given(events)
def test_no_history_goes_back_plays_what_is_not_ready_or_grows(
    history: Iterable[tuple[str, int, float]],
) -> None:
    stage, edge, shift = Stage(), 0, 0.0
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    for kind, n, wait_s in history:
        now = stage.now = stage.now + wait_s
        match kind:
            case "head":
                edge += 1 + n // 6
                stage.playout.saw_head(edge, shift + (edge + 1) * 0.2, 0.2, fresh=True, now=now)
            case "media":
                stage.bring(max(0, edge - n))
            case "take":
                stage.take()
            case "jump":
                shift += 100.0 if n % 2 else -50.0
            case "pause":
                stage.playout.pause()
            case "restart" if stage.playout.next_seq is None:
                stage.playout.start(max(edge, stage.playout.last_seq + 1), now=now)
        seqs = stage.seqs
        assert all(a < b for a, b in pairwise(seqs)), "playout went back"
        assert stage.here.issuperset(seqs), "played what was not there"
        assert stage.playout.config.target_s <= stage.playout.target_s <= 3.0
        assert stage.playout.counters.played == len(seqs)
        assert stage.playout.counters.late <= stage.playout.counters.stalls
        if kind == "take":
            assert stage.playout.take_at > stage.now, "it would be woken over and over"


def test_memory_does_not_grow_with_time() -> None:
    stage = Stage()
    stage.come(0)
    stage.playout.start(0, now=stage.now)
    for seq in range(1, 2000):
        stage.come(seq)

    assert len(stage.playout._line) <= TIMELINE_MAX
    assert len(stage.playout._edges) <= EDGE_SAMPLES_MAX
    assert len(stage.seqs) > 1990
