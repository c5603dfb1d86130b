"""Where data lie, and by which credentials, is no part of a run: it goes on elsewhere, and nothing secret stays."""

import json
import shutil
import sqlite3

import cv2
import numpy as np
import pytest

from dataecho.errors import DataError, SettingError
from dataecho.modes import run_mode
from dataecho.settings import flatten
from dataecho.training.checkpoint import CheckpointStore, list_checkpoints, load_checkpoint
from tests.sources.http_server import HttpServer
from tests.sources.tar_files import write_tar
from tests.support import PROJECT, TIMES, config

SECRETS = ("s3cret", "pa55word", "0ldsign", "n3wsign", "h3ader", "unnam3d")
COMMON = (
    "accelerator=cpu",
    "backend.compute_threads=1",
    "display=none",
    "budget=steps",
    "budget.steps=6",
    "checkpoints.keep=9",
    "task.shuffle_buffer=16",
    "task.batch_size=8",
    "task.eval_interval=16",
    "task.eval_batch_size=8",
    "task.num_classes=4",
    "task.image_size=16",
    "task.models.torch.widths=[4]",
    "task.models.torch.virtual_batch_size=null",
    "pictures.num_examples=0",
    "stop_at_target=false",
)


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_data(folder, *, num_shards=3):
    """Shards to train on, one to evaluate on, and the same pictures in class folders."""
    for shard in range(num_shards + 1):
        members = []
        for k in range(16):
            number = 16 * shard + k
            members += [(f"{number:03d}.png", picture(number)), (f"{number:03d}.cls", str(number % 4).encode())]
            place = folder / ("held_out" if shard == num_shards else "classes") / str(number % 4) / f"{number:03d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture(number))
        write_tar(folder / ("eval.tar" if shard == num_shards else f"train-{shard}.tar"), members)


def train(run, *overrides, tracking="tracking=none"):
    run_mode(config("task=images", *COMMON, tracking, *overrides, f"run_dir={run}"), folder=None, project=PROJECT)


def resume(run, *overrides, tracking="tracking=none"):
    run_mode(config("task=images", *COMMON, tracking, *overrides, f"resume={run}"), folder=None, project=PROJECT)


