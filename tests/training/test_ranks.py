"""Several ranks, as threads of this process: shares, counts, decisions and what is written."""

import threading

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.batch import Skipped
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.plan.factors import FactorHistory, read_history
from dataecho.training.agreement import Step, agree
from dataecho.training.auto_factor import AutoFactor
from dataecho.training.budget import Budget
from dataecho.training.checkpoint import CheckpointStore
from dataecho.training.evaluation import evaluate
from dataecho.training.heartbeat import Heartbeat, read_heartbeat
from dataecho.training.ranks import RankLost
from dataecho.training.recipe import CheckpointSettings
from dataecho.training.skips import gather_skips
from dataecho.training.timing import TimeModel
from tests.training.conftest import BATCH_SIZE, CountingSource, FakeBackend, FakeTask, Run, ThreadRanks

SETTINGS = PipelineSettings(num_threads=1, chunk_size=2)


def on_every_rank(function, num_ranks=2):
    """``function(ranks)`` of every rank; the first error is raised here."""
    results, errors = [None] * num_ranks, []

    def work(ranks):
        try:
            results[ranks.rank] = function(ranks)
        except BaseException as error:
            errors.append(error)
            ranks.leave()

    threads = [threading.Thread(target=work, args=(ranks,)) for ranks in ThreadRanks.several(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results


def run_two(folder, *, num_examples=21, resume_from=None, **settings):
    """Two runs of one model; rank 0's folder is ``folder``."""
    sources = [CountingSource(num_examples) for _ in range(2)]  # shares of 11 and 10

    def run(ranks):
        own = folder if ranks.is_first else folder.with_name(f"{folder.name}-{ranks.rank}")
        return Run(own, ranks=ranks, source=sources[ranks.rank], resume_from=resume_from, **settings).run()

    return on_every_rank(run)


# ---- communication


def test_a_step_is_the_sum_of_all_but_for_what_rank_0_or_the_largest_says():
    parts = [
        Step(num_fresh=3, num_delivered=4, num_skipped=1, num_entered=9, epochs_entered=1, train_time=2.5, factor=2.0),
        Step(num_fresh=2, num_delivered=4, num_entered=8, epochs_entered=2, train_time=7.5, factor=9.0, signal=15),
    ]
    together = Step(
        num_fresh=5,
        num_delivered=8,
        num_skipped=1,
        num_entered=17,
        epochs_entered=2,
        train_time=2.5,
        factor=2.0,
        signal=15,
    )
    assert on_every_rank(lambda ranks: agree(ranks, parts[ranks.rank])) == [together] * 2


@pytest.mark.parametrize("blobs", [[b"", b""], [b"x", b""], [b"12345678", bytes(range(256)) * 40]])
def test_bytes_of_any_length_arrive_whole_and_in_order(blobs):
    assert on_every_rank(lambda ranks: ranks.gather_bytes(blobs[ranks.rank])) == [blobs] * 2


def test_skipped_examples_of_all_ranks_are_named():
    skipped = [[Skipped("a", "decode", "bad")], [Skipped("b", "crop", "worse"), Skipped("c", "read", "gone")]]
    everything = skipped[0] + skipped[1]
    assert on_every_rank(lambda ranks: gather_skips(ranks, skipped[ranks.rank])) == [everything] * 2


# ---- training


@pytest.mark.parametrize("after", [None, "decode", "batch", "device"])
def test_ranks_share_the_items_and_count_together(tmp_path, after):
    factor = 1.0 if after is None else 2.0
    settings = {"after": after, "factor": factor, "budget": Budget(fresh=150), "eval_interval": 40}
    first, second = run_two(tmp_path / "run", **settings)
    assert len(first.trained) == len(second.trained)
    assert first.exact_outcome == second.exact_outcome
    counts = first.exact_outcome
    assert 150 - 2 * BATCH_SIZE < counts["fresh_examples"] <= 150
    assert counts["delivered_examples"] == 2 * BATCH_SIZE * counts["steps"] == 2 * BATCH_SIZE * len(first.trained)
    assert first.backend.weight == second.backend.weight
    assert [step for step, _ in first.spool] == [40, 80, 120, 160]
    assert second.checkpoint() is None


@pytest.mark.parametrize("after", [None, "decode", "batch"])
def test_within_an_epoch_nobody_reads_what_is_anothers(tmp_path, after):
    settings = {"after": after, "factor": 1.0 if after is None else 3.0, "budget": Budget(fresh=100)}
    runs = run_two(tmp_path / "run", num_examples=400, **settings)
    shares = [set(run.source.reads) for run in runs]
    assert all(len(share) >= 50 for share in shares)
    assert not shares[0] & shares[1]
    for run, share in zip(runs, shares, strict=True):  # hence every repeat stays where its item was decoded
        assert {x for rows in run.trained for x in rows["x"]} <= share


@pytest.mark.parametrize("stop_at", [3, 9, 14])
def test_a_resumed_run_of_two_ranks_equals_an_unbroken_one(tmp_path, stop_at):
    settings = {"after": "decode", "factor": 2.5, "eval_interval": 16, "checkpoints": CheckpointSettings(interval=1)}
    whole = run_two(tmp_path / "whole", budget=Budget(steps=24), **settings)

    def stop(steps):
        if steps == stop_at:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_two(tmp_path / "part", budget=Budget(steps=24), on_step=stop, **settings)
    state = CheckpointStore(tmp_path / "part").newest()
    resumed = run_two(tmp_path / "part", resume_from=state, budget=Budget(steps=24), **settings)
    for rank in range(2):
        count = len(resumed[rank].trained)
        assert count < 24 or state is None
        assert resumed[rank].trained == whole[rank].trained[-count:]
        assert resumed[rank].exact_outcome == whole[rank].exact_outcome
    assert resumed[0].exact_spool == whole[0].exact_spool


@pytest.mark.parametrize("older", [False, True])
def test_reads_of_all_ranks_count_once_however_often_a_run_is_resumed(tmp_path, older):
    """To the example: at the end of a run nothing reads any more."""
    state, num_reads = None, 0
    for steps in (4, 8, 12, 16):
        runs = run_two(tmp_path / "run", resume_from=state, budget=Budget(steps=steps), after="decode", factor=2.5)
        num_reads += sum(sum(run.source.reads.values()) for run in runs)
        assert [run.outcome.metrics["read_examples"] for run in runs] == [num_reads] * 2
        state = CheckpointStore(tmp_path / "run").newest()
        if older:
            del state["num_reads"]  # which earlier versions did not write


def test_what_all_ranks_read_after_the_checkpoint_is_counted_too(tmp_path):
    run_two(tmp_path / "run", budget=Budget(steps=4))
    state = CheckpointStore(tmp_path / "run").newest()
    counted = state["counts"]["read_examples"]
    Heartbeat(tmp_path / "run").beat(wall_time=1.0, train_time=1.0, read_examples=counted + 1000)
    runs = run_two(tmp_path / "run", resume_from=state, budget=Budget(steps=8))
    more = sum(sum(run.source.reads.values()) for run in runs)
    assert runs[0].outcome.metrics["read_examples"] == counted + 1000 + more


def test_the_heartbeat_of_the_first_rank_tells_what_all_have_read(tmp_path, now):
    told = []

    def run(ranks):
        folder = tmp_path / str(ranks.rank)
        run = Run(folder, ranks=ranks, source=CountingSource(21), budget=Budget(steps=6), num_threads=1)
        run.run()
        told.append((ranks.rank, read_heartbeat(folder)["read_examples"], sum(run.source.reads.values())))

    on_every_rank(run)
    (_, first, reads_of_first), (_, second, reads_of_second) = sorted(told)
    assert first == second > max(reads_of_first, reads_of_second)
    assert first <= reads_of_first + reads_of_second


def test_another_number_of_ranks_is_refused_with_both_numbers(tmp_path):
    run_two(tmp_path / "run", budget=Budget(steps=4))
    with pytest.raises(SettingError, match="num_ranks=1 cannot be used. Allowed: 2, the number of processes"):
        Run(tmp_path / "alone", resume_from=CheckpointStore(tmp_path / "run").newest())


# ---- the factor


def test_rank_0_decides_on_the_factor_and_the_others_follow(tmp_path):
    class Decides(AutoFactor):
        """Not by measuring."""

        def trained(self, factor):
            if self._ranks.is_first and self._keeper.sums.steps == 5:
                self._factors.change(3.0)
            elif not self._ranks.is_first:
                super().trained(factor)

    model = TimeModel(batch_size=BATCH_SIZE, num_workers=2, shares_cores=False, workers_are_upstream=False)
    histories = [FactorHistory.to_be_decided() for _ in range(2)]

    def run(ranks):
        folder = tmp_path / str(ranks.rank)
        control = Decides(model, settle_steps=1, echoes_batches=False)
        settings = {"after": "decode", "budget": Budget(steps=40), "factor": histories[ranks.rank]}
        return Run(folder, ranks=ranks, source=CountingSource(40), factor_control=control, **settings).run()

    runs = on_every_rank(run)
    assert [history.newest for history in histories] == [3.0, 3.0]
    for rank, history in enumerate(histories):
        assert len(history.changes) == 2
        assert read_history(tmp_path / "0" / "factor_history.json", echoes_batches=False, rank=rank).changes == (
            history.changes
        )

    def replay(ranks):
        factor = FactorHistory.recorded(histories[ranks.rank].changes)
        settings = {"after": "decode", "budget": Budget(steps=40), "factor": factor}
        return Run(tmp_path / f"again-{ranks.rank}", ranks=ranks, source=CountingSource(40), **settings).run()

    for again, before in zip(on_every_rank(replay), runs, strict=True):
        assert again.trained == before.trained


# ---- evaluation


@pytest.mark.parametrize("num_examples", [1, 4, 5, 8, 11, 12, 13])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_batches_are_dealt_once_and_in_equal_numbers(num_examples, num_ranks):
    dealt = []
    for rank in range(num_ranks):
        source = ArraySource({"x": np.arange(num_examples)})
        parts = {"rank": rank, "num_ranks": num_ranks, "settings": SETTINGS}
        with once_through(source, (), batch_size=4, **parts) as batches:
            dealt.append([(batch.planned.batch_ordinal, batch["x"][batch.weights > 0].tolist()) for batch in batches])
    assert len({len(of_rank) for of_rank in dealt}) == 1
    own = sorted(
        (ordinal, x) for rank, of_rank in enumerate(dealt) for ordinal, x in of_rank if ordinal % num_ranks == rank
    )
    assert [ordinal for ordinal, _ in own] == list(range(-(-num_examples // 4)))
    assert [x for _, batch in own for x in batch] == list(range(num_examples))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_all_ranks_have_the_metrics_of_everything(num_ranks):
    task = FakeTask()
    expected = evaluate(task, task.eval_source(), FakeBackend(), SETTINGS)
    found = on_every_rank(
        lambda ranks: evaluate(task, CountingSource(10, first=50), FakeBackend(ranks=ranks), SETTINGS), num_ranks
    )
    assert found == [found[0]] * num_ranks
    assert found[0] == pytest.approx(expected, rel=1e-12)
    assert found[0]["mean_x"] == 54.5


def test_a_lost_rank_is_told_with_what_to_do():
    lost = RankLost(ThreadRanks.several(3)[1], RuntimeError("Connection closed by peer\nmore"))
    assert "rank 1 of 3 waited for the others in vain" in str(lost)
    assert "(RuntimeError: Connection closed by peer)" in str(lost)
    assert "resume=auto" in str(lost)
