"""The real command line, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataecho import __version__
from dataecho.command_line import options_first
from dataecho.invocation import command
from tests.support import PROJECT

#: The three ways to start the same program, and how its messages name it.
WAYS = {
    "train.py": ([sys.executable, str(PROJECT / "train.py")], f"python {PROJECT / 'train.py'}"),
    "module": ([sys.executable, "-m", "dataecho"], "python -m dataecho"),
    "command": ([str(Path(sys.executable).parent / "dataecho")], "dataecho"),
}


def run(*arguments, cwd=PROJECT, **environment):
    command = [sys.executable, str(PROJECT / "train.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_a_mistake_is_one_line_and_leaves_nothing_behind(tmp_path):
    done = run("factor=4", "tracking=none", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: factor=4 cannot be used. Allowed: nothing or 1 with echo=none. "
        "Choose what to echo as well, for instance echo=before_augmentation.\n"
    )
    assert done.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("start", "shown"), WAYS.values(), ids=WAYS)
def test_messages_name_the_command_that_was_started(start, shown, tmp_path):
    done = subprocess.run(
        [*start, "mode=evaluate", "tracking=none"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.endswith(f"For instance: {shown} mode=evaluate checkpoint=runs/mine\n")
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_that_of_the_package():
    assert run("--version").stdout == f"dataecho {__version__}\n"


@pytest.mark.parametrize(
    ("given", "sorted_out"),
    [
        ("echo=batch --config-dir conf factor=4", "--config-dir conf echo=batch factor=4"),
        ("a=1 -m b=2 -cd=conf", "--config-dir conf -m a=1 b=2"),
        ("a=1 --cfg job --resolve b=2", "--cfg job --resolve a=1 b=2"),
        ("factor=4 --info", "--info all factor=4"),
        ("a=1 --info defaults b=2", "--info defaults a=1 b=2"),
        ("-sc query=bash", "-sc query=bash"),
        ("-m a=1,2 ~b +c=3", "-m a=1,2 ~b +c=3"),
        ("", ""),
    ],
)
def test_options_may_stand_anywhere(given, sorted_out):
    assert options_first(given.split()) == sorted_out.split()


def test_options_and_modules_of_an_own_folder_are_found_from_any_folder(tmp_path):
    """Nothing needs PYTHONPATH: the folder around that of --config-dir, and the current one, are searched last."""
    mine = tmp_path / "mine"
    (mine / "conf/schedule").mkdir(parents=True)
    (mine / "conf/schedule/my_half.yaml").write_text("_target_: my_schedule.Half\n")
    (mine / "my_schedule.py").write_text(
        "from dataecho.training.schedule import ConstantSchedule, Schedule\n\n\n"
        "class Half(Schedule):\n    is_constant = True\n\n    def factor(self, spent_fraction):\n        return 0.5\n"
    )
    (mine / "json.py").write_text("raise SystemExit('this hides the standard library')\n")
    quiet = ["tracking=none", "display=plain", "budget=steps", "budget.steps=2"]
    done = run("schedule=my_half", *quiet, "--config-dir", "mine/conf", "run_dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 2


@pytest.mark.parametrize("start", ["dataecho", f"python {PROJECT.name}/train.py"])
def test_the_shell_completes_groups_and_options(start):
    """As bash calls it, after `eval "$(dataecho --shell-completion install=bash)"`."""
    installed = run("--shell-completion", "install=bash").stdout
    assert "hydra_bash_completion" in installed
    line = f"{start} echo=ba"
    program = (
        f"{installed}\nCOMP_LINE='{line}' COMP_POINT={len(line)} COMP_CWORD={len(line.split()) - 1}\n"
        "hydra_bash_completion\necho ${COMPREPLY[@]}"
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", program], cwd=PROJECT.parent, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["echo=batch"], done.stderr


def test_a_library_user_is_told_the_installed_command(monkeypatch):
    monkeypatch.delenv("DATAECHO_COMMAND", raising=False)
    assert command("mode=sync", "resume=runs/mine") == "dataecho mode=sync resume=runs/mine"


def test_showing_the_configuration_imports_nothing_heavy():
    done = run("--cfg", "job", "echo=batch", "factor=4", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0 and "factor: 4" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "hydra" in imported
    assert not imported & {"torch", "tensorflow", "mlflow", "sklearn", "matplotlib", "optuna", "scipy", "numpy"}


def test_help_names_the_groups_and_trains_nothing(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "echo: after_augmentation, batch, before_augmentation, example, none, stage" in done.stdout
    for word in ("mode=diagnose ", "optimizer.momentum ", "pipeline.throttle.latency ", "Compute the held-out metrics"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_of_a_group_lists_its_options_and_settings():
    done = run("--help", "optimizer")
    assert done.returncode == 0
    assert "optimizer=adamw" in done.stdout and "optimizer.weight_decay" in done.stdout
    assert "pipeline" not in done.stdout
    unknown = run("--help", "optimiser")
    assert unknown.returncode == 2 and "Did you mean optimizer?" in unknown.stderr


@pytest.mark.slow
def test_the_main_job_reaches_its_target_and_a_report_reads_it(tmp_path):
    done = run("display=plain", f"tracking.tracking_uri=sqlite:///{tmp_path}/mlflow.db", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Reached accuracy 0.97" in done.stdout and "fresh examples to target" in done.stdout
    (folder,) = tmp_path.glob("runs/*/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["reached_target"] is True and summary["accuracy"] >= 0.97
    assert summary["fresh_examples_to_target"] == summary["fresh_examples"] == summary["steps"] * 64
    assert summary["fresh_examples_to_target"] % 256 == 0
    names = {"checkpoints", "config.json", "learning_curve.png", "metrics.jsonl", "summary.json", "tracking.json"}
    assert names <= {path.name for path in folder.iterdir()}
    assert run("mode=report", f"runs=[{folder}]", "run_dir=report", cwd=tmp_path).returncode == 0
    assert "| none |" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
def test_a_sweep_gives_every_run_a_folder_of_its_own(tmp_path):
    done = run(
        "-m", "seed=1,2", "tracking=none", "display=none", "budget=steps", "budget.steps=2",
        "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seeds = [json.loads((tmp_path / "sweep" / name / "summary.json").read_text())["seed"] for name in ("0", "1")]
    assert seeds == [1, 2]
    refused = run("-m", "seed=1,2", "run_dir=mine", "tracking=none", "hydra.sweep.dir=other", cwd=tmp_path)
    assert refused.returncode == 1 and "Use hydra.sweep.dir=" in refused.stderr
