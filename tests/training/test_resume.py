"""Stopped anywhere and continued, a run is the run it would have been."""

import math
import os
import signal
import threading
import time

import pytest

from dataecho.errors import SettingError
from dataecho.training import interruption
from dataecho.training.budget import Budget
from dataecho.training.checkpoint import list_checkpoints
from dataecho.training.heartbeat import FILE_NAME as HEARTBEAT
from dataecho.training.interruption import Interrupted
from dataecho.training.recipe import CheckpointSettings

ARMS = {
    "none": {},
    "read": {"after": "read", "factor": 2.5},
    "before augmentation": {"after": "before_augmentation", "factor": 2.5},
    "a stage between": {"after": "crop", "factor": 2.5},
    "after augmentation": {"after": "after_augmentation", "factor": 2.5},
    "unshuffled copies": {"after": "crop", "factor": 2.5, "shuffle_buffer": 0},
    "batch": {"after": "batch", "factor": 2.5},
    "shuffled batch": {"after": "batch", "factor": 2.5, "batch_shuffle_buffer": 3},
    "device": {"after": "device", "factor": 2.5},
    "shuffled device": {"after": "device", "factor": 2.5, "batch_shuffle_buffer": 3},
}
BUDGET = Budget(fresh=26)  # more than the epoch of 20


class Killed(BaseException):
    """What a process sees of SIGKILL: nothing is written after it."""


def at(wanted, action):
    """Calls ``action`` after step ``wanted``."""

    def on_step(steps):
        if steps == wanted:
            action()

    return on_step


def sigterm():
    signal.raise_signal(signal.SIGTERM)


def kill():
    raise Killed


def result(*runs):
    """What must not depend on how often a run was interrupted: batches, losses, marks, and the summary."""
    last = runs[-1]
    return {
        "trained": [batch for run in runs for batch in run.trained],
        "losses": [loss for run in runs for loss in run.backend.losses],
        "rates": [rate for run in runs for rate in run.backend.rates],
        "weight": last.backend.weight,
        "spool": last.exact_spool,
        "outcome": last.exact_outcome,
        "reached_target": last.outcome.reached_target,
        "checkpoints": [path.name for path in list_checkpoints(last.folder / "checkpoints")],
    }


def interrupted(run):
    with pytest.raises(Interrupted):
        run.run()
    return run


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_stopped_by_a_signal_at_any_step_continues_as_if_unbroken(new_run, other_run, arm):
    settings = {**ARMS[arm], "budget": BUDGET, "target": 0.1, "stop_at_target": False}
    whole = new_run(**settings).run()
    assert whole.outcome.reached_target
    expected = result(whole)
    num_steps = len(whole.trained)
    assert num_steps >= 6
    for steps in range(1, num_steps + 1):
        first = interrupted(other_run(steps, on_step=at(steps, sigterm), **settings))
        assert len(first.trained) == steps
        assert first.display.calls[-1] == "stop"
        state = first.checkpoint()
        assert state["counts"]["steps"] == steps
        second = other_run(steps, resume_from=state, **settings).run()
        found = result(first, second)
        assert found.pop("checkpoints")[-1] == expected["checkpoints"][-1]
        assert found == {name: value for name, value in expected.items() if name != "checkpoints"}


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_stopped_after_every_single_step_is_the_unbroken_one(new_run, other_run, arm):
    settings = {**ARMS[arm], "budget": BUDGET, "target": 0.1, "stop_at_target": False}
    expected = result(new_run(**settings).run())
    runs = [interrupted(other_run(0, on_step=at(1, sigterm), **settings))]
    for steps in range(2, len(expected["trained"]) + 1):
        again = other_run(0, on_step=at(steps, sigterm), resume_from=runs[-1].checkpoint(), **settings)
        runs.append(interrupted(again))
        assert len(again.trained) == 1
    runs.append(other_run(0, resume_from=runs[-1].checkpoint(), **settings).run())
    assert {**result(*runs), "checkpoints": None} == {**expected, "checkpoints": None}


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("arm", ["none", "before augmentation", "shuffled batch", "shuffled device"])
def test_a_run_killed_at_any_step_goes_back_to_its_last_checkpoint(new_run, other_run, arm, interval):
    settings = {**ARMS[arm], "budget": BUDGET, "checkpoints": CheckpointSettings(interval=interval), "look_ahead": 5}
    whole = new_run(**settings).run()
    expected = result(whole)
    for steps in range(1, len(whole.trained) + 1):
        first = other_run(steps, on_step=at(steps, kill), **settings)
        with pytest.raises(Killed):
            first.run()
        state = first.checkpoint()
        kept = state["counts"]["steps"] if state else 0
        due = [0, *whole.num_steps_at_marks][::interval]
        assert kept == max(mark for mark in due if mark < steps or mark == 0)
        second = other_run(steps, resume_from=state, **settings).run()
        del first.backend.trained[kept:], first.backend.losses[kept:], first.backend.rates[kept:]
        assert result(first, second) == expected


