"""A trial's process and its study: what is reported, and who is pruned."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import MedianPruner

from dataecho.errors import SettingError
from dataecho_search.study import pruning
from dataecho_search.study.pruning import OptunaPruner, StudyLink
from dataecho_search.study.storage import open_storage

MARKS = (256, 512, 768)


@pytest.fixture(autouse=True)
def no_link():
    yield
    pruning.connect(None)


def ask(tmp_path, direction):
    study = optuna.create_study(
        study_name="cell/0", storage=open_storage(None, tmp_path), directions=[direction], load_if_exists=True
    )
    return study, study.ask({"x": FloatDistribution(0, 1)}).number


def train(tmp_path, number, values, *, higher_is_better=True, storage=None):
    """What a trial's process does; the marks it got to."""
    link = StudyLink(
        storage=storage, sweep_dir=tmp_path, study_name="cell/0", number=number, pruner=MedianPruner(n_startup_trials=2)
    )
    pruning.connect(link)
    pruner = OptunaPruner()
    passed = []
    for mark, value in zip(MARKS, values, strict=True):
        passed.append(mark)
        if pruner.should_prune(fresh_examples=mark, value=value, higher_is_better=higher_is_better):
            break
    return passed


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("higher_is_better", [True, False], ids=["accuracy", "loss"])
def test_the_worst_are_pruned_whatever_the_study_and_the_metric_want(tmp_path, direction, higher_is_better):
    sign = 1 if higher_is_better else -1
    curves = {"good": (0.5, 0.7, 0.9), "better": (0.6, 0.8, 0.95), "best": (0.7, 0.9, 0.99), "worst": (0.1, 0.2, 0.3)}
    passed = {}
    for name, curve in curves.items():
        study, number = ask(tmp_path, direction)
        values = [sign * value for value in curve]
        passed[name] = train(tmp_path, number, values, higher_is_better=higher_is_better)
        study.tell(number, 1000.0 if direction == "minimize" else 0.5)
    assert passed == {"good": [*MARKS], "better": [*MARKS], "best": [*MARKS], "worst": [256]}
    (first, *_) = study.trials
    better_is_more = 1 if direction == "maximize" else -1
    assert first.intermediate_values == {
        256: better_is_more * 0.5,
        512: better_is_more * 0.7,
        768: better_is_more * 0.9,
    }


def test_a_resumed_trial_reports_a_mark_once(tmp_path):
    study, number = ask(tmp_path, "minimize")
    assert train(tmp_path, number, (0.5, 0.6, 0.7)) == [*MARKS]
    assert train(tmp_path, number, (0.5, 0.6, 0.7)) == [*MARKS]
    (trial,) = study.trials
    assert trial.intermediate_values == {256: -0.5, 512: -0.6, 768: -0.7}


def test_a_study_that_does_not_answer_prunes_nothing_and_stops_nobody(tmp_path, caplog):
    ask(tmp_path, "minimize")
    assert train(tmp_path, 0, (0.1, 0.1, 0.1), storage="postgresql://me:secret@127.0.0.1:9/x") == [*MARKS]
    assert caplog.text.count("so this trial is not pruned") == 1 and "secret" not in caplog.text


def test_outside_of_a_sweep_it_is_refused():
    with pytest.raises(SettingError, match=r"pruner=.*only in a trial of a sweep.*hydra/sweeper/pruner=median"):
        OptunaPruner()
