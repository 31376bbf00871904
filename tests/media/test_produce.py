"""From sources to groups, by the worker's inside: every plan, every seam, every mistake."""

from __future__ import annotations

import shutil
import socket
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from p2pstream.errors import InputNotFound, NoVideo, UnsupportedCodec
from p2pstream.media.options import Source
from p2pstream.media.records import AnyRecord, Ended, Group, Opened, Warned
from tests.media.kinds import Film, Join, Play


def groups_of(records: list[AnyRecord]) -> list[Group]:
    """The groups, which must follow one another without a hole."""
    groups = [r for r in records if isinstance(r, Group)]
    assert groups
    assert groups[0].key
    for before, after in pairwise(groups):
        assert after.pts == before.pts + before.duration
    return groups


def plan_of(records: list[AnyRecord]) -> str:
    opened = records[0]
    assert isinstance(opened, Opened)
    return opened.plan


def check(path: Path) -> tuple[int, float, float]:
    """Decode everything. Pictures, the last picture's time, the last sound's, in seconds."""
    if probe := shutil.which("ffprobe"):
        said = subprocess.run(
            [probe, "-v", "error", "-count_frames", "-show_entries", "stream=index", path],
            capture_output=True,
            check=True,
        )
        assert said.stderr == b""
    pictures, times = 0, {"video": 0.0, "audio": 0.0}
    with av.open(str(path)) as container:
        for packet in container.demux():
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame | av.AudioFrame)
                assert frame.time is not None
                pictures += isinstance(frame, av.VideoFrame)
                assert not frame.is_corrupt
                assert frame.time > times[packet.stream.type] or frame.time == 0
                times[packet.stream.type] = frame.time
    return pictures, times["video"], times["audio"]


def test_the_test_picture_becomes_a_ladder_with_aligned_key_frames(
    play: Play, joined: Join
) -> None:
    records = play(Source("testsrc", size=(640, 480)), seconds=2.4, start_pts=900_000)
    groups = groups_of(records)

    assert [group.key for group in groups] == [i % 5 == 0 for i in range(12)]
    assert {group.duration for group in groups} == {18_000}
    assert groups[0].pts == 900_000
    assert all([n for n, _ in group.chunks] == [0, 1] for group in groups)
    for rendition, size in enumerate([(640, 480), (320, 240)]):
        with av.open(str(joined(records, rendition))) as container:
            video = container.streams.video[0]
            assert (video.width, video.height) == size
            packets = [p for p in container.demux(video) if p.pts is not None]
            assert [p.pts for p in packets] == [900_000 + 3000 * i for i in range(72)]
            assert [i for i, p in enumerate(packets) if p.is_keyframe] == [0, 30, 60]
        check(joined(records, rendition))


def test_a_single_bit_rate_is_kept(play: Play) -> None:
    records = play(Source("testsrc", rungs="1M"), seconds=5)
    (opened,) = (r for r in records if isinstance(r, Opened))
    size = sum(len(data) for group in groups_of(records) for _, data in group.chunks)

    assert [(init.name, init.bitrate) for init in opened.inits] == [("360p", 1_000_000)]
    assert 0.85e6 < size * 8 / 5 < 1.05e6


@pytest.mark.parametrize("name", ["film.mp4", "film.ts", "film.mkv"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_h264_and_aac_pass_through_untouched(
    film: Film, play: Play, joined: Join, name: str, b_frames: int
) -> None:
    path = film(name, b_frames=b_frames)
    records = play(Source(str(path)))

    assert plan_of(records) == "passthrough"
    assert records[-1] == Ended()
    groups = groups_of(records)
    assert sum(group.duration for group in groups) == 180_000
    assert [group.pts for group in groups if group.key] == [0, 90_000]
    pictures, seen, heard = check(joined(records))
    assert pictures == 50
    assert abs(seen - heard) < 0.1


@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_loop_passes_through_without_a_seam(
    film: Film, play: Play, joined: Join, b_frames: int
) -> None:
    path = film(seconds=1, b_frames=b_frames)
    records = play(Source(str(path), loop=True), seconds=4, start_pts=12_345)

    groups = groups_of(records)
    assert {group.duration for group in groups} == {18_000}
    pictures, seen, heard = check(joined(records))
    assert pictures == 100
    assert abs(seen - heard) < 0.1


def test_a_loop_is_encoded_without_a_seam(film: Film, play: Play, joined: Join) -> None:
    path = film(seconds=1, audio="libmp3lame")
    records = play(Source(str(path), loop=True), seconds=4)

    assert plan_of(records) == "encode"
    groups = groups_of(records)
    assert [i for i, group in enumerate(groups) if group.key] == [0, 5, 10, 15]
    path = joined(records)
    _, seen, heard = check(path)
    assert abs(seen - heard) < 0.1
    with av.open(str(path)) as container:
        sounds = [p.pts for p in container.demux(audio=0) if p.pts is not None]
    assert {after - before for before, after in pairwise(sounds)} == {1024}


def test_the_parameter_sets_are_in_band_at_every_key_frame(film: Film, play: Play) -> None:
    records = play(Source(str(film())))

    keys = [group for group in groups_of(records) if group.key]
    assert keys
    for group in keys:
        media = group.chunks[0][1].partition(b"mdat")[2]
        assert media[4] & 31 == 7


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({"gop": 250, "seconds": 3.0}, "3.0 s apart"),
        ({"layout": "5.1"}, "6 channels"),
        ({"audio": "libmp3lame"}, "mp3"),
    ],
)
def test_what_cannot_pass_through_is_encoded_and_the_reason_told(
    film: Film, play: Play, kind: dict[str, Any], why: str
) -> None:
    records = play(Source(str(film(**kind))), seconds=0.4)

    assert plan_of(records) == "encode"
    (warned,) = (r for r in records if isinstance(r, Warned))
    assert why in warned.message


