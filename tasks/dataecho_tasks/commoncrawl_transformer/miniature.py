"""A small crawl in Common Crawl's own format, made of prose that every machine has."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from dataecho.errors import require
from dataecho.plan.keys import KeyStream
from dataecho.plan.order import Permutation
from dataecho_tasks.commoncrawl_transformer.pages import PageSource
from dataecho_tasks.shared.text.from_prose import written_from_prose
from dataecho_tasks.shared.text.prose import Page

SPLITS = ("train", "eval")

_KIND = "commoncrawl_mini"  # names the cache folder and the permutation: another name, other files
_NUM_SHARDS = {"train": 8, "eval": 1}
_DATE = "2000-01-01T00:00:00Z"  # of every record: the same bytes whenever they are written


def miniature(
    *,
    split: str,
    tokenizer: Any,
    sequence_length: int,
    num_pages: int,
    num_eval_pages: int,
    cache_dir: str | None = None,
) -> PageSource:
    """The prose of a source file is a page, in English: ``num_pages`` to train on in 8 shards, and ``num_eval_pages``
    others in one, without the lines that are trained on; below ``cache_dir`` (``~/.cache/dataecho/commoncrawl_mini``).
    Written by whoever asks first, in some seconds. Raises :class:`SettingError` where there are not so many pages."""
    require(split in SPLITS, "split", split, allowed=", ".join(SPLITS), cure="train is the larger part.")
    for name, value in (("num_pages", num_pages), ("num_eval_pages", num_eval_pages)):
        require(value >= 8, name, value, allowed="whole numbers >= 8", cure="1800 and 60 are the defaults.")

    def write(folder: Path, pages: list[Page]) -> None:
        _write(folder, pages, {"train": num_pages, "eval": num_eval_pages})

    folder = written_from_prose(_KIND, f"{num_pages}-{num_eval_pages}", write, cache_dir=cache_dir)
    return PageSource(
        f"{folder}/{split}-*.warc.wet.gz",
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        index_dir=f"{cache_dir}/index" if cache_dir is not None else None,
    )


def _write(folder: Path, pages: list[Page], wanted: dict[str, int]) -> None:
    require(
        sum(wanted.values()) <= len(pages),
        "num_pages",
        wanted["train"],
        allowed=f"at most {len(pages) - wanted['eval']}: so many pages there are, but for the held-out ones",
        cure="1800 is the default.",
    )
    # Neighbours speak of the same thing: the order, and what is held out, is a fixed permutation, whatever the seed.
    order = Permutation.of(len(pages), KeyStream(0, f"{_KIND}.order"), 0)(np.arange(len(pages)))
    shuffled = [pages[number] for number in order]
    train = shuffled[wanted["eval"] :][: wanted["train"]]
    known = {line for page in train for line in page.lines}
    held_out = [
        Page(page.name, [line for line in page.lines if line not in known]) for page in shuffled[: wanted["eval"]]
    ]
    for split, part in (("train", train), ("eval", held_out)):
        total = _NUM_SHARDS[split]
        for number in range(total):
            _write_shard(folder / f"{split}-{number:05d}.warc.wet.gz", part[number::total])


def _write_shard(path: Path, pages: list[Page]) -> None:
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=True)
        info = {"software": "dataecho", "format": "WARC File Format 1.0", "description": "prose of installed packages"}
        named = writer.create_warcinfo_record(path.name, info)
        named.rec_headers.replace_header("WARC-Date", _DATE)
        named.rec_headers.replace_header("WARC-Record-ID", _record_id(path.name))
        writer.write_record(named)
        for page in pages:
            text = "\n".join(page.lines).encode()
            headers = [
                ("WARC-Type", "conversion"),
                ("WARC-Target-URI", f"https://example.org/{page.name}"),
                ("WARC-Date", _DATE),
                ("WARC-Record-ID", _record_id(page.name)),
                ("WARC-Identified-Content-Language", "eng"),
                ("Content-Type", "text/plain"),
                ("Content-Length", str(len(text))),
            ]
            record = writer.create_warc_record(
                f"https://example.org/{page.name}",
                "conversion",
                payload=io.BytesIO(text),
                length=len(text),
                warc_headers=StatusAndHeaders("", headers, protocol="WARC/1.0"),
            )
            writer.write_record(record)


def _record_id(name: str) -> str:
    return f"<urn:sha256:{hashlib.sha256(name.encode()).hexdigest()}>"
