"""What is trained on is not held out."""

import numpy as np
import pytest

from dataecho.compose import compose_workload
from dataecho.errors import SettingError
from dataecho.pipeline.source import ArraySource
from dataecho.sources.folder import FolderSource
from dataecho.sources.manifest import ManifestSource
from dataecho.sources.map_style import MapStyleSource
from dataecho.sources.parquet import ParquetSource
from dataecho.sources.same_data import are_same_data
from dataecho.sources.tar import TarSource
from tests.sources.tar_files import write_tar
from tests.support import config


def arrays(last):
    return ArraySource({"x": np.array([1, 2, last])})


def folder(root, last):
    for number, content in enumerate([b"1", b"2", last]):
        (root / "cat").mkdir(parents=True, exist_ok=True)
        (root / "cat" / f"{number}.jpg").write_bytes(content)
    return FolderSource(str(root))


def tar(root, last):
    return TarSource(str(write_tar(root / "0000.tar", [("1.jpg", b"1"), ("2.jpg", b"2"), ("3.jpg", last)])))


def parquet(root, last):
    import pyarrow
    import pyarrow.parquet

    root.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"x": [b"1", b"2", last]}), root / "0000.parquet")
    return ParquetSource(f"{root}/*.parquet", shuffle_rows=True)


def manifest(root, last):
    root.mkdir(parents=True)
    (root / "a.csv").write_text("file,label\n1.jpg,1\n2.jpg," + last.decode())
    for name in ("1.jpg", "2.jpg"):
        (root / name).write_bytes(b"an image")
    return ManifestSource(str(root / "a.csv"))


@pytest.mark.parametrize("new", [folder, tar, parquet, manifest])
def test_a_copy_is_the_same_data_and_another_value_is_not(tmp_path, new):
    first, copy, other = new(tmp_path / "a", b"3"), new(tmp_path / "b", b"3"), new(tmp_path / "c", b"44")
    assert are_same_data(first, first) and are_same_data(first, copy)
    assert not are_same_data(first, other)


def test_shards_of_one_name_that_have_other_examples_are_other_data(tmp_path):
    first, other = tar(tmp_path / "train", b"3"), tar(tmp_path / "eval", b"4")
    assert first.digest == other.digest or not are_same_data(first, other)
    assert not are_same_data(first, other)
    assert not are_same_data(first, TarSource(str(write_tar(tmp_path / "c" / "0000.tar", [("1.jpg", b"1")]))))


def test_arrays_and_datasets_are_compared_by_their_content():
    assert are_same_data(arrays(3), arrays(3)) and not are_same_data(arrays(3), arrays(4))
    assert are_same_data(MapStyleSource([{"x": 1}]), MapStyleSource([{"x": 1}]))
    assert not are_same_data(MapStyleSource([{"x": 1}]), MapStyleSource([{"x": 2}]))


QUIET = ("tracking=none", "display=none", "accelerator=cpu", "task=images")


@pytest.mark.parametrize("mode", ["train", "evaluate"])
@pytest.mark.parametrize("option", ["scenes", "tar"])
def test_training_on_what_is_held_out_is_refused_and_evaluating_it_is_not(tmp_path, mode, option):
    write_tar(tmp_path / "a.tar", [("1.jpg", b"1"), ("1.cls", b"1")])
    overrides = {
        "scenes": [
            "task.eval.split=train", "task.train.num_examples=16", "task.eval.num_examples=16", "task.train.pixels=16",
            "task.eval.pixels=16", f"task.train.cache_dir={tmp_path}", f"task.eval.cache_dir={tmp_path}",
        ],
        "tar": ["task/images_data=tar", f"task.train.urls={tmp_path}/*.tar", f"task.eval.urls={tmp_path}/a.tar"],
    }[option]  # fmt: skip
    node = config(*QUIET, *overrides, f"mode={mode}")
    if mode == "evaluate":
        assert compose_workload(node).eval_source.num_examples(0) in (1, 16)
        return
    with pytest.raises(SettingError, match="^task.eval=the data of task.train cannot be used. Allowed: data that are"):
        compose_workload(node)
