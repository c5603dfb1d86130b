"""The contract suite of tasks. Subclass :class:`TaskContract` in a test file; pytest does the rest.

class TestMyTask(TaskContract):
    @pytest.fixture
    def task(self):
        return MyTask(**facts)

    @pytest.fixture
    def outputs(self):
        return {"loss": 0.1, "correct": 1.0, "predicted": 1}, {"loss": 3.0, "correct": 0.0, "predicted": 2}
"""

from __future__ import annotations

import abc
import importlib.util
import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.source import ArraySource, Source, shard_lengths
from dataecho.pipeline.stage import Broken, Chunk, Stage, as_examples, frozen, run_stage, stage_names
from dataecho.plan.keys import Keys, KeyStream
from dataecho.testing.source_contract import all_positions, fingerprints
from dataecho.training.contracts import Arrays, Evaluator, Task
from dataecho.training.shown import Shown
from dataecho.training.target import Target

Outputs = Mapping[str, Any]

_NUM_EXAMPLES = 64  # a stage is tried on so many: enough that an effect of neighbours or of keys shows


class TaskContract(abc.ABC):
    """Its facts fit together, held-out data are held out, its stages keep their promises, its metric has a direction,
    and a person can see what it is about.

    Give it little data: every record is read once.
    """

    @pytest.fixture
    @abc.abstractmethod
    def task(self) -> Task:
        """The task with the facts it is shipped with."""

    @pytest.fixture
    @abc.abstractmethod
    def outputs(self) -> tuple[Outputs, Outputs]:
        """All that a model puts out for one row, by name: a good one that reaches the target and a bad one that does
        not, in metric and in loss."""

    def test_its_name_is_its_folder(self, task: Task) -> None:
        assert task.name == Path(inspect.getfile(type(task))).parent.name

    def test_its_facts_fit_together(self, task: Task) -> None:
        assert task.batch_size <= task.eval_interval <= task.budget
        assert task.learning_rate > 0 and math.isfinite(task.learning_rate)
        assert math.isfinite(task.target)
        lengths = shard_lengths(task.train_source())
        assert task.batch_size <= sum(lengths)
        assert sum(shard_lengths(task.eval_source())) >= 1

    def test_every_model_stands_in_a_module_that_exists(self, task: Task) -> None:
        assert task.models
        for backend, model in task.models.items():
            module, _, name = model["_target_"].rpartition(".")
            assert name and importlib.util.find_spec(module) is not None, backend

    def test_no_example_is_both_trained_on_and_held_out(self, task: Task) -> None:
        trained, held_out = _all_fingerprints(task.train_source()), _all_fingerprints(task.eval_source())
        assert trained and held_out and not set(trained) & set(held_out)

    def test_the_data_are_the_same_for_everyone(self, task: Task) -> None:
        again = replace(task)
        assert again.train_source().digest == task.train_source().digest
        assert again.eval_source().digest == task.eval_source().digest
        assert task.train_source().digest != task.eval_source().digest

    def test_every_stage_name_can_be_an_echo_point(self, task: Task) -> None:
        for stages in (task.stages(), task.eval_stages()):
            assert len(stage_names(stages)) == len(stages) + 3

    def test_evaluation_is_not_random(self, task: Task) -> None:
        assert [stage.name for stage in task.eval_stages() if stage.random] == []

    def test_a_batch_flows_through_the_feed_with_an_echo_at_every_point(self, task: Task) -> None:
        source, stages = task.train_source(), task.stages()
        kinds = []
        for point in (None, *stage_names(stages)):
            factor = 1.0 if point is None else 2.0
            with Feed(source, stages, batch_size=4, shuffle_buffer=8, seed=0, echo_after=point, factor=factor) as feed:
                kinds += [_kinds(batch.arrays, size=4) for batch in itertools.islice(feed, 3)]
        with once_through(task.eval_source(), task.eval_stages(), batch_size=4) as batches:
            kinds.append(_kinds(next(batches).arrays, size=4))
        assert kinds == kinds[:1] * len(kinds)

    def test_a_stage_treats_every_example_alone(self, task: Task) -> None:
        for stage, chunk, keys in _every_stage(task):
            together = fingerprints(_run(stage, chunk, keys))
            examples = as_examples(chunk)
            alone = [_run(stage, _chunk_of_one(chunk, row), _row(keys, row)) for row in range(len(examples))]
            assert [fingerprints(result)[0] for result in alone] == together, stage.name

    def test_a_stage_gives_the_same_for_the_same_input_and_keys(self, task: Task) -> None:
        for (stage, chunk, keys), (again, _, _) in zip(_every_stage(task), _every_stage(replace(task)), strict=True):
            first = fingerprints(_run(stage, chunk, keys))
            assert fingerprints(_run(stage, chunk, keys)) == fingerprints(_run(again, chunk, keys)) == first, stage.name

    def test_a_stage_never_writes_into_its_input(self, task: Task) -> None:
        for stage, chunk, keys in _every_stage(task):
            before = fingerprints(chunk)
            expected = fingerprints(_run(stage, chunk, keys))
            assert fingerprints(chunk) == before, stage.name
            # What comes out of the store cannot be written to: such input must do as well.
            kept = frozen(chunk) if isinstance(chunk, dict) else [frozen(example) for example in chunk]
            assert fingerprints(_run(stage, kept, keys)) == expected, stage.name

    def test_other_keys_give_another_augmentation(self, task: Task) -> None:
        for stage, chunk, keys in _every_stage(task):
            if keys is not None:
                others = _keys(stage, seed=1)[: len(keys)]
                assert fingerprints(_run(stage, chunk, keys)) != fingerprints(_run(stage, chunk, others)), stage.name

    def test_what_two_evaluators_have_seen_makes_one(self, task: Task, outputs: tuple[Outputs, Outputs]) -> None:
        good, bad = outputs
        expected = _evaluate(task, [good, bad, good, good, bad], padding=bad, batch_size=1)
        together = task.evaluator()
        for rows in ([good, bad], [good, good, bad]):  # as several ranks share the batches
            seen = _evaluated(task, rows, padding=bad, batch_size=1).seen()
            together.add({name: array.copy() for name, array in seen.items()})
        assert together.compute() == pytest.approx(expected, rel=1e-12)

    def test_the_evaluator_gives_the_loss_and_the_metric(self, task: Task, outputs: tuple[Outputs, Outputs]) -> None:
        metrics = _evaluate(task, [outputs[0]] * 3, padding=outputs[1], batch_size=3)
        assert {"eval_loss", task.metric} <= metrics.keys()
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())

    @pytest.mark.parametrize("batch_size", [2, 3, 4, 8])
    def test_padding_and_the_cut_into_batches_change_no_metric(
        self, task: Task, outputs: tuple[Outputs, Outputs], batch_size: int
    ) -> None:
        good, bad = outputs
        rows = [good, good, bad, good, bad]
        expected = _evaluate(task, rows, padding=good, batch_size=5)
        for padding in outputs:
            metrics = _evaluate(task, rows, padding=padding, batch_size=batch_size)
            assert metrics == pytest.approx(expected, rel=1e-6)

    def test_evaluators_share_nothing(self, task: Task, outputs: tuple[Outputs, Outputs]) -> None:
        good, bad = outputs
        first = _evaluate(task, [good], padding=bad, batch_size=1)
        _evaluate(task, [bad], padding=good, batch_size=1)
        assert _evaluate(task, [good], padding=bad, batch_size=1) == first

    def test_the_target_separates_good_from_bad_in_the_direction_that_is_stated(
        self, task: Task, outputs: tuple[Outputs, Outputs]
    ) -> None:
        good, bad = (_evaluate(task, [row], padding=row, batch_size=1) for row in outputs)
        target = Target(task.metric, task.target, task.higher_is_better)
        assert target.is_met_by(good[task.metric]) and not target.is_met_by(bad[task.metric])
        assert target.is_better(good[task.metric], bad[task.metric])
        assert good["eval_loss"] < bad["eval_loss"]

    def test_an_example_can_be_looked_at_after_every_stage(self, task: Task) -> None:
        for stage, chunk, keys in _every_stage(task):
            for examples in (as_examples(chunk), as_examples(_run(stage, chunk, keys))):
                before = fingerprints(examples)
                shown = [task.show(example) for example in examples]
                assert fingerprints(examples) == before, stage.name
                assert len({_seen(one) for one in shown}) > 1, "nothing can be told apart"

    def test_another_augmentation_looks_different(self, task: Task) -> None:
        for stage, chunk, keys in _every_stage(task):
            if keys is not None:
                results = (_run(stage, chunk, each) for each in (keys, _keys(stage, seed=1)[: len(keys)]))
                first, other = ([_seen(task.show(example)) for example in as_examples(one)] for one in results)
                assert first != other, stage.name

    def test_predictions_can_be_looked_at(self, task: Task, outputs: tuple[Outputs, Outputs]) -> None:
        with once_through(task.eval_source(), task.eval_stages(), batch_size=4) as batches:
            examples = {name: array.copy() for name, array in next(batches).arrays.items()}
        layout = {name: (array.shape[1:], array.dtype) for name, array in examples.items()}

        def predict(rows: Arrays) -> Arrays:
            assert {name: (array.shape[1:], array.dtype) for name, array in rows.items()} == layout
            given = [outputs[number % 2] for number in range(len(next(iter(rows.values()))))]
            return {name: np.stack([np.asarray(row[name]) for row in given]) for name in outputs[0]}

        first, again = (task.show_predictions(examples, predict) for _ in range(2))
        assert 1 <= len(first) <= 4
        assert [_seen(one) for one in first] == [_seen(one) for one in again]


