"""Two TensorFlow workers train what one process would with the batches of both."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import tests.backends.two_cpus  # noqa: F401
from dataecho.backends.tensorflow_ranks import launched_ranks
from dataecho.errors import SettingError
from tests.backends.tensorflow_rank_cases import NUM_RANKS, NUM_STEPS, RATE, batch, new_backend, rows
from tests.support import PROJECT


def free_ports():
    sockets = [socket.socket() for _ in range(NUM_RANKS)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Per rank: everything that it saw, how it ended, what it said."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "platform")])
    cluster = {"worker": [f"localhost:{port}" for port in free_ports()]}
    program = str(PROJECT / "tests" / "backends" / "tensorflow_rank_cases.py")
    started = [
        subprocess.Popen(
            [sys.executable, program, str(folder)],
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(NUM_RANKS)
    ]
    said = [one.communicate(timeout=180)[0] for one in started]
    assert all((folder / f"{rank}.npz").exists() for rank in range(NUM_RANKS)), "\n".join(said)
    return [(dict(np.load(folder / f"{rank}.npz")), started[rank].returncode, said[rank]) for rank in range(NUM_RANKS)]


def reference():
    """Weights after every step, mean loss and outputs of one process with the concatenated batches."""
    backend, weights = new_backend(), []
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


def test_two_ranks_train_what_one_would_with_the_rows_of_both(ended):
    weights, loss, outputs = reference()
    for found, _, _ in ended:
        for step in range(NUM_STEPS):
            for name, expected in weights[step].items():
                computed = found[f"{step}/{name}"]
                np.testing.assert_allclose(computed, expected, rtol=1e-10, atol=1e-13, err_msg=f"step {step} {name}")
        assert found["loss"] == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(found["outputs"], outputs, rtol=1e-10)


def test_a_state_of_two_ranks_continues_bit_exactly(ended):
    for found, _, _ in ended:
        last = f"{NUM_STEPS - 1}/"
        names = {name.removeprefix(last) for name in found if name.startswith(last)}
        assert len(names) == 8
        for name in names:
            np.testing.assert_array_equal(found[f"resumed/{name}"], found[last + name], err_msg=name)
        assert found["resumed/loss"] == found["loss"]


def test_ranks_tell_each_other_numbers_and_texts(ended):
    for found, _, _ in ended:
        assert found["gathered"].tolist() == [[0, 2.5], [1, 2.5]]
        assert found["texts"].tolist() == ["rank 0", "rank 1" * 41]
        assert str(found["first"]) == "I am 0"


def test_a_rank_that_has_gone_is_told(ended):
    (_, code, said), (_, other_code, _) = ended
    assert other_code == 9
    assert code == 3, said
    assert "rank 0 of 2 waited for the others in vain" in said


def test_only_workers_are_a_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"ps": ["a:1"], "worker": ["b:1", "b:2"]}}))
    with pytest.raises(SettingError, match="TF_CONFIG=ps, worker cannot be used. Allowed: a cluster of workers"):
        launched_ranks()
