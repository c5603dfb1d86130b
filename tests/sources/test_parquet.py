"""Parquet shards, here and on a real server, whole and broken."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataecho.errors import DataError, SettingError
from dataecho.pipeline.source import shard_lengths
from dataecho.pipeline.stage import Broken
from dataecho.sources.parquet import ParquetSource
from dataecho.testing.source_contract import SourceContract, all_positions
from tests.sources.http_server import Fault

QUICK = {"num_retries": 2, "first_delay": 0.01, "timeout": 0.5}


def go_on():
    pass


def table(start, length, **changed):
    numbers = range(start, start + length)
    columns = {
        "image": pa.array([{"bytes": f"jpeg {n}".encode() * 9, "path": f"{n}.jpg"} for n in numbers]),
        "label": pa.array(numbers, pa.int64()),
        "weight": pa.array([n / 2 for n in numbers], pa.float32()),
        "text": pa.array([f"löwe {n}" for n in numbers]),
        "tokens": pa.array([list(range(n)) for n in numbers], pa.list_(pa.int32())),
        "good": pa.array([n % 2 == 0 for n in numbers]),
        "a.b": pa.array([bytes([n]) for n in numbers], pa.binary()),
    }
    return pa.table({**columns, **changed})


def write_shards(folder, *, changed=False):
    """13 rows in row groups of 3, in files of 5, 5 and 3 rows; a digest knows names, so the changed one has another."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (start, length) in enumerate([(0, 5), (5, 5), (10, 3)]):
        rows = table(start, length)
        last = changed and number == 2
        if last:
            rows = rows.set_column(1, "label", pa.array([10, 11, 99], pa.int64()))
        pq.write_table(rows, folder / f"part-{number}{'b' if last else ''}.parquet", row_group_size=3)
    return folder


class TestLocalParquet(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        write_shards(tmp_path / "data")
        return lambda: ParquetSource(f"{tmp_path}/data/*.parquet")

    @pytest.fixture
    def changed_source(self, tmp_path):
        return ParquetSource(f"{write_shards(tmp_path / 'changed', changed=True)}/*.parquet")


class TestFarShuffledParquet(SourceContract):
    @pytest.fixture
    def new_source(self, server):
        write_shards(server.folder)
        return lambda: ParquetSource(server.url + "/part-{0..2}.parquet", shuffle_rows=True, **QUICK)

    @pytest.fixture
    def changed_source(self, tmp_path):
        return ParquetSource(f"{write_shards(tmp_path / 'changed', changed=True)}/*.parquet")


@pytest.fixture
def source(tmp_path):
    return ParquetSource(f"{write_shards(tmp_path)}/*.parquet")


def read(source, shard, *ks):
    return source.read(np.full(len(ks), shard), np.array(ks, dtype=np.int64))


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return ParquetSource(str(path))


def test_a_row_is_a_record_of_values(source):
    (record,) = read(source, 0, 4)
    assert list(record) == ["image", "label", "weight", "text", "tokens", "good", "a.b"]
    assert record["image"] == b"jpeg 4" * 9
    assert (record["label"], record["weight"], record["good"]) == (4, 2.0, True)
    assert [type(record[name]) for name in ("label", "weight", "good")] == [np.int64, np.float32, np.bool_]
    assert record["text"] == "löwe 4"
    np.testing.assert_array_equal(record["tokens"], np.arange(4, dtype=np.int32), strict=True)
    assert record["a.b"] == b"\x04"


def test_lengths_names_and_order(source):
    assert shard_lengths(source) == [5, 5, 3]
    assert source.name(1, 2) == "part-1.parquet: row 2"
    assert not source.random_access
    assert [record["label"] for record in source.read(*all_positions(source))] == list(range(13))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [({"y": "label", "x": "a.b"}, {"y": 4, "x": b"\x04"}), (["label", "text"], {"label": 4, "text": "löwe 4"})],
)
def test_columns_select_and_rename(tmp_path, columns, expected):
    source = ParquetSource(f"{write_shards(tmp_path)}/*.parquet", columns=columns)
    assert read(source, 0, 4) == [expected]
    assert source.digest != ParquetSource(f"{tmp_path}/*.parquet").digest


def test_what_is_null_is_broken_and_the_others_come(tmp_path):
    source = write(
        tmp_path / "a.parquet",
        x=pa.array([1, None, 3, 4, 5]),
        image=pa.array([{"bytes": b"a"}, {"bytes": b"b"}, {"bytes": None}, None, {"bytes": b"e"}]),
        tokens=pa.array([[1], [1], [1], [1], [1, None]]),
    )
    first, *broken = read(source, 0, 0, 1, 2, 3, 4)
    assert first == {"x": 1, "image": b"a", "tokens": np.array([1])}
    assert broken == [Broken(f"column {name} is null") for name in ("x", "image", "image", "tokens")]


