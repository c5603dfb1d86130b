"""A fault of MLflow that waiting does not help is told once for a sweep, with its cure and how to send it later."""

import logging

from dataecho_search.report import mlflow_parents
from dataecho_search.report.mlflow_parents import note_end, open_parent, open_sweep, trial_overrides, unsent_warning
from tests.support import config
from tests.tracking.conftest import dead_address
from tests.tracking.test_sweep_runs import run_trials, tracking


def test_a_deleted_experiment_is_told_once_for_a_sweep(uri, client, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(mlflow_parents, "_cures", set())
    monkeypatch.setattr(mlflow_parents, "_is_out", False)
    client.delete_experiment(client.create_experiment("echo"))
    node = tracking(uri, start_timeout=60.0, finish_timeout=60.0)
    assert unsent_warning(tmp_path / "sweep") == ""
    with caplog.at_level(logging.INFO, logger="dataecho.tracking"):
        open_sweep(node, tmp_path / "sweep", {"kind": "sweep"})
        for number in range(3):
            assert open_parent(node, tmp_path / "sweep", f"echo=batch,factor=2/{number}", {})
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the experiment 'echo' was deleted" in told and "mlflow experiments restore --experiment-id 1" in told
    left = unsent_warning(tmp_path / "sweep")
    assert left.startswith("MLflow did not get this sweep. Restore it")
    assert left.endswith(f"Then send it: dataecho mode=sync resume={tmp_path / 'sweep'}")
    assert logging.getLogger("dataecho.tracking").level != logging.ERROR  # other troubles are told again afterwards


def waits(node, parent):
    """How long the next trial waits for MLflow, as the configuration says it: at its start, at its end."""
    own = config(*trial_overrides(parent, name="trial", tags={}, tracking=node))["tracking"]
    return own["start_timeout"], own["finish_timeout"]


def test_an_outage_is_waited_for_once_and_not_by_every_trial(uri, client, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_parents, "_cures", set())
    node = config()["tracking"]
    as_set = (node["start_timeout"], node["finish_timeout"])
    assert as_set > (1.0, 5.0)
    dead = tracking(dead_address())
    parent = open_parent(dead, tmp_path / "sweep", "echo=batch,factor=2/1", {})
    assert waits(node, parent) == (1.0, 5.0) and waits(dead, parent) == (0.5, 0.5)
    left = unsent_warning(tmp_path / "sweep")
    assert left.endswith(f"When it answers, send the rest: dataecho mode=sync resume={tmp_path / 'sweep'}")
    run_trials(tmp_path / "out", dead, parent, (1.0,))
    for folder, expected in ((tmp_path / "out", (1.0, 5.0)), (tmp_path / "untracked", as_set)):
        (trial,) = folder.rglob("tracking.json") if folder.exists() else [folder / "tracking.json"]
        note_end(trial.parent)
        assert waits(node, parent) == expected
    note_end(next((tmp_path / "out").rglob("tracking.json")).parent)
    open_parent(tracking(uri, start_timeout=60.0), tmp_path / "sweep that is sent", "study", {})
    assert waits(node, parent) == as_set and not unsent_warning(tmp_path / "sweep")  # it answers again