def back_to(run, step):
    """As if the run had been killed after this step."""
    for path in list_checkpoints(run / "checkpoints"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    assert list_checkpoints(run / "checkpoints")


def results(run):
    summary = json.loads((run / "summary.json").read_text())
    return {
        name: summary[name] for name in summary if name not in TIMES | {"config", "git_revision", "versions", "dataset"}
    }


def weights(run):
    arrays = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["backend"]["arrays"]
    return {name: array.tobytes() for name, array in arrays.items()}


def stored(folder):
    """Every byte of every file below it."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    write_data(tmp_path / "served")
    server = HttpServer(tmp_path / "served")
    yield server
    server.close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tar(train, held_out):
    return (
        "task/images_data=tar",
        "task.train.fields.image=png",
        "task.eval.fields.image=png",
        f"task.train.urls={json.dumps(train)}",
        f"task.eval.urls={json.dumps(held_out)}",
    )


def signed(server, signature):
    """Presigned URLs, with user info besides."""
    base = server.url.replace("://", "://s3cret:pa55word@")
    urls = [f"{base}/train-{shard}.tar?X-Amz-Expires=60&k=unnam3d&X-Amz-Signature={signature}" for shard in range(3)]
    return tar(urls, f"{base}/eval.tar?X-Amz-Expires=60&k=unnam3d&X-Amz-Signature={signature}")


def by_query(server, signature):
    """Every shard has the same path; which it is stands in the query, behind a secret."""
    url = f"{server.url}/get?token={signature}&k=unnam3d&file="
    return tar([f"{url}train-{shard}.tar" for shard in range(3)], f"{url}eval.tar")


@pytest.mark.parametrize("urls", [signed, by_query])
def test_a_run_whose_signature_expired_goes_on_with_a_new_one_and_neither_is_stored(server, tmp_path, capfd, urls):
    mlflow = f"tracking.tracking_uri=sqlite:///{tmp_path}/mlflow.db"
    headers = ("+task.train.storage_options.headers={X-Mine: h3ader}",)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    server.token = "0ldsign"
    for run in (whole, broken):
        train(run, *urls(server, "0ldsign"), *headers, mlflow, tracking="tracking=mlflow")
    back_to(broken, 2)
    server.token = "n3wsign"
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match="HTTP 403.*resume"):
        resume(broken, *urls(server, "0ldsign"), *headers, mlflow, tracking="tracking=mlflow")
    resume(broken, *urls(server, "n3wsign"), *headers, mlflow, tracking="tracking=mlflow")
    assert results(broken) == results(whole) and weights(broken) == weights(whole)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        params = dict(database.execute("select key, value from params").fetchall())
        dump = "\n".join(database.iterdump())
    assert "***" in params["task.train.urls"]
    everything = stored(whole) + stored(broken) + stored(tmp_path / "cache") + dump.encode()
    everything += "".join(capfd.readouterr()).encode()
    for secret in SECRETS:
        assert secret.encode() not in everything, secret


def test_a_shard_that_its_query_names_is_told_by_its_place_and_by_what_is_no_secret(server, tmp_path, capfd):
    members = [("000.png", b"no picture"), ("000.cls", b"0")]
    for k in range(1, 16):
        members += [(f"{k:03d}.png", picture(k)), (f"{k:03d}.cls", str(k % 4).encode())]
    write_tar(server.folder / "train-1.tar", members)
    server.token = "0ldsign"
    train(tmp_path / "run", *by_query(server, "0ldsign"), "pipeline.max_skipped_share=0.1")
    (skipped,) = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()][:1]
    assert skipped["name"] == "get?file=train-1.tar (2 of 3): 000 (epoch 0)"
    assert "get?file=train-1.tar (2 of 3): 000" in capfd.readouterr().out
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:\d+/get\?file=train-\d\.tar: HTTP 403"):
        train(tmp_path / "other", *by_query(server, "n3wsign"))


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_a_run_goes_on_where_its_data_were_moved_to(tmp_path, layout):
    def data(root):
        if layout == "tar":
            return tar(f"{root}/train-*.tar", f"{root}/eval.tar")
        return "task/images_data=folder", f"task.train.url={root}/classes", f"task.eval.url={root}/held_out"

    write_data(tmp_path / "here")
    for name in ("whole", "broken"):
        train(tmp_path / name, *data(tmp_path / "here"))
    back_to(tmp_path / "broken", 2)
    shutil.move(tmp_path / "here", tmp_path / "there")
    resume(tmp_path / "broken", *data(tmp_path / "there"), "+task.train.first_delay=0.1")
    assert results(tmp_path / "broken") == results(tmp_path / "whole")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_other_data_are_refused_wherever_they_lie(tmp_path):
    write_data(tmp_path / "here")
    write_data(tmp_path / "more", num_shards=4)
    run = tmp_path / "run"
    train(run, *tar(f"{tmp_path}/here/train-*.tar", f"{tmp_path}/here/eval.tar"))
    back_to(run, 2)
    with pytest.raises(SettingError, match="^source="):
        resume(run, *tar(f"{tmp_path}/more/train-*.tar", f"{tmp_path}/here/eval.tar"))
    (tmp_path / "here" / "eval.tar").rename(tmp_path / "here" / "held-out.tar")
    with pytest.raises(SettingError, match=r"^task\.eval \(digest of its data\)=.*the value the checkpoint"):
        resume(run, *tar(f"{tmp_path}/here/train-*.tar", f"{tmp_path}/here/held-out.tar"))


def test_a_checkpoint_that_names_places_and_secrets_is_read(server, tmp_path):
    """As versions wrote it that had every setting in the identity, and no held-out data."""
    server.token = "0ldsign"
    settings = signed(server, "0ldsign")
    for name in ("whole", "broken"):
        train(tmp_path / name, *settings)
    back_to(tmp_path / "broken", 2)
    (path,) = list_checkpoints(tmp_path / "broken" / "checkpoints")
    state = load_checkpoint(path)
    places = {
        f"task.train.{name}": value
        for name, value in flatten(config("task=images", *settings)["task"]["train"]).items()
    }
    state["identity"] = {name: value for name, value in state["identity"].items() if "digest" not in name} | places
    assert "0ldsign" in json.dumps(state["identity"])
    CheckpointStore(tmp_path / "broken").save(state, steps=state["counts"]["steps"], best_steps=None)
    server.token = "n3wsign"
    resume(tmp_path / "broken", *signed(server, "n3wsign"))
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
