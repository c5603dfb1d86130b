"""The digits task: the contract, and its exact facts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from dataecho.backends.torch_backend import TorchBackend
from dataecho.errors import SettingError
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.plan.keys import KeyStream
from dataecho.testing.source_contract import SourceContract, all_positions
from dataecho.testing.task_contract import TaskContract
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings
from dataecho.training.evaluation import evaluate
from dataecho_tasks.digits.data import Digits
from dataecho_tasks.digits.torch_model import DigitsNet

FACTS = Path(__file__).parents[2] / "conf" / "task" / "digits.yaml"
NUM_SHIFTED = 9000
ONE_THREAD = PipelineSettings(num_threads=1)


def digits(**changed):
    facts = OmegaConf.to_container(OmegaConf.load(FACTS))
    del facts["_target_"]
    return Digits(**facts | changed)


class TestDigits(TaskContract):
    @pytest.fixture
    def task(self):
        return digits()

    @pytest.fixture
    def outputs(self):
        return {"loss": 0.1, "correct": 1.0, "predicted": 1}, {"loss": 3.0, "correct": 0.0, "predicted": 2}


class TestDigitsSource(SourceContract):
    @pytest.fixture
    def new_source(self):
        return lambda: digits(num_held_out=1700).train_source()

    @pytest.fixture
    def changed_source(self):
        task = digits(num_held_out=1700)
        task._data["image"][-1, 0, 0, 0] += 1
        return task.train_source()


# ---- the data


def everything(source):
    return source.read(*all_positions(source))


def test_the_split_is_1297_and_500_and_always_the_same():
    # Results on another split cannot be compared with those that are written down: it never changes.
    trained, held_out = digits().train_source(), digits().eval_source()
    assert (trained.num_examples(0), held_out.num_examples(0)) == (1297, 500)
    assert trained.digest == "fc0bc6802ffef2d96523288a9d5fa46a"
    assert held_out.digest == "3155763a4024e849a722afb2107d2954"


def test_both_parts_together_are_what_scikit_learn_ships():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    expected = Counter((tuple(image), label) for image, label in zip(images.tolist(), labels.tolist(), strict=True))
    found = Counter()
    for part in (everything(digits().train_source()), everything(digits().eval_source())):
        rows = part["image"].reshape(-1, 64).tolist()
        found.update((tuple(image), label) for image, label in zip(rows, part["label"].tolist(), strict=True))
    assert found == expected


def test_every_class_is_held_out_about_as_often():
    labels = everything(digits().eval_source())["label"]
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10 and counts.min() >= 35 and counts.max() <= 65


def test_records_are_bytes_and_examples_are_float32_from_0_to_1():
    task = digits()
    records = everything(task.train_source())
    assert records["image"].dtype == np.uint8 and records["image"].shape == (1297, 1, 8, 8)
    (decode,) = task.eval_stages()
    decoded = decode.function(records)
    assert decoded["image"].dtype == np.float32 and decoded["image"].shape == (1297, 1, 8, 8)
    assert (decoded["image"].min(), decoded["image"].max()) == (0.0, 1.0)
    np.testing.assert_array_equal(decoded["image"] * 16, records["image"])
    np.testing.assert_array_equal(decoded["label"], records["label"])
    assert decoded["label"].dtype == np.int64


def test_the_stages_are_decode_and_shift_and_only_shift_is_random():
    assert [(stage.name, stage.random) for stage in digits().stages()] == [("decode", False), ("shift", True)]
    assert [stage.name for stage in digits().eval_stages()] == ["decode"]


@pytest.mark.parametrize("num_held_out", [1, 1796])
def test_another_split_holds_out_so_many(num_held_out):
    task = digits(num_held_out=num_held_out)
    lengths = (task.train_source().num_examples(0), task.eval_source().num_examples(0))
    assert lengths == (1797 - num_held_out, num_held_out)


# ---- the shift


def shift_once(image, *, down, right):
    """A shift computed pixel by pixel; pixels from outside are background."""
    shifted = np.zeros_like(image)
    for row in range(8):
        for column in range(8):
            from_row, from_column = row - down, column - right
            if 0 <= from_row < 8 and 0 <= from_column < 8:
                shifted[0, row, column] = image[0, from_row, from_column]
    return shifted


def shifted(task, images, *, seed=0):
    keys = KeyStream(seed, "test.shift").keys(np.arange(len(images)))
    chunk = {"image": images, "label": np.arange(len(images))}
    result = task.stages()[-1].function(chunk, keys)
    assert result.keys() == chunk.keys() and (result["label"] == chunk["label"]).all()
    assert result["image"].dtype == images.dtype and result["image"].flags.c_contiguous
    return result["image"]


@pytest.mark.parametrize("max_shift", [0, 1, 2, 3])
def test_a_shift_moves_by_at_most_max_shift_and_fills_with_background(max_shift):
    images = np.random.default_rng(0).uniform(0.1, 1, size=(300, 1, 8, 8)).astype(np.float32)
    reach = range(-max_shift, max_shift + 1)
    found = Counter()
    for image, result in zip(images, shifted(digits(max_shift=max_shift), images), strict=True):
        possible = [(down, right) for down in reach for right in reach]
        (move,) = [(d, r) for d, r in possible if np.array_equal(result, shift_once(image, down=d, right=r))]
        found[move] += 1
    assert len(found) == (2 * max_shift + 1) ** 2  # and every one of them occurs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_9_shifts_are_equally_likely(seed):
    image = np.arange(1, 65, dtype=np.float32).reshape(1, 8, 8)
    moves = {shift_once(image, down=d, right=r).tobytes(): 0 for d in (-1, 0, 1) for r in (-1, 0, 1)}
    for result in shifted(digits(), np.repeat(image[None], NUM_SHIFTED, axis=0), seed=seed):
        moves[result.tobytes()] += 1
    counts, expected = np.array(list(moves.values())), NUM_SHIFTED / 9
    assert len(counts) == 9
    assert ((counts - expected) ** 2 / expected).sum() < 26.1  # chi-squared, 8 degrees of freedom: 1 in 1000 is above


# ---- settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_shift": -1}, r"task\.max_shift=-1 cannot be used. Allowed: 0 to 3"),
        ({"max_shift": 4}, r"task\.max_shift=4 cannot be used. Allowed: 0 to 3"),
        ({"num_held_out": 0}, r"task\.num_held_out=0 cannot be used. Allowed: 1 to 1796"),
        ({"num_held_out": 1797}, r"task\.num_held_out=1797 cannot be used. Allowed: 1 to 1796"),
        ({"batch_size": 0}, r"task\.batch_size=0 cannot be used. Allowed: whole numbers >= 1"),
        ({"eval_batch_size": 0}, r"task\.eval_batch_size=0 cannot be used. Allowed: whole numbers >= 1"),
        ({"eval_interval": 0}, r"task\.eval_interval=0 cannot be used. Allowed: whole numbers >= 1"),
        ({"budget": 0}, r"task\.budget=0 cannot be used. Allowed: whole numbers >= 1"),
        ({"shuffle_buffer": -1}, r"task\.shuffle_buffer=-1 cannot be used. Allowed: 0 \(no shuffling\)"),
    ],
)
def test_a_fact_out_of_range_is_refused(changed, message):
    with pytest.raises(SettingError, match=message):
        digits(**changed)


def test_a_task_cannot_be_changed_but_replaced():
    task = digits()
    with pytest.raises(AttributeError):
        task.max_shift = 2
    assert replace(task, max_shift=2).max_shift == 2


# ---- the network


def test_the_network_has_as_many_parameters_as_it_says():
    num_parameters = sum(values.numel() for values in DigitsNet().parameters())
    assert num_parameters == (9 * 1 + 1) * 16 + (9 * 16 + 1) * 32 + (32 * 16 + 1) * 10 == 9930
    assert f"{num_parameters:,} parameters" in DigitsNet.__doc__


@pytest.mark.parametrize("channels", [[16], [1, 2, 3], [0, 4], []])
def test_channels_that_are_not_two_numbers_are_refused(channels):
    with pytest.raises(SettingError, match=r"task\.models\.torch\.channels=.* cannot be used. Allowed: two whole"):
        DigitsNet(channels=channels)


def network(task):
    model = task.models["torch"]
    assert model["_target_"] == f"{DigitsNet.__module__}.{DigitsNet.__qualname__}"
    optimizer = OptimizerSettings(name="nesterov", learning_rate=task.learning_rate)
    return TorchBackend(
        BackendContext(
            new_model=lambda: DigitsNet(channels=model["channels"]),
            optimizer=optimizer,
            accelerator=AcceleratorSettings(name="cpu"),
            seed=0,
        )
    )


def test_what_the_network_puts_out_is_what_the_evaluator_takes():
    task = digits()
    trained = network(task)
    with once_through(task.eval_source(), task.eval_stages(), batch_size=128) as batches:
        outputs = [trained.eval_step(trained.put(batch)) for batch in batches]
    assert [len(rows["loss"]) for rows in outputs] == [128] * 4
    assert all(set(rows["correct"].tolist()) <= {0.0, 1.0} for rows in outputs)
    with once_through(task.eval_source(), task.eval_stages(), batch_size=500) as batches:
        rows = trained.eval_step(trained.put(next(batches)))
    expected = {"eval_loss": rows["loss"].mean(dtype=np.float64), "accuracy": rows["correct"].mean(dtype=np.float64)}
    for eval_batch_size in (128, 500):
        metrics = evaluate(replace(task, eval_batch_size=eval_batch_size), task.eval_source(), trained, ONE_THREAD)
        assert metrics == pytest.approx(expected, rel=1e-5)


def test_four_epochs_of_training_recognise_nine_digits_in_ten():
    task = digits()
    trained = network(task)
    with Feed(task.train_source(), task.stages(), batch_size=64, shuffle_buffer=256, seed=0) as feed:
        for _ in range(4 * 1297 // 64):
            batch = next(feed)
            trained.train_step(trained.put(batch), learning_rate=task.learning_rate)
    assert evaluate(task, task.eval_source(), trained, ONE_THREAD)["accuracy"] > 0.9
