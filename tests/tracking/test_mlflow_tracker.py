"""Nothing twice, nothing missing, nothing waits: the MLflow tracker on a real database, with faults at the border."""

import contextlib
import json
import logging
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from dataecho.errors import SettingError
from dataecho.testing.tracker_contract import TrackerContract
from dataecho.tracking import delivery
from dataecho.tracking.connection import open_client
from dataecho.tracking.dashboard import addresses
from dataecho.tracking.mlflow_tracker import MLflowTracker, send_later
from dataecho.tracking.record import FILE_NAME
from tests.support import PROJECT
from tests.tracking.conftest import dead_address

CLOCK = 1_700_000_000_000


def new_tracker(uri, **options):
    return MLflowTracker(
        tracking_uri=uri,
        **{"experiment": "echo", "retry_interval": 0.01, "send_interval": 0.0, "max_share": 1.0, **options},
    )


def expected(*marks, clock=CLOCK):
    return {
        "train_loss": [(100 * mark, clock + mark, 1 / (mark + 1)) for mark in marks],
        "eval/accuracy": [(100 * mark, clock + mark, mark / 100) for mark in marks],
        "steps": [(100 * mark, clock + mark, 10 * mark) for mark in marks],
    }


def record(folder):
    return json.loads((folder / FILE_NAME).read_text())


def spool_size(run):
    return (run.folder / "metrics.jsonl").stat().st_size


def train(uri, run, *marks, status="finished", artifacts=(), tags=None, **options):
    """One process's life: start, one cover for each mark, finish."""
    tracker = new_tracker(uri, **options)
    tracker.start(run.info)
    tracker.covered(run.spool.position)
    for mark in marks:
        tracker.covered(run.mark(mark))
    run.spool.close()
    tracker.finish(status=status, artifacts=artifacts, tags=tags or {})
    return tracker


def warnings(caplog):
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


class TestContract(TrackerContract):
    @pytest.fixture
    def new_tracker(self, uri, history):
        self._read = history
        return lambda: new_tracker(uri)

    def history(self, folder):
        points = self._read(record(folder)["run_id"])
        return {key: [(step, value) for step, _, value in found] for key, found in points.items()}


# ---- what arrives


def test_a_run_arrives_with_all_its_facts(uri, run, client, stored_run, history, tmp_path):
    (run.folder / "figures").mkdir()
    (run.folder / "figures" / "loss.png").write_text("png")
    (run.folder / "summary.json").write_text("{}")
    artifacts = [run.folder / "summary.json", run.folder / "figures" / "loss.png"]
    begin = time.time_ns() // 1_000_000
    tracker = train(uri, run, 1, 2, artifacts=artifacts, tags={"reached_target": "True"})
    stored = stored_run()
    assert begin <= stored.info.start_time <= stored.info.end_time <= time.time() * 1000
    assert history() == expected(1, 2)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "first")
    assert stored.data.params == {"factor": "2.0", "echo.after": "decode"}
    tags = {"git_revision": "abc123", "mlflow.source.git.commit": "abc123", "reached_target": "True"}
    assert tags.items() <= stored.data.tags.items()
    (dataset,) = stored.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "d" * 36)
    assert json.loads(dataset.dataset.source)["num_examples"] == 1797
    assert [file.path for file in client.list_artifacts(stored.info.run_id)] == ["figures", "summary.json"]
    assert [file.path for file in client.list_artifacts(stored.info.run_id, "figures")] == ["figures/loss.png"]
    assert client.get_experiment_by_name("echo").artifact_location == str(tmp_path / "mlruns" / "echo")
    assert record(run.folder)["complete"]
    assert tracker.where == f"mlflow server --backend-store-uri {uri}"