def test_columns_that_no_example_can_hold_and_missing_ones_are_refused(tmp_path, source):
    dates = write(tmp_path / "b.parquet", when=pa.array([0], pa.timestamp("s")))
    with pytest.raises(DataError, match=r"b\.parquet: column when is timestamp.*Leave it out: columns=\["):
        read(dates, 0, 0)
    with pytest.raises(DataError, match=r"part-0\.parquet has no column lable\. It has image, label"):
        read(ParquetSource(f"{tmp_path}/part-0.parquet", columns=["lable"]), 0, 0)
    with pytest.raises(SettingError, match="max_decoded_bytes=0 cannot"):
        ParquetSource("a", max_decoded_bytes=0)


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_truncated_shard_is_an_error_that_names_it(tmp_path, source, size):
    path = tmp_path / "part-1.parquet"
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    assert source.num_examples(0) == 5
    with pytest.raises(DataError, match=r"part-1\.parquet is no whole Parquet file: .*cut short"):
        source.num_examples(1)


def test_damaged_rows_are_an_error_that_names_the_group(tmp_path, source):
    path = tmp_path / "part-0.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"part-0\.parquet: row group 0 cannot be decoded: .*Bring the whole"):
        read(source, 0, 0)


def test_no_row_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"a\.parquet has no row"):
        write(tmp_path / "a.parquet", x=pa.array([], pa.int64())).num_examples(0)


@pytest.fixture
def decoded(monkeypatch):
    """How often row groups were decoded."""
    calls, original = [], ParquetSource._decoded

    def counted(self, shard, file, group, columns):
        calls.append((shard, group))
        return original(self, shard, file, group, columns)

    monkeypatch.setattr(ParquetSource, "_decoded", counted)
    return calls


def test_every_row_group_is_decoded_once_whoever_asks(source, decoded):
    shards, ks = all_positions(source)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: source.read(shards[n : n + 1], ks[n : n + 1]), range(13)))
    assert sorted(decoded) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


def test_decoded_groups_are_bounded_and_the_last_used_stay(tmp_path, source, decoded):
    size = table(10, 3).nbytes  # the largest of the three
    bounded = ParquetSource(f"{tmp_path}/*.parquet", max_decoded_bytes=int(2.5 * size))
    for shard, k in [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1)]:
        read(bounded, shard, k)
    assert decoded == [(0, 0), (1, 0), (2, 0), (1, 0)]


def test_a_failed_decode_is_tried_again(server, decoded):
    write_shards(server.folder)
    ParquetSource(f"{server.url}/part-0.parquet").num_examples(0)
    source = ParquetSource(f"{server.url}/part-0.parquet", **QUICK)
    server.forever["part-0.parquet"] = Fault(status=500)
    with pytest.raises(DataError, match=r"/part-0\.parquet: HTTP 500 .*3 times in a row"):
        read(source, 0, 0)
    del server.forever["part-0.parquet"]
    assert read(source, 0, 0)[0]["label"] == 0


def test_a_row_of_a_shard_that_is_not_here_costs_a_part_of_it(server):
    rows = table(0, 100).append_column("big", pa.array([os.urandom(2000) for _ in range(100)]))
    pq.write_table(rows, server.folder / "a.parquet", row_group_size=10)
    ParquetSource(f"{server.url}/a.parquet").num_examples(0)
    server.reset_counts()
    source = ParquetSource(f"{server.url}/a.parquet", columns=["label", "image"], **QUICK)
    assert read(source, 0, 55)[0]["label"] == 55
    assert server.num_bytes["a.parquet"] < 100_000 < (server.folder / "a.parquet").stat().st_size


def test_fetched_shards_are_read_from_the_copy(server):
    write_shards(server.folder)
    source = ParquetSource(server.url + "/part-{0..2}.parquet", **QUICK)
    assert [source.fetch(shard, proceed=go_on) for shard in range(3)] == [
        (server.folder / f"part-{shard}.parquet").stat().st_size for shard in range(3)
    ]
    server.reset_counts()
    assert [record["label"] for record in source.read(*all_positions(source))] == list(range(13))
    assert server.methods == []


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["cat", "dog", "cat"]),
        pa.array(["cat", "dog", "cat"]).dictionary_encode(),
        pa.array(["cat", "dog", "cat"], pa.large_string()),
        pa.array(["cat", "dog", "cat"], pa.string_view()),
        pa.array([b"cat", b"dog", b"cat"], pa.binary_view()),
        pa.array([5, 6, 5]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type).partition("<")[0],
)
def test_categories_and_texts_of_every_kind_are_values(tmp_path, column):
    pq.write_table(pa.table({"label": column}), tmp_path / "a.parquet")
    source = ParquetSource(str(tmp_path / "a.parquet"))
    found = [record["label"] for record in source.read(*all_positions(source))]
    assert found == column.to_pylist() and type(found[0]) in (str, bytes, np.int64)


def test_a_null_among_categories_is_broken(tmp_path):
    pq.write_table(pa.table({"label": pa.array(["cat", None]).dictionary_encode()}), tmp_path / "a.parquet")
    first, second = ParquetSource(str(tmp_path / "a.parquet")).read(np.zeros(2, dtype=int), np.arange(2))
    assert first == {"label": "cat"} and second == Broken("column label is null")


def test_a_column_that_comes_twice_is_refused(tmp_path):
    arrays = [pa.array([1]), pa.array([2]), pa.array([3])]
    pq.write_table(pa.Table.from_arrays(arrays, names=["label", "x", "label"]), tmp_path / "a.parquet")
    for columns in (None, ["x"]):
        with pytest.raises(DataError, match="a.parquet: a column comes twice: label. Write it again with other names"):
            ParquetSource(str(tmp_path / "a.parquet"), columns=columns).num_examples(0)
