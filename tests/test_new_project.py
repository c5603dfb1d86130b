"""``dataecho init`` writes a project whose test passes, and overwrites nothing; test_wheel.py trains it."""

import os
import subprocess
import sys

import pytest

from dataecho.errors import SettingError
from dataecho.new_project import create_project
from tests.support import PROJECT

DATAECHO = [sys.executable, "-m", "dataecho"]


def run(folder, *command):
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_writes_a_project_whose_test_passes(tmp_path):
    done = run(tmp_path, *DATAECHO, "init", "my shop")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Now: cd 'my shop' && python -m dataecho --config-dir conf task=bars\n")
    folder = tmp_path / "my shop"
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert written == ["README.md", "bars/data.py", "bars/torch_model.py", "conf/task/bars.yaml", "test_bars.py"]
    assert (folder / "README.md").read_text().startswith("# my shop\n")
    passed = run(folder, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder))
    assert passed.returncode == 0 and "23 passed" in passed.stdout, passed.stdout


def test_its_files_are_those_of_the_package_unchanged(tmp_path):
    create_project(tmp_path / "named")
    files = PROJECT / "platform/dataecho/new_project/files"
    for name in ("bars/data.py", "bars/torch_model.py", "conf/task/bars.yaml", "test_bars.py"):
        assert (tmp_path / "named" / name).read_bytes() == (files / name).read_bytes()


def test_an_empty_folder_will_do(tmp_path):
    assert len(create_project(tmp_path)) == 5


@pytest.mark.parametrize("content", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path, content):
    there = tmp_path / "there" if content == "file" else tmp_path / "there" / ".git"
    there.parent.mkdir(exist_ok=True)
    there.write_text("mine")
    with pytest.raises(SettingError, match="init=.*there cannot be used. Allowed: a folder that is missing or empty"):
        create_project(tmp_path / "there")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [there] and there.read_text() == "mine"


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_one_folder_must_be_named(tmp_path, arguments):
    done = run(tmp_path, *DATAECHO, "init", *arguments)
    assert done.returncode == 2 and list(tmp_path.iterdir()) == []
    assert done.stderr.endswith("Allowed: one folder. For instance: python -m dataecho init my_project\n")
