"""Held-out metrics: every example once, padding not at all."""

import numpy as np
import pytest

from dataecho.pipeline.batch import Batch
from dataecho.pipeline.settings import PipelineSettings
from dataecho.training.contracts import WeightedMeans
from dataecho.training.evaluation import evaluate

SETTINGS = PipelineSettings(num_threads=2, chunk_size=3)


def batch(*weights):
    return Batch({}, np.array(weights, dtype=np.float32), None)


def test_means_are_over_rows_of_weight_one():
    means = WeightedMeans({"eval_loss": "loss", "accuracy": "correct"})
    means.update({"loss": np.array([1.0, 2.0, 4.0]), "correct": np.array([True, False, True])}, batch(1, 1, 1))
    means.update({"loss": np.array([9.0, 100.0, 100.0]), "correct": np.array([False, True, True])}, batch(1, 0, 0))
    assert means.compute() == {"eval_loss": 4.0, "accuracy": 0.5}


def test_means_are_summed_in_double_precision():
    means = WeightedMeans({"loss": "loss"})
    values = np.full(1000, 0.1, dtype=np.float32)
    means.update({"loss": values}, batch(*[1] * 1000))
    assert means.compute()["loss"] == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_every_held_out_example_counts_once_and_padding_never(new_run, task):
    backend = new_run().backend
    metrics = evaluate(task, task.eval_source(), backend, SETTINGS)
    assert metrics == {"eval_loss": np.mean(np.arange(50, 60.0) ** 2), "mean_x": 54.5}
    assert task.source.reads == dict.fromkeys(range(10), 1)
    assert [placed.weights.tolist() for placed in backend.placed] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]


def test_every_evaluation_starts_anew(new_run, task):
    backend = new_run().backend
    first, second = (evaluate(task, task.eval_source(), backend, SETTINGS) for _ in range(2))
    assert first == second
    assert task.source.reads == dict.fromkeys(range(10), 2)
