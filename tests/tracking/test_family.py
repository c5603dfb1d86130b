"""A run becomes the child of another, whichever of them arrives first, and whatever fails on the way."""

import json

import pytest

from dataecho.errors import SettingError
from dataecho.tracking.mlflow_tracker import MLflowTracker, send_later
from tests.tracking.conftest import all_runs, dead_address

PARENT = "a" * 32


def new_tracker(uri, **options):
    return MLflowTracker(
        tracking_uri=uri, experiment="echo", **{"retry_interval": 0.01, "send_interval": 0.0, **options}
    )


def train(uri, run, **options):
    """A whole run of one mark; returns its uuid."""
    tracker = new_tracker(uri, **options)
    tracker.start(run.info)
    tracker.covered(run.marks(1))
    tracker.finish(status="finished", artifacts=[], tags={})
    return tracker.uuid


def parents(client):
    """The name of every run's parent, by the run's name."""
    runs = all_runs(client)
    names = {run.info.run_id: run.info.run_name for run in runs}
    return {run.info.run_name: names.get(run.data.tags.get("mlflow.parentRunId")) for run in runs}


@pytest.fixture
def family(new_run):
    """Run folders of a study and of two trials."""
    return [new_run(name) for name in ("study", "one", "two")]


def test_children_find_a_parent_that_is_there(uri, family, client):
    study, one, two = family
    uuid = train(uri, study, run_name="study", has_children=True)
    for run, name in ((one, "one"), (two, "two")):
        train(uri, run, run_name=name, parent_uuid=uuid)
    assert parents(client) == {"study": None, "one": "study", "two": "study"}


def test_a_parent_that_arrives_late_finds_its_children(uri, family, client):
    study, one, two = family
    dead = dead_address()
    uuid = train(dead, study, run_name="study", has_children=True, finish_timeout=0.1)
    for run, name in ((one, "one"), (two, "two")):
        train(uri, run, run_name=name, parent_uuid=uuid)
    assert parents(client) == {"one": None, "two": None}
    assert send_later(study.folder, tracking_uri=uri)
    assert parents(client) == {"study": None, "one": "study", "two": "study"}


@pytest.mark.parametrize("order", [("study", "one", "two"), ("one", "study", "two"), ("two", "one", "study")])
def test_all_sent_later_in_any_order_are_one_family(uri, family, client, tmp_path, order):
    study, one, two = family
    dead = dead_address()
    uuid = train(dead, study, run_name="study", has_children=True, finish_timeout=0.1)
    for run, name in ((one, "one"), (two, "two")):
        train(dead, run, run_name=name, parent_uuid=uuid, finish_timeout=0.1)
    for name in order:
        assert send_later(tmp_path / name, tracking_uri=uri)
    assert parents(client) == {"study": None, "one": "study", "two": "study"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_failure_at_every_call_leaves_no_child_behind(uri, new_run, calls, client, moment):
    number_of_calls = None
    for failing in range(-1, 100):
        if number_of_calls is not None and failing >= number_of_calls:
            break
        start = len(calls.names)

        def fail(number, call, at=start + failing, active=failing >= 0):
            if active and number == at:
                raise ConnectionError(f"{call} fails")

        setattr(calls, moment, fail)
        early = train(dead_address(), new_run(f"study{failing}"), has_children=True, run_name="p", finish_timeout=0.05)
        for name in ("first", "second"):
            if name == "second":
                assert send_later(new_run(f"study{failing}").folder, tracking_uri=uri, retry_interval=0.01)
            train(uri, new_run(f"{name}{failing}"), parent_uuid=early, run_name=name)
        if number_of_calls is None:
            number_of_calls = len(calls.names) - start
            assert calls.names.count("set_tag") == 2
        setattr(calls, moment, lambda number, name: None)
        found = all_runs(client)
        (study,) = (run.info.run_id for run in found if run.info.run_name == "p")
        children = {run.info.run_name: run.data.tags.get("mlflow.parentRunId") for run in found}
        assert children == {"p": None, "first": study, "second": study}
        for run in found:
            client.delete_run(run.info.run_id)


def test_a_parent_that_was_deleted_and_sent_again_gets_its_children_back(uri, family, client, new_run):
    study, one, _ = family
    uuid = train(uri, study, run_name="study", has_children=True)
    train(uri, one, run_name="one", parent_uuid=uuid)
    client.delete_run(json.loads((study.folder / "tracking.json").read_text())["run_id"])
    assert parents(client) == {"one": None}
    train(uri, new_run("study", position=(study.folder / "metrics.jsonl").stat().st_size), has_children=True)
    assert parents(client) == {"study": None, "one": "study"}


def test_a_resumed_run_takes_the_tags_and_the_parent_that_it_is_given_then(uri, family, client, new_run):
    study, one, _ = family
    uuid = train(uri, study, run_name="study", has_children=True)
    train(uri, one, run_name="one", tags={"trial": 3, "kept": "yes"})
    again = new_run("one", position=(one.folder / "metrics.jsonl").stat().st_size)
    train(uri, again, tags={"trial": 4}, parent_uuid=uuid)
    assert parents(client) == {"study": None, "one": "study"}
    tags = next(run.data.tags for run in all_runs(client) if run.info.run_name == "one")
    assert (tags["trial"], tags["kept"], tags["git_revision"]) == ("4", "yes", "abc123")


def test_more_tags_are_sent_masked_and_count_before_the_runs_own(uri, run, stored_run):
    train(uri, run, tags={"git_revision": "mine", "trial": 3, "api_key": "hunter2"}, run_name="mine")
    stored = stored_run()
    assert stored.info.run_name == "mine"
    assert (stored.data.tags["git_revision"], stored.data.tags["trial"], stored.data.tags["api_key"]) == (
        "mine",
        "3",
        "***",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": {"dataecho.uuid": "x"}}, r"tracking\.tags\.dataecho\.uuid=x cannot be used.*tracking\.parent_uuid"),
        ({"parent_uuid": "study 1"}, r"tracking\.parent_uuid=study 1 cannot be used. Allowed: the tag dataecho\.uuid"),
    ],
)
def test_names_that_the_tracker_needs_are_refused(uri, options, message):
    with pytest.raises(SettingError, match=message):
        new_tracker(uri, **options)