@pytest.mark.parametrize(
    ("status", "stored"), [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED"), ("odd", "FAILED")]
)
def test_every_status_has_its_name_in_mlflow(uri, run, stored_run, status, stored):
    train(uri, run, status=status)
    assert stored_run().info.status == stored


def test_artifact_root_is_where_a_new_experiment_puts_artifacts(uri, run, client, tmp_path):
    train(uri, run, artifact_root=str(tmp_path / "elsewhere"))
    assert client.get_experiment_by_name("echo").artifact_location == str(tmp_path / "elsewhere" / "echo")


def test_calls_are_in_order_and_bounded_by_mlflows_limits(uri, new_run, calls, database):
    many = {f"p{i}": "x" * 7000 for i in range(250)}
    run = new_run(params=many)
    for mark in range(1, 7):
        run.spool.append(mark, {f"m{i}": float(i) for i in range(400)}, time_ms=CLOCK + mark)
    run.spool.append(7, {f"m{i}": float(i) for i in range(2100)}, time_ms=CLOCK + 7)
    train(uri, run)
    assert Counter(name for name in calls.names if name.startswith("log_batch")) == {
        "log_batch:params": 3,
        "log_batch:tags": 1,
        "log_batch:metrics": 9,  # 6 entries, each too large to share a group; 1000 + 1000 + 100 metrics of one
    }
    assert [step for _, step, _ in calls.points] == sorted(step for _, step, _ in calls.points)
    assert len(calls.points) == len(set(calls.points)) == 6 * 400 + 2100
    with sqlite3.connect(database) as stored:
        assert stored.execute("select count(*) from metrics").fetchone() == (6 * 400 + 2100,)


def test_names_that_mlflow_refuses_are_changed_not_lost(uri, new_run, history, stored_run):
    run = new_run(params={"list[0]": 1, "a//b": 2, "/c": 3, "": 4})
    run.spool.append(1, {"top@5": 0.5, "a/../b": 1.0}, time_ms=CLOCK)
    train(uri, run)
    assert stored_run().data.params == {"list_0_": "1", "a__b": "2", "_c": "3", "_": "4"}
    assert history() == {"top_5": [(1, CLOCK, 0.5)], "a_.._b": [(1, CLOCK, 1.0)]}


# ---- exactly once


def test_a_failure_at_every_call_leaves_nothing_twice_and_nothing_missing(
    uri, run, new_run, calls, client, empty_database, tmp_path
):
    number_of_calls = len(_calls_of_a_whole_run(uri, new_run("unbroken"), calls))
    assert number_of_calls >= 10
    for moment in ("before", "after"):  # the request is lost, or the answer
        for failing in range(number_of_calls):
            name = f"{moment}-{failing}"
            other = tmp_path / f"{name}.db"
            shutil.copy(empty_database, other)
            calls.names.clear()
            calls.points.clear()

            def fail(number, call, failing=failing):
                if number == failing:
                    raise ConnectionError(f"{call} fails")

            setattr(calls, moment, fail)
            _calls_of_a_whole_run(f"sqlite:///{other}", new_run(name), calls)
            calls.before = calls.after = lambda number, name: None
            _assert_whole_run(f"sqlite:///{other}", tmp_path / name, calls)


def _calls_of_a_whole_run(uri, run, calls):
    (run.folder / "summary.json").write_text("{}")
    train(uri, run, 1, 2, 3, artifacts=[run.folder / "summary.json"], tags={"end": "yes"})
    return list(calls.names)


def _assert_whole_run(uri, folder, calls, *, status="FINISHED", marks=(1, 2, 3)):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("echo")
    (run,) = client.search_runs([experiment.experiment_id])
    keys = expected(*marks)
    points = {key: client.get_metric_history(run.info.run_id, key) for key in keys}
    assert {key: [(p.step, p.timestamp, p.value) for p in found] for key, found in points.items()} == keys
    # MLflow's database drops a point that is sent again unchanged; other stores do not, so none may be sent again.
    assert max(Counter(calls.points).values()) == 1
    assert run.info.status == status
    assert run.data.params == {"factor": "2.0", "echo.after": "decode"}
    assert run.data.tags["end"] == "yes"
    assert len(run.inputs.dataset_inputs) == 1
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["summary.json"]
    assert record(folder)["complete"]


def test_a_kill_at_every_call_leaves_nothing_twice_and_nothing_missing(uri, run, new_run, calls, database, tmp_path):
    """What is on disk before and after every call is kept, and then resumed: that is what a kill there leaves."""
    kept = []

    def keep(moment):
        def copy(number, name):
            to = tmp_path / f"killed-{moment}-{number}"
            to.mkdir()
            shutil.copy(database, to / "mlflow.db")
            shutil.copytree(run.folder, to / "run", ignore=shutil.ignore_patterns("*.new"))
            kept.append((to, list(calls.points)))

        return copy

    calls.before, calls.after = keep("before"), keep("after")
    _calls_of_a_whole_run(uri, run, calls)
    calls.before = calls.after = lambda number, name: None
    assert len(kept) >= 20
    for folder, points in kept:
        calls.points[:] = points
        position = (folder / "run" / "metrics.jsonl").stat().st_size
        resumed = new_run(f"{folder.name}/run", position=position)
        marks = [entry for entry in (1, 2, 3) if 100 * entry not in _steps(resumed.folder)]
        here = f"sqlite:///{folder / 'mlflow.db'}"
        (resumed.folder / "summary.json").write_text("{}")
        artifacts = [resumed.folder / "summary.json"]
        moved = record(resumed.folder) | {"tracking_uri": here} if (resumed.folder / FILE_NAME).exists() else None
        if moved:  # the database was copied with the folder
            (resumed.folder / FILE_NAME).write_text(json.dumps(moved))
        train(here, resumed, *marks, artifacts=artifacts, tags={"end": "yes"})
        _assert_whole_run(here, resumed.folder, calls)


def _steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_second_run_made_by_a_late_request_is_removed(uri, run, calls, client, stored_run, history):
    from mlflow import MlflowClient

    late = []

    def lose(number, name):
        if name == "create_run" and not late:
            late.append(run.info)
            raise ConnectionError("no answer; the server goes on working")

    def arrive(number, name):
        if name == "create_run" and len(late) == 1:  # the first request is carried out during the second
            late.append(run.info)
            tags = {"dataecho.uuid": record(run.folder)["uuid"]}
            other = MlflowClient(uri)
            other._tracking_client.create_run(client.get_experiment_by_name("echo").experiment_id, tags=tags)

    calls.before, calls.after = lose, arrive
    train(uri, run, 1, 2)
    assert len(late) == 2
    stored_run()
    assert history() == expected(1, 2)


def test_nan_and_infinity_survive_a_doubt(uri, run, calls, history):
    values = {"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf}
    run.spool.append(5, values, time_ms=CLOCK)

    def lose(number, name):
        if name == "log_batch:metrics" and calls.names.count(name) == 1:
            raise ConnectionError("the answer is lost")

    calls.after = lose
    train(uri, run)
    found = {key: point for key, (point,) in history().items()}
    assert len(calls.points) == 3
    assert math.isnan(found["nan"][2])
    assert (found["inf"][2], found["minus_inf"][2]) == (sys.float_info.max, -sys.float_info.max)


def test_a_large_entry_that_half_arrived_is_completed(uri, run, calls, history):
    run.spool.append(1, {f"m{i}": float(i) for i in range(2500)}, time_ms=CLOCK)

    def fail(number, name):
        if name == "log_batch:metrics" and calls.names.count(name) == 2:
            raise ConnectionError("fails")

    calls.before = fail
    train(uri, run)
    assert len(calls.points) == len(set(calls.points)) == 2500
    assert {key: point[0][2] for key, point in history().items()} == {f"m{i}": float(i) for i in range(2500)}


def test_answers_lost_for_several_groups_leave_nothing_twice(uri, run, calls, history, monkeypatch):
    monkeypatch.setattr(delivery, "_METRICS_A_GROUP", 3)  # every mark is a group

    def lose(number, name):
        if name == "log_batch:metrics" and calls.names.count(name) in (1, 2, 4):
            raise ConnectionError("the answer is lost")

    calls.after = lose
    run.marks(1, 2, 3, 4)
    train(uri, run)
    assert calls.names.count("log_batch:metrics") == 4
    assert len(calls.points) == len(set(calls.points)) == 12
    assert history() == expected(1, 2, 3, 4)


# ---- what training and its end wait for


def test_sending_rests_so_that_it_takes_its_share_only(uri, run, calls, history, monkeypatch, wait_until):
    monkeypatch.setattr(delivery, "_METRICS_A_GROUP", 3)  # every mark is a group
    begins = []

    def work(number, name):
        if name == "log_batch:metrics":
            begins.append(time.monotonic())
            end = time.thread_time() + 0.05
            while time.thread_time() < end:
                pass

    calls.before = work
    tracker = new_tracker(uri, max_share=0.1)
    tracker.start(run.info)
    tracker.covered(run.marks(1, 2, 3, 4))  # said once: what is left after a rest is sent without being told again
    wait_until(lambda: len(calls.points) == 9)
    assert min(later - earlier for earlier, later in pairwise(begins)) >= 0.05 / 0.1
    tracker.finish(status="finished", artifacts=[], tags={})
    assert history() == expected(1, 2, 3, 4)


def test_the_end_waits_as_long_as_something_arrives(uri, run, calls, history, monkeypatch, caplog):
    monkeypatch.setattr(delivery, "_METRICS_A_GROUP", 3)
    caplog.set_level(logging.INFO, logger="dataecho.tracking")
    calls.before = lambda number, name: time.sleep(0.2 if name == "log_batch:metrics" else 0.0)
    run.marks(*range(1, 9))
    train(uri, run, max_share=0.001, finish_timeout=0.8)
    assert history() == expected(*range(1, 9))  # after 1.6 seconds at least, twice the time-out
    assert any("Sending the rest to MLflow" in entry.getMessage() for entry in caplog.records)
    assert not warnings(caplog)


# ---- resuming


def test_a_resumed_run_is_the_same_run_and_its_params_are_sent_once(uri, run, new_run, calls, history, stored_run):
    train(uri, run, 1, 2, status="interrupted")
    first = stored_run().info.run_id
    resumed = new_run(position=spool_size(run), params={"factor": 3.0})
    tracker = new_tracker(uri)
    tracker.start(resumed.info)
    assert stored_run().info.status == "RUNNING"
    tracker.covered(resumed.marks(3, 4))
    tracker.finish(status="finished", artifacts=[], tags={})
    assert (stored_run().info.run_id, stored_run().info.status) == (first, "FINISHED")
    assert calls.names.count("log_batch:params") == calls.names.count("create_run") == 1
    assert stored_run().data.params["factor"] == "2.0"
    assert history() == expected(1, 2, 3, 4)


def test_a_spool_cut_below_what_was_sent_adds_no_second_point(uri, run, new_run, calls, history, caplog):
    kept = run.marks(1)
    train(uri, run, 2, 3, status="interrupted")
    again = new_run(position=kept, clock=CLOCK + 50_000)  # marks 2 and 3 are trained again, later in the day
    train(uri, again, 2, 3, 4)
    found = history()
    assert found["train_loss"] == [*expected(1, 2, 3)["train_loss"], *expected(4, clock=CLOCK + 50_000)["train_loss"]]
    assert [len(points) for points in found.values()] == [4, 4, 4]
    assert max(Counter((key, step) for key, step, _ in calls.points).values()) == 1
    assert len([text for text in warnings(caplog) if "up to step 300" in text]) == 1


def test_a_spool_that_was_cut_and_grew_without_the_tracker_adds_no_second_point(uri, run, new_run, history, caplog):
    kept = run.marks(1)
    train(uri, run, 2, 3, status="interrupted")
    untracked = new_run(position=kept, clock=CLOCK + 7)
    end = untracked.marks(2, 3, 4, 5)
    again = new_run(position=end, clock=CLOCK + 7)
    train(uri, again, 6)
    assert [step for step, _, _ in history()["steps"]] == [100, 200, 300, 400, 500, 600]
    assert len([text for text in warnings(caplog) if "up to step 300" in text]) == 1


def test_what_an_earlier_process_left_waits_for_the_checkpoint_of_this_one(uri, run, new_run, history):
    kept = run.marks(1)
    dead = dead_address()
    tracker = new_tracker(dead, finish_timeout=0.2)
    tracker.start(run.info)
    tracker.covered(run.marks(2, 3))
    tracker.finish(status="interrupted", artifacts=[], tags={})
    tracker = new_tracker(uri)
    tracker.start(new_run(position=spool_size(run)).info)  # started before the cut
    again = new_run(position=kept)
    tracker.covered(again.spool.position)
    tracker.finish(status="interrupted", artifacts=[], tags={})
    assert history() == expected(1)


def test_a_run_that_was_deleted_is_sent_again_as_a_new_one(uri, run, new_run, client, history, stored_run, caplog):
    train(uri, run, 1, 2)
    client.delete_run(stored_run().info.run_id)
    train(uri, new_run(position=spool_size(run)), 3)
    assert history() == expected(1, 2, 3)
    assert stored_run().data.params["factor"] == "2.0"
    assert "it was deleted" in " ".join(warnings(caplog))


def test_a_run_that_is_deleted_while_training_is_sent_again_as_a_new_one(uri, run, client, history, stored_run):
    tracker = new_tracker(uri)
    tracker.start(run.info)
    client.delete_run(record(run.folder)["run_id"])
    tracker.covered(run.marks(1, 2))
    tracker.finish(status="finished", artifacts=[], tags={})
    assert history() == expected(1, 2)
    assert stored_run().info.status == "FINISHED"


def test_another_store_gets_the_whole_run(uri, run, new_run, history, tmp_path, empty_database, caplog):
    other = tmp_path / "other.db"
    shutil.copy(empty_database, other)
    train(f"sqlite:///{other}", run, 1, 2)
    train(uri, new_run(position=spool_size(run)), 3)
    assert history() == expected(1, 2, 3)
    assert f"was tracked at sqlite:///{other}" in " ".join(warnings(caplog))


def test_a_broken_record_is_kept_aside(uri, run, history, caplog):
    (run.folder / FILE_NAME).write_text('{"uuid": 3')
    train(uri, run, 1)
    assert (run.folder / f"{FILE_NAME}.broken").read_text() == '{"uuid": 3'
    assert history() == expected(1)
    assert "is not a tracking record" in " ".join(warnings(caplog))


def test_a_folder_that_another_tracker_records_is_left_alone(uri, run, new_run, history, caplog):
    first = new_tracker(uri)
    first.start(run.info)
    second = new_tracker(uri, start_timeout=0.1)
    second.start(run.info)
    second.covered(run.marks(1))
    second.finish(status="failed", artifacts=[], tags={})
    assert "is not tracked" in " ".join(warnings(caplog))
    assert not send_later(run.folder, tracking_uri=uri)
    first.covered(run.marks(2))
    first.finish(status="finished", artifacts=[], tags={})
    assert history() == expected(1, 2)


# ---- a server that fails, hangs or is not there


def test_a_failing_server_is_reported_once_and_then_gets_everything(server, run, history, stored_run, caplog):
    caplog.set_level(logging.INFO, logger="dataecho.tracking")
    tracker = new_tracker(f"http://{server.address}")
    tracker.start(run.info)
    server.faults.extend(["fail", "lose", "fail", "lose", "fail"])
    tracker.covered(run.marks(1, 2))
    tracker.finish(status="finished", artifacts=[], tags={})
    assert history() == expected(1, 2)
    assert stored_run().info.status == "FINISHED"
    (begin,), (end,) = (
        [entry.getMessage() for entry in caplog.records if entry.levelno == level]
        for level in (logging.WARNING, logging.INFO)
    )
    assert "500 error responses" in begin
    assert "answers" in end
    assert record(run.folder)["complete"]


def test_over_http_a_lost_answer_of_every_kind_leaves_nothing_twice(server, run, history, stored_run):
    server.loses_first = True
    run.spool.append(50, {"nan": math.nan}, time_ms=CLOCK)
    train(f"http://{server.address}", run, 1, 2)
    found = history()
    assert math.isnan(found.pop("nan")[0][2])
    assert found == expected(1, 2)
    kinds = {"experiments/create", "runs/create", "runs/search", "runs/log-batch", "runs/log-inputs", "runs/update"}
    assert kinds <= set(server.requests)
    assert stored_run().info.status == "FINISHED"


def test_a_server_that_hangs_stops_neither_training_nor_the_end(server, run, new_run, history, caplog, wait_until):
    server.faults.extend(["hang"] * 50)
    tracker = new_tracker(f"http://{server.address}", start_timeout=0.3, finish_timeout=0.5)
    seconds = {}

    def timed(name, function, *args, **options):
        begin = time.perf_counter()
        function(*args, **options)
        seconds[name] = time.perf_counter() - begin

    timed("start", tracker.start, run.info)
    timed("covered", tracker.covered, run.marks(1, 2))
    timed("finish", tracker.finish, status="finished", artifacts=[], tags={"end": "yes"})
    assert seconds["start"] < 0.3 + 2
    assert seconds["covered"] < 0.1
    assert seconds["finish"] < 0.5 + 2
    begin, end = warnings(caplog)
    assert "no answer within 0.3 seconds" in begin
    assert f"dataecho mode=sync resume={run.folder}" in end
    written = (run.folder / FILE_NAME).read_bytes()
    server.release()
    wait_until(lambda: not any(thread.name == "dataecho-mlflow" for thread in threading.enumerate()))
    assert (run.folder / FILE_NAME).read_bytes() == written  # after its end a tracker writes no more
    assert send_later(run.folder, tracking_uri=f"http://{server.address}", retry_interval=0.01)
    assert history() == expected(1, 2)


def test_a_call_that_returns_after_the_end_writes_no_more(uri, run, calls, history, wait_until):
    returns = threading.Event()

    def hang(number, name):
        if name == "log_batch:metrics":
            returns.wait(30)

    calls.after = hang
    train(uri, run, 1, finish_timeout=0.3)
    written = (run.folder / FILE_NAME).read_bytes()
    assert record(run.folder)["sent"] == 0
    returns.set()
    wait_until(lambda: not any(thread.name == "dataecho-mlflow" for thread in threading.enumerate()))
    assert (run.folder / FILE_NAME).read_bytes() == written  # the folder may belong to another process by now
    assert send_later(run.folder, tracking_uri=uri)
    assert len(calls.points) == 3
    assert history() == expected(1)


def test_a_request_to_a_server_that_hangs_is_given_up_by_itself(server, run, monkeypatch, wait_until):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.faults.extend(["hang", "hang"])
    train(f"http://{server.address}", run, 1)
    assert record(run.folder)["complete"]


def test_a_dead_server_costs_a_warning_and_later_gets_everything(run, uri, history, stored_run, client, caplog):
    tracker = new_tracker(dead_address(), start_timeout=20.0, finish_timeout=0.3)
    begin = time.perf_counter()
    tracker.start(run.info)
    assert time.perf_counter() - begin < 10  # refused, so start() does not wait for its timeout
    (run.folder / "summary.json").write_text("{}")
    longest = 0.0
    for mark in (1, 2, 3):
        position = run.mark(mark)
        begin = time.perf_counter()
        tracker.covered(position)
        longest = max(longest, time.perf_counter() - begin)
    assert longest < 0.1
    tracker.finish(status="finished", artifacts=[run.folder / "summary.json"], tags={"end": "yes"})
    assert not any(thread.name == "dataecho-mlflow" for thread in threading.enumerate())
    assert len(warnings(caplog)) == 2
    kept = record(run.folder)
    assert (kept["sent"], kept["covered"], kept["status"]) == (0, run.spool.position, "finished")
    assert (kept["artifacts"], kept["final_tags"]) == (["summary.json"], {"end": "yes"})

    moved = run.folder.rename(run.folder.with_name("moved"))  # a run folder is complete in itself
    assert send_later(moved, tracking_uri=uri)
    stored = stored_run()
    assert history() == expected(1, 2, 3)
    assert (stored.info.status, stored.info.run_name, stored.data.tags["end"]) == ("FINISHED", "first", "yes")
    assert stored.info.end_time == kept["end_time_ms"]
    assert stored.data.params == {"factor": "2.0", "echo.after": "decode"}
    assert [file.path for file in client.list_artifacts(stored.info.run_id)] == ["summary.json"]


def test_attempts_become_rarer_and_the_end_tries_at_once(uri, run, calls, history, wait_until):
    times = []

    def fail(number, name):
        times.append(time.monotonic())
        raise ConnectionError("down")

    calls.before = fail
    tracker = new_tracker(uri, retry_interval=0.05)
    tracker.start(run.info)
    tracker.covered(run.marks(1, 2))
    wait_until(lambda: len(times) >= 6)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits[4] > 8 * 0.05  # the fifth wait is 16 intervals long
    calls.before = lambda number, name: None
    begin = time.monotonic()
    tracker.finish(status="finished", artifacts=[], tags={})
    assert time.monotonic() - begin < 32 * 0.05  # the sixth wait was cut short
    assert history() == expected(1, 2)


def test_an_artifact_that_fails_holds_back_nothing_else(uri, run, calls, stored_run, client):
    for name in ("one.txt", "two.txt"):
        (run.folder / name).write_text(name)

    def fail(number, name):
        if name == "log_artifact" and not broken.append(number) and len(broken) % 2:
            raise PermissionError("no access to the first")

    broken = []
    calls.before = fail
    artifacts = [run.folder / "one.txt", run.folder / "two.txt"]
    train(uri, run, 1, artifacts=artifacts, tags={"end": "yes"}, retry_interval=60.0, finish_timeout=1.0)
    assert (stored_run().info.status, stored_run().data.tags["end"]) == ("FINISHED", "yes")
    assert record(run.folder)["sent_artifacts"] == ["two.txt"]
    calls.before = lambda number, name: None
    assert send_later(run.folder, tracking_uri=uri)
    run_id = stored_run().info.run_id
    assert [file.path for file in client.list_artifacts(run_id)] == ["one.txt", "two.txt"]


# ---- later


def test_a_killed_run_is_sent_later_as_far_as_its_checkpoint_covers(uri, run, tmp_path, history, stored_run):
    script = """
import os, signal, sys, time
from pathlib import Path
from dataecho.tracking.mlflow_tracker import MLflowTracker
from dataecho.training.contracts import RunInfo
from dataecho.training.spool import Spool
folder = Path(sys.argv[2])
tracker = MLflowTracker(tracking_uri=sys.argv[1], experiment="echo")
tracker.start(RunInfo(folder=folder, name="first", params={}, tags={}, dataset={}))
tracker.covered(int(sys.argv[3]))
time.sleep(float(sys.argv[4]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    covered = run.marks(1, 2)
    run.marks(3)
    command = [sys.executable, "-c", script, uri, str(run.folder), str(covered), "0"]
    assert subprocess.run(command, check=False).returncode == -9
    assert send_later(run.folder, tracking_uri=uri, position=covered)
    assert history() == expected(1, 2)
    assert stored_run().info.status == "KILLED"
    assert stored_run().info.end_time >= CLOCK


def test_sending_later_twice_sends_nothing_more(uri, run, calls):
    train(uri, run, 1)
    calls.names.clear()
    assert send_later(run.folder, tracking_uri=uri)
    assert calls.names == []


def test_sending_later_to_a_server_that_is_still_dead_says_so(run, caplog):
    dead = dead_address()
    train(dead, run, 1, finish_timeout=0.1)
    assert not send_later(run.folder, tracking_uri=dead, timeout=0.2, retry_interval=0.01)
    assert record(run.folder)["status"] == "finished"
    assert "mode=sync" in warnings(caplog)[-1]


@pytest.mark.parametrize("where", ["experiment", "store"])
def test_sending_later_elsewhere_sends_the_whole_run_to_a_new_one_there(uri, run, tmp_path, where, empty_database):
    from mlflow import MlflowClient

    (run.folder / "summary.json").write_text("{}")
    train(uri, run, 1, 2, artifacts=[run.folder / "summary.json"], tags={"end": "yes"})
    before = record(run.folder)
    shutil.copy(empty_database, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    place = {"tracking_uri": other} if where == "store" else {"experiment": "other"}
    assert send_later(run.folder, **place)
    now = record(run.folder)
    assert (now["tracking_uri"], now["experiment"]) == (place.get("tracking_uri", uri), place.get("experiment", "echo"))
    client = MlflowClient(now["tracking_uri"])
    assert (now["tracking_uri"], now["run_id"]) != (before["tracking_uri"], before["run_id"])
    sent = client.get_run(now["run_id"])
    points = client.get_metric_history(now["run_id"], "steps")
    assert [(point.step, point.value) for point in points] == [(100, 10), (200, 20)]
    assert (sent.info.status, sent.data.tags["end"]) == ("FINISHED", "yes")
    assert [file.path for file in client.list_artifacts(now["run_id"])] == ["summary.json"]
    assert MlflowClient(uri).get_run(before["run_id"]).info.status == "FINISHED"  # what is there stays
    assert send_later(run.folder)  # and from here on it is there


def test_a_place_that_does_not_answer_gets_no_run_and_takes_none_away(uri, run):
    train(uri, run, 1)
    before = record(run.folder)
    with pytest.raises(SettingError, match=r"tracking_uri=http://127.0.0.1:\d+ cannot be used.*takes runs now"):
        send_later(run.folder, tracking_uri=dead_address())
    assert record(run.folder) == before


# ---- what waiting does not help


def set_version(database, version):
    """Of the schema; returns the one before."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        (before,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    return before


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("deleted", r"MLFLOW_TRACKING_URI=sqlite:////.*mlflow.db mlflow experiments restore --experiment-id 1"),
        ("outdated", r"mlflow db upgrade sqlite:////.*mlflow.db"),
    ],
)
def test_a_fault_that_waiting_does_not_help_is_told_with_its_cure_and_not_waited_for(
    uri, run, database, history, caplog, fault, told
):
    from mlflow import MlflowClient

    if fault == "deleted":
        client = MlflowClient(uri)
        client.delete_experiment(client.create_experiment("echo"))
    else:
        version = set_version(database, "451aebb31d03")
    begin = time.monotonic()
    train(uri, run, 1, 2, start_timeout=60.0, finish_timeout=60.0)
    assert not send_later(run.folder, timeout=60.0)
    assert time.monotonic() - begin < 50
    at_start, at_end, later_start, later_end = warnings(caplog)
    assert "Waiting does not help" in at_start
    assert all(re.search(told, text) for text in (at_start, at_end, later_start, later_end))
    assert "mode=sync resume=" in at_end
    if fault == "deleted":
        client.restore_experiment("1")
    else:
        set_version(database, version)
    assert send_later(run.folder)
    assert history(record(run.folder)["run_id"]) == expected(1, 2)


