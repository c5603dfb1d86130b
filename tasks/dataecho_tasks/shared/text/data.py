"""Language modelling on packed rows: facts and checks that both language tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dataecho.errors import require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage
from dataecho.training.contracts import Arrays, Evaluator, Predict, Task, WeightedMeans
from dataecho.training.shown import Shown
from dataecho_tasks.shared.text.sampling import continued
from dataecho_tasks.shared.text.source import TextSource, tokenized

_NUM_CONTINUED = 8  # rows, each by one token at a time
_NUM_IDS = 4  # of a row, where tokens are shown


@dataclass(frozen=True, kw_only=True)
class LanguageModelling(Task):
    """Batches of ``tokens`` int32 [b, ``sequence_length`` + 1]; each but the first is predicted.

    ``train``, ``eval``: a :class:`TextSource` each, with the same tokenizer, of ``vocab_size`` tokens. The metric is
    the mean cross entropy per token, in nats; nothing is random, so the echo is ``example`` or ``batch``.
    """

    train: Any
    eval: Any
    tokenizer: Any  # that of both sources, as the configuration has it
    vocab_size: int
    sequence_length: int

    metric = "cross_entropy"
    higher_is_better = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train", "eval"):
            source = getattr(self, name)
            require(
                isinstance(source, TextSource),
                f"task.{name}",
                type(source).__name__,
                allowed="a node with a _target_ that gives a source of packed text",
                cure="See dataecho_tasks.shared.text.source.TextSource.",
            )
            for fact, found in (
                ("vocab_size", source.tokenizer.num_tokens),
                ("sequence_length", source.sequence_length),
            ):
                wanted = getattr(self, fact)
                require(
                    wanted == found,
                    f"task.{fact}",
                    wanted,
                    allowed=f"{found}, which is what task.{name} gives",
                    cure=f"Set task.{fact}={found}.",
                )
        require(
            self.train.tokenizer.digest == self.eval.tokenizer.digest,
            "task.eval.tokenizer",
            "another vocabulary",
            allowed="that of task.train",
            cure="Set task.tokenizer, which both take.",
        )

    def train_source(self) -> Source:
        return self.train

    def eval_source(self) -> Source:
        return self.eval

    def stages(self) -> Sequence[Stage]:
        function = partial(tokenized, tokenizer=self.train.tokenizer, sequence_length=self.sequence_length)
        return (Stage("tokenize", function, mutates_input=False),)

    def eval_stages(self) -> Sequence[Stage]:
        return self.stages()

    def evaluator(self) -> Evaluator:
        return WeightedMeans({"eval_loss": "loss", "cross_entropy": "loss"})

    def show(self, example: Mapping[str, Any]) -> Shown:
        if "tokens" not in example:
            text, skip = example["text"], int(example["skip"])
            return Shown(text=text.decode(errors="replace"), caption=f"{len(text)} bytes, from token {skip}")
        tokens = example["tokens"].tolist()
        ids = " ".join(map(str, tokens[:_NUM_IDS]))
        return Shown(text=self._decode(tokens), caption=f"{len(tokens)} tokens: {ids} ...")

    def show_predictions(self, examples: Arrays, predict: Predict) -> list[Shown]:
        """The text that the model writes after the first ``sequence_length`` tokens of a row."""
        tokens = examples["tokens"][:_NUM_CONTINUED]
        written = continued(tokens, predict, num_tokens=self.sequence_length)
        return [
            Shown(text=self._decode(row[:-1].tolist()), continuation=self._decode(more.tolist()))
            for row, more in zip(tokens, written, strict=True)
        ]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.train.tokenizer.decode(tokens)
