"""Two gloo processes train what one would with the batches of both."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.backends.rank_cases import ENGINES, MODELS, NUM_RANKS, NUM_STEPS, RATE, batch, new_backend, rows
from tests.support import PROJECT

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Per rank: everything that ``rank_cases.py`` saw."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = [str(PROJECT), str(PROJECT / "platform")]
    subprocess.run(
        [
            *TORCHRUN,
            f"--nproc-per-node={NUM_RANKS}",
            str(PROJECT / "tests" / "backends" / "rank_cases.py"),
            str(folder),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
    )
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(NUM_RANKS)]


def reference(model):
    """Weights after every step, mean loss and outputs of one process with the concatenated batches."""
    backend, weights = new_backend(model), []
    for step in range(NUM_STEPS):
        arrays, valid = zip(*(rows(step, rank) for rank in range(NUM_RANKS)), strict=True)
        together = {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
        size = len(together["y"]) // NUM_RANKS
        mask = np.concatenate([np.arange(size) < count for count in valid])
        backend.train_step(backend.put(batch(together, mask)), learning_rate=RATE)
        weights.append(backend.weights())
    loss = backend.take_loss()
    arrays, _ = rows(0, 0)
    return weights, loss, backend.eval_step(backend.put(batch(arrays, np.ones(len(arrays["y"])))))["loss"]


every_case = pytest.mark.parametrize(("model", "engine"), [(model, engine) for model in MODELS for engine in ENGINES])


@every_case
def test_two_ranks_train_what_one_would_with_the_rows_of_both(found, model, engine):
    weights, loss, outputs = reference(model)
    for of_rank in found:
        for step in range(NUM_STEPS):
            for name, expected in weights[step].items():
                computed = of_rank[f"{model}/{engine}/{step}/{name}"]
                np.testing.assert_allclose(computed, expected, rtol=1e-10, atol=1e-13, err_msg=f"step {step} {name}")
        assert of_rank[f"{model}/{engine}/loss"] == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(of_rank[f"{model}/{engine}/outputs"], outputs, rtol=1e-10)


@every_case
def test_a_state_of_two_ranks_continues_bit_exactly(found, model, engine):
    for of_rank in found:
        last, resumed = f"{model}/{engine}/{NUM_STEPS - 1}/", f"{model}/{engine}/resumed/"
        names = {name.removeprefix(last) for name in of_rank if name.startswith(last)}
        assert len(names) >= 4
        for name in names:
            np.testing.assert_array_equal(of_rank[resumed + name], of_rank[last + name], err_msg=name)
        assert of_rank[f"{resumed}loss"] == of_rank[f"{model}/{engine}/loss"]


def test_ranks_tell_each_other_numbers_and_texts(found):
    for of_rank in found:
        assert of_rank["gathered"].tolist() == [[0, 2.5], [1, 2.5]]
        assert of_rank["texts"].tolist() == ["rank 0", "rank 1rank 1"]
        assert str(of_rank["first"]) == "I am 0"
