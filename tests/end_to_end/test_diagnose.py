"""``mode=diagnose`` on digits whose parts are slow on purpose: it must find them. Ratios, not seconds: a busy machine
makes everything slower."""

import json

import pytest

from dataecho.errors import SettingError
from dataecho.modes import run_mode
from tests.support import PROJECT, config

QUIET = ("mode=diagnose", "tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1")
SLOW_NET = (
    "task._target_=tests.diagnose.slow_digits.SlowDigits",
    "task.models.torch._target_=tests.diagnose.slow_digits.SlowNet",
    "task.models.torch.channels=[1,1]",
)


def diagnosed(folder, *overrides, seconds=3):
    run_mode(
        config(*QUIET, *overrides, f"run_dir={folder}", f"diagnose.seconds={seconds}"), folder=None, project=PROJECT
    )
    assert {path.name for path in folder.iterdir()} == {"diagnose.json", "diagnose.png"}  # no checkpoint, no spool
    assert (folder / "diagnose.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "diagnose.json").read_text())


def test_a_slow_source_is_found_and_an_echo_before_augmentation_advised(tmp_path, capsys):
    # 128 ms of waiting on two threads, steps of 8 ms and a little more: R is just under 8; on a busy machine, far less.
    found = diagnosed(tmp_path / "run", *SLOW_NET, "+task.read_seconds=0.002", "+task.models.torch.step_seconds=0.008")
    assert found["bottleneck"] == "read"
    assert found["advice"]["setting"].startswith("echo=before_augmentation factor=")
    assert 1.5 < found["advice"]["factor"] < 8.4
    assert 1.2 < found["advice"]["speed_up"] <= found["advice"]["factor"] + 0.01
    assert found["emulated_source"] is None
    assert "pipeline.num_threads=4" in found["cheap_fixes"][0]
    printed = capsys.readouterr().out
    assert "Advised, with the same settings: echo=before_augmentation factor=" in printed and "emulated" not in printed


def test_a_throttled_source_is_found_and_every_output_says_that_it_is_emulated(tmp_path, capsys):
    # 64 examples at 1000 a second take 64 ms.
    found = diagnosed(
        tmp_path / "run",
        *SLOW_NET,
        "+task.models.torch.step_seconds=0.008",
        "pipeline.throttle.examples_per_second=1000",
    )
    assert found["bottleneck"] == "read"
    assert found["advice"]["setting"].startswith("echo=before_augmentation factor=")
    assert 1.5 < found["advice"]["factor"] < 8.4
    assert found["emulated_source"] == {"examples_per_second": 1000}
    assert found["measured"]["reads_apart"] is True
    assert "The slow source is emulated" in " ".join(capsys.readouterr().out.split())


def test_a_slow_augmentation_is_named(tmp_path):
    found = diagnosed(
        tmp_path / "run", *SLOW_NET, "+task.shift_seconds=0.0005", "+task.models.torch.step_seconds=0.004"
    )
    assert found["bottleneck"] == "shift"
    ratios = {point["name"]: point["ratio_alone"] for point in found["echo_points"]}
    assert ratios["decode"] < 0.5 and ratios["shift"] > 2


def test_where_the_input_keeps_up_it_says_that_echoing_will_not_help(tmp_path, capsys):
    found = diagnosed(tmp_path / "run", *SLOW_NET, "+task.models.torch.step_seconds=0.02", seconds=1)
    assert found["advice"] is None and found["bottleneck"] == "step" and found["cheap_fixes"] == []
    assert max(point["ratio"] for point in found["echo_points"]) < 1
    assert "Echoing will not save time here: R is at most" in " ".join(capsys.readouterr().out.split())


def test_an_echo_is_refused_for_it_would_be_ignored(tmp_path):
    with pytest.raises(SettingError, match="echo=batch .*none with mode=diagnose.*where to echo"):
        run_mode(config(*QUIET, "echo=batch", "factor=2", f"run_dir={tmp_path / 'run'}"), folder=None, project=PROJECT)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="run_dir=.*a folder that can be written"):
        run_mode(config(*QUIET, f"run_dir={tmp_path / 'file' / 'run'}"), folder=None, project=PROJECT)
