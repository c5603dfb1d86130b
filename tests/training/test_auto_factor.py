"""The rule by hand, and the controller on pipelines that are simulated: it arrives, it stays, it follows."""

import math
import time
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.plan.factors import FactorHistory, read_history
from dataecho.training.auto_factor import (
    PRICE,
    AutoFactor,
    FixedFactor,
    WindowTimes,
    advise,
    core_limit,
    measure,
    next_factor,
)
from dataecho.training.budget import Budget
from dataecho.training.ranks import OneRank
from dataecho.training.timing import Sums, TimeModel
from tests.training.test_resume import at, interrupted, sigterm

BATCH = 100
CORES = 4


def model(**changes):
    settings = {"num_workers": 4, "shares_cores": False, "workers_are_upstream": False, "num_cores": CORES}
    return TimeModel(**{"batch_size": BATCH, **settings, **changes})


def measured(**changes):
    return WindowTimes(**{"upstream_time": 6.0, "downstream_time": 2.0, "core_limit": math.inf, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 3.0),
        ({"upstream_time": 2.0}, 1.0),
        ({"upstream_time": 0.1}, 1.0),
        ({"upstream_time": 100.0}, 16.0),
        ({"downstream_time": 0.0}, 16.0),
        ({"core_limit": 2.5}, 2.5),
        ({"core_limit": 7.0}, 3.0),
        ({"core_limit": -1.0}, 1.0),
    ],
)
def test_advised_is_r_between_one_and_the_limit_and_no_more_than_there_is_room_for(changes, expected):
    assert advise(measured(**changes), max_factor=16.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("factor", "advised", "largest", "expected"),
    [
        (1.0, 6.0, math.inf, 6.0),  # the first decision may be of any size
        (1.0, 1.09, math.inf, 1.0),  # near enough
        (1.0, 1.11, math.inf, 1.11),
        (4.0, 4.39, 1.25, 4.0),
        (4.0, 3.61, 1.25, 4.0),
        (4.0, 4.5, 1.25, 4.5),
        (4.0, 3.5, 1.25, 3.5),
        (4.0, 9.0, 1.25, 5.0),
        (4.0, 1.0, 1.25, 3.2),
        (1.1, 1.0, 1.25, 1.1),
        (1.2, 1.0, 1.25, 1.0),
        (3.0, 10 / 3, math.inf, 3.33),
    ],
)
def test_a_factor_that_is_near_enough_stays_and_any_other_moves_as_far_as_it_may(factor, advised, largest, expected):
    assert next_factor(factor, advised, largest_change=largest) == pytest.approx(expected)


def window(**changes):
    """Ten fresh batches at factor 2 in 60 s: 20 steps of 1 s each on one core, decoding 4 s of processor a batch."""
    values = {"step_seconds": 20.0, "input_wait_seconds": 40.0, "cpu_seconds": 60.0, "upstream_seconds": 240.0}
    return Sums(**{"fresh_examples": 10 * BATCH, "steps": 20, **values, **changes})


def test_the_room_is_what_the_cores_leave_idle():
    # 4 cores x 6 s a fresh batch, 5 % of it left: 22.8, of which 6 are spent; a step takes 1.
    assert core_limit(window(), model()) == pytest.approx(2 + 16.8)
    assert core_limit(window(), model(num_cores=1)) == pytest.approx(max(2 - 0.3, 1 + PRICE * (6 - 1)))
    assert core_limit(window(cpu_seconds=180.0), model()) == pytest.approx(2 + 4.8)
    # workers after the echo point belong to the steps: 2 s a step
    assert core_limit(window(downstream_seconds=20.0), model()) == pytest.approx(2 + 16.8 / 2)
    # nobody spends more processor time than there was
    assert core_limit(window(step_seconds=80.0, input_wait_seconds=0.0), model()) == pytest.approx(2 + (30.4 - 6) / 3)


def test_where_the_cores_are_full_echo_costs_at_most_its_price():
    # 5 fresh batches, factor 1, all 4 cores: 38 s of decoding and 2 of the step in every 10 s.
    full = Sums(fresh_examples=5 * BATCH, steps=5, step_seconds=10.0, input_wait_seconds=40.0, cpu_seconds=200.0)
    assert core_limit(full, model()) == pytest.approx(1 + PRICE * 40 / 2)
    assert (40 + (core_limit(full, model()) - 1) * 2) / 40 == pytest.approx(1 + PRICE)


def test_room_matters_only_where_cores_are_shared():
    assert measure(window(), model()).core_limit == math.inf
    assert measure(window(), model(shares_cores=True)).core_limit == pytest.approx(18.8)
    assert measure(window(), model()).upstream_time == pytest.approx(6.0)
    assert measure(window(), model()).downstream_time == pytest.approx(1.0)