def test_a_film_without_sound_has_one_track(film: Film, play: Play, joined: Join) -> None:
    records = play(Source(str(film(audio=""))))

    assert plan_of(records) == "passthrough"
    with av.open(str(joined(records))) as container:
        assert len(container.streams) == 1


def test_a_misspelt_name_is_answered_with_the_right_one(film: Film, play: Play) -> None:
    path = film("holiday.mp4")

    with pytest.raises(InputNotFound) as caught:
        play(Source(str(path.with_name("hollyday.mp4"))))
    assert "holiday.mp4" in caught.value.hint


def test_a_missing_folder_and_a_folder_are_told_apart(tmp_path: Path, play: Play) -> None:
    with pytest.raises(InputNotFound, match="no folder"):
        play(Source(str(tmp_path / "nowhere" / "x.mp4")))
    with pytest.raises(InputNotFound, match="is a folder"):
        play(Source(str(tmp_path)))


def test_sound_alone_is_no_video(film: Film, play: Play) -> None:
    with pytest.raises(NoVideo, match="only audio"):
        play(Source(str(film("sound.m4a", video=""))))


def test_garbage_is_not_a_video(tmp_path: Path, play: Play) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(bytes(range(256)) * 100)

    with pytest.raises(UnsupportedCodec, match="not a video"):
        play(Source(str(path)))


@pytest.mark.parametrize("name", ["x.m3u8", "x.ts", "x.mp4"])
def test_a_playlist_as_a_file_reaches_nothing(
    tmp_path: Path, film: Film, play: Play, name: str
) -> None:
    canary = film("canary.ts")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        path = tmp_path / name
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:2,", f"file://{canary}"]
        lines += ["#EXTINF:2,", f"http://127.0.0.1:{port}/x.ts", "#EXT-X-ENDLIST"]
        path.write_text("\n".join(lines))

        with pytest.raises(UnsupportedCodec, match="playlist"):
            play(Source(str(path)))
        with pytest.raises(BlockingIOError):
            server.accept()


def test_strange_addresses_and_passwords_are_not_repeated(play: Play) -> None:
    with pytest.raises(UnsupportedCodec, match="concat://"):
        play(Source("concat:///etc/passwd"))
    with pytest.raises(InputNotFound) as caught:
        play(Source("http://user:secret@127.0.0.1:9/live?key=secret"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "plan", "pictures"),
    [
        ("world.mp4", "passthrough", 901),
        ("a.mp4", "passthrough", 209),
        ("b.mp4", "passthrough", 150),
        ("muted_b.mp4", "passthrough", 150),
        ("b.avi", "encode", 151),
        ("bigbuckbunny.mp4", "encode", 132),
        ("bikes.mp4", "passthrough", 250),
        ("carphone_pristine.mp4", "passthrough", 120),
    ],
)
def test_real_footage_plays(
    footage: Path, play: Play, joined: Join, name: str, plan: str, pictures: int
) -> None:
    path = next(footage.rglob(name))
    rungs = "360p" if plan == "encode" else ""  # One rendition is enough to see.
    records = play(Source(str(path), rungs=rungs), key_interval_s_max=10)

    assert plan_of(records) == plan
    groups_of(records)
    count, seen, heard = check(joined(records))
    assert count == pictures
    if heard:
        assert abs(seen - heard) < 0.3
