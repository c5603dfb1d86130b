"""One framework at a time: the other one is never imported, and a missing one is told with what to install."""

import json
import os
import subprocess
import sys

import pytest

from dataecho.extras import install
from tests.support import PROJECT

FRAMEWORKS = {"torch": {"torch"}, "tensorflow": {"tensorflow", "keras"}}
TRAIN = """
import json, sys
from pathlib import Path

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())

from dataecho.environment import prepare
prepare()
from dataecho.modes import run_mode
from tests.support import config

run_mode(config(*sys.argv[1:]), folder=None, project=Path.cwd())
print("modules", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def train(folder, *overrides, blocked=()):
    """A run of two steps in a process where ``blocked`` packages are not installed."""
    settings = ("display=none", "tracking=none", "accelerator=cpu", "budget=steps", "budget.steps=4")
    program = f"BLOCKED = {set(blocked)!r}\n{TRAIN}"
    command = [sys.executable, "-c", program, *settings, f"run_dir={folder}", *overrides]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(PROJECT)])}
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By backend: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: (folder / name, train(folder / name, f"backend={name}")) for name in FRAMEWORKS}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_run_imports_its_own_framework_and_no_other(runs, name):
    _, done = runs[name]
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    imported = set(json.loads(last.removeprefix("modules ")))
    assert FRAMEWORKS[name] <= imported
    assert not imported & set().union(*(others for other, others in FRAMEWORKS.items() if other != name))


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_run_says_nothing_but_what_is_ours(runs, name):
    assert runs[name][1].stderr == ""


def test_the_summaries_have_the_same_fields(runs):
    fields = [json.loads((folder / "summary.json").read_text()).keys() for folder, _ in runs.values()]
    assert "train_loss" in fields[0]
    assert list(fields[0]) == list(fields[1])


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_missing_framework_is_told_with_what_to_install(tmp_path, name):
    done = train(tmp_path / "run", f"backend={name}", blocked=FRAMEWORKS[name])
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dataecho.errors.SettingError: backend._target_=")
    told = [f"No module named {module!r}. {install(name)}" for module in FRAMEWORKS[name]]
    assert last.endswith(tuple(told))
    assert not (tmp_path / "run").exists()
