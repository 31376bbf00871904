"""Copies of one thing, by the thousand: pickled once, and read as often as needed.

A link's takes 1 ms so, and `deepcopy` 2.3 (measured): it was four fifths of a short input's time.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from copy import copy
from functools import partial
from typing import Any

from aioquic._buffer import Buffer
from aioquic.tls import Context


class Twins:
    """Makes copies of `original`, as it is now, that have `shared` in common.

    Of a TLS context, everything is shared but the attributes themselves.
    """

    def __init__(self, original: Any, shared: Iterable[Any]) -> None:
        self._shared = list(shared)
        file = io.BytesIO()
        _Pickler(file, self._shared).dump(original)
        self._pickle = file.getvalue()

    def one(self) -> Any:
        """Another copy."""
        return _Unpickler(io.BytesIO(self._pickle), self._shared).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self._shared = shared
        self._places = {id(one): place for place, one in enumerate(shared)}

    def persistent_id(self, obj: Any) -> int | None:
        return self._places.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Buffer):
            return partial(Buffer, capacity=obj.capacity), ()  # Empty between two packets.
        if isinstance(obj, Context):
            return copy, (self._share(copy(obj)),)
        return NotImplemented

    def _share(self, one: Any) -> Any:
        self._places[id(one)] = len(self._shared)
        self._shared.append(one)
        return one


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: Any) -> Any:
        return self._shared[pid]
