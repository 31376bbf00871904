"""Which engines the nodes of a test have; a test or a module may parametrise it."""

from __future__ import annotations

import pytest

from p2pstream.net.fast import FastEngine
from tests.quic.virtual import Engines


@pytest.fixture
def engines() -> Engines:
    return FastEngine, FastEngine
