"""Which renditions are made of which picture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import BadConfig
from p2pstream.media import ladder


def names(width: int, height: int, *, rungs: str = "", cores: int = 4) -> list[str]:
    wishes = ladder.parse(rungs)
    return [rung.name for rung in ladder.plan(width, height, wishes=wishes, cores=cores)]


def test_a_large_picture_gets_the_whole_ladder_and_a_small_one_is_not_enlarged() -> None:
    assert names(1920, 1080) == ["720p", "480p", "240p"]
    assert names(640, 360) == ["360p", "240p"]
    assert names(480, 270) == ["270p"]
    assert names(176, 144) == ["144p"]


def test_one_core_makes_no_720_lines() -> None:
    assert names(1920, 1080, cores=1) == ["480p", "240p"]


def test_a_single_bit_rate_makes_exactly_one_rendition_of_a_fitting_size() -> None:
    (rung,) = ladder.plan(1280, 720, wishes=ladder.parse("1M"), cores=2)

    assert (rung.width, rung.height, rung.bitrate) == (640, 360, 1_000_000)


def test_rungs_are_made_as_they_are_asked_for() -> None:
    rungs = ladder.plan(1920, 1080, wishes=ladder.parse("480p, 720p:2200k"), cores=2)

    assert [(r.name, r.bitrate) for r in rungs] == [("720p", 2_200_000), ("480p", 1_000_000)]


@pytest.mark.parametrize("text", ["720", "720p:", "1M,2M", "p", "99999p", "1k", "720p:-1", "1T"])
def test_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        ladder.parse(text)
    assert "720p:2500k" in caught.value.hint


@pytest.mark.parametrize("fps", ladder.RATES)
def test_chunks_divide_the_gop_at_every_rate(fps: int) -> None:
    frames = ladder.frames_per_chunk(fps)

    assert fps * ladder.GOP_S % frames == 0
    assert 0.16 <= frames / fps <= 0.25
    assert ladder.frame_ticks(fps) * fps == 90_000


def test_rates_are_the_nearest_we_can_afford() -> None:
    assert ladder.rate(29.97, cores=2) == 30
    assert ladder.rate(23.976, cores=2) == 24
    assert ladder.rate(50, cores=2) == 25
    assert ladder.rate(59.94, cores=4) == 60
    assert ladder.rate(120, cores=4) == 60


@given(st.integers(2, 8000), st.integers(2, 4320), st.integers(1, 64))
def test_every_picture_has_a_plan_of_even_sizes(width: int, height: int, cores: int) -> None:
    rungs = ladder.plan(width, height, wishes=(), cores=cores)

    assert rungs
    assert all(r.width % 2 == r.height % 2 == 0 and r.width and r.height for r in rungs)
    assert all(r.height <= height + 1 for r in rungs)
