"""The loop over a real feed: marks, budgets, targets, clocks and counts, exactly."""

import itertools
import math
import re
import threading
import time

import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.batch import Batch
from dataecho.training.budget import Budget
from dataecho.training.checkpoint import list_checkpoints
from dataecho.training.contracts import Pruner
from dataecho.training.recipe import CheckpointSettings
from dataecho.training.schedule import LinearDecay
from tests.training.conftest import CountingSource


class SequentialSource(CountingSource):
    """Is read when it enters the plan."""

    random_access = False


POINTS = ["read", "decode", "crop", "color", "batch", "device"]
ARMS = [(None, 1.0), *itertools.product(POINTS, [1.0, 2.0, 2.5, 8.0])]
ALL_ARMS = pytest.mark.parametrize(("after", "factor"), ARMS)


def rows(batch):
    return {name: array.tolist() for name, array in batch.arrays.items()}


def history(batches):
    """Fresh examples after 0, 1, 2 ... of these batches: items are told apart by what they are, not by the plan."""
    met, after = set(), [0]
    for batch in batches:
        met |= set(zip(batch.planned.epoch.tolist(), batch["x"].tolist(), strict=True))
        after.append(len(met))
    return after


def last_within(fresh, limit):
    """The most steps that stay within ``limit`` fresh examples."""
    return max(steps for steps, spent in enumerate(fresh) if spent <= limit)


def steps_at_marks(fresh, *, budget, interval):
    """Where every mark belongs: at the last moment before it is passed, or at the end."""
    end = last_within(fresh, budget)
    marks = []
    while not marks or marks[-1] < end:
        marks.append(min(end, last_within(fresh, (len(marks) + 1) * interval)))
    return marks


@ALL_ARMS
def test_every_mark_is_evaluated_after_the_last_batch_that_belongs_before_it(new_run, after, factor):
    run = new_run(after=after, factor=factor, eval_interval=7, budget=Budget(fresh=26)).run()
    batches = run.planned(len(run.trained) + 9)
    fresh = history(batches)
    assert fresh[-1] > 26
    marks = steps_at_marks(fresh, budget=26, interval=7)
    assert len(marks) == 4
    assert run.num_steps_at_marks == marks
    assert run.trained == [rows(batch) for batch in batches[: marks[-1]]]
    assert [(step, metrics["fresh_examples"]) for step, metrics in run.spool] == [
        (7 * number, fresh[steps]) for number, steps in enumerate(marks, start=1)
    ]


@ALL_ARMS
def test_counts_are_exact_at_every_mark(new_run, after, factor):
    run = new_run(after=after, factor=factor, budget=Budget(fresh=26), shuffle_buffer=8).run()
    batches = run.planned(len(run.trained))
    fresh = history(batches)
    for (_, metrics), steps in zip(run.spool, run.num_steps_at_marks, strict=True):
        entered = [ordinal for batch in batches[:steps] for ordinal in batch.planned.entered[:, 0].tolist()]
        assert entered == list(range(len(entered)))
        assert metrics["steps"] == steps
        assert metrics["fresh_examples"] == fresh[steps]
        assert metrics["delivered_examples"] == 4 * steps  # no row of weight 0
        assert metrics["entered_examples"] == len(entered) >= metrics["fresh_examples"]
        assert metrics["epochs_entered"] == 1 + (len(entered) - 1) // 20
        assert metrics["skipped_examples"] == 0
        assert metrics["read_examples"] >= metrics["fresh_examples"]
    assert run.spool[-1][1]["read_examples"] <= run.source.reads.total()
    assert run.outcome.metrics["fresh_examples"] == run.display.last.fresh_examples == fresh[-1] <= 26


def test_without_echo_everything_read_is_counted_once(new_run):
    run = new_run(shuffle_buffer=0, look_ahead=1, num_threads=1).run()
    for number, (_, metrics) in enumerate(run.spool, start=1):
        assert metrics["fresh_examples"] == metrics["delivered_examples"] == metrics["entered_examples"] == 8 * number
        assert 8 * number <= metrics["read_examples"] <= 8 * number + 2 * 4  # the batch at hand, and one ahead


