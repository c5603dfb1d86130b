"""Hooks are called when they are due, on every rank, and cost no training time."""

import pytest

from dataecho.errors import SettingError
from dataecho.training.budget import Budget
from dataecho.training.interruption import Interrupted
from tests.training.conftest import Run
from tests.training.test_ranks import on_every_rank
from tests.training.test_resume import at, sigterm


def seen_by(run, **when):
    """The (steps, fresh examples) at which a hook is called."""
    seen = []
    run.trainer.add_hook(lambda info: seen.append((info.steps, info.fresh_examples)), **when)
    return seen


def test_hooks_of_steps_and_marks_are_called_every_so_often(new_run):
    run = new_run()
    every_step, second_steps = seen_by(run), seen_by(run, every=2)
    marks, second_marks = seen_by(run, of="marks"), seen_by(run, every=2, of="marks")
    run.run()
    assert every_step == [(steps, 4 * steps) for steps in range(1, 7)]
    assert second_steps == [(2, 8), (4, 16), (6, 24)]
    assert marks == [(2, 8), (4, 16), (6, 24)]
    assert second_marks == [(4, 16)]


def test_a_hook_sees_the_newest_marks_metrics_and_the_folder(new_run):
    run = new_run(scores=[0.5, 0.25, 0.75])
    seen = []
    run.trainer.add_hook(lambda info: seen.append((info.metrics.get("score"), info.folder, info.is_first)), every=3)
    run.run()
    assert seen == [(0.5, run.folder, True), (0.25, run.folder, True)]


def test_a_resumed_run_counts_on(new_run):
    first = new_run(on_step=at(3, sigterm))
    before = seen_by(first, every=2), seen_by(first, every=2, of="marks")
    with pytest.raises(Interrupted):
        first.run()
    second = new_run(resume_from=first.checkpoint())
    after = seen_by(second, every=2), seen_by(second, every=2, of="marks")
    second.run()
    assert before == ([(2, 8)], []) and after == ([(4, 16), (6, 24)], [(4, 16)])


def test_a_hook_is_no_training_time_and_changes_nothing(new_run, other_run, now):
    settings = {"after": "decode", "factor": 2.5, "on_train": lambda: now.advance(1)}
    alone = new_run(**settings).run()
    run = other_run(0, **settings)
    for of in ("steps", "marks"):
        run.trainer.add_hook(lambda info: now.advance(100), of=of)
    run.run()
    assert run.trained == alone.trained and run.exact_spool == alone.exact_spool
    steps, marks = len(run.trained), len(run.spool)
    assert run.outcome.metrics["train_time"] == alone.outcome.metrics["train_time"] == steps
    assert run.outcome.metrics["wall_time"] == steps + 100 * (steps + marks)


def test_the_input_side_stands_still_while_a_hook_works(new_run, slow_source):
    def hook(info):
        before = slow_source.reads.total()
        reads.append(before)
        assert slow_source.reads.total() == before

    reads = []
    run = new_run(source=slow_source, look_ahead=1000)
    run.trainer.add_hook(hook, every=2)
    run.run()
    assert len(reads) == 3


def test_every_rank_calls_every_hook_after_the_same_step(tmp_path):
    def run(ranks):
        run = Run(tmp_path / str(ranks.rank), ranks=ranks, budget=Budget(steps=4))
        seen = []
        run.trainer.add_hook(lambda info: seen.append((info.steps, info.is_first, ranks.gather([info.steps]).tolist())))
        run.run()
        return seen

    first, second = on_every_rank(run)
    assert first == [(steps, True, [[steps], [steps]]) for steps in range(1, 5)]
    assert second == [(steps, False, [[steps], [steps]]) for steps in range(1, 5)]


def test_an_error_in_a_hook_ends_the_run_after_its_marks_checkpoint(new_run):
    def hook(info):
        raise ValueError("no room for pictures")

    run = new_run()
    run.trainer.add_hook(hook, of="marks")
    with pytest.raises(ValueError, match="no room for pictures"):
        run.run()
    assert run.checkpoint()["counts"]["steps"] == 2


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"every": 0}, r"^hooks.every=0 cannot be used. Allowed: whole numbers >= 1. 1 calls it every time"),
        ({"of": "epochs"}, r"^hooks.of=epochs cannot be used. Allowed: steps, marks. Use of=marks"),
    ],
)
def test_another_rhythm_is_refused(new_run, when, message):
    with pytest.raises(SettingError, match=message):
        new_run().trainer.add_hook(print, **when)
