"""Ten thousand shards, folders that can only be read, and users without a home."""

import logging
import os

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.stage import Stage
from dataecho.sources.folder import FolderSource
from dataecho.sources.tar import TarSource
from dataecho.testing.source_contract import all_positions, fingerprints
from tests.sources.tar_files import write_shards, write_tar

NUM_SHARDS = 10_000


def test_ten_thousand_shards_are_read_and_do_not_stay_open(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(100):
        first = write_tar(tmp_path / "data" / f"{number:05d}.tar", [("a.cls", str(number).encode())])
        for copy in range(100 + number, NUM_SHARDS, 100):
            os.link(first, tmp_path / "data" / f"{copy:05d}.tar")
    source = TarSource(f"{tmp_path}/data/{{00000..09999}}.tar")
    assert source.num_shards == NUM_SHARDS and source.name(9_999, 0) == "09999.tar: example 0"
    records = source.read(np.arange(NUM_SHARDS), np.zeros(NUM_SHARDS, dtype=np.int64))
    assert [record["cls"] for record in records] == 100 * list(range(100))
    assert len(os.listdir("/proc/self/fd")) < 1_000

    stages = [Stage("decode", lambda record: {"label": record["cls"]})]
    settings = {"batch_size": 10, "shuffle_buffer": 50, "seed": 0, "echo_after": "decode", "factor": 2}
    with Feed(source, stages, **settings) as feed:
        labels = [next(feed)["label"] for _ in range(12)]
    with Feed(source, stages, **settings) as feed:
        for _ in range(5):
            next(feed)
        state = feed.state(5)
    with Feed(TarSource(f"{tmp_path}/data/*.tar"), stages, **settings, state=state) as feed:
        again = [next(feed)["label"] for _ in range(7)]
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(labels[5:]))


def test_ten_thousand_shards_behind_urls_are_named_ordered_and_told_apart_at_once():
    urls = [f"http://127.0.0.1:9/get?token=secret&file={number:05d}.tar" for number in reversed(range(NUM_SHARDS))]
    source = TarSource(urls)
    assert source.num_shards == NUM_SHARDS
    assert source.name(17, 0) == "get?file=00017.tar (18 of 10000): example 0"
    assert source.digest == TarSource([url.replace("secret", "another") for url in urls]).digest
    with pytest.raises(SettingError, match=r"urls=http://127\.0\.0\.1:9/get\?file=00000\.tar, .*every file once"):
        TarSource([*urls, *urls])


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_nothing_is_written_where_data_lie(tmp_path, layout):
    data = tmp_path / "data"
    write_shards(data)
    (data / "bee").mkdir()
    (data / "bee" / "a.png").write_bytes(b"a")
    stamp = 10**18
    for path in (data, data / "bee"):
        path.chmod(0o555)
        os.utime(path, ns=(stamp, stamp))
    try:
        source = TarSource(f"{data}/*.tar") if layout == "tar" else FolderSource(str(data))
        assert len(source.read(*all_positions(source))) == (14 if layout == "tar" else 1)
        assert {path.stat().st_mtime_ns for path in (data, data / "bee")} == {stamp}
    finally:
        for path in (data, data / "bee"):
            path.chmod(0o755)


def test_an_index_folder_that_cannot_be_written_is_told_once_and_the_data_are_read(server, tmp_path, caplog):
    names = write_shards(server.folder)
    (tmp_path / "file").touch()
    source = TarSource([f"{server.url}/{name}" for name in names], index_dir=f"{tmp_path}/file/index")
    near = TarSource([str(server.folder / name) for name in names])
    with caplog.at_level(logging.WARNING):
        assert fingerprints(source.read(*all_positions(source))) == fingerprints(near.read(*all_positions(near)))
    (record,) = caplog.records
    assert "No index of a shard can be kept in" in record.getMessage() and "index_dir=" in record.getMessage()


def test_a_user_without_a_home_reads_local_data_and_is_told_what_far_data_need(tmp_path, monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    names = write_shards(tmp_path / "data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.expanduser", lambda path: no_home(path) if str(path).startswith("~") else path)
    assert TarSource(f"{tmp_path}/data/{names[0]}").num_examples(0) == 5
    with pytest.raises(SettingError, match="XDG_CACHE_HOME=nothing cannot be used.*no home.*XDG_CACHE_HOME=/tmp"):
        TarSource("http://127.0.0.1:9/a.tar")
    assert TarSource("http://127.0.0.1:9/a.tar", cache_dir=f"{tmp_path}/cache").num_shards == 1