def test_the_shuffle_buffer_is_entered_before_anything_is_fresh(new_run):
    run = new_run(budget=Budget(steps=1), shuffle_buffer=8).run()
    assert (run.outcome.metrics["fresh_examples"], run.outcome.metrics["entered_examples"]) == (4, 12)


def test_repeats_are_trained_before_the_mark_and_in_this_order(new_run):
    run = new_run(after="batch", factor=2.0, budget=Budget(fresh=16)).run()
    assert [event for event in run.events if event != "synchronize"] == [
        *["put", "train"] * 4,
        "evaluate",
        *["put", "train"] * 4,
        "evaluate",
    ]


def test_repeats_after_a_spent_budget_are_still_trained(new_run):
    run = new_run(after="batch", factor=3.0, budget=Budget(fresh=4), eval_interval=4).run()
    assert len(run.trained) == 3
    assert run.outcome.metrics["fresh_examples"] == 4
    assert run.num_steps_at_marks == [3]


def test_the_device_has_done_everything_before_an_evaluation(new_run):
    events = new_run().run().events
    assert all(events[number - 1] == "synchronize" for number, event in enumerate(events) if event == "evaluate")


def test_a_batch_that_would_exceed_the_fresh_budget_is_not_trained(new_run):
    run = new_run(budget=Budget(fresh=23)).run()
    assert len(run.trained) == 5
    assert [(step, metrics["fresh_examples"]) for step, metrics in run.spool] == [(8, 8), (16, 16), (24, 20)]


def test_the_open_mark_is_evaluated_at_the_end_and_no_mark_twice(new_run):
    assert new_run(budget=Budget(fresh=16)).run().num_steps_at_marks == [2, 4]


def test_a_budget_in_steps_counts_steps(new_run):
    run = new_run(after="batch", factor=2.0, budget=Budget(steps=7)).run()
    assert len(run.trained) == 7
    assert [(step, metrics["fresh_examples"]) for step, metrics in run.spool] == [(8, 8), (16, 16)]


def test_a_budget_in_seconds_counts_training_only(new_run, now):
    run = new_run(budget=Budget(seconds=5), on_train=lambda: now.advance(1), on_evaluate=lambda: now.advance(100)).run()
    assert len(run.trained) == 5


def test_a_budget_below_one_batch_trains_nothing(new_run):
    run = new_run(budget=Budget(fresh=3)).run()
    assert run.trained == run.spool == []
    assert run.outcome.metrics["steps"] == 0


def test_the_learning_rate_follows_the_spent_fraction_of_the_budget(new_run):
    run = new_run(after="batch", factor=2.0, budget=Budget(fresh=16), schedule=LinearDecay(final_fraction=0.0)).run()
    assert run.backend.rates == pytest.approx([0.1 * (1 - spent / 16) for spent in (0, 4, 4, 8, 8, 12, 12, 16)])


def test_training_metrics_are_means_since_the_last_mark(new_run):
    run = new_run(after="batch", factor=2.0, budget=Budget(fresh=24)).run()
    means = [sum(run.backend.losses[start : start + 4]) / 4 for start in (0, 4, 8)]
    assert [metrics["train_loss"] for _, metrics in run.spool] == pytest.approx(means, rel=1e-12)
    assert run.outcome.metrics["train_loss"] == pytest.approx(means[-1], rel=1e-12)
    assert [progress.train_loss for progress in run.display.marks] == pytest.approx(means, rel=1e-12)


def test_evaluation_metrics_are_logged_at_their_mark(new_run):
    run = new_run(scores=[0.5, 0.25, 0.75]).run()
    assert [(step, metrics["score"]) for step, metrics in run.spool] == [(8, 0.5), (16, 0.25), (24, 0.75)]
    assert [progress.metric for progress in run.display.marks] == [0.5, 0.25, 0.75]
    assert run.outcome.metrics["score"] == 0.75