def test_credentials_that_are_missing_are_not_waited_for(server, run, history, caplog):
    server.faults.extend(["deny"] * 3)
    begin = time.monotonic()
    train(f"http://{server.address}", run, 1, start_timeout=60.0, finish_timeout=60.0)
    assert time.monotonic() - begin < 50
    assert re.search("UNAUTHENTICATED|401", warnings(caplog)[0]) and "MLFLOW_TRACKING_USERNAME" in warnings(caplog)[0]
    server.faults.clear()
    assert send_later(run.folder)
    assert history() == expected(1)


def test_a_folder_that_cannot_be_written_is_not_waited_for(run, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    begin = time.monotonic()
    train(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}", run, 1, start_timeout=60.0, finish_timeout=60.0)
    assert time.monotonic() - begin < 50
    assert "Choose a database in a folder that can be written" in warnings(caplog)[0]


# ---- MLflow's own variables


def test_what_is_typed_wins_over_the_variables_and_they_over_the_default(run, tmp_path, uri, monkeypatch, new_run):
    def place(name, **typed):
        tracker = MLflowTracker(default_uri=f"sqlite:///{tmp_path}/default.db", **typed)
        tracker._sender = None
        record = tracker._begin(new_run(name).info)
        return record.tracking_uri, record.experiment

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert place("a") == (f"sqlite:///{tmp_path}/default.db", "dataecho")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert place("b") == ("http://host:5000", "theirs")
    assert place("c", tracking_uri=uri, experiment="mine") == (uri, "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(SettingError, match=r"^MLFLOW_TRACKING_URI=\./mlruns cannot be used"):
        place("d")


def test_a_resumed_run_keeps_where_it_was_whatever_the_variables_say(uri, run, new_run, monkeypatch):
    train(uri, run, 1)
    first = record(run.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    resumed = new_run(position=first["covered"])
    train(None, resumed, 2, experiment=None)
    assert record(run.folder)["run_id"] == first["run_id"]
    assert record(run.folder)["experiment"] == "echo" and record(run.folder)["complete"]


def test_the_dashboard_finds_experiments_whatever_their_numbers(uri, run, client):
    for name in ("one", "two"):
        client.create_experiment(name)
    train(uri, run, 1)
    number = client.get_experiment_by_name("echo").experiment_id
    assert number == "3"
    assert addresses(uri, page="http://127.0.0.1:5000") == [
        "The runs of echo with the columns that matter: "
        "http://127.0.0.1:5000/#/experiments/3/runs?viewStateShareKey=dataecho"
    ]
    assert addresses("sqlite:////nowhere/mlflow.db", page="x") == addresses("http://host", page="x") == []


def test_sending_later_an_untracked_run_is_refused(uri, tmp_path):
    with pytest.raises(SettingError, match=r"with tracking\.json.*without tracking"):
        send_later(tmp_path, tracking_uri=uri)


# ---- settings, secrets, imports


@pytest.mark.parametrize(
    "wrong", ["sqlite:///mlflow.db", "sqlite:///:memory:", "sqlite://", "./mlruns", "/abs/mlruns", "file:///abs", ""]
)
def test_a_store_that_depends_on_the_folder_or_is_a_folder_is_refused(wrong):
    with pytest.raises(SettingError, match=r"tracking\.tracking_uri=.*Allowed: sqlite:////absolute/path\.db.*Use"):
        new_tracker(wrong)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"artifact_root": "mlruns"}, r"tracking\.artifact_root=mlruns"),
        ({"start_timeout": 0}, r"tracking\.start_timeout=0"),
        ({"send_interval": -1.0}, r"tracking\.send_interval=-1 "),
        ({"max_share": 0.0}, r"tracking\.max_share=0 "),
        ({"max_share": 2.0}, r"tracking\.max_share=2 "),
        ({"finish_timeout": -1.0}, r"tracking\.finish_timeout=-1 "),
        ({"retry_interval": 0}, r"tracking\.retry_interval=0"),
        ({"experiment": " "}, r"tracking\.experiment= "),
    ],
)
def test_a_setting_that_cannot_work_is_refused(uri, options, key):
    with pytest.raises(SettingError, match=key):
        MLflowTracker(**{"tracking_uri": uri, "experiment": "echo", **options})


