"""A fault of MLflow that waiting does not help is told once for a sweep, with its cure and how to send it later."""

import logging

from dataecho_search import mlflow_parents
from dataecho_search.mlflow_parents import left_to_send, open_parent, open_sweep
from tests.tracking.test_sweep_runs import tracking


def test_a_deleted_experiment_is_told_once_for_a_sweep(uri, client, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(mlflow_parents, "_cures", set())
    client.delete_experiment(client.create_experiment("echo"))
    node = tracking(uri, start_timeout=60.0, finish_timeout=60.0)
    assert left_to_send(tmp_path / "sweep") == ""
    with caplog.at_level(logging.INFO, logger="dataecho.tracking"):
        open_sweep(node, tmp_path / "sweep", {"kind": "sweep"})
        for number in range(3):
            assert open_parent(node, tmp_path / "sweep", f"echo=batch,factor=2/{number}", {})
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the experiment 'echo' was deleted" in told and "mlflow experiments restore --experiment-id 1" in told
    left = left_to_send(tmp_path / "sweep")
    assert left.startswith("MLflow did not get this sweep. Restore it")
    assert left.endswith(f"Then send it: python train.py mode=sync resume={tmp_path / 'sweep'}")
    assert logging.getLogger("dataecho.tracking").level != logging.ERROR  # other troubles are told again afterwards