def test_lags_and_duplicates_are_means_since_the_last_mark(new_run):
    run = new_run(after="decode", factor=2.0, budget=Budget(fresh=26)).run()
    batches = run.planned(len(run.trained))
    edges = [0, *run.num_steps_at_marks]
    for (_, metrics), first, last in zip(run.spool, edges, edges[1:], strict=False):
        window = [batch.planned for batch in batches[first:last]]
        lags = [lag for planned in window for lag in planned.lag.tolist() if lag]
        assert metrics["echo_lag"] == pytest.approx(sum(lags) / 4 / len(lags))
        doubles = sum(4 - len(set(planned.ordinal.tolist())) for planned in window)
        assert metrics["duplicates_per_batch"] == pytest.approx(doubles / (last - first))


# Targets


@pytest.mark.parametrize(("stops", "num_marks"), [(True, 2), (False, 3)])
def test_the_costs_are_those_of_the_first_mark_at_the_target(new_run, now, stops, num_marks):
    run = new_run(
        after="batch",
        factor=2.0,
        target=0.5,
        scores=[0.4, 0.6, 0.9],
        stop_at_target=stops,
        on_train=lambda: now.advance(1),
        on_evaluate=lambda: now.advance(100),
    ).run()
    costs = {
        "fresh_examples_to_target": 16,
        "entered_examples_to_target": 24,
        "steps_to_target": 8,
        "train_time_to_target": 8,
        "wall_time_to_target": 208,
    }
    assert run.outcome.reached_target and not run.outcome.diverged
    assert {name: run.outcome.metrics[name] for name in costs} == costs
    assert len(run.trained) == 4 * num_marks == run.outcome.metrics["steps"]
    assert run.outcome.metrics["reached_target"] == 1
    assert [metrics["reached_target"] for _, metrics in run.spool] == [0, 1, 1][:num_marks]
    assert all(metrics[name] == costs[name] for _, metrics in run.spool[1:] for name in costs)
    assert not costs.keys() & run.spool[0][1].keys()


def test_a_target_reached_at_the_very_end_counts(new_run):
    run = new_run(target=0.5, scores=[0.1, 0.1, 0.5]).run()
    assert run.outcome.reached_target
    assert run.outcome.metrics["fresh_examples_to_target"] == 24


