"""The pictures of a run are among its artifacts in MLflow."""

from pathlib import Path

from dataecho.modes import run_mode
from tests.support import PROJECT, config


def test_predictions_are_an_artifact_of_the_run(uri, client, stored_run, tmp_path):
    folder = tmp_path / "run"
    overrides = ("display=none", "accelerator=cpu", "backend.compute_threads=1", "budget=steps", "budget.steps=2")
    run_mode(config(*overrides, f"tracking.tracking_uri={uri}", f"run_dir={folder}"), folder=None, project=PROJECT)
    run_id = stored_run().info.run_id
    assert {"predictions.png", "learning_curve.png"} <= {file.path for file in client.list_artifacts(run_id)}
    sent = Path(client.download_artifacts(run_id, "predictions.png", str(tmp_path)))
    assert sent.read_bytes() == (folder / "predictions.png").read_bytes()
    assert sent.read_bytes().startswith(b"\x89PNG")
