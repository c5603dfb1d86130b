"""Whether a copy of the corpus is whole: python -m dataecho_tasks.lm1b_transformer.count <folder or URL>"""

from __future__ import annotations

import argparse
import sys

from rich.progress import track

from dataecho.errors import DataError
from dataecho_tasks.lm1b_transformer.sentences import NUM_SENTENCES, benchmark
from dataecho_tasks.shared.text.tokenizer import ByteTokenizer


def counted(folder: str, split: str) -> int:
    """Number of lines that are not empty. Raises :class:`DataError` for a shard that is missing or cut short."""
    source = benchmark(folder=folder, split=split, tokenizer=ByteTokenizer(), sequence_length=1)
    shards = track(range(source.num_shards), description=split, transient=True, disable=not sys.stderr.isatty())
    return sum(sum(1 for _ in source.lines(shard)) for shard in shards)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    try:
        found = {split: counted(folder, split) for split in NUM_SENTENCES}
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split, published in NUM_SENTENCES.items():
        verdict = "as published" if found[split] == published else f"published are {published:,}: it is another corpus"
        print(f"{split}: {found[split]:,} sentences, {verdict}")
    return 0 if found == NUM_SENTENCES else 1


if __name__ == "__main__":
    sys.exit(main())
