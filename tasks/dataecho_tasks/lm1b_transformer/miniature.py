"""A small corpus in the benchmark's own format, made of prose that every machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dataecho.errors import require
from dataecho.plan.keys import KeyStream
from dataecho.plan.order import Permutation
from dataecho_tasks.lm1b_transformer.sentences import SentenceSource
from dataecho_tasks.shared.text.from_prose import written_from_prose
from dataecho_tasks.shared.text.prose import Page

SPLITS = ("train", "eval")

_KIND = "lm1b_mini"  # names the cache folder and the permutation: another name, other files
_NUM_SHARDS = {"train": 8, "eval": 2}
_FOLDERS = {"train": "training-monolingual.tokenized.shuffled", "eval": "heldout-monolingual.tokenized.shuffled"}
_NAMES = {"train": "news.en-{:05d}-of-{:05d}", "eval": "news.en.heldout-{:05d}-of-{:05d}"}


def miniature(
    *,
    split: str,
    tokenizer: Any,
    sequence_length: int,
    num_sentences: int,
    num_eval_sentences: int,
    cache_dir: str | None = None,
) -> SentenceSource:
    """Lines of prose, every one once, shuffled for good: ``num_sentences`` to train on in 8 shards, and
    ``num_eval_sentences`` others in 2, below ``cache_dir`` (``~/.cache/dataecho/lm1b_mini``). Written by whoever asks
    first, in some seconds. Raises :class:`SettingError` where there are not so many lines."""
    require(split in SPLITS, "split", split, allowed=", ".join(SPLITS), cure="train is the larger part.")
    for name, value in (("num_sentences", num_sentences), ("num_eval_sentences", num_eval_sentences)):
        require(value >= 8, name, value, allowed="whole numbers >= 8", cure="80000 and 4000 are the defaults.")

    def write(folder: Path, pages: list[Page]) -> None:
        _write(folder, pages, {"train": num_sentences, "eval": num_eval_sentences})

    facts = f"{num_sentences}-{num_eval_sentences}"
    folder = written_from_prose(_KIND, facts, write, cache_dir=cache_dir)
    index_dir = f"{cache_dir}/index" if cache_dir is not None else None
    return SentenceSource(
        f"{folder}/{_FOLDERS[split]}/news.en*-of-*",
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        index_dir=index_dir,
    )


def _write(folder: Path, pages: list[Page], wanted: dict[str, int]) -> None:
    lines = list(dict.fromkeys(line for page in pages for line in page.lines))
    require(
        sum(wanted.values()) <= len(lines),
        "num_sentences",
        wanted["train"],
        allowed=f"at most {len(lines) - wanted['eval']}: so many lines there are, but for the held-out ones",
        cure="80000 is the default.",
    )
    # Neighbours speak of the same thing: the order, and what is held out, is a fixed permutation, whatever the seed.
    order = Permutation.of(len(lines), KeyStream(0, f"{_KIND}.order"), 0)(np.arange(len(lines)))
    shuffled = [lines[number] for number in order]
    parts = {"eval": shuffled[: wanted["eval"]], "train": shuffled[wanted["eval"] :][: wanted["train"]]}
    for split, part in parts.items():
        (folder / _FOLDERS[split]).mkdir()
        total = _NUM_SHARDS[split]
        for number in range(total):
            text = "".join(f"{line}\n" for line in part[number::total])
            (folder / _FOLDERS[split] / _NAMES[split].format(number, total)).write_text(text, encoding="utf-8")
