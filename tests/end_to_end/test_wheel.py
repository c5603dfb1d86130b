"""The wheel, in an environment that cannot see this checkout, does what its pages say. Nothing is downloaded: the other
packages are those of the environment that runs the tests."""

import email
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from dataecho import __version__
from tests.support import PROJECT, TIMES

pytestmark = pytest.mark.slow

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
ADDRESS = "https://example.org/owner/dataecho/blob/v1"
FEW = ("tracking=none", "display=none", "budget=steps", "budget.steps=4", "backend.compute_threads=1")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    environment = {**os.environ, "DATAECHO_ADDRESS": ADDRESS}
    subprocess.run(build, cwd=PROJECT, env=environment, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def environment_with(wheel, folder, packages):
    """The folder of commands of a new environment with the wheel, which sees the folder ``packages`` as well."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    install = ["pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    # Of a folder that a .pth file names no .pth file is read: not that of the editable install.
    (site / "others.pth").write_text(f"{packages}\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory):
    """An environment with everything."""
    return environment_with(wheel, tmp_path_factory.mktemp("installed") / "venv", SITE_PACKAGES)


def run(bin_folder, command, cwd, *, code=0):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == code, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stderr if code else done.stdout


def test_the_wheel_has_everything(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = email.message_from_bytes(archive.read(f"dataecho-{__version__}.dist-info/METADATA"))
    conf = {f"dataecho/{path.relative_to(PROJECT)}" for path in (PROJECT / "conf").rglob("*.yaml")}
    assert len(conf) > 50 and conf == {name for name in names if name.startswith("dataecho/conf/")}
    files = PROJECT / "platform/dataecho/new_project/files"
    project = {f"dataecho/new_project/files/{path.relative_to(files)}" for path in files.rglob("*.*") if path.is_file()}
    assert {name for name in project if "__pycache__" not in name} <= names
    assert {"dataecho/py.typed", "dataecho_tasks/digits/data.py", "dataecho_cosine/conf/schedule/cosine.yaml"} <= names
    assert f"dataecho-{__version__}.dist-info/licenses/LICENSE" in names
    assert {name.partition("/")[0] for name in names} == {
        "dataecho",
        "dataecho_cosine",
        "dataecho_jax",
        "dataecho_search",
        "dataecho_study",
        "dataecho_tasks",
        "hydra_plugins",
        f"dataecho-{__version__}.dist-info",
    }
    assert about["Version"] == __version__ and about["Description-Content-Type"] == "text/markdown"
    text = about.get_payload()
    assert "# dataecho" in text and "```python\n" in text
    assert all(link.startswith(ADDRESS) for link in re.findall(r"\]\((?!https://arxiv)([^)]*)\)", text))
    assert f"]({ADDRESS}/docs/results/learning_curves.png?raw=true)" in text


def test_with_numpy_alone_it_imports_and_runs_the_feed_of_the_readme(wheel, tmp_path):
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in SITE_PACKAGES.glob("numpy*"):
        (packages / path.name).symlink_to(path)
    bin_folder = environment_with(wheel, tmp_path / "venv", packages)
    (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), flags=re.DOTALL)
    told = run(bin_folder, ["python", "-c", code], tmp_path).splitlines()
    assert len(told) == 10 and told[0].startswith("(64, 32, 32, 3) fresh: ")
    refused = run(bin_folder, ["dataecho"], tmp_path, code=2)
    assert refused == (
        "error: ModuleNotFoundError: No module named 'hydra'. Install it: pip install 'dataecho[train]'.\n"
    )


def test_the_command_does_what_train_py_does(bin_folder, tmp_path):
    place = run(bin_folder, ["python", "-c", "import dataecho; print(dataecho.__file__)"], tmp_path)
    assert Path(place.strip()).is_relative_to(bin_folder.parent)  # not the checkout
    assert run(bin_folder, ["dataecho", "--version"], tmp_path) == f"dataecho {__version__}\n"
    results = {}
    for name, start in {
        "wheel": ["dataecho"],
        "checkout": [sys.executable, str(PROJECT / "train.py")],
    }.items():
        run(bin_folder, [*start, "echo=batch", "factor=4", *FEW, f"run_dir={name}"], tmp_path)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["steps"] == 4
        for varies in (*TIMES, "git_revision", "run_dir"):
            summary.pop(varies, None)
        summary["config"].pop("run_dir")
        results[name] = summary
    assert results["wheel"] == results["checkout"]


def test_a_sweep_of_digits_runs_and_its_folders_are_here(bin_folder, tmp_path):
    few = [*FEW, "hydra.sweep.dir=sweep"]
    run(bin_folder, ["dataecho", "-m", "seed=1,2", "echo=batch", "factor=4", *few], tmp_path)
    seeds = [json.loads((tmp_path / "sweep" / name / "summary.json").read_text())["seed"] for name in ("0", "1")]
    assert seeds == [1, 2]


def readme_commands(text):
    (block,) = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


@pytest.mark.timeout(1200)  # eight commands
def test_a_new_project_does_what_its_readme_says(bin_folder, tmp_path):
    run(bin_folder, ["dataecho", "init", "my_project"], tmp_path)
    folder = tmp_path / "my_project"
    commands = readme_commands((folder / "README.md").read_text())
    assert len(commands) == 8
    for command in commands:
        if command[0] == "dataecho" and "mode=report" not in command:
            command += ["tracking=none"]
        if "mode=diagnose" in command:
            command += ["diagnose.seconds=3"]
        told = run(bin_folder, command, folder)
        if "-m" in command and command[0] == "dataecho":
            assert "Winners" in told
    assert "23 passed" in told  # the last command is that of the tests
    summaries = [json.loads(path.read_text()) for path in folder.glob("runs/*/*/summary.json")]
    assert sorted((one["config"]["echo"]["name"], one["reached_target"]) for one in summaries) == [
        ("batch", True),
        ("before_augmentation", True),
        ("none", True),
    ]
    assert len(list(folder.glob("runs/*/*-preview/preview.png"))) == 1
    assert len(list(folder.glob("runs/*/*-diagnose/diagnose.json"))) == 1
    assert (folder / "report/report.md").is_file()


def test_a_run_with_tracking_leaves_its_database_where_it_was_started(bin_folder, tmp_path):
    few = [item for item in FEW if item != "tracking=none"]
    run(bin_folder, ["dataecho", *few], tmp_path)
    assert (tmp_path / "mlflow.db").is_file() and len(list(tmp_path.glob("runs/*/*/summary.json"))) == 1