# Simulated pipelines


@dataclass
class Pipeline:
    """Upstream takes ``up`` seconds a fresh batch (a function of the number of those trained), a step ``down`` seconds;
    each takes processor seconds where both share the cores. What a change does is seen ``delay`` steps later."""

    up: object
    down: float = 1.0
    cpu_up: float = 0.0
    cpu_down: float = 0.0
    noise: float = 0.0
    delay: int = 20
    seed: int = 0
    sums: Sums = field(default_factory=Sums)
    factors: FactorHistory = field(default_factory=FactorHistory.to_be_decided)

    def __post_init__(self):
        self.random = np.random.default_rng(self.seed)
        self.pending, self.fresh = [], 0.0
        self.effective = self.factors.newest
        self.trace = []
        self.not_brought_in = [0.0, 0.0]

    def start(self):
        pass

    def stop(self):
        """Only now is it known what the workers and the processor did."""
        self.sums.upstream_seconds += self.not_brought_in[0]
        self.sums.cpu_seconds += self.not_brought_in[1]
        self.not_brought_in = [0.0, 0.0]

    def run(self, control, num_fresh_batches):
        until = self.sums.fresh_examples + num_fresh_batches * BATCH
        while self.sums.fresh_examples < until:
            self._step()
            before = self.factors.newest
            control.trained(self.factors.newest)
            if self.factors.newest != before:
                self.pending.append((self.sums.steps + self.delay, self.factors.newest))
                self.trace.append((self.sums.fresh_examples / BATCH, self.factors.newest))
            while self.pending and self.pending[0][0] <= self.sums.steps:
                self.effective = self.pending.pop(0)[1]
        return self

    def time(self, up, factor):
        """Of a fresh batch."""
        return max(up, factor * self.down, (self.cpu_up + factor * self.cpu_down) / CORES)

    def _step(self):
        factor, sums = self.effective, self.sums
        share = 1 / factor
        self.fresh += BATCH * share
        num_fresh = int(self.fresh) - sums.fresh_examples
        first = self.factors.changes[-1][0]
        self.factors.settle(first, lambda: range(num_fresh + sums.fresh_examples - first))
        sums.steps += 1
        sums.fresh_examples += num_fresh
        up = self.up(sums.fresh_examples / BATCH) * self.random.lognormal(0, self.noise)
        down = self.down * self.random.lognormal(0, self.noise)
        seconds = max(self.time(up, factor) * share, down)
        contention = max(1.0, seconds / max(up * share, down))
        self.not_brought_in[0] += 4 * up * share * contention
        sums.step_seconds += min(seconds, down * contention)
        sums.input_wait_seconds += seconds - min(seconds, down * contention)
        self.not_brought_in[1] += self.cpu_up * share + self.cpu_down


def controlled(pipeline, folder, **settings):
    shared = pipeline.cpu_up > 0
    control = AutoFactor(model(shares_cores=shared), settle_steps=pipeline.delay, echoes_batches=False, **settings)
    control.start(pipeline.factors, pipeline, folder, OneRank())
    return control


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize(("ratio", "expected"), [(1.5, 1.5), (2.0, 2.0), (3.3, 3.3), (6.0, 6.0), (40.0, 16.0)])
def test_it_arrives_at_r_after_six_fresh_batches_and_stays(tmp_path, ratio, expected, noise):
    for seed in range(5):
        pipeline = Pipeline(lambda at: ratio, noise=noise, seed=seed)
        pipeline.run(controlled(pipeline, tmp_path), 400)
        first, factor = pipeline.trace[0]
        late = [factor for at, factor in pipeline.trace if at > 100]
        assert len(late) <= 2, "it oscillates"
        if noise:
            assert [pipeline.factors.newest, *late] == pytest.approx([expected] * (len(late) + 1), rel=0.2)
        else:
            assert factor == pipeline.factors.newest == pytest.approx(expected)
            assert 6 <= first < 6.1


@pytest.mark.parametrize("ratio", [0.1, 0.7, 0.9, 1.0])
def test_where_the_input_keeps_up_nothing_is_ever_echoed(tmp_path, ratio):
    for seed in range(5):
        pipeline = Pipeline(lambda at: ratio, noise=0.05, seed=seed)
        pipeline.run(controlled(pipeline, tmp_path), 1000)
        assert pipeline.factors.changes == [(0, 1.0)]


def test_the_limit_holds(tmp_path):
    pipeline = Pipeline(lambda at: 6.0)
    pipeline.run(controlled(pipeline, tmp_path, max_factor=4.0), 100)
    assert pipeline.factors.newest == 4.0