def test_marks_after_the_last_checkpoint_are_cut_from_the_spool_and_written_again(new_run):
    killed = new_run(budget=Budget(fresh=40), checkpoints=CheckpointSettings(interval=3), on_step=at(9, kill))
    with pytest.raises(Killed):
        killed.run()
    assert [step for step, _ in killed.spool] == [8, 16, 24, 32]
    state = killed.checkpoint()
    assert state["counts"]["steps"] == 6
    resumed = new_run(budget=Budget(fresh=40), checkpoints=CheckpointSettings(interval=3), resume_from=state)
    assert [step for step, _ in resumed.spool] == [8, 16, 24]
    resumed.run()
    assert [step for step, _ in resumed.spool] == [8, 16, 24, 32, 40]
    assert resumed.tracker.positions[0] == killed.tracker.positions[-1] == state["spool_position"]


@pytest.mark.parametrize("arm", ARMS)
def test_threads_and_look_ahead_may_change_on_the_way(new_run, other_run, arm):
    settings = {**ARMS[arm], "budget": BUDGET}
    expected = result(new_run(**settings).run())
    first = interrupted(other_run(0, on_step=at(4, sigterm), num_threads=1, look_ahead=1, **settings))
    second = other_run(0, resume_from=first.checkpoint(), num_threads=3, look_ahead=9, **settings).run()
    assert {**result(first, second), "checkpoints": None} == {**expected, "checkpoints": None}


def test_a_run_that_had_ended_is_not_trained_further(new_run):
    for settings in ({"budget": BUDGET}, {"budget": BUDGET, "target": 0.0}):
        whole = new_run(**settings).run()
        before, spool = result(whole), whole.spool
        again = new_run(resume_from=whole.checkpoint(), **settings).run()
        assert again.trained == [] and again.num_steps_at_marks == []
        assert again.spool == spool
        assert again.exact_outcome == before["outcome"]
        whole.remove()


def test_a_run_that_stopped_at_its_target_can_be_taken_to_its_budget(new_run, other_run):
    expected = result(new_run(budget=BUDGET, target=0.1, stop_at_target=False).run())
    first = other_run(0, budget=BUDGET, target=0.1).run()
    assert first.outcome.reached_target and len(first.trained) < len(expected["trained"])
    second = other_run(0, budget=BUDGET, target=0.1, stop_at_target=False, resume_from=first.checkpoint()).run()
    assert result(first, second) == expected


def test_an_older_checkpoint_may_be_continued_and_what_was_ahead_of_it_goes(new_run, other_run):
    expected = result(new_run(budget=BUDGET, checkpoints=CheckpointSettings(keep=2)).run())
    first = other_run(0, budget=BUDGET, checkpoints=CheckpointSettings(keep=9)).run()
    oldest, *newer = list_checkpoints(first.folder / "checkpoints")
    for path in newer:
        (path / "arrays.safetensors").write_bytes(b"")
    state = first.checkpoint()
    assert state["counts"]["steps"] == int(oldest.name[-12:]) == 2
    second = other_run(
        0, budget=BUDGET, checkpoints=CheckpointSettings(keep=2), resume_from=state, on_step=at(3, sigterm)
    )
    interrupted(second)
    assert second.checkpoint()["counts"]["steps"] == 3
    third = other_run(0, budget=BUDGET, checkpoints=CheckpointSettings(keep=2), resume_from=second.checkpoint()).run()
    del first.trained[2:], first.backend.losses[2:], first.backend.rates[2:]
    assert result(first, second, third) == expected


def checkpointed_steps(run):
    return [int(path.name[-12:]) for path in list_checkpoints(run.folder / "checkpoints")]


def test_the_best_mark_before_a_resume_may_stay_the_best(new_run):
    budget = Budget(fresh=40)
    first = interrupted(new_run(budget=budget, scores=[0.1, 0.9], on_step=at(5, sigterm)))
    second = new_run(budget=budget, scores=[0.2, 0.8, 0.3], resume_from=first.checkpoint()).run()
    assert second.checkpoint()["best"] == {"steps": 4, "value": 0.9}
    assert checkpointed_steps(second) == [4, 8, 10]


