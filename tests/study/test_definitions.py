"""The studies in `conf/study` are complete: each composes for every task that has a size, at every scale."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dataecho.errors import SettingError
from dataecho_study.cells import expand
from dataecho_study.protocol import PastBest, read_definition
from tests.support import PROJECT

STUDY = PROJECT / "conf" / "study"
STUDIES = sorted(path.stem for path in STUDY.glob("figure_*.yaml"))
TASKS = sorted(path.stem for path in (STUDY / "size").glob("*.yaml") if not path.stem.endswith("_paper"))


def node(study, task="digits", *overrides):
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        composed = compose("config", [f"study={study}", f"task={task}", *overrides], return_hydra_config=True)
    found = OmegaConf.to_container(composed.study, resolve=True)
    return found, composed


def definition(study, task="digits", *overrides):
    return read_definition(node(study, task, *overrides)[0], task=task)


def keys(study, task="digits", *overrides):
    read = definition(study, task, *overrides)
    return [cell.key for cell in expand(read.chosen_cells, read.size.echoes, batch_size=64)]


def test_every_figure_is_a_study():
    assert [f"figure_{number}" for number in range(3, 9)] == STUDIES


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_cells_without_echo_and_claims_at_every_scale(study, task):
    for scale in ("full", "small", "tiny"):
        read = definition(study, task, f"study.scale={scale}")
        cells = expand(read.chosen_cells, read.size.echoes, batch_size=64)
        assert read.name == study and read.claims
        assert any(cell.axes["echo"] == "none" for cell in cells)
        assert any(cell.axes["echo"] != "none" for cell in cells)


def test_the_cells_of_figure_3_are_those_of_the_task():
    echoes = ["batch", "after_augmentation", "before_augmentation"]
    assert keys("figure_3") == ["echo=none", *(f"echo={echo},factor=2" for echo in echoes)]


def test_figure_5_has_eight_factors_at_two_batch_sizes():
    factors = [1, 2, 3, 4, 6, 8, 12, 16]
    read = definition("figure_5")
    cells = expand(read.chosen_cells, read.size.echoes, batch_size=64)
    assert sorted((cell.axes["batch_size"], cell.axes["factor"]) for cell in cells) == [
        (float(size), float(factor)) for size in (64, 256) for factor in factors
    ]


def test_figure_4_crosses_five_factors_with_four_ratios_and_runs_one_at_a_time():
    read, composed = definition("figure_4"), node("figure_4")[1]
    cells = expand(read.chosen_cells, read.size.echoes, batch_size=64)
    assert {(cell.axes["factor"], cell.axes["throttle_ratio"]) for cell in cells} == {
        (factor, ratio) for factor in (1, 2, 4, 8, 16) for ratio in (1, 2, 4, 8)
    }
    assert read.winners_of == "figure_5" and composed.hydra.sweeper.num_parallel_trials == 1


@pytest.mark.parametrize("task", TASKS)
def test_sizes_have_a_fine_grid_and_a_buffer_that_fills_soon(task):
    size = definition("figure_3", task).size
    interval, budget = size.settings["task.eval_interval"], size.settings["task.budget"]
    baseline = budget / 2
    assert interval <= 0.03 * baseline
    assert size.quick_buffer <= 0.05 * baseline
    assert max(size.shuffle_buffers) / baseline == pytest.approx(0.3, rel=0.2)


@pytest.mark.parametrize(("task", "num_trials"), [("lm1b_transformer", 100), ("imagenet_resnet50", 50)])
def test_the_size_of_the_full_data_is_the_papers(task, num_trials):
    read = definition("figure_3", task, f"study/size={task}_paper")
    assert read.extent.num_trials == num_trials and read.extent.num_repeats == 5
    assert read.run_settings({}) == {}
    assert definition("figure_3", task, f"study/size={task}_paper", "study.scale=tiny").extent.num_trials == 1


def test_settings_of_a_batch_size_come_before_those_of_the_scale():
    read = definition("figure_5")
    assert read.run_settings({"batch_size": 256.0})["task.budget"] == 20000
    assert read.run_settings({"batch_size": 64.0})["task.budget"] == 10000
    tiny = definition("figure_5", "digits", "study.scale=tiny")
    assert tiny.run_settings({"batch_size": 256.0})["task.budget"] == 6000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["study.scale=huge"],
            r"^study.scale=huge cannot be used. Allowed: full, small, tiny. study.scale=small takes",
        ),
        (["study.stop_past=1"], r"^study.stop_past=1 cannot be used."),
        (["+study.cell=1"], r"^study.cell=1 cannot be used. .*Did you mean study.cells\?"),
        (["study.picture.x=colour"], r"^study.picture.x=colour cannot be used."),
        (["study.scales.full.num_trials=0"], r"^study.scales.full.num_trials=0 cannot be used."),
        (["study.size.two_batch_sizes=[1]"], r"^study.size.two_batch_sizes=\[1\] cannot be used."),
    ],
)
def test_a_mistake_in_a_definition_names_its_key(overrides, message):
    with pytest.raises(SettingError, match=message):
        definition("figure_3", "digits", *overrides)


def test_a_task_without_a_size_is_refused():
    with pytest.raises(
        SettingError, match=r"^task=images cannot be used. Allowed: a task with a study size, conf/study"
    ):
        definition("figure_3", "images")


@pytest.mark.parametrize(("spent", "is_pruned"), [(1999, False), (2000, False), (2001, True)])
def test_a_trial_ends_past_twice_the_best_of_its_search(spent, is_pruned):
    import optuna

    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=1000.0))
    study.add_trial(optuna.create_trial(value=float("inf")))
    running = study.ask()
    running.report(0.5, step=spent)
    assert PastBest(ratio=2.0).prune(study, study.trials[running.number]) is is_pruned


def test_nothing_is_pruned_before_a_trial_has_reached_the_target():
    import optuna

    study = optuna.create_study()
    running = study.ask()
    running.report(0.5, step=10**9)
    assert not PastBest(ratio=2.0).prune(study, study.trials[running.number])


def test_every_size_belongs_to_a_task():
    assert [task for task in TASKS if not Path(PROJECT, "conf", "task", f"{task}.yaml").exists()] == []
