"""A trial's life in its storage, cut at every step."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from dataecho.errors import SettingError
from dataecho_search.samplers import QuasiRandom
from dataecho_search.space.cells import Cell
from dataecho_search.study.objectives import Objective, RunOutcome
from dataecho_search.study.results import study_result
from dataecho_search.study.storage import open_storage
from dataecho_search.study.studies import StudySpec, open_study

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
COST = Objective("fresh_examples_to_target", "minimize")


def plan(
    *, repeat=0, space=None, objectives=(COST,), overrides=("echo=batch", "factor=2"), seed=0, seed_per_trial=True
):
    cell = Cell("echo=batch,factor=2", overrides, {"echo": "batch", "factor": "2"}, SPACE if space is None else space)
    return StudySpec(
        cell=cell, repeat=repeat, objectives=objectives, sampler=QuasiRandom(), sampler_name="qmc", seed=seed,
        seed_per_trial=seed_per_trial,
    )  # fmt: skip


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    return open_storage(None if request.param == "journal" else f"sqlite:////{tmp_path}/studies.db", tmp_path)


def completed(value):
    return RunOutcome("completed", (value,), {"accuracy": 0.5}, "run-1")


def alive(name):
    return name == "alive"


def test_a_trial_is_asked_claimed_and_finished(storage):
    study = open_study(plan(), storage, num_trials=2)
    assert study.ask() == 0
    (trial,) = study.trials()
    assert trial.state == TrialState.WAITING and trial.params.keys() == SPACE.keys()
    assert study.claim(0, "me") and not study.claim(0, "you")
    study.finish(0, completed(7.0))
    study.finish(0, completed(8.0))  # the answer to the first was lost
    assert not study.claim(0, "you")
    (result,) = study_result(study.study).trials
    assert (result.state, result.values, result.metrics, result.mlflow_run_id) == (
        "completed", (7.0,), {"accuracy": 0.5}, "run-1",
    )  # fmt: skip
    assert result.folder.startswith("echo=batch,factor=2/0/0000-") and result.seed == trial.user_attrs["seed"]
    counts = study.counts()
    assert (counts.num_counted, counts.num_open, counts.num_asked) == (1, 0, 1)


def test_asking_that_was_cut_anywhere_is_completed_with_the_same_point(storage, tmp_path):
    unbroken = open_study(plan(), open_storage(None, tmp_path / "other"), num_trials=4)
    for _ in range(4):
        unbroken.ask()
    wanted = [(trial.params, trial.user_attrs) for trial in unbroken.trials()]

    study = open_study(plan(), storage, num_trials=4)
    study.ask()
    storage.create_new_trial(study.study._study_id)  # and nothing more
    assert study.recover(alive, alone=True) == []
    study.study.sampler = QuasiRandom().sampler(SPACE, seed=plan().study_seed, ordinal=2)
    trial_id = storage.create_new_trial(study.study._study_id)
    study.trials()
    optuna.trial.Trial(study.study, trial_id)._suggest("x", SPACE["x"])  # one parameter of two
    study.recover(alive, alone=True)
    cut = study.ask()  # everything but its state
    storage.set_trial_state_values(study._id(cut), TrialState.RUNNING)
    assert [trial.number for trial in study.recover(alive, alone=True)] == [3]
    study.release(3)
    assert [(trial.params, {**trial.user_attrs, "owner": None}) for trial in study.trials()] == [
        (params, {**attributes, "owner": None}) for params, attributes in wanted
    ]
    assert all(trial.state == TrialState.WAITING for trial in study.trials())


def test_a_dead_members_trials_wait_again_and_a_living_ones_do_not(storage):
    study = open_study(plan(), storage, num_trials=4)
    for owner in ("alive", "dead", None):
        number = study.ask()
        study.claim(number, owner or "x")
        if owner is None:
            storage.set_trial_user_attr(study._id(number), "owner", None)
    assert [trial.number for trial in study.recover(alive, alone=False)] == [1]
    assert [trial.number for trial in study.recover(alive, alone=True)] == [1, 2]


def test_what_failed_is_tried_again_at_the_same_point_and_counts_once(storage):
    study = open_study(plan(), storage, num_trials=4)
    study.ask()
    study.claim(0, "me")
    study.fail(0, "no room on the disk")
    assert len(study.counts().failed) == 1
    assert study.retry(study.counts().failed[0]) == 1
    study.ask()
    first, again, third = study.trials()
    assert again.params == first.params and again.user_attrs["folder"] == first.user_attrs["folder"]
    assert third.user_attrs["ordinal"] == 1 and third.params != first.params
    assert study.counts().failed == () and study.counts().num_asked == 2
    assert [trial.state for trial in study_result(study.study).trials] == ["retried", "waiting", "waiting"]


def test_repeats_have_points_and_seeds_of_their_own(storage):
    first, second = (open_study(plan(repeat=repeat), storage, num_trials=3) for repeat in (0, 1))
    for study in (first, second):
        for _ in range(3):
            study.ask()
    values = [{trial.params["x"] for trial in study.trials()} for study in (first, second)]
    seeds = [trial.user_attrs["seed"] for study in (first, second) for trial in study.trials()]
    assert not values[0] & values[1] and len(set(seeds)) == 6


def test_diverged_trials_do_not_count_and_pruned_ones_do(storage):
    study = open_study(plan(), storage, num_trials=4)
    for state in ("completed", "diverged", "pruned", "failed"):
        number = study.ask()
        study.claim(number, "me")
        study.finish(number, RunOutcome(state, (1.0,) if state == "completed" else (), {}, None))
    counts = study.counts()
    assert (counts.num_counted, counts.num_diverged, len(counts.failed)) == (2, 1, 1)
    assert [trial.state for trial in study_result(study.study).trials] == ["completed", "diverged", "pruned", "failed"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"space": {"x": SPACE["x"]}}, "space of the study echo=batch,factor=2/0=.*was begun.*hydra.sweeper.name"),
        ({"objectives": (Objective("eval_loss", "minimize"),)}, "objectives of the study .*fresh_examples_to_target"),
        ({"objectives": (Objective("fresh_examples_to_target", "maximize"),)}, "direction of the study"),
        ({"objectives": (COST, Objective("eval_loss", "minimize"))}, "(objective|direction)s? of the study"),
        ({"overrides": ("echo=batch", "factor=2", "budget.fresh=9")}, "fixed of the study .*budget.fresh=9"),
        ({"seed": 1}, "sampler_seed of the study"),
    ],
)
def test_a_study_that_is_another_is_refused(storage, changed, message):
    open_study(plan(), storage, num_trials=2).ask()
    with pytest.raises(SettingError, match=message):
        open_study(plan(**changed), storage, num_trials=2)


def test_the_total_may_change_and_so_may_what_does_not_matter(storage):
    open_study(plan(), storage, num_trials=2).ask()
    overrides = ("echo=batch", "factor=2", "display=none", "tracking=none")
    assert study_result(open_study(plan(overrides=overrides), storage, num_trials=5).study).num_trials == 5


def test_a_study_whose_creator_was_killed_is_completed(storage):
    optuna.create_study(study_name=plan().name, storage=storage, directions=["minimize"])
    study = open_study(plan(), storage, num_trials=2)
    assert study_result(study.study).cell == {"echo": "batch", "factor": "2"}


def test_a_secret_is_not_stored_and_a_new_one_continues_the_study(storage):
    def overrides(secret):
        return ("echo=batch", "factor=2", f"task.train.urls=[https://h/a.tar?X-Amz-Signature={secret}]")

    study = open_study(plan(overrides=overrides("0ld")), storage, num_trials=2)
    study.ask()
    assert "0ld" not in str(study.study.user_attrs) and "X-Amz-Signature=***" in str(study.study.user_attrs["fixed"])
    assert len(open_study(plan(overrides=overrides("n3w")), storage, num_trials=2).trials()) == 1
    study.study.set_user_attr("fixed", sorted(overrides("0ld")))  # as older versions stored it
    assert len(open_study(plan(overrides=overrides("n3w")), storage, num_trials=2).trials()) == 1
    with pytest.raises(SettingError, match=r"fixed of the study .*Signature=\*\*\*"):
        open_study(plan(overrides=(*overrides("n3w"), "seed=1")), storage, num_trials=2)
