"""Learns a vocabulary of sub-words from a training set, and saves it under a name that tells which it is.

python -m dataecho_tasks.shared.text.train_tokenizer task=lm1b_transformer task/lm1b_transformer_data=full \\
    task.train.folder=/data/lm1b --folder /data

The tokenizer of the configuration is not looked at; what it makes is byte-level byte-pair encoding (Sennrich et al.
2016), which has no unknown words.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dataecho.errors import DataError, SettingError, require
from dataecho_tasks.shared.text.source import TextSource
from dataecho_tasks.shared.text.tokenizer import END, SubwordTokenizer

_NUM_COUNTED = 1_000_000  # bytes of text
_NUM_BYTES = 256  # the smallest vocabulary: every byte, and the end


def trained(lines: Iterable[bytes], *, num_tokens: int) -> Tokenizer:
    """A vocabulary of ``num_tokens``, or fewer where the text has no more pairs; the same for the same lines. What is
    not UTF-8 is replaced."""
    require(
        num_tokens > _NUM_BYTES,
        "num_tokens",
        num_tokens,
        allowed=f"whole numbers > {_NUM_BYTES}: every byte has a token, and the end of a line",
        cure="32000 is usual.",
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((line.decode(errors="replace") for line in lines), trainer=trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    """``subwords-<size>-<first digits of the content's SHA-256>.json`` in ``folder``."""
    content = tokenizer.to_str().encode()
    name = f"subwords-{tokenizer.get_vocab_size()}-{hashlib.sha256(content).hexdigest()[:12]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def first_lines(source: TextSource, *, num_bytes: int) -> Iterator[bytes]:
    """The first lines of the first shards, until ``num_bytes`` are reached."""
    lines = itertools.chain.from_iterable(source.lines(shard) for shard in range(source.num_shards))
    total = 0
    for line in lines:
        total += len(line)
        yield line
        if total >= num_bytes:
            return


def tokens_per_word(tokenizer: SubwordTokenizer, lines: Sequence[bytes]) -> float:
    """How many tokens a word has, on average; a word is what stands between blanks, and the end of a line counts to the
    tokens."""
    return float(tokenizer.lengths(lines).sum()) / sum(len(line.split()) for line in lines)


def main() -> None:
    from dataecho.build import build
    from dataecho_tasks.shared.text.settings import task_node

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="as for dataecho: the task, and where its data are")
    parser.add_argument("--folder", type=Path, required=True, help="where the file is written")
    parser.add_argument("--num-tokens", type=int, default=32000)
    parser.add_argument("--num-bytes", type=int, default=200_000_000, help="of text that it is learnt from")
    settings = parser.parse_args()
    task = task_node(settings.overrides)
    node, target = task["train"], task["target"]
    node["tokenizer"] = {"_target_": "dataecho_tasks.shared.text.tokenizer.ByteTokenizer"}
    try:
        source = build(node, object, key="task.train")
        assert isinstance(source, TextSource)
        lines = first_lines(source, num_bytes=settings.num_bytes)
        path = save(trained(lines, num_tokens=settings.num_tokens), settings.folder)
        print(path)
        ratio = tokens_per_word(SubwordTokenizer(str(path)), list(first_lines(source, num_bytes=_NUM_COUNTED)))
        print(
            f"{ratio:.2f} tokens a word, ends of lines included: the target of {target} nats per token is "
            f"{target * ratio:.2f} per word, a perplexity of {math.exp(target * ratio):,.0f}",
            file=sys.stderr,
        )
    except (SettingError, DataError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
