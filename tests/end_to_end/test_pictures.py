"""``mode=preview`` of every task, and the picture of predictions at the end of a run, as a user gets them."""

import json
import logging
import os
import subprocess
import sys

import pytest
from PIL import Image

from dataecho.errors import SettingError
from dataecho.modes import run_mode
from dataecho.modes import train as train_mode
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1")
TWO_STEPS = ("budget=steps", "budget.steps=2", "pictures.num_examples=5")
SENTENCES = ("task.train.num_sentences=400", "task.train.num_eval_sentences=60", "task.sequence_length=16")
PAGES = ("task.train.num_pages=40", "task.train.num_eval_pages=8", "task.sequence_length=16")
SCENES = ("task.train.num_examples=128", "task.eval.num_examples=32")
SMALL_SCENES = (*SCENES, "task.train.pixels=48", "task.eval.pixels=48", "task.image_size=32")
SMALL_IMAGENET = (*SMALL_SCENES, "task.models.torch.virtual_batch_size=8")
#: Every task, small: its overrides, its echo before whatever is random, and the stages that a preview has.
TASKS = {
    "digits": ((), "before_augmentation", ("read", "decode"), ("shift (random)",)),
    "images": (SMALL_SCENES, "before_augmentation", ("read", "decode"), ("crop (random)", "colour (random)")),
    "imagenet_resnet50": (
        SMALL_IMAGENET,
        "before_augmentation",
        ("read", "decode"),
        ("crop (random)", "colour (random)"),
    ),
    "cifar10_resnet32": (SCENES, "before_augmentation", ("read", "decode"), ("crop (random)",)),
    "coco_ssd": (
        (*SCENES, "task.models.torch.virtual_batch_size=8"),
        "before_augmentation",
        ("read", "decode"),
        ("expand (random)", "crop (random)", "resize", "colour (random)", "targets"),
    ),
    "lm1b_transformer": (SENTENCES, "example", ("read", "tokenize"), ("batch",)),
    "commoncrawl_transformer": (PAGES, "example", ("read", "tokenize"), ("batch",)),
}
FEW_ROWS = ("task.batch_size=16", "task.shuffle_buffer=32", "task.eval_batch_size=16", "task.eval_interval=16")
TEXTS = {"lm1b_transformer", "commoncrawl_transformer"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The overrides of a task whose data are written once for all tests."""
    cache = tmp_path_factory.mktemp("data")

    def settings(task):
        caches = [] if task == "digits" else [f"task.train.cache_dir={cache / task}"]
        if task not in TEXTS | {"digits"}:
            caches.append(f"task.eval.cache_dir={cache / task}")
        return (f"task={task}", *QUIET, *FEW_ROWS, *TASKS[task][0], *caches)

    return settings


@pytest.fixture
def canvases(monkeypatch):
    """Everything that is drawn while a mode runs."""
    from dataecho.pictures.canvas import Canvas

    made, save = [], Canvas.save
    monkeypatch.setattr(Canvas, "save", lambda canvas, path: (made.append(canvas), save(canvas, path))[1])
    return made


def size(path):
    with Image.open(path) as picture:
        picture.verify()
        assert picture.format == "PNG"
        return picture.size


@pytest.mark.parametrize("task", TASKS)
def test_a_preview_shows_every_stage_and_the_repeats_after_the_echo(task, settings, canvases, tmp_path, capsys):
    _, echo, once, repeated = TASKS[task]
    more = ("mode=preview", f"echo={echo}", "factor=3", "preview.num_examples=2", f"run_dir={tmp_path / 'run'}")
    run_mode(config(*settings(task), *more), folder=None, project=PROJECT)
    printed = capsys.readouterr().out
    names = {"preview.png"} | ({"preview.txt"} if task in TEXTS else set())
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    assert printed.splitlines()[-1] == str(tmp_path / "run" / "preview.png")
    (canvas,) = canvases
    assert f"{task}: examples of the first batch, echo={echo} factor=3" in canvas.words
    assert {*once, *repeated} <= set(canvas.words) and canvas.words.count("used 3 times") == 2
    assert sum(word.startswith("step ") for word in canvas.words) == 2 * 3 * len(repeated)
    assert len(canvas.images) == (0 if task in TEXTS else 2 * (len(once) + 3 * len(repeated)))
    assert size(tmp_path / "run" / "preview.png") == canvas.size
    if task in TEXTS:
        text = (tmp_path / "run" / "preview.txt").read_text()
        assert text in printed and text.count("  batch, step ") == 6 and text.count("17 tokens: ") == 8


def test_a_preview_needs_no_framework_and_no_tracking(tmp_path):
    program = (
        "import sys; from dataecho.modes import run_mode; from tests.support import config, PROJECT\n"
        "run_mode(config(*sys.argv[1:]), folder=None, project=PROJECT)\n"
        "print(sorted({'torch', 'tensorflow', 'keras', 'jax', 'mlflow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, "mode=preview", "echo=batch", "factor=2", f"run_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(PROJECT)])}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'preview.png'}\n[]\n", "")


REFUSED = {
    "no factor": (["echo=batch"], "factor=None .*repeats the output of 'batch'"),
    "not measured": (["echo=batch", "factor=auto"], "factor=auto .*with mode=preview.*look at factor=4"),
    "no echo": (["factor=2"], "factor=2 .*nothing or 1 with echo=none"),
    "no such stage": (["echo=stage", "echo.after=crop", "factor=2"], "echo.after=crop .*read, decode, shift, batch"),
    "nothing to see": (["preview.num_examples=0"], "preview.num_examples=0 .*whole numbers >= 1"),
    "a large batch": (["task.batch_size=2000", "task.shuffle_buffer=0"], "batch_size=2000 .*at most the 1297 examples"),
    "no folder": (["run_dir=pyproject.toml/run"], "run_dir=pyproject.toml/run .*a folder that can be written"),
    "a checkpoint": (["checkpoint=runs/mine"], "checkpoint=runs/mine .*nothing with mode=preview"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_previewed_is_refused(case, tmp_path, monkeypatch):
    overrides, message = REFUSED[case]
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=message):
        run_mode(config("mode=preview", *overrides), folder=None, project=PROJECT)


# ---- at the end of a run


RUNS = [
    *((task, "torch") for task in TASKS),
    *(
        pytest.param(task, "tensorflow", marks=() if task in ("digits", "lm1b_transformer") else pytest.mark.slow)
        for task in TASKS
    ),
]


@pytest.mark.parametrize(("task", "backend"), RUNS)
def test_a_run_ends_with_what_its_model_predicts(task, backend, settings, canvases, tmp_path):
    folder = tmp_path / "run"
    # TensorFlow takes its threads once in a process.
    threads = ("backend.compute_threads=null",) if backend == "tensorflow" else ()
    overrides = (*settings(task), *TWO_STEPS, f"backend={backend}", *threads, f"run_dir={folder}")
    run_mode(config(*overrides), folder=None, project=PROJECT)
    (canvas,) = canvases
    assert size(folder / "predictions.png") == canvas.size
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{task} none 1 seed 0, {backend}: held-out examples after 32 fresh examples" in canvas.words
    assert summary["fresh_examples"] == 32
    if task in TEXTS:
        text = (folder / "predictions.txt").read_text().splitlines()
        assert [line for line in text if line[:1].isdigit()] == ["1.", "2.", "3.", "4.", "5."]
        assert sum(line.startswith("> ") for line in text) >= 1
    else:
        assert len(canvas.images) == 5 and not (folder / "predictions.txt").exists()


def test_the_same_run_ends_with_the_same_picture(settings, tmp_path):
    for name in ("one", "two"):
        overrides = (*settings("lm1b_transformer"), *TWO_STEPS, f"run_dir={tmp_path / name}")
        run_mode(config(*overrides), folder=None, project=PROJECT)
    one, two = ((tmp_path / name / "predictions.png").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_picture_that_fails_is_a_warning(settings, monkeypatch, tmp_path, caplog):
    def failing(*arguments, **settings):
        raise OSError("no space left")

    monkeypatch.setattr(sys.modules[train_mode.__module__], "draw_predictions", failing)
    with caplog.at_level(logging.WARNING):
        run_mode(config(*settings("digits"), *TWO_STEPS, f"run_dir={tmp_path}"), folder=None, project=PROJECT)
    assert caplog.messages == ["No picture of what the model predicts: OSError: no space left"]
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 2
    assert not (tmp_path / "predictions.png").exists()


def test_no_picture_where_none_is_wanted_or_the_model_has_diverged(settings, tmp_path):
    for name, more in (("none", "pictures.num_examples=0"), ("diverged", "optimizer.learning_rate=1e30")):
        overrides = (*settings("digits"), *TWO_STEPS, more, f"run_dir={tmp_path / name}")
        run_mode(config(*overrides), folder=None, project=PROJECT)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["diverged"] is (name == "diverged")
        assert not (tmp_path / name / "predictions.png").exists()