def test_a_missed_target_has_no_costs_and_is_a_normal_end(new_run):
    run = new_run(target=0.5, scores=[0.1, math.nan, 0.4]).run()
    assert not run.outcome.reached_target and not run.outcome.diverged
    assert run.outcome.metrics["reached_target"] == 0
    assert {name: value for name, value in run.outcome.metrics.items() if name.endswith("_to_target")} == dict.fromkeys(
        (
            "fresh_examples_to_target",
            "entered_examples_to_target",
            "steps_to_target",
            "train_time_to_target",
            "wall_time_to_target",
        )
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_run_whose_loss_is_no_number_ends_at_the_next_mark(new_run, loss):
    def on_step(steps):
        run.backend.poison = loss if steps == 3 else run.backend.poison

    run = new_run(on_step=on_step, budget=Budget(fresh=100))
    run.run()
    assert run.outcome.diverged and not run.outcome.reached_target
    assert run.num_steps_at_marks == [2, 4]
    assert not math.isfinite(run.spool[-1][1]["train_loss"])
    assert run.checkpoint()["diverged"]


class PrunesAt(Pruner):
    """At a mark; remembers what it was asked."""

    def __init__(self, mark):
        self.mark, self.asked = mark, []

    def should_prune(self, *, fresh_examples, value, higher_is_better):
        self.asked.append((fresh_examples, value, higher_is_better))
        return fresh_examples == self.mark


def test_a_run_is_pruned_after_a_mark_with_a_checkpoint_that_goes_on(new_run):
    settings = {"budget": Budget(fresh=32), "checkpoints": CheckpointSettings(interval=0)}
    run = new_run(pruner=PrunesAt(16), scores=[0.1, 0.2, 0.3, 0.4], **settings).run()
    assert run.outcome.pruned and not run.outcome.reached_target and not run.outcome.diverged
    assert [step for step, _ in run.spool] == [8, 16] and len(run.trained) == 4
    assert run.pruner.asked == [(8, 0.1, True), (16, 0.2, True)]
    again = new_run(resume_from=run.checkpoint(), scores=[0.3, 0.4], **settings).run()
    assert not again.outcome.pruned and [step for step, _ in again.spool] == [8, 16, 24, 32]


def test_no_run_is_pruned_that_has_reached_its_target_or_ends_anyway(new_run):
    run = new_run(pruner=PrunesAt(16), target=0.2, scores=[0.1, 0.2]).run()
    assert run.outcome.reached_target and not run.outcome.pruned
    assert run.pruner.asked == [(8, 0.1, True)]
    last = new_run(pruner=PrunesAt(16), budget=Budget(fresh=16), scores=[0.1, 0.2]).run()
    assert not last.outcome.pruned and last.pruner.asked == [(8, 0.1, True)]


# Clocks


def test_train_time_leaves_evaluation_out_and_wall_time_does_not(new_run, now):
    run = new_run(on_train=lambda: now.advance(1), on_evaluate=lambda: now.advance(100)).run()
    assert [(metrics["train_time"], metrics["wall_time"]) for _, metrics in run.spool] == [(2, 102), (4, 204), (6, 306)]
    assert (run.outcome.metrics["train_time"], run.outcome.metrics["wall_time"]) == (6, 306)


def test_train_time_leaves_saving_and_showing_out(new_run, now):
    run = new_run(on_train=lambda: now.advance(1), on_covered=lambda position: now.advance(50)).run()
    assert [metrics["train_time"] for _, metrics in run.spool] == [2, 4, 6]


def test_the_feed_stands_still_while_a_mark_is_evaluated(new_run, slow_source):
    def on_evaluate():
        before = slow_source.reads.total()
        time.sleep(0.05)
        assert slow_source.reads.total() == before
        seen.append(before)

    seen = []
    run = new_run(source=slow_source, look_ahead=1000, on_evaluate=on_evaluate).run()
    assert len(seen) == 3
    assert [metrics["read_examples"] for _, metrics in run.spool] == seen


def test_upstream_work_waits_and_steps_are_timed_apart(new_run, slow_source):
    run = new_run(source=slow_source, look_ahead=1, num_threads=1, on_train=lambda: time.sleep(0.002)).run()
    for _, metrics in run.spool:
        assert metrics["upstream_time"] * 2 >= 0.006  # two chunks a batch; the model was told of two workers
        assert metrics["downstream_time"] >= 0.002
        assert 0 < metrics["input_wait_fraction"] < 1


# Evaluation


def test_held_out_examples_are_read_exactly_once_in_every_evaluation_whatever_is_echoed(new_run, task):
    run = new_run(after="read", factor=8.0, task=task).run()
    assert run.events.count("evaluate") == 3
    assert task.source.reads == dict.fromkeys(range(10), 3)
    assert [metrics["mean_x"] for _, metrics in run.spool] == [54.5] * 3


# The device


@pytest.mark.parametrize("batch_shuffle_buffer", [0, 3])
@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5])
def test_an_echo_on_the_device_copies_every_fresh_batch_once(new_run, factor, batch_shuffle_buffer):
    run = new_run(after="device", factor=factor, batch_shuffle_buffer=batch_shuffle_buffer).run()
    batches = run.planned(len(run.trained))
    planned = [batch.planned for batch in batches]
    assert run.trained == [rows(batch) for batch in batches]
    assert len(run.backend.placed) == len({one.batch_ordinal for one in planned}) == 6
    uses = [
        sum(one.batch_ordinal == ordinal for one in planned)
        for ordinal in dict.fromkeys(p.batch_ordinal for p in planned)
    ]
    assert [placed.num_steps for placed in run.backend.placed] == uses


