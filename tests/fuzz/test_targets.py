"""The fuzz targets work, without the fuzzer: a little noise for each, always the same."""

from __future__ import annotations

import importlib
import random
from typing import Any

import pytest

from tests.fuzz.__main__ import TARGETS

INPUTS = 16


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_raises_what_it_may_not(name: str) -> None:
    target: Any = importlib.import_module(f"tests.fuzz.{name}")
    rng, seeds = random.Random(1), target.seeds()
    for _ in range(INPUTS):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        assert target.one(bytes(data)) >= 1