def _seen(shown: Shown) -> str:
    """All that a person sees, as a short text. Fails where that is nothing, or cannot be drawn."""
    image = shown.image
    assert image is not None or shown.text or shown.continuation
    if image is not None:
        assert image.dtype == np.uint8 and image.size > 0, "images are uint8 and not empty"
        assert image.ndim == 2 or image.shape[2:] == (3,), "images are grey or RGB, channels last"
    pixels = None if image is None else fingerprints([{"image": image}])
    return repr((pixels, shown.boxes, shown.text, shown.continuation, shown.caption, shown.is_right))


def _all_fingerprints(source: Source) -> list[str]:
    shards, ks = all_positions(source)
    parts = (slice(start, start + 256) for start in range(0, len(ks), 256))
    return [row for part in parts for row in fingerprints(source.read(shards[part], ks[part]))]


def _every_stage(task: Task) -> Iterator[tuple[Stage, Chunk, Keys | None]]:
    """Every stage with what comes to it, for training and for evaluation."""
    for source, stages in ((task.train_source(), task.stages()), (task.eval_source(), task.eval_stages())):
        shards, ks = (positions[:_NUM_EXAMPLES] for positions in all_positions(source))
        chunk = source.read(shards, ks)
        assert len(set(fingerprints(chunk))) > 1, "examples that are all alike prove nothing"
        for stage in stages:
            keys = _keys(stage, seed=0)[: len(ks)] if stage.random else None
            yield stage, chunk, keys
            chunk = _run(stage, chunk, keys)


