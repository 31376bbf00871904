"""Playlists as transcripts, and any history against a strict parser that knows only the RFC."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.playback.hls import (
    BEHIND_PARTS_MAX,
    DATE_OFF_MS_MAX,
    INITS_MAX,
    PARTS_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENTS_MAX,
    WINDOW_BYTES_MAX,
    LiveWindow,
)
from p2pstream.stream.chunk import TICKS_PER_S, Chunk, Init

INITS = [bytes([n]) * 16 for n in range(4)]
START_MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z


def window(**settings: float) -> LiveWindow:
    made = LiveWindow(**settings)  # type: ignore[arg-type]
    for n, init_hash in enumerate(INITS):
        codecs = "avc1.4d401e,mp4a.40.2"
        made.add_init(Init(n, f"{n}p", 640, 360, 900_000, codecs, b"init %d" % n), init_hash)
    return made


def chunk(
    seq: int,
    *,
    key: bool = False,
    init: int = 0,
    ms: int = 200,
    discontinuity: bool = False,
    captured_ms: int = START_MS,
    data: bytes = b"",
) -> Chunk:
    return Chunk(
        seq=seq,
        rendition=init,
        init=INITS[init],
        pts=seq * ms * 90,
        duration=ms * TICKS_PER_S // 1000,
        captured_ms=captured_ms + seq * ms,
        key=key,
        discontinuity=discontinuity,
        pieces=(data or b"chunk %d;" % seq,),
    )


def dates(live: LiveWindow) -> dict[int, str]:
    """By segment: the second of its date."""
    return {msn: date[17:-1] for msn, date in parse(live.playlist()).dates.items()}


def fill(live: LiveWindow, chunks: int, *, every: int = 10) -> None:
    for seq in range(chunks):
        live.add(chunk(seq, key=seq % every == 0))


# What a playlist says.


def test_a_playlist_word_by_word() -> None:
    live = window()
    fill(live, 13)

    assert live.playlist().splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:9",
        "#EXT-X-TARGETDURATION:2",
        "#EXT-X-PART-INF:PART-TARGET=0.224",
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.672",
        "#EXT-X-MEDIA-SEQUENCE:0",
        f'#EXT-X-MAP:URI="{INITS[0].hex()}.mp4"',
        "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.000Z",
        '#EXT-X-PART:DURATION=0.20000,URI="0.0.m4s",INDEPENDENT=YES',
        *(f'#EXT-X-PART:DURATION=0.20000,URI="0.{n}.m4s"' for n in range(1, 10)),
        "#EXTINF:2.00000,",
        "0.m4s",
        "#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:22.000Z",
        '#EXT-X-PART:DURATION=0.20000,URI="1.0.m4s",INDEPENDENT=YES',
        '#EXT-X-PART:DURATION=0.20000,URI="1.1.m4s"',
        '#EXT-X-PART:DURATION=0.20000,URI="1.2.m4s"',
        '#EXT-X-PRELOAD-HINT:TYPE=PART,URI="1.3.m4s"',
    ]


def test_the_multivariant_playlist_has_the_rendition_that_plays() -> None:
    live = window()
    assert live.multivariant() == ""

    fill(live, 1)

    assert live.multivariant().splitlines()[2:] == [
        '#EXT-X-STREAM-INF:BANDWIDTH=900000,CODECS="avc1.4d401e,mp4a.40.2",RESOLUTION=640x360',
        "stream.m3u8",
    ]


def test_a_full_segment_hints_at_the_next_before_its_key_chunk_is_here() -> None:
    live = window()
    fill(live, 10)

    assert live.hint() == (1, 0)
    assert live.segment(0) == b"".join(b"chunk %d;" % n for n in range(10))


def test_another_rendition_begins_a_segment_with_a_map_and_no_discontinuity() -> None:
    live = window()
    fill(live, 5)
    live.add(chunk(5, key=True, init=1))

    text = live.playlist()

    assert text.count("#EXT-X-MAP") == 2
    assert "#EXTINF:1.00000,\n0.m4s\n#EXT-X-MAP" in text
    assert "DISCONTINUITY" not in text


def test_only_a_flagged_chunk_is_a_discontinuity_and_those_gone_are_counted() -> None:
    live = window()
    fill(live, 5)
    live.add(chunk(5, key=True, discontinuity=True))
    assert f'0.m4s\n#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI="{INITS[0].hex()}.mp4"' in live.playlist()

    for seq in range(6, 6 + 10 * (SEGMENTS_MAX + 1)):
        live.add(chunk(seq, key=seq % 10 == 5))

    assert "#EXT-X-DISCONTINUITY-SEQUENCE:1\n" in live.playlist()
    assert "#EXT-X-DISCONTINUITY\n" not in live.playlist()


def test_a_hole_in_the_sequence_does_not_end_a_segment() -> None:
    """Playout skips a chunk that came too late."""
    live = window()
    live.add(chunk(0, key=True))
    live.add(chunk(2))

    assert live.part(0, 1) == b"chunk 2;"


def test_parts_are_listed_for_the_last_three_segments() -> None:
    live = window()
    fill(live, 45)

    parts = set(re.findall(r'URI="(\d+)\.\d+\.m4s"', live.playlist()))

    assert parts == {"2", "3", "4"}


def test_the_end_completes_the_last_segment() -> None:
    live = window()
    fill(live, 3)
    live.end()

    assert live.playlist().endswith("0.m4s\n#EXT-X-ENDLIST\n")
    assert live.hint() is None
    assert live.has(99, 9)


def test_key_frames_in_every_chunk_still_make_segments_of_half_the_target() -> None:
    live = window()
    fill(live, 20, every=1)

    assert "#EXTINF:1.00000," in live.playlist()
    assert 'URI="2.1.m4s",INDEPENDENT=YES' in live.playlist()


def test_codecs_that_would_end_their_quotes_are_cut_g_07() -> None:
    """G-07."""
    live = LiveWindow()
    evil = 'avc1.4d401e"\n#EXT-X-KEY:METHOD=NONE,URI="http://x'
    live.add_init(Init(0, evil, 1, 1, 1, evil, b"x"), INITS[0])
    live.add(chunk(0, key=True))

    assert "#EXT-X-KEY" not in live.multivariant()
    assert len(live.multivariant().splitlines()) == 4
    parse(live.playlist())


@pytest.mark.parametrize("captured_ms", [-1, 0, 2**63])
def test_no_date_breaks_a_playlist(captured_ms: int) -> None:
    live = window()
    live.add(chunk(0, key=True, captured_ms=captured_ms))

    parse(live.playlist())


def test_dates_follow_the_durations_when_the_broadcaster_stalls() -> None:
    """hls.js places what it has not played by dates and durations, which must say the same."""
    live = window()
    fill(live, 10)
    for seq in range(10, 30):
        live.add(chunk(seq, key=seq % 10 == 0, captured_ms=START_MS + 1500))

    assert dates(live) == {0: "20.000", 1: "22.000", 2: "24.000"}


def test_a_date_that_is_far_off_is_mended_and_no_earlier_one_is_told() -> None:
    live = window()
    fill(live, 20)
    for seq in range(20, 40):
        live.add(chunk(seq, key=seq % 10 == 0, captured_ms=START_MS + DATE_OFF_MS_MAX + 1))

    assert dates(live) == {2: "29.001", 3: "31.001"}


def test_a_discontinuity_begins_with_its_own_date() -> None:
    live = window()
    fill(live, 5)
    live.add(chunk(5, key=True, discontinuity=True, captured_ms=START_MS + 1500))

    assert dates(live) == {0: "20.000", 1: "22.500"}


# What a reload waits for (RFC 8216bis, 6.2.5.2).


def test_has_tells_when_a_blocked_reload_may_go_on() -> None:
    live = window()
    assert not live.has(0, 0)
    fill(live, 10)

    assert live.has(0, 9)
    assert live.has(0, None)
    assert not live.has(0, 10), "means part 0 of segment 1"
    assert not live.has(1, 0)

    live.add(chunk(10, key=True))

    assert live.has(0, 10)
    assert live.has(1, 0)
    assert not live.has(1, None)


def test_nobody_waits_for_a_far_future() -> None:
    live = window()
    fill(live, 12)

    assert live.expects(3)
    assert not live.expects(4)


# What a reader of the endless file gets.


def test_a_reader_starts_at_the_newest_key_chunk_and_gets_every_chunk_once() -> None:
    live = window()
    assert live.read(None) is None
    fill(live, 23)

    assert taken(live, None) == [20, 21, 22]
    live.add(chunk(23))
    assert taken(live, 23) == [23]


def test_a_reader_that_fell_behind_goes_on_at_the_newest_key_chunk() -> None:
    live = window()
    fill(live, 3 + BEHIND_PARTS_MAX)
    assert taken(live, 3)[0] == 3

    fill(live, 12)

    assert taken(live, 3)[0] == 3 + BEHIND_PARTS_MAX + 10


def taken(live: LiveWindow, nth: int | None) -> list[int]:
    got = []
    while part := live.read(nth):
        got.append(part.nth)
        nth = part.nth + 1
    return got


# Limits.


def test_the_window_is_bounded_in_bytes() -> None:
    live = window()
    data = bytes(4 * 1024 * 1024)
    for seq in range(60):
        live.add(chunk(seq, key=seq == 0, data=data))

    size = sum(len(live.segment(msn) or b"") for msn in range(100))

    assert WINDOW_BYTES_MAX / 2 <= size <= WINDOW_BYTES_MAX + SEGMENT_BYTES_MAX


def test_inits_are_bounded_but_none_in_use_is_forgotten() -> None:
    live = window()
    live.add(chunk(0, key=True, init=0))
    for n in range(100):
        init_hash = b"%016d" % n
        live.add_init(Init(0, "", 1, 1, 1, "", b"%d" % n), init_hash)

    known = [n for n in range(100) if live.init(b"%016d" % n)]

    assert known == list(range(100 - INITS_MAX + 1, 100))
    assert live.init(INITS[0]) == b"init 0"


@dataclass
class Parsed:
    """A media playlist, as far as the tests ask."""

    first: int = -1
    target_s: int = 0
    part_target_s: float = 0
    dropped: int = 0
    segments: dict[int, float] = field(default_factory=dict)
    parts: dict[tuple[int, int], float] = field(default_factory=dict)
    dates: dict[int, str] = field(default_factory=dict)
    discontinuities: int = 0
    hint: tuple[int, int] | None = None
    ended: bool = False


LINES = {
    "target": r"#EXT-X-TARGETDURATION:(\d+)",
    "part_inf": r"#EXT-X-PART-INF:PART-TARGET=(\d+\.\d+)",
    "control": r"#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=(\d+\.\d+)",
    "sequence": r"#EXT-X-MEDIA-SEQUENCE:(\d+)",
    "dropped": r"#EXT-X-DISCONTINUITY-SEQUENCE:(\d+)",
    "discontinuity": r"#EXT-X-DISCONTINUITY",
    "map": r'#EXT-X-MAP:URI="([0-9a-f]{32})\.mp4"',
    "date": r"#EXT-X-PROGRAM-DATE-TIME:(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)",
    "part": r'#EXT-X-PART:DURATION=(\d+\.\d+),URI="(\d+)\.(\d+)\.m4s"(,INDEPENDENT=YES)?',
    "inf": r"#EXTINF:(\d+\.\d+),",
    "segment": r"(\d+)\.m4s",
    "hint": r'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="(\d+)\.(\d+)\.m4s"',
    "end": r"#EXT-X-ENDLIST",
}


def parse(text: str) -> Parsed:  # noqa: C901, PLR0912 - a table: one case a kind of line.
    """Read a media playlist, or fail on any line that is not in its place."""
    assert text.endswith("\n")
    lines = text.split("\n")[:-1]
    assert lines[:2] == ["#EXTM3U", "#EXT-X-VERSION:9"]
    parsed, seconds, mapped = Parsed(), -1.0, False
    for line in lines[2:]:
        [(kind, match)] = [(k, m) for k, p in LINES.items() if (m := re.fullmatch(p, line))]
        assert not parsed.ended, "nothing after the end"
        assert (kind == "segment") == (seconds >= 0), "a URI follows its EXTINF"
        if kind in {"part", "inf"}:
            assert mapped, "the init comes first"
        match kind:
            case "target":
                parsed.target_s = int(match[1])
            case "part_inf":
                parsed.part_target_s = float(match[1])
            case "control":
                assert float(match[1]) >= 3 * parsed.part_target_s - 1e-9
            case "sequence":
                parsed.first = int(match[1])
            case "dropped":
                parsed.dropped = int(match[1])
            case "discontinuity":
                parsed.discontinuities += 1
                mapped = False
            case "map":
                mapped = True
            case "date":
                parsed.dates[parsed.first + len(parsed.segments)] = match[1]
            case "part":
                parsed.parts[int(match[2]), int(match[3])] = float(match[1])
                assert float(match[1]) <= parsed.part_target_s
            case "inf":
                seconds = float(match[1])
                assert int(seconds + 0.5) <= parsed.target_s
            case "segment":
                parsed.segments[int(match[1])] = seconds
                seconds = -1.0
            case "hint":
                parsed.hint = int(match[1]), int(match[2])
            case "end":
                parsed.ended = True
    assert parsed.ended != (parsed.hint is not None)
    return parsed


histories: st.SearchStrategy[list[dict[str, int]]] = st.lists(
    st.builds(
        dict,
        key=st.booleans(),
        init=st.integers(0, 3),
        ms=st.sampled_from([0, 1, 100, 200, 200, 200, 250, 1000, 5000]),
        discontinuity=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=150,
)


@given(history=histories, ends=st.booleans())
def test_any_history_is_bounded_monotone_and_parses(
    history: list[dict[str, int]], ends: bool
) -> None:
    live = window()
    before = Parsed()
    for seq, event in enumerate(history):
        live.add(chunk(seq, **event))  # type: ignore[arg-type]
        parsed = parse(live.playlist())

        assert len(parsed.segments) <= SEGMENTS_MAX
        assert len(parsed.parts) <= 3 * PARTS_MAX
        assert parsed.first >= before.first
        assert parsed.target_s >= before.target_s
        assert parsed.dropped >= before.dropped
        assert parsed.hint is not None
        assert before.hint is None or parsed.hint > before.hint
        for msn, seconds in before.segments.items():
            assert msn < parsed.first or parsed.segments[msn] == seconds, "written once"
        assert sorted(parsed.segments) == list(parsed.segments)
        assert all(live.segment(msn) is not None for msn in parsed.segments)
        assert all(live.part(*part) is not None for part in parsed.parts)
        assert live.part(*parsed.hint) is None
        before = parsed
    if ends:
        live.end()
        assert parse(live.playlist()).ended
