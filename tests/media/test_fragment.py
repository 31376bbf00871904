"""The container, written by us and read by FFmpeg."""

from __future__ import annotations

import io

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.media import fragment
from p2pstream.media.fragment import AUDIO_TRACK, VIDEO_TRACK, Run, Sample
from p2pstream.media.options import Source
from p2pstream.media.records import Opened
from tests.media.kinds import Play

SPS = bytes.fromhex("674d401eda0280bfe5840000030004000003 00f23c58ba80".replace(" ", ""))
PPS = bytes.fromhex("68ef3c80")


def test_ffmpeg_reads_back_what_we_wrote(play: Play) -> None:
    opened = play(Source("testsrc", rungs="1M"), seconds=0.2)[0]
    assert isinstance(opened, Opened)
    video = [
        Sample(2**40, 3000, True, b"\0\0\0\1\x65" * 9, cts=6000),
        Sample(2**40 + 3000, 3000, False, b"\0\0\0\1\x41", cts=0),
        Sample(2**40 + 6000, 2999, False, b"\0\0\0\2\x41A", cts=-10),
    ]
    audio = [Sample(7 * 10**11 + i * 1024, 1024, True, bytes([i] * 20)) for i in range(4)]
    data = fragment.chunk(3, [Run(VIDEO_TRACK, video), Run(AUDIO_TRACK, audio)])

    read = _read(opened.inits[0].data + data)

    assert [packet[2] for packet in read["audio"]] == [sample.data for sample in audio]
    assert [packet[2] for packet in read["video"]] == [sample.data for sample in video]
    assert [packet[1] for packet in read["video"]] == [sample.dts for sample in video]
    assert [packet[1] for packet in read["audio"]] == [sample.dts for sample in audio]
    shown = [packet[0] - read["video"][0][0] for packet in read["video"]]
    assert shown == [sample.dts + sample.cts - 2**40 - 6000 for sample in video]
    assert [packet[3] for packet in read["video"]] == [True, False, False]


samples = st.builds(
    Sample,
    dts=st.integers(0, 2**50),
    duration=st.integers(1, 9000),
    key=st.booleans(),
    data=st.binary(min_size=1, max_size=50),
    cts=st.integers(-9000, 9000),
)
runs = st.lists(samples, min_size=1, max_size=8)


@given(runs, runs)
def test_boxes_add_up_and_offsets_point_at_the_media(
    video: list[Sample], audio: list[Sample]
) -> None:
    data = fragment.chunk(1, [Run(1, video), Run(2, audio)])

    parts = list(fragment.boxes(data))

    assert [kind for kind, _ in parts] == [b"moof", b"mdat"]
    assert parts[1][1] == b"".join(sample.data for sample in video + audio)
    trafs = [content for kind, content in fragment.boxes(parts[0][1]) if kind == b"traf"]
    offsets = [int.from_bytes(dict(fragment.boxes(traf))[b"trun"][8:12]) for traf in trafs]
    assert data[offsets[0] :].startswith(video[0].data)
    assert data[offsets[1] :].startswith(audio[0].data)


@given(st.binary(max_size=60))
def test_boxes_of_nonsense_raise_value_error_only(data: bytes) -> None:
    for parse in (lambda d: list(fragment.boxes(d)), fragment.codecs, fragment.avcc_parameters):
        try:
            parse(data)
        except ValueError:
            pass
        except IndexError:
            pytest.fail("past the end")


def test_annex_b_is_cut_at_both_kinds_of_start_code() -> None:
    stream = b"\0\0\0\1\x09\xf0\0\0\0\1" + SPS + b"\0\0\1" + PPS + b"\0\0\1\x65abc\0\0\0\1\x41d"

    assert fragment.nal_units(stream) == [b"\x09\xf0", SPS, PPS, b"\x65abc", b"\x41d"]


def test_an_idr_carries_its_parameter_sets_once() -> None:
    bare = fragment.avc_sample([b"\x65abc"], [SPS, PPS])
    full = fragment.avc_sample([b"\x09\xf0", SPS, PPS, b"\x65abc"], [SPS, PPS])

    assert bare == full
    assert fragment.sized_nal_units(bare, 4) == [SPS, PPS, b"\x65abc"]
    assert fragment.avc_sample([b"\x41d"], [SPS, PPS]) == b"\0\0\0\2\x41d"


def test_parameter_sets_survive_the_configuration_record() -> None:
    assert fragment.avcc_parameters(fragment.avcc([SPS, PPS])) == ([SPS, PPS], 4)


def test_an_adts_header_becomes_a_configuration() -> None:
    frame = bytes.fromhex("fff14c8002bffc") + b"body"

    assert fragment.adts_config(frame) == bytes.fromhex("1190")
    assert fragment.without_adts(frame) == b"body"


def _read(data: bytes) -> dict[str, list[tuple[int, int, bytes, bool]]]:
    read: dict[str, list[tuple[int, int, bytes, bool]]] = {"video": [], "audio": []}
    with av.open(io.BytesIO(data), mode="r") as container:
        for packet in container.demux():
            if packet.pts is not None and packet.dts is not None:
                item = packet.pts, packet.dts, bytes(packet), packet.is_keyframe
                read[packet.stream.type].append(item)
    return read