def test_a_batch_leaves_the_device_with_its_last_repeat(new_run):
    run = new_run(after="device", factor=2.0, batch_shuffle_buffer=2, budget=Budget(fresh=80)).run()
    trained = [batch.planned for batch in run.planned(len(run.trained))]
    last = {planned.batch_ordinal: planned for planned in trained}
    waiting = {number for number, planned in last.items() if planned.batch_repeat < planned.num_batch_repeats - 1}
    assert set(run.trainer._resident) == waiting
    assert len(waiting) <= 3


def test_an_echo_of_batches_on_the_host_copies_every_repeat(new_run):
    run = new_run(after="batch", factor=2.0).run()
    assert [placed.num_steps for placed in run.backend.placed] == [1] * 12


@pytest.mark.parametrize(
    ("keeps", "order"), [(True, ["put", "train", "release"]), (False, ["put", "release", "train"])]
)
def test_host_arrays_are_released_as_soon_as_nobody_reads_them(new_run, monkeypatch, keeps, order):
    run = new_run(keeps_host_arrays=keeps, budget=Budget(fresh=12))
    release = Batch.release

    def recorded(batch):
        run.events.append("release")
        release(batch)

    monkeypatch.setattr(Batch, "release", recorded)
    run.run()
    assert [event for event in run.events if event in order] == order * 3


@ALL_ARMS
def test_a_backend_that_shares_memory_trains_the_same(new_run, tmp_path, after, factor):
    settings = {"after": after, "factor": factor, "num_threads": 3, "look_ahead": 2}
    copies = new_run(**settings).run()
    shares = type(copies)(tmp_path / "shares", keeps_host_arrays=True, **settings).run()
    assert shares.trained == copies.trained
    assert shares.backend.losses == copies.backend.losses


# Checkpoints


def kept_steps(run):
    return [int(path.name[-12:]) for path in list_checkpoints(run.folder / "checkpoints")]


@pytest.mark.parametrize(("interval", "steps"), [(0, [10]), (1, [2, 4, 6, 8, 10]), (2, [4, 8, 10]), (3, [6, 10])])
def test_checkpoints_are_due_by_evaluations_and_at_the_end(new_run, interval, steps):
    run = new_run(
        checkpoints=CheckpointSettings(interval=interval, keep=9),
        budget=Budget(fresh=40),
        scores=[0.5, 0.4, 0.3, 0.2, 0.1],
    ).run()
    assert kept_steps(run) == steps
    assert run.checkpoint()["counts"]["steps"] == 10


