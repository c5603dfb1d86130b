"""``skipped.jsonl``: the examples that failed at their first use."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from dataecho.pipeline.batch import Skipped
from dataecho.training.ranks import Ranks

FILE_NAME = "skipped.jsonl"


def gather_skips(ranks: Ranks, skipped: Iterable[Skipped]) -> list[Skipped]:
    """Gather skipped examples from all ranks, in rank order; collective."""
    blob = json.dumps([asdict(example) for example in skipped]).encode()
    return [Skipped(**example) for one in ranks.gather_bytes(blob) for example in json.loads(one)]


def read_skips(folder: Path) -> list[Skipped]:
    """All skipped examples of the run in ``folder``, in the order of training."""
    path = folder / FILE_NAME
    return [Skipped(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