def test_evaluations_are_counted_on_where_a_checkpoint_is_due_at_every_second(new_run):
    settings = {"budget": Budget(fresh=40), "checkpoints": CheckpointSettings(interval=2, keep=9)}
    first = interrupted(new_run(on_step=at(3, sigterm), **settings))
    second = new_run(resume_from=first.checkpoint(), **settings).run()
    assert checkpointed_steps(second) == [3, 4, 8, 10]


def test_a_run_that_diverged_is_not_trained_further(new_run):
    first = new_run()
    first.backend.poison = math.nan
    assert first.run().outcome.diverged
    again = new_run(resume_from=first.checkpoint()).run()
    assert again.outcome.diverged and again.trained == []
    assert [step for step, _ in again.spool] == [8]


def test_a_loss_that_explodes_ends_the_run_also_where_the_first_mark_was_before_a_resume(new_run):
    def explode(steps):
        second.backend.poison = 1e6 if steps == 3 else second.backend.poison

    settings = {"budget": Budget(fresh=100), "max_loss_ratio": 10.0}
    first = interrupted(new_run(on_step=at(2, sigterm), **settings))
    second = new_run(on_step=explode, resume_from=first.checkpoint(), **settings)
    assert second.run().outcome.diverged and [step for step, _ in second.spool] == [8, 16]


# What a signal does


def test_a_signal_before_the_first_step_is_a_checkpoint_of_nothing(new_run, slow_source):
    slow_source.on_read = lambda: os.kill(os.getpid(), signal.SIGTERM) if not slow_source.reads else None
    first = interrupted(new_run(source=slow_source, num_threads=1))
    assert first.trained == []
    state = first.checkpoint()
    assert state["counts"]["steps"] == 0
    assert len(new_run(resume_from=state).run().trained) == 6


def test_a_starved_run_is_stopped_where_it_waits(new_run, slow_source):
    """The checkpoint is there, and the tracker told, before the read that everything waits for has returned."""
    arrived, written, in_time = threading.Event(), threading.Event(), []

    def on_read():
        if slow_source.reads.total() >= 12:
            arrived.set()
            in_time.append(written.wait(20))

    def on_covered(position):
        if arrived.is_set():
            written.set()

    def send():
        arrived.wait(20)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    slow_source.on_read = on_read
    sender = threading.Thread(target=send)
    sender.start()
    run = new_run(source=slow_source, shuffle_buffer=0, num_threads=1, on_covered=on_covered)
    interrupted(run)
    sender.join()
    assert in_time and all(in_time), "the signal was delayed until the input came"
    assert run.checkpoint()["counts"]["steps"] == len(run.trained)
    assert len(run.trained) in (2, 3)  # where it waits for the batch, or for the worker to stand still before a mark
    sums = run.checkpoint()["sums"]
    assert sums["input_wait_seconds"] > max(0.3, sums["step_seconds"])


@pytest.fixture
def every_signal_is_a_request(monkeypatch):
    monkeypatch.setattr(interruption, "SECONDS_OF_A_REQUEST", 0.0)


def test_a_signal_again_within_a_second_changes_nothing(new_run, monkeypatch):
    monkeypatch.setattr(interruption, "SECONDS_OF_A_REQUEST", 1e6)
    run = new_run(on_step=at(3, lambda: (sigterm(), sigterm())))
    state = run.backend.state
    run.backend.state = lambda: (sigterm() if len(run.trained) == 3 else None) or state()
    interrupted(run)
    sigterm()
    assert run.checkpoint()["counts"]["steps"] == 3


@pytest.mark.usefixtures("every_signal_is_a_request")
def test_a_second_signal_stops_at_once_without_another_checkpoint(new_run):
    run = new_run(on_step=at(3, lambda: (sigterm(), sigterm())))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.checkpoint()["counts"]["steps"] == 2
    assert run.display.calls[-1] == "stop"


@pytest.mark.usefixtures("every_signal_is_a_request")
def test_a_second_signal_while_saving_leaves_the_older_checkpoint(new_run):
    run = new_run(on_step=at(3, sigterm))
    state = run.backend.state
    run.backend.state = lambda: (sigterm() if len(run.trained) == 3 else None) or state()
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.checkpoint()["counts"]["steps"] == 2


@pytest.mark.usefixtures("every_signal_is_a_request")
def test_the_handlers_are_restored_after_a_run(new_run, other_run):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    new_run().run()
    interrupted(other_run(0, on_step=at(1, sigterm)))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# Time and reads