def _keys(stage: Stage, *, seed: int) -> Keys:
    return KeyStream(seed, f"contract.{stage.name}").keys(np.arange(_NUM_EXAMPLES))


def _run(stage: Stage, chunk: Chunk, keys: Keys | None) -> Chunk:
    result = run_stage(stage, chunk, keys)
    for row, example in enumerate(as_examples(result)):
        assert not isinstance(example, Broken), f"stage {stage.name!r} failed on row {row}: {example.reason}"
    return result


def _chunk_of_one(chunk: Chunk, row: int) -> Chunk:
    if isinstance(chunk, list):
        return chunk[row : row + 1]
    return {name: values[row : row + 1] for name, values in chunk.items()}


def _row(keys: Keys | None, row: int) -> Keys | None:
    return None if keys is None else keys[row : row + 1]


def _kinds(arrays: Mapping[str, np.ndarray[Any, Any]], *, size: int) -> dict[str, str]:
    """Names and types of the fields. Shapes may differ between training and evaluation, by the size of a crop say."""
    assert arrays and all(len(values) == size for values in arrays.values())
    return {name: values.dtype.str for name, values in arrays.items()}


def _evaluate(task: Task, rows: Sequence[Outputs], *, padding: Outputs, batch_size: int) -> dict[str, float]:
    """The metrics when a model puts out ``rows``, and ``padding`` where a batch is padded."""
    return _evaluated(task, rows, padding=padding, batch_size=batch_size).compute()


def _evaluated(task: Task, rows: Sequence[Outputs], *, padding: Outputs, batch_size: int) -> Evaluator:
    evaluator = task.evaluator()
    remaining = list(rows)
    with once_through(ArraySource({"row": np.arange(len(rows))}), (), batch_size=batch_size) as batches:
        for batch in batches:
            num_valid = int(batch.weights.sum())
            here = remaining[:num_valid] + [padding] * (batch_size - num_valid)
            del remaining[:num_valid]
            stacked = {name: np.stack([np.asarray(row[name], dtype=np.float32) for row in here]) for name in rows[0]}
            evaluator.update(stacked, batch)
    assert not remaining
    return evaluator
