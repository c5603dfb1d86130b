"""Checkpoints: whole or not there; everything comes back; what cannot be used is named."""

import json
import math
import os
import re

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.training import checkpoint
from dataecho.training.checkpoint import CheckpointStore, find_checkpoint, list_checkpoints, load_checkpoint

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = ["bool", *INTEGERS, "float16", "float32", "float64", "complex64"]
SHAPES = [(), (0,), (0, 4), (3,), (2, 3)]


def state(steps=0, **more):
    return {"counts": {"steps": steps}, "best": {"steps": None}, "weights": np.arange(5) + steps, **more}


def save(folder, *all_steps, best=None, keep=2):
    store = CheckpointStore(folder, keep=keep)
    for steps in all_steps:
        store.save(state(steps, best={"steps": best}), steps=steps, best_steps=best)
    return store


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def step_names(*all_steps):
    return [f"step-{steps:012d}" for steps in all_steps]


def identical(one, other):
    """Equal in keys, order, types, dtypes, shapes and bits."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            identical(one[key], other[key])
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    else:
        assert one == other or (math.isnan(one) and math.isnan(other))


def test_nested_states_come_back_bit_for_bit(tmp_path):
    values = {"none": None, "true": True, "big": 2**70, "tiny": 5e-324, "nan": math.nan, "inf": math.inf, "text": "ä"}
    whole = {
        "values": {**values, "list": [1, [2.5, "x"]], "empty": {}, "empty list": []},
        "arrays": {
            dtype: {str(shape): np.arange(1, math.prod(shape) + 1).reshape(shape).astype(dtype) for shape in SHAPES}
            for dtype in DTYPES
        },
        "nan": np.array([math.nan, -0.0, math.inf]),
        "deep": {"a/b": {"c.d": np.array([1])}, "": {"e": np.array([2])}},
    }
    identical(load_checkpoint(CheckpointStore(tmp_path).save(whole, steps=1, best_steps=None)), whole)


def test_arrays_that_lie_oddly_in_memory_keep_their_values(tmp_path):
    grid = np.arange(12).reshape(3, 4)
    path = CheckpointStore(tmp_path).save({"turned": grid.T, "cut": grid[::2, 1:3]}, steps=1, best_steps=None)
    loaded = load_checkpoint(path)
    assert loaded["turned"].tolist() == grid.T.tolist()
    assert loaded["cut"].tolist() == grid[::2, 1:3].tolist()


def test_what_was_loaded_can_be_written_to(tmp_path):
    save(tmp_path, 1).newest()["weights"][0] = 7


def test_two_arrays_of_one_name_are_our_mistake(tmp_path):
    with pytest.raises(AssertionError, match="a/b"):
        CheckpointStore(tmp_path).save({"a/b": np.zeros(1), "a": {"b": np.ones(1)}}, steps=1, best_steps=None)


@pytest.mark.parametrize(("fails", "after"), [("dump_arrays", 0), ("_write", 0), ("_write", 1), ("_sync", 0)])
def test_a_failure_while_writing_leaves_no_visible_checkpoint(tmp_path, monkeypatch, fails, after):
    store = save(tmp_path, 1)
    real, calls = getattr(checkpoint, fails), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise OSError("disk full")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, fails, failing)
        with pytest.raises(OSError, match="disk full"):
            store.save(state(2), steps=2, best_steps=None)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == step_names(1)
    assert store.newest()["counts"] == {"steps": 1}
    store.save(state(2), steps=2, best_steps=None)  # the same process tries again
    assert names(tmp_path) == step_names(1, 2)


def test_everything_is_on_the_disk_before_the_checkpoint_is_visible(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(names(tmp_path)))
    save(tmp_path, 1)
    (draft,) = seen[0]
    assert draft.startswith(".")
    assert seen == [[draft], [draft], [draft], step_names(1)]  # two files, their folder, and the one above


@pytest.mark.parametrize("process", [os.getpid(), 999999], ids=["the same id", "another id"])
def test_leftovers_of_a_process_that_died_while_writing_are_removed(tmp_path, process):
    save(tmp_path, 1)
    for steps in (2, 5):  # in a container the next process may well have the same id
        draft = tmp_path / "checkpoints" / f".step-{steps:012d}.{process}"
        draft.mkdir()
        (draft / "arrays.safetensors").write_bytes(b"half")
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == step_names(1)
    save(tmp_path, 2)
    assert names(tmp_path) == step_names(1, 2)


@pytest.mark.parametrize(
    ("best", "keep", "kept"),
    [
        (None, 2, [4, 5]),
        (2, 2, [2, 4, 5]),
        (4, 2, [4, 5]),
        (5, 2, [4, 5]),
        (None, 1, [5]),
        (1, 1, [1, 5]),
        (None, 9, [1, 2, 3, 4, 5]),
    ],
)
def test_the_last_ones_and_the_best_stay(tmp_path, best, keep, kept):
    save(tmp_path, 1, 2, 3, 4, 5, best=best, keep=keep)
    assert names(tmp_path) == step_names(*kept)


def test_a_best_one_that_is_no_longer_the_best_goes(tmp_path):
    save(tmp_path, 1, 2, 3, 4, best=1)
    save(tmp_path, 5, best=4)
    assert names(tmp_path) == step_names(4, 5)


def test_a_checkpoint_at_the_same_step_is_replaced(tmp_path):
    store = save(tmp_path, 1, 2)
    store.save({"after": "resume"}, steps=2, best_steps=None)
    assert names(tmp_path) == step_names(1, 2)
    assert store.newest() == {"after": "resume"}


class Killed(BaseException):
    """The process is no more: nothing that would come after is done."""


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("moment", [0, 1])
def test_a_kill_at_either_rename_of_a_replacement_leaves_the_old_one_or_the_new(tmp_path, monkeypatch, keep, moment):
    store = save(tmp_path, 1, keep=keep)
    real, calls = type(tmp_path).rename, []

    def rename(path, target):
        calls.append(target)
        if len(calls) > moment:
            raise Killed
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", rename)
        with pytest.raises(Killed):
            store.save(state(1, weights=np.zeros(1)), steps=1, best_steps=None)
    after = CheckpointStore(tmp_path, keep=keep)
    assert after.newest()["weights"].tolist() == [1, 2, 3, 4, 5]
    assert load_checkpoint(find_checkpoint(tmp_path, best=True))["counts"] == {"steps": 1}
    with monkeypatch.context() as patch:  # and the next save may fail as well
        patch.setattr(checkpoint, "_write", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            after.save(state(1), steps=1, best_steps=None)
    assert names(tmp_path) == step_names(1)
    assert after.newest()["weights"].tolist() == [1, 2, 3, 4, 5]
    after.save({"after": "kill"}, steps=1, best_steps=None)
    assert names(tmp_path) == step_names(1) and after.newest() == {"after": "kill"}


def test_a_failed_write_gives_its_room_back(tmp_path, monkeypatch):
    store = save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "_sync", lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.save(state(2), steps=2, best_steps=None)
    assert names(tmp_path) == step_names(1)


def test_a_damaged_checkpoint_is_replaced_when_the_run_gets_there_again(tmp_path):
    store = save(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / step_names(2)[0] / "arrays.safetensors").write_bytes(b"")
    save(tmp_path, 2)
    assert store.newest()["counts"] == {"steps": 2}


def test_checkpoints_ahead_of_one_that_was_resumed_go_with_the_first_new_one(tmp_path):
    save(tmp_path, 10, 20, 30, keep=3)
    store = save(tmp_path, 15, keep=2)  # resumed from 10: what is at 20 and 30 has another spool
    assert names(tmp_path) == step_names(10, 15)
    assert store.newest()["counts"] == {"steps": 15}


def corrupt(name, change):
    def apply(path):
        (path / name).write_bytes(change((path / name).read_bytes()))

    return apply


def header(**changes):
    return corrupt("state.json", lambda data: json.dumps({**json.loads(data), **changes}).encode())


def flip(number):
    return lambda data: data[:number] + bytes([data[number] ^ 1]) + data[number + 1 :]


BROKEN = {
    "arrays cut": (corrupt("arrays.safetensors", lambda data: data[:-1]), "arrays.safetensors"),
    "arrays empty": (corrupt("arrays.safetensors", lambda data: b""), "arrays.safetensors"),
    "arrays' last byte": (corrupt("arrays.safetensors", flip(-2)), "arrays.safetensors"),
    "arrays' first byte": (corrupt("arrays.safetensors", flip(0)), "arrays.safetensors"),
    "no arrays": (lambda path: (path / "arrays.safetensors").unlink(), "arrays.safetensors is missing"),
    "no values": (lambda path: (path / "state.json").unlink(), "state.json is missing"),
    "values cut": (corrupt("state.json", lambda data: data[:-1]), "state.json is truncated or no checkpoint"),
    "values empty": (corrupt("state.json", lambda data: b""), "state.json is truncated or no checkpoint"),
    "values no text": (corrupt("state.json", lambda data: b"\xff" + data), "state.json is truncated or no"),
    "values no object": (corrupt("state.json", lambda data: b"[1]"), "state.json is truncated or no checkpoint"),
    "a value altered": (
        corrupt("state.json", lambda data: data.replace(b'{"steps": 2}', b'{"steps": 3}')),
        "was altered",
    ),
    "another format": (header(format=0), "format 0, this version reads format 2"),
    "no format": (corrupt("state.json", lambda data: b"{}"), "state.json is truncated or no checkpoint"),
    "nothing": (lambda path: [file.unlink() for file in path.iterdir()], "state.json is missing"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_checkpoint_is_refused_by_path_and_reason(tmp_path, how, caplog):
    damage, why = BROKEN[how]
    store = save(tmp_path, 1, 2)
    path = tmp_path / "checkpoints" / step_names(2)[0]
    damage(path)
    with pytest.raises(
        SettingError,
        match=rf"^checkpoint={re.escape(str(path))} cannot be used. Allowed: a whole checkpoint. .*{why}.*Use an older",
    ):
        load_checkpoint(path)
    assert store.newest()["counts"] == {"steps": 1}
    assert [(record.levelname, str(path) in record.message) for record in caplog.records] == [("WARNING", True)]


def test_every_cut_of_either_file_is_refused(tmp_path):
    path = CheckpointStore(tmp_path).save(state(1), steps=1, best_steps=None)
    for name in ("arrays.safetensors", "state.json"):
        whole = (path / name).read_bytes()
        for length in range(len(whole)):
            (path / name).write_bytes(whole[:length])
            with pytest.raises(SettingError):
                load_checkpoint(path)
        (path / name).write_bytes(whole)
    assert load_checkpoint(path)["counts"] == {"steps": 1}


def test_starting_over_beside_damaged_checkpoints_is_refused(tmp_path, caplog):
    store = CheckpointStore(tmp_path)
    assert store.newest() is None and not caplog.records
    save(tmp_path, 1, 2)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        (path / "state.json").write_text("")
    with pytest.raises(SettingError, match="cannot be used: state.json is truncated"):
        store.newest()
    assert len(caplog.records) == 2


def test_a_checkpoint_is_found_by_its_own_path_or_its_runs(tmp_path):
    save(tmp_path, 1, 2, 3, 10, best=2)
    newest, best = (tmp_path / "checkpoints" / name for name in step_names(10, 2))
    assert find_checkpoint(tmp_path, best=False) == newest
    assert find_checkpoint(tmp_path, best=True) == best
    assert find_checkpoint(newest, best=True) == newest
    assert find_checkpoint(best, best=False) == best


def test_the_newest_is_the_best_where_none_was_better_than_nothing(tmp_path):
    save(tmp_path, 1, 2)
    assert find_checkpoint(tmp_path, best=True).name == step_names(2)[0]


@pytest.mark.parametrize(("best", "key"), [(True, "checkpoint"), (False, "resume")])
def test_a_folder_without_checkpoints_is_refused_by_its_path(tmp_path, best, key):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(
            SettingError,
            match=rf"^{key}={re.escape(str(path))} cannot be used. Allowed: a run folder with checkpoints/",
        ):
            find_checkpoint(path, best=best)
