"""Weights from one run to another, within a framework and across."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dataecho.errors import SettingError
from dataecho.modes import run_mode
from dataecho.training.checkpoint import CheckpointStore, find_checkpoint
from dataecho.training.spool import read_spool
from dataecho.training.weights import checkpoint_weights, read_weights
from tests.support import PROJECT, config

STEPS = ("budget=steps", "task.eval_interval=64", "stop_at_target=false", "accelerator=cpu", "display=none")
QUIET = ("tracking=none", "backend.compute_threads=1")
ANY_THREADS = "backend.compute_threads=null"  # TensorFlow takes them once in a process


def train(folder, *overrides, steps=4):
    settings = config(*STEPS, *QUIET, f"run_dir={folder}", f"budget.steps={steps}", *overrides)
    run_mode(settings, folder=None, project=PROJECT)
    return [dict(entry.metrics) for entry in read_spool(folder)]


def export(folder):
    run_mode(config("mode=export", f"checkpoint={folder}"), folder=None, project=PROJECT)
    return folder / "weights.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder and what it logged."""
    folder = tmp_path_factory.mktemp("weights") / "run"
    return folder, train(folder)


def test_exported_are_the_weights_of_the_best_checkpoint_and_nothing_else(trained, capsys):
    folder, _ = trained
    path = export(folder)
    told = capsys.readouterr().out
    assert f"weights={path}" in told
    weights = load_file(path)
    assert {name: array.shape for name, array in weights.items()} == {
        "convolution_1.weight": (16, 1, 3, 3),
        "convolution_1.bias": (16,),
        "convolution_2.weight": (32, 16, 3, 3),
        "convolution_2.bias": (32,),
        "linear.weight": (10, 512),
        "linear.bias": (10,),
    }
    best = checkpoint_weights(find_checkpoint(folder, best=True))
    for name, array in best.items():
        np.testing.assert_array_equal(weights[name], array)
    assert {path.name for path in folder.glob("weights*")} == {"weights.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_a_run_starts_from_the_weights_of_another_in_any_framework(trained, tmp_path, backend):
    folder, marks = trained
    path = export(folder)
    best = max(marks, key=lambda metrics: metrics["accuracy"])  # the first of equal ones
    # With the smallest rate one step changes nothing that is seen: what is evaluated are the weights it began with.
    (mark,) = train(
        tmp_path / "run", f"backend={backend}", ANY_THREADS, f"weights={path}", "optimizer.learning_rate=1e-12", steps=1
    )
    assert mark["accuracy"] == best["accuracy"]
    assert mark["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-5)


@pytest.mark.slow
def test_a_run_of_one_framework_cannot_be_continued_in_another(trained):
    folder, _ = trained
    settings = config(*STEPS, *QUIET, f"resume={folder}", "budget.steps=4", "backend=tensorflow", ANY_THREADS)
    with pytest.raises(SettingError, match="backend.*tensorflow.*torch.*the value the checkpoint was written with"):
        run_mode(settings, folder=None, project=PROJECT)


@pytest.mark.parametrize("names", [["params/w"], ["params/w", "params/b", "slot/w", "slot/b"], []])
def test_a_checkpoint_without_weights_is_not_exported(tmp_path, names):
    arrays = {name: np.ones(2, np.float32) for name in names}
    state = {"backend": {"arrays": arrays, "values": {}}, "best": {"steps": 1}}
    CheckpointStore(tmp_path).save(state, steps=1, best_steps=1)
    told = r"checkpoint=.*step-0+1 cannot be used. .*begin with model/. It has only (params/[bw].*|no arrays): let"
    with pytest.raises(SettingError, match=told):
        export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_weights_of_another_model_are_refused_by_name_and_shape(trained, tmp_path):
    path = export(trained[0])
    overrides = (f"weights={path}", "task.models.torch.channels=[8,32]")
    with pytest.raises(SettingError, match=r"weights convolution_1.*shape \(16,.*shape \(8,"):
        train(tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
def test_a_file_that_is_none_is_refused_with_how_to_get_one(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=r"weights=.*weights\.safetensors cannot be used.*mode=export"):
        read_weights(path)


def test_any_programs_safetensors_file_can_be_read(tmp_path):
    save_file({"a.weight": np.ones((2, 3), np.float32)}, tmp_path / "mine.safetensors")
    assert read_weights(tmp_path / "mine.safetensors")["a.weight"].tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(("mode", "key"), [("evaluate", "weights"), ("export", "weights"), ("train", "checkpoint")])
def test_a_key_of_another_mode_is_refused(mode, key):
    with pytest.raises(SettingError, match=f"{key}=x cannot be used. Allowed: nothing with mode={mode}"):
        run_mode(config(f"mode={mode}", f"{key}=x"), folder=None, project=PROJECT)


def test_export_without_a_checkpoint_is_refused_with_an_example():
    with pytest.raises(SettingError, match="checkpoint=.*mode=export checkpoint=runs/mine"):
        run_mode(config("mode=export"), folder=None, project=PROJECT)