def test_no_secret_is_stored_logged_or_sent(server, new_run, stored_run, caplog, capfd):
    caplog.set_level(logging.DEBUG, logger="dataecho")
    params = {"db.password": "hunter2", "api_key": "hunter2", "data": "s3://me:hunter2@host/x", "num_tokens": 5}
    run = new_run(params=params, tags={"origin": "http://me:hunter2@host"})
    server.faults.extend(["fail"] * 3)
    tracker = train(f"http://me:hunter2@{server.address}", run, 1, tags={"token": "hunter2"})
    stored = stored_run()
    assert stored.data.params == {"db.password": "***", "api_key": "***", "data": "s3://***@host/x", "num_tokens": "5"}
    run_id = stored.info.run_id
    assert tracker.where == f"http://{server.address}/#/experiments/{stored.info.experiment_id}/runs/{run_id}"
    assert len(warnings(caplog)) == 1
    dead = dead_address().replace("://", "://me:hunter2@")
    other = new_run("other", params=params)
    train(dead, other, 1, finish_timeout=0.1)
    assert len(warnings(caplog)) == 3
    shown = capfd.readouterr()
    files = [path.read_text(errors="replace") for folder in (run.folder, other.folder) for path in folder.iterdir()]
    for text in [caplog.text, shown.out, shown.err, str(stored.data.tags), *files]:
        assert "hunter2" not in text
    with pytest.raises(SettingError) as refused:
        new_tracker("file://me:hunter2@host/x")
    assert "hunter2" not in str(refused.value)