def in_bounded_steps(pipeline, *, since):
    moves = [(at, new / old) for (_, old), (at, new) in pairwise([(0, 1.0), *pipeline.trace])]
    return all(0.79 < move < 1.26 for at, move in moves if at > since)


def test_it_follows_a_drift_in_bounded_steps(tmp_path):
    pipeline = Pipeline(lambda at: 3.0 + 6.0 * min(1.0, max(0.0, (at - 100) / 1000)), noise=0.1)
    control = controlled(pipeline, tmp_path)
    for _ in range(16):
        pipeline.run(control, 100)
        assert pipeline.factors.newest == pytest.approx(pipeline.up(pipeline.sums.fresh_examples / BATCH), rel=0.2)
    assert in_bounded_steps(pipeline, since=100)
    assert 5 < len(pipeline.trace) < 20


@pytest.mark.parametrize(("before", "after"), [(2.0, 8.0), (8.0, 2.0), (6.0, 0.5)])
def test_after_a_sudden_change_it_arrives_a_quarter_at_a_time(tmp_path, before, after):
    pipeline = Pipeline(lambda at: before if at < 200 else after, noise=0.1)
    pipeline.run(controlled(pipeline, tmp_path), 900)
    assert in_bounded_steps(pipeline, since=200)
    assert pipeline.factors.newest == pytest.approx(max(1.0, after), rel=0.15)


def test_while_a_network_is_waited_for_the_cores_are_used_and_not_overused(tmp_path):
    """12 s for a batch from the network, 8 of 48 processor seconds for decoding: ten steps of 4 would fill the rest."""
    pipeline = Pipeline(lambda at: 12.0, cpu_up=8.0, cpu_down=4.0, noise=0.1)
    pipeline.run(controlled(pipeline, tmp_path), 600)
    factor = pipeline.factors.newest
    assert 8.0 <= factor <= 10.5
    assert pipeline.time(12.0, factor) <= 12.0 * 1.05


def test_where_decoding_fills_the_cores_echo_takes_no_more_than_its_price(tmp_path):
    """R is 10, and every step takes from decoding: 40 processor seconds a batch against 1 a step."""
    pipeline = Pipeline(lambda at: 10.0, cpu_up=40.0, cpu_down=1.0)
    pipeline.run(controlled(pipeline, tmp_path), 600)
    factor = pipeline.factors.newest
    assert 2.5 <= factor <= 3.1
    assert pipeline.time(10.0, factor) / pipeline.time(10.0, 1.0) <= 1 + PRICE


def test_every_change_is_in_the_file_at_once(tmp_path):
    pipeline = Pipeline(lambda at: 2.0 if at < 60 else 5.0)
    control = controlled(pipeline, tmp_path)
    for _ in range(40):
        assert read_history(tmp_path / "factor_history.json", echoes_batches=False).changes == pipeline.factors.changes
        pipeline.run(control, 5)
    assert len(pipeline.factors.changes) > 3
    ordinals = [ordinal for ordinal, _ in pipeline.factors.changes]
    assert ordinals == sorted(set(ordinals))


def test_what_was_planned_before_a_change_is_not_measured(tmp_path):
    """Before the first change input is waited for, and for ``delay`` steps after it hardly: those say nothing."""
    pipeline = Pipeline(lambda at: 4.0, delay=300)
    control = controlled(pipeline, tmp_path)
    pipeline.run(control, 6)
    steps = pipeline.sums.steps
    pipeline.up = lambda at: 4.0 if pipeline.sums.steps > steps + 300 else 0.01
    pipeline.run(control, 500)
    assert [factor for _, factor in pipeline.trace] == [4.0]


def test_what_was_measured_before_a_change_still_counts_while_warming_up(tmp_path):
    """Four fresh batches at R = 4, then all others at 2: after four more of them the mean of both is advised."""
    pipeline = Pipeline(lambda at: 4.0 if at <= 6 else 2.0)
    pipeline.run(controlled(pipeline, tmp_path), 60)
    assert [factor for _, factor in pipeline.trace] == pytest.approx([4.0, 3.0, 2.5], rel=0.02)


def test_a_resumed_run_keeps_its_factor_and_measures_again(tmp_path):
    first = Pipeline(lambda at: 6.0)
    first.run(controlled(first, tmp_path), 50)
    assert first.factors.newest == 6.0
    again = Pipeline(lambda at: 2.0, sums=first.sums, factors=first.factors)
    again.fresh = float(first.sums.fresh_examples)
    control = controlled(again, tmp_path)
    start = first.sums.fresh_examples / BATCH
    again.run(control, 20)
    at, factor = again.trace[0]
    assert factor == pytest.approx(2.0) and 6 <= at - start <= 9


