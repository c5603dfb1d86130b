"""The command of a run, and the settings that a later one takes from its folder."""

import shlex

import pytest
from omegaconf import OmegaConf

from dataecho.compose.repeat import FILE_NAME, arguments_of, repeating_command, with_settings_of_run
from dataecho.errors import SettingError, setting
from dataecho.training.checkpoint import CheckpointStore


def job(*overrides, config_dir=None, config_name="config"):
    sources = [{"provider": "main", "path": "/conf"}]
    if config_dir is not None:
        sources.append({"provider": "command-line", "path": config_dir})
    return OmegaConf.create(
        {
            "runtime": {"config_sources": sources},
            "job": {"config_name": config_name},
            "overrides": {"task": list(overrides)},
        }
    )


@pytest.fixture(autouse=True)
def _started_by(monkeypatch):
    monkeypatch.setenv("DATAECHO_COMMAND", "python train.py")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


@pytest.fixture
def run(tmp_path):
    """A run folder with a checkpoint, and the overrides that it was started with."""

    def new(*overrides, **options):
        folder = tmp_path / "my run=1"
        CheckpointStore(folder).save({"best": {"steps": 3}}, steps=3, best_steps=3)
        (folder / FILE_NAME).write_text(repeating_command(job(*overrides, **options)) + "\n")
        return folder

    return new


def test_the_command_of_a_run_survives_the_shell():
    overrides = [
        "echo=batch",
        "run_dir='a b'",
        "factor=2",
        "task.train.folder='/my data/a=b'",
        "+x=[1,2]",
        "mode=train",
    ]
    line = repeating_command(job(*overrides, config_dir="/my conf", config_name="mine"))
    assert line.startswith("python train.py --config-dir '/my conf' --config-name mine echo=batch factor=2 ")
    assert arguments_of(line)[4:] == ["echo=batch", "factor=2", "task.train.folder='/my data/a=b'", "+x=[1,2]"]


@pytest.mark.parametrize("program", ["dataecho", "python -m dataecho", "python '/a b/train.py'"])
def test_every_way_to_start_is_read_back(program, monkeypatch):
    monkeypatch.setenv("DATAECHO_COMMAND", program)
    assert arguments_of(repeating_command(job("echo=batch"))) == ["echo=batch"]


def test_under_torchrun_the_command_starts_as_many_processes(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "2"), ("GROUP_WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    line = repeating_command(job("echo=batch"))
    assert line == "torchrun --nproc-per-node=2 train.py echo=batch" and arguments_of(line) == ["echo=batch"]


def test_a_trial_is_repeated_without_its_sweep():
    trial = ["echo=batch", "sweep=digits", "seed=7", "resume=auto", "pruner._target_=a.B", "hydra.sweeper.seed=1"]
    tracked = ["tracking.parent_uuid='12'", "tracking.run_name=x", "++tracking.tags={a:b}", "tracking.experiment=e"]
    line = repeating_command(job(*trial, *tracked))
    assert line == "python train.py echo=batch seed=7 tracking.experiment=e"


def test_a_secret_is_masked_and_must_be_typed_again(run):
    folder = run("task.train.storage_options.secret=abc", "tracking.tracking_uri=http://me:abc@host/")
    text = (folder / FILE_NAME).read_text()
    assert "abc" not in text and text.count("***") == 2
    with pytest.raises(SettingError, match=r"task\.train\.storage_options\.secret=\*\*\*.*Type it again"):
        with_settings_of_run([setting_of("resume", folder)])
    typed = ["task.train.storage_options.secret=abc", "tracking=none", setting_of("resume", folder)]
    assert with_settings_of_run(typed) == typed


def setting_of(key, value):
    """``key=value`` as the shell hands it on."""
    (word,) = shlex.split(setting(key, value))
    return word


def test_a_run_that_is_continued_brings_its_settings(run):
    folder = run("echo=batch", "factor=2", "budget=steps", "budget.steps=30", "weights=w", config_dir="/conf")
    typed = [setting_of("resume", folder), "budget.steps=40"]
    brought = ["--config-dir", "/conf", "echo=batch", "factor=2", "budget=steps"]
    assert with_settings_of_run(typed) == [*brought, "weights=w", *typed]


def test_a_typed_group_replaces_its_settings(run):
    folder = run("pipeline=processes", "pipeline.num_processes=2", "task=images", "task/images_data=own", "seed=3")
    typed = ["pipeline=threads", setting_of("resume", folder)]
    assert with_settings_of_run(typed) == ["task=images", "task/images_data=own", "seed=3", *typed]
    typed = ["task=digits", "mode=evaluate", setting_of("checkpoint", folder / "checkpoints" / "step-000000000003")]
    assert with_settings_of_run(typed) == ["pipeline=processes", "pipeline.num_processes=2", "seed=3", *typed]


def test_an_evaluation_starts_from_no_weights_but_those_of_the_checkpoint(run):
    folder = run("weights=w", "seed=3")
    typed = ["mode=evaluate", setting_of("checkpoint", folder)]
    assert with_settings_of_run(typed) == ["seed=3", *typed]


def test_nothing_is_taken_where_nothing_is_continued(run):
    folder = run("seed=3")
    for typed in (
        ["resume=auto", "run_dir=x"],
        ["mode=sync", setting_of("resume", folder)],
        ["mode=export", setting_of("checkpoint", folder)],
        ["-m", setting_of("resume", folder)],
        ["echo=batch"],
    ):
        assert with_settings_of_run(typed) == typed
    (folder / FILE_NAME).unlink()  # as an earlier version left it
    assert with_settings_of_run([setting_of("resume", folder)]) == [setting_of("resume", folder)]
