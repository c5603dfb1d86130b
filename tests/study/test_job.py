"""A command becomes a job for each task: its plan, cells, sweeps and folder, checked before anything runs."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from dataecho.errors import SettingError
from dataecho_search.sweep.start import HydraParts
from dataecho_study.job import prepare
from dataecho_study.request import read_request
from tests.support import PROJECT


class Context:
    """What a sweeper is given by Hydra."""

    def __init__(self, loader):
        self.config_loader = loader


@contextmanager
def hydra_of(*arguments):
    """Hydra's parts of a multirun with these arguments."""
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", list(arguments), run_mode=RunMode.MULTIRUN)
        yield HydraParts(context=Context(loader), task_function=None, config=config)


def jobs(*arguments):
    with hydra_of(*arguments) as hydra:
        request = read_request([text for text in arguments if not text.startswith("hydra")], hydra)
        return [prepare(task, request, hydra) for task in request.tasks]


def job(*arguments):
    (only,) = jobs("study=figure_3", "task=digits", *arguments)
    return only


def test_a_study_is_a_search_for_each_cell_and_repeat():
    made = job()
    assert made.title == "figure_3 digits" and made.folder == Path("runs/studies/figure_3-digits-full").absolute()
    assert (made.settings.num_repeats, made.settings.num_trials, made.num_planned) == (5, 8, 160)
    assert made.settings.pruner == {"_target_": "dataecho_study.protocol.PastBest", "ratio": 2.0}
    assert (made.plan.metric, made.plan.goal, made.plan.target, made.plan.backend) == ("accuracy", "max", 0.97, "torch")
    assert [set(cell.space) for cell in made.cells] == [{"optimizer.learning_rate", "optimizer.momentum"}] * 4
    assert not made.plan.is_tuned_once and made.tuning is None


def test_without_a_task_all_that_have_a_size_are_studied():
    titles = [made.title for made in jobs("study=figure_3", "study.scale=tiny")]
    sizes = sorted(path.stem for path in (PROJECT / "conf/study/size").glob("*.yaml") if "_paper" not in path.stem)
    assert sorted(titles) == [f"figure_3 {task}" for task in sizes] and len(sizes) == 6


def test_several_tasks_are_several_studies():
    made = jobs("study=figure_3", "task=digits,lm1b_transformer", "study.scale=tiny", "hydra.sweep.dir=/tmp/mine")
    assert [one.folder for one in made] == [Path("/tmp/mine/digits"), Path("/tmp/mine/lm1b_transformer")]
    assert [cell.name for cell in made[1].cells] == ["echo=none", "echo=batch,factor=2", "echo=example,factor=2"]


def test_another_setting_is_another_folder_and_tracking_is_none():
    usual = Path("runs/studies/figure_3-digits-full").absolute()
    assert job("tracking=none", "display=none").folder == usual
    assert job("hydra.sweeper.seed=3").folder == usual.with_name("figure_3-digits-full-seed3")
    others = {job(text).folder for text in ("backend=tensorflow", "study.tuned_once=true", "task.target=0.9")}
    assert len(others) == 3 and usual not in others


def test_options_of_the_sweep_come_before_those_of_the_scale():
    made = job("hydra.sweeper.num_trials=3", "hydra.sweeper.num_repeats=2", "study.scale=tiny")
    assert (made.settings.num_trials, made.settings.num_repeats, made.num_planned) == (3, 2, 24)


def test_cells_of_the_command_come_before_those_of_the_scale():
    (made,) = jobs("study=figure_5", "task=digits", "study.scale=tiny", "study.cells=[{echo:none,batch_size:32}]")
    assert [cell.name for cell in made.cells] == ["echo=none,batch_size=32"]


def test_tuned_once_has_one_search_and_fresh_seeds():
    made = job("study.tuned_once=true")
    assert made.plan.is_tuned_once and made.tuning is not None
    assert (made.tuning.num_repeats, made.tuning.num_trials) == (1, 8)
    assert (made.settings.num_repeats, made.settings.num_trials) == (5, 1)
    assert made.tuning.seed != made.settings.seed
    assert made.num_planned == 4 * (8 + 5)


def test_a_setting_of_the_command_comes_before_that_of_the_size():
    made = job("task.target=0.5", "optimizer.momentum=0.9")
    assert made.plan.target == 0.5
    assert [set(cell.space) for cell in made.cells] == [{"optimizer.learning_rate"}] * 4


def test_the_command_of_a_plan_names_no_place():
    made = job("hydra.sweep.dir=/somewhere", "tracking.experiment=mine", "hydra.sweeper.num_trials=3", "seed=4")
    assert made.plan.command.endswith("-m study=figure_3 task=digits seed=4 hydra.sweeper.num_trials=3")


def test_data_of_full_size_choose_the_papers_size(tmp_path):
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(10_000 * 3073)  # black images, which take no room
    data = ("task/cifar10_resnet32_data=official", f"task.train.folder={tmp_path}")
    (made,) = jobs("study=figure_6", "task=cifar10_resnet32", *data)
    assert (made.settings.num_trials, made.plan.target) == (100, 0.91)
    assert {cell.facts["batch_size"] for cell in made.cells} == {"32.0", "128.0", "512.0", "2048.0"}
    assert not any(text.startswith("checkpoints") for text in made.cells[0].overrides)


def test_the_plan_is_written_once(tmp_path):
    plan = job("study.scale=tiny").plan
    plan.save(tmp_path)
    written = (tmp_path / "plan.json").stat().st_mtime_ns
    plan.save(tmp_path)
    assert (tmp_path / "plan.json").stat().st_mtime_ns == written
    assert json.loads((tmp_path / "plan.json").read_text())["claims"][0]["kind"] == "at_most"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["echo=batch"], r"^echo=batch cannot be used. Allowed: settings that all cells share"),
        (["seed=1,2"], r"^seed=1,2 cannot be used."),
        (["task.batch_size=8"], r"^task.batch_size=8 cannot be used."),
        (["study.scale=huge"], r"^study.scale=huge cannot be used. Allowed: full, small, tiny"),
        (["study.cells=[{echo:example,factor:2}]"], r"^study.cells=.* Allowed: cells with an echo that the task has"),
        (
            ["+study.winners_of=figure_5", "study.winners=/nowhere"],
            r"^study.winners=/nowhere cannot be used. Allowed: the folder of a study figure_5 of task digits with all "
            r"cells. Run it first with the same options, or name its folder: .*-m study=figure_5 task=digits",
        ),
    ],
)
def test_a_mistake_is_refused(arguments, message):
    with pytest.raises(SettingError, match=message):
        job(*arguments)
