"""Seeds and short names as hashes of their purpose; no seed is another seed plus a number."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """Derive a seed of 31 bits for ``purpose`` from the sweep's ``seed``."""
    words = np.frombuffer(hashlib.sha256(repr(purpose).encode()).digest(), dtype=np.uint32)
    return int(np.random.SeedSequence([seed, *words.tolist()]).generate_state(1)[0] >> 1)


def digest(*parts: str | int, length: int = 8) -> str:
    """Return a short hexadecimal name of ``parts``, the same on every machine."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:length]