def test_the_tracker_may_send_what_a_checkpoint_covers_and_nothing_else(new_run):
    run = new_run(checkpoints=CheckpointSettings(interval=2), budget=Budget(fresh=40)).run()
    ends = [0]
    for line in (run.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    assert run.tracker.positions == [0, ends[2], ends[4], ends[5]]
    assert run.checkpoint()["spool_position"] == ends[5]


def test_the_last_two_checkpoints_and_the_best_stay(new_run):
    run = new_run(budget=Budget(fresh=40), scores=[0.1, 0.9, 0.2, 0.9, 0.3]).run()
    assert kept_steps(run) == [4, 8, 10]
    assert run.checkpoint()["best"] == {"steps": 4, "value": 0.9}


@pytest.mark.parametrize("interval", [0, 2])
def test_the_best_may_be_the_last_whatever_the_interval(new_run, interval):
    run = new_run(
        checkpoints=CheckpointSettings(interval=interval), budget=Budget(fresh=40), scores=[0.1, 0.2, 0.3, 0.4, 0.9]
    ).run()
    assert run.checkpoint()["best"] == {"steps": 10, "value": 0.9}


def test_a_better_mark_without_a_checkpoint_is_not_called_the_best(new_run):
    run = new_run(
        checkpoints=CheckpointSettings(interval=2), budget=Budget(fresh=40), scores=[0.9, 0.2, 0.8, 0.4, 0.3]
    ).run()
    assert run.checkpoint()["best"] == {"steps": 8, "value": 0.4}


# Around the loop


def test_the_display_hears_of_the_start_every_step_every_mark_and_the_end(new_run):
    seen = []
    run = new_run(target=0.5, scores=[0.1, 0.2, 0.3], on_step=seen.append).run()
    assert run.display.calls == [("start", "score", 0.5, "24 fresh examples"), "stop"]
    assert seen == [1, 2, 3, 4, 5, 6]
    assert [(mark.fresh_examples, mark.steps, mark.spent_fraction) for mark in run.display.marks] == [
        (8, 2, 8 / 24),
        (16, 4, 16 / 24),
        (24, 6, 1.0),
    ]


def test_an_error_while_evaluating_ends_the_run_and_its_threads(new_run):
    def on_evaluate():
        raise OSError("the held-out data is gone")

    run = new_run(on_evaluate=on_evaluate)
    with pytest.raises(OSError, match="held-out"):
        run.run()
    assert run.display.calls[-1] == "stop"
    assert not any(thread.is_alive() for thread in run.trainer._feed._executor._engine._threads)


def test_an_example_that_fails_ends_the_run_by_its_name(new_run, slow_source):
    def on_read():
        if slow_source.reads.total() > 12:
            raise OSError("bad sector")

    slow_source.on_read = on_read
    with pytest.raises(RuntimeError, match="stage 'read' failed on example .*bad sector"):
        new_run(source=slow_source).run()


@pytest.mark.parametrize("below", ["", "below", "far/below"])
def test_a_run_folder_that_cannot_be_written_is_refused(new_run, tmp_path, below):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / below
    with pytest.raises(
        SettingError,
        match=rf"^run_dir={re.escape(str(folder))} cannot be used. Allowed: a folder that can be written. Choose",
    ):
        type(new_run())(folder)


@pytest.mark.parametrize(
    ("echo", "needed"),
    [
        ({}, 8 + 4),
        ({"after": "decode", "factor": 2.0}, (8 + 4) // 2),
        ({"after": "batch", "factor": 2.0, "batch_shuffle_buffer": 2}, 8 + 4 * (1 + 2 // 2)),
    ],
)
def test_while_the_buffer_is_filled_from_afar_that_is_shown(new_run, echo, needed):
    is_shown = threading.Event()
    source = SequentialSource(20, on_read=lambda: is_shown.wait(20))
    run = new_run(source=source, on_filling=is_shown.set, **echo)
    run.run()
    assert run.display.fillings[0] == (0, needed)
    assert run.display.last.steps > 0


def test_what_is_read_when_it_is_used_fills_no_buffer(new_run):
    run = new_run(source=CountingSource(20, on_read=lambda: time.sleep(0.3)), budget=Budget(fresh=8))
    run.run()
    assert run.display.fillings == []


def test_a_resumed_run_reads_what_was_in_the_buffer_and_does_not_say_that_it_fills_one(new_run):
    first = new_run(source=SequentialSource(20), budget=Budget(fresh=16)).run()
    slow = SequentialSource(20, on_read=lambda: time.sleep(0.3))
    resumed = new_run(source=slow, budget=Budget(fresh=24), resume_from=first.checkpoint()).run()
    assert resumed.display.last.fresh_examples == 24
    assert resumed.display.fillings == []


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_the_time_of_the_input_side_is_that_of_reading_whatever_is_in_the_buffer(new_run, factor):
    """Reading an example takes 10 ms, or more on a busy machine. The buffer has 32 uses, and 24 examples become
    fresh."""

    class Slow(SequentialSource):
        seconds = 0.0

        def read(self, shards, ks):
            begun = time.perf_counter()
            time.sleep(0.01 * len(ks))
            self.seconds += time.perf_counter() - begun
            return super().read(shards, ks)

    source = Slow(400)
    run = new_run(source=source, shuffle_buffer=32, after="decode" if factor > 1 else None, factor=factor)
    time_of_input = run.run().outcome.metrics["upstream_time"]
    assert 0.7 < time_of_input / (source.seconds / source.reads.total() * 4) < 1.9
