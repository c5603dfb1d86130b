"""Which lines, and which of their tokens, a row of a packed text consists of; such tables as JSON."""

from __future__ import annotations

import base64
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tables = dict[str, NDArray[Any]]


class Rows(NamedTuple):
    """Row r has tokens of the lines ``first[r]`` to ``last[r]``, but for the first ``skip[r]`` of them."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    skip: NDArray[np.int64]


def pack(lengths: NDArray[np.int64], sequence_length: int) -> Rows:
    """Rows of ``sequence_length`` + 1 tokens of a text whose lines have ``lengths`` tokens.

    Row r begins at token r * ``sequence_length``: a row's last token is the next one's first, so that every token but
    the text's first is predicted once. What does not fill a row at the end is left out.
    """
    ends = np.cumsum(lengths)
    num_tokens = int(ends[-1]) if len(ends) else 0
    begins = np.arange(max(0, (num_tokens - 1) // sequence_length), dtype=np.int64) * sequence_length
    first = np.searchsorted(ends, begins, side="right")
    last = np.searchsorted(ends, begins + sequence_length, side="right")
    return Rows(first, last, begins - (ends - lengths)[first])


def smallest(values: Any) -> NDArray[Any]:
    """Whole numbers >= 0 in the smallest type that holds them: there are some for every row of every shard."""
    array = np.asarray(values, dtype=np.int64)
    return array.astype(np.min_scalar_type(int(array.max()) if len(array) else 0))


def tables_as_json(tables: Tables) -> dict[str, Any]:
    """The inverse of :func:`tables_from_json`. It stores differences, which compress well."""
    return {
        name: [
            len(array),
            base64.b64encode(zlib.compress(np.diff(array.astype(np.int64), prepend=0).tobytes())).decode(),
        ]
        for name, array in tables.items()
    }


def tables_from_json(content: dict[str, Any]) -> Tables:
    """Raises ``ValueError``, ``TypeError`` or ``KeyError`` for what :func:`tables_as_json` did not make."""
    tables = {}
    for name, (length, packed) in content.items():
        try:
            differences = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=np.int64)
        except zlib.error as error:
            raise ValueError(f"{name}: {error}") from None
        array = np.cumsum(differences)
        if len(array) != length or (array < 0).any():
            raise ValueError(f"{name} has {len(array)} numbers, not {length}")
        tables[name] = smallest(array)
    return tables