@pytest.mark.parametrize("limit", [0.9, 0.0, float("nan")])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(SettingError, match=r"max_factor=.*any real number >= 1.*Leave it out for 16"):
        AutoFactor(model(), settle_steps=1, echoes_batches=False, max_factor=limit)


# In the loop

ARMS = {
    "decode": {"after": "decode"},
    "batch": {"after": "batch"},
    "batch shuffled": {"after": "batch", "batch_shuffle_buffer": 3},
    "device": {"after": "device", "batch_shuffle_buffer": 2},
}
every_arm = pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS.keys())


class Scripted(FixedFactor):
    """Changes the factor after these steps: {steps: factor}."""

    def __init__(self, changes):
        self.changes = changes

    def start(self, factors, keeper, folder, ranks):
        self.factors, self.keeper = factors, keeper

    def trained(self, _):
        factor = self.changes.get(self.keeper.sums.steps)
        if factor is not None:
            self.factors.change(factor)


CHANGES = {4: 3.0, 15: 1.5, 30: 6.0, 70: 2.25}


@every_arm
def test_a_replay_trains_the_recorded_run_batch_for_batch(other_run, arm):
    history = FactorHistory.to_be_decided()
    settings = {"budget": Budget(fresh=160), **arm}
    recorded = other_run("recorded", factor=history, factor_control=Scripted(CHANGES), **settings).run()
    assert len(history.changes) == 5
    assert len(recorded.trained) > 60
    replayed = other_run("replayed", factor=FactorHistory.recorded(history.changes), **settings).run()
    assert replayed.trained == recorded.trained
    assert replayed.backend.losses == recorded.backend.losses
    names = {name for name in recorded.spool[0][1]} - {"factor"}
    for (step, mine), (_, theirs) in zip(replayed.exact_spool, recorded.exact_spool, strict=True):
        assert {name: mine[name] for name in names & mine.keys()} == {
            name: theirs[name] for name in names & theirs.keys()
        }, step


@every_arm
@pytest.mark.parametrize("steps", [3, 5, 16, 40])
def test_a_run_that_was_stopped_goes_on_with_what_was_decided(other_run, arm, steps):
    """Whatever is decided afterwards, the history tells the whole run; 5 and 16: just after a change."""
    settings = {"budget": Budget(fresh=120), **arm}
    first_history, history = FactorHistory.to_be_decided(), FactorHistory.to_be_decided()
    first = interrupted(
        other_run(steps, factor=first_history, factor_control=Scripted(CHANGES), on_step=at(steps, sigterm), **settings)
    )
    state = first.checkpoint()
    assert [tuple(change) for change in state["ranks"]["0"]["feed"]["factors"]] == first_history.changes
    later = Scripted({30: 4.0, 60: 1.5})
    second = other_run(steps, factor=history, factor_control=later, resume_from=state, **settings).run()
    assert history.changes[: len(first_history.changes)] == first_history.changes
    replayed = other_run("replayed", factor=FactorHistory.recorded(history.changes), **settings).run()
    assert first.trained + second.trained == replayed.trained
    assert first.backend.losses + second.backend.losses == replayed.backend.losses


def test_the_factor_is_logged_at_every_mark(new_run):
    history = FactorHistory.to_be_decided()
    run = new_run(after="decode", factor=history, factor_control=Scripted({4: 3.0}), budget=Budget(fresh=32)).run()
    assert [metrics["factor"] for _, metrics in run.spool] == [1.0, 3.0, 3.0, 3.0]
    assert run.outcome.metrics["factor"] == 3.0
    run.remove()
    assert [metrics["factor"] for _, metrics in new_run(after="decode", factor=2.5).run().spool] == [2.5] * 3


def test_a_slow_source_is_echoed_and_a_fast_one_is_not(other_run, slow_source):
    """Real threads, real time: 6 ms to read a batch of four on one thread of two, hardly any to train on it."""
    for source, echoed in ((slow_source, True), (None, False)):
        history = FactorHistory.to_be_decided()
        time_model = TimeModel(batch_size=4, num_workers=2, shares_cores=False, workers_are_upstream=False)
        control = AutoFactor(time_model, settle_steps=8, echoes_batches=False, max_factor=8.0)
        run = other_run(
            echoed,
            after="decode",
            factor=history,
            factor_control=control,
            source=source,
            budget=Budget(fresh=200),
            eval_interval=100,
            on_train=(lambda: None) if echoed else (lambda: time.sleep(0.004)),
        ).run()
        assert (history.newest > 1.5) == echoed
        assert run.outcome.metrics["factor"] == history.newest
        assert read_history(run.folder / "factor_history.json", echoes_batches=False).changes == history.changes