def test_the_module_imports_without_mlflow():
    script = (
        "import sys, dataecho.tracking.mlflow_tracker as tracker;"
        "tracker.MLflowTracker(tracking_uri='sqlite:////nowhere/mlflow.db', experiment='echo');"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'mlflow', 'sqlalchemy', 'pandas', 'requests'}))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_bounds_a_request_is_set_unless_the_user_set_it(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    open_client(uri)
    names = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_DISABLE_TELEMETRY")
    assert [os.environ[name] for name in names] == ["77", "0", "true"]


def test_mlflows_global_state_stays_untouched(uri, run, monkeypatch):
    import mlflow

    before = mlflow.get_tracking_uri()
    tracker = new_tracker(uri)
    tracker.start(run.info)
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before
    tracker.finish(status="finished", artifacts=[], tags={})


def test_two_trackers_in_one_process_do_not_mix(uri, new_run, history):
    runs = [new_run("one"), new_run("two", clock=CLOCK + 1000)]
    trackers = [new_tracker(uri), new_tracker(uri)]
    for tracker, run in zip(trackers, runs, strict=True):
        tracker.start(run.info)
    for mark in (1, 2):
        for tracker, run in zip(trackers, runs, strict=True):
            tracker.covered(run.mark(mark))
    for tracker in trackers:
        tracker.finish(status="finished", artifacts=[], tags={})
    ids = [record(run.folder)["run_id"] for run in runs]
    assert ids[0] != ids[1]
    assert history(ids[0]) == expected(1, 2)
    assert history(ids[1]) == expected(1, 2, clock=CLOCK + 1000)


@pytest.mark.slow
def test_four_processes_may_create_the_database_at_once(tmp_path):
    script = """
import sys
from pathlib import Path
from dataecho.tracking.mlflow_tracker import MLflowTracker
from dataecho.training.contracts import RunInfo
from dataecho.training.spool import Spool
folder = Path(sys.argv[2])
folder.mkdir()
spool = Spool(folder)
tracker = MLflowTracker(tracking_uri=sys.argv[1], experiment="echo", start_timeout=120.0, finish_timeout=120.0)
tracker.start(RunInfo(folder=folder, name=folder.name, params={}, tags={}, dataset={}))
spool.append(100, {"loss": 1.0}, time_ms=1)
spool.flush()
tracker.covered(spool.position)
tracker.finish(status="finished", artifacts=[], tags={})
"""
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    commands = [[sys.executable, "-c", script, uri, str(tmp_path / f"run-{i}")] for i in range(4)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert errors == [""] * 4  # not one warning
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("echo")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted((run.info.run_name, run.info.status, run.data.metrics["loss"]) for run in runs) == [
        (f"run-{i}", "FINISHED", 1.0) for i in range(4)
    ]


def test_make_dashboard_is_named_for_the_file_that_it_opens(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert new_tracker(f"sqlite:///{PROJECT / 'mlflow.db'}").where == "make dashboard"
    monkeypatch.chdir(tmp_path)
    assert new_tracker(f"sqlite:///{tmp_path / 'mlflow.db'}").where.startswith("mlflow server --backend-store-uri ")
    assert new_tracker("http://me:pw@host:5000").where == "http://host:5000"


def test_an_experiment_has_a_view_with_the_columns_that_matter_and_keeps_a_changed_one(uri, run, new_run, client):
    train(uri, run, 1)
    view = json.loads(client.get_experiment_by_name("echo").tags["mlflow.sharedViewState.dataecho"])
    assert {"metrics.`fresh_examples_to_target`", "metrics.`upstream_downstream_ratio`", "tags.`echo`"} <= set(
        view["selectedColumns"]
    )
    experiment = client.get_experiment_by_name("echo")
    client.set_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.dataecho", "mine")
    train(uri, new_run("other"), 1)
    assert client.get_experiment_by_name("echo").tags["mlflow.sharedViewState.dataecho"] == "mine"
