"""Every example of docs/guides/extending.md keeps its contract, and a broken one is told what differs."""

import os
import re
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from tests.support import PROJECT

PAGE = (PROJECT / "docs" / "guides" / "extending.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL))

BROKEN = """
import pytest
from blobs.data import Blobs
from dataecho.pipeline.stage import Stage
from lines import LineSource
from numpy_backend import NumpyBackend
from test_backend import TestNumpyBackend as Backend
from test_source import TestLineSource as Source
from test_task import TestBlobs as Task

class Shuffled(LineSource):
    def read(self, shards, ks):
        return super().read(shards, ks)[::-1]

class TestSource(Source):
    @pytest.fixture
    def new_source(self, tmp_path):
        (tmp_path / "lines.txt").write_text("\\n".join("abcdefghij"))
        return lambda: Shuffled(str(tmp_path / "lines.txt"))

class Forgetful(NumpyBackend):
    def load_state(self, arrays, values):
        first = self._first
        super().load_state(arrays, values)
        self._first = {name: array + 1 for name, array in first.items()}

class TestBackend(Backend):
    @pytest.fixture
    def new_backend(self):
        return Forgetful

class TestTask(Task):
    @pytest.fixture
    def outputs(self):
        return {"loss": 0.5, "correct": 0.25}, {"loss": 3.0, "correct": 0.0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("extending") / "mine"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(folder, *arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True, timeout=300
    )


def test_every_block_with_code_names_its_file():
    assert len(FILES) == len(re.findall(r"```(?:python|yaml)\n", PAGE)) >= 16


def test_every_example_passes_its_contract_suite(folder):
    done = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder)
    assert done.returncode == 0, done.stdout[-4000:]
    suites = {name for name in FILES if name.startswith("test_")}
    assert suites == {f"test_{part}.py" for part in ("task", "source", "schedule", "tracker", "backend")}


def test_the_task_trains_with_the_schedule_and_the_tracker(folder):
    choices = ("task=blobs", "schedule=root_decay", "tracking=copy", "echo=before_augmentation", "factor=2")
    budget = ("budget=steps", "budget.steps=40", "run_dir=run", "display=none")
    done = run(folder, PROJECT / "train.py", "--config-dir", "conf", *choices, *budget)
    assert (done.returncode, done.stderr) == (0, "")
    (copy,) = (folder / "copies").glob("*.jsonl")
    assert copy.read_bytes() == (folder / "run" / "metrics.jsonl").read_bytes() != b""


def test_the_backend_is_an_option(folder):
    done = run(folder, PROJECT / "train.py", "--config-dir", "conf", "task=blobs", "backend=numpy", "run_dir=refused")
    assert done.returncode == 2
    assert "backend=numpy cannot be used. Allowed: torch, the frameworks that task=blobs has a model for" in done.stderr


def test_the_sampler_is_an_option(folder):
    overrides = [f"hydra.searchpath=[file://{folder / 'conf'}]", "hydra/sweeper/sampler=late_tpe"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        node = compose("config", overrides=overrides, return_hydra_config=True).hydra.sweeper.sampler
    assert node.options == {"n_startup_trials": 20}


def test_the_plugin_is_found(folder):
    (folder / "mine" / "__init__.py").touch()
    done = run(folder, PROJECT / "train.py", "schedule=half", "--cfg", "job")
    assert "_target_: root_decay.RootDecay\n  final_fraction: 0.5" in done.stdout, done.stderr


def test_a_broken_part_is_told_what_differs(folder):
    (folder / "broken.py").write_text(BROKEN)
    wanted = "order_asked_for or (resumes_bit_exactly and nesterov-decay) or separates_good_from_bad"
    done = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, "broken.py", "-k", wanted)
    assert done.returncode == 1
    told = re.sub(r"\s+", " ", done.stdout)
    assert re.search(r"AssertionError: assert \['\w{5,}.*At index 0 diff", told), told  # the source: which record
    assert re.search(r"AssertionError: first/bias differs in 1 of 1 values, first at 0 \(flattened\): ", told)
    assert re.search(r"is_met_by\(0\.25\)", told)  # the task: which value misses the target