def test_what_a_killed_process_spent_is_spent(new_run, now):
    """Killed in step 6: the checkpoint is that of step 4, the last heartbeat that after step 5."""
    spend = {"on_train": lambda: now.advance(1), "on_evaluate": lambda: now.advance(100)}
    killed = new_run(on_step=at(6, kill), budget=Budget(fresh=40), **spend)
    with pytest.raises(Killed):
        killed.run()
    reads = killed.source.reads.total()
    resumed = new_run(resume_from=killed.checkpoint(), budget=Budget(fresh=40), **spend).run()
    assert len(resumed.trained) == 6
    assert resumed.outcome.metrics["train_time"] == 5 + 6
    assert resumed.outcome.metrics["wall_time"] == 205 + 6 + 3 * 100
    assert resumed.outcome.metrics["read_examples"] >= 24 + 24
    assert resumed.outcome.metrics["read_examples"] <= reads + resumed.source.reads.total()


def test_reads_of_a_killed_process_are_counted_on_top(new_run):
    first = interrupted(new_run(on_step=at(3, sigterm)))
    (first.folder / HEARTBEAT).write_text('{"wall_time": 1, "train_time": 1, "read_examples": 1000}')
    resumed = new_run(resume_from=first.checkpoint()).run()
    assert 1012 <= resumed.outcome.metrics["read_examples"] <= 1000 + resumed.source.reads.total()


def test_a_heartbeat_older_than_the_checkpoint_changes_nothing(new_run, now):
    first = interrupted(new_run(on_step=at(3, sigterm), on_train=lambda: now.advance(1)))
    (first.folder / HEARTBEAT).write_text('{"wall_time": 1, "train_time": 1, "read_examples": 1}')
    resumed = new_run(resume_from=first.checkpoint(), on_train=lambda: now.advance(1)).run()
    assert resumed.outcome.metrics["train_time"] == 6
    assert resumed.outcome.metrics["read_examples"] >= first.checkpoint()["counts"]["read_examples"]


def test_a_checkpoint_on_a_signal_has_the_workers_time_too(new_run, slow_source):
    run = interrupted(new_run(source=slow_source, eval_interval=100, budget=Budget(fresh=200), on_step=at(3, sigterm)))
    sums = run.checkpoint()["sums"]
    assert sums["steps"] == 3
    assert sums["upstream_seconds"] > 4 * 0.003
    assert sums["cpu_seconds"] > 0


# Refusals


def refusal(new_run, **changes):
    state = interrupted(new_run(on_step=at(3, sigterm), after="batch", factor=2.5)).checkpoint()
    with pytest.raises(SettingError) as caught:
        new_run(resume_from=state, **{"after": "batch", "factor": 2.5, **changes})
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": {"seed": 1}}, "seed=1 cannot be used. Allowed: 0, the value the checkpoint was written with"),
        ({"identity": {"seed": 0, "lr": 0.1}}, "lr=0.1 cannot be used. Allowed: None, the value the checkpoint was"),
        ({"identity": {"lr": None}}, "seed=None cannot be used. Allowed: 0, the value the checkpoint was written with"),
        ({"factor": 3.5}, "factor=3.5 cannot be used. Allowed: 2.5, the value the checkpoint was written with"),
        ({"after": "device"}, "echo_after=device cannot be used. Allowed: batch, the value the checkpoint was written"),
        (
            {"after": "read"},
            "echo_after=read cannot be used. Allowed: batch, the value the checkpoint was written with",
        ),
        ({"shuffle_buffer": 9}, "shuffle_buffer=9 cannot be used. Allowed: 8, the value the checkpoint was written"),
        ({"seed": 1, "identity": {"seed": 0}}, "seed=1 cannot be used. Allowed: 0, the value the checkpoint was"),
    ],
)
def test_another_setting_is_refused_with_both_values(new_run, changes, message):
    assert refusal(new_run, **changes).startswith(message)


def test_a_refused_resume_leaves_the_run_as_it_was(new_run):
    first = interrupted(new_run(on_step=at(5, sigterm), budget=BUDGET))
    state, spool = first.checkpoint(), first.spool
    with pytest.raises(SettingError):
        new_run(resume_from=state, identity={"seed": 1}, budget=BUDGET)
    with pytest.raises(SettingError):
        new_run(resume_from=state, seed=1, identity={"seed": 0}, budget=BUDGET)
    assert first.spool == spool
    assert first.checkpoint()["counts"] == state["counts"]


def test_a_folder_that_lost_its_spool_is_refused(new_run):
    first = interrupted(new_run(on_step=at(5, sigterm)))
    (first.folder / "metrics.jsonl").write_text("")
    with pytest.raises(SettingError, match=r"metrics.jsonl=0 bytes cannot be used.*Restore the run folder"):
        new_run(resume_from=first.checkpoint())
