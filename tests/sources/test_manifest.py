"""Files that a table lists."""

import json
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from dataecho.errors import DataError, SettingError
from dataecho.pipeline.stage import Broken
from dataecho.sources.manifest import ManifestSource
from dataecho.testing.source_contract import SourceContract, all_positions
from tests.sources.listing_server import serving

NAMES = tuple(f"images/{number} of 9.jpg" for number in range(1, 10))
ROWS = [{"file": name, "label": number % 3, "text": f"no. {number}"} for number, name in enumerate(NAMES)]
FORMATS = ("csv", "jsonl", "parquet")


def write_csv(path, rows):
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def write_manifest(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        write_csv(path, rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def write_files(folder, names=NAMES):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"content of {name}".encode())


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def served(tmp_path):
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


@pytest.fixture
def address(served):
    with serving(served) as address:
        yield address


def everything(source):
    return source.read(*all_positions(source))


class ManifestContract(SourceContract):
    FORMAT = ""

    @pytest.fixture
    def new_source(self, folder):
        manifest = write_manifest(folder / f"train.{self.FORMAT}")
        return lambda: ManifestSource(manifest)

    @pytest.fixture
    def changed_source(self, folder):
        changed = [*ROWS[:-1], ROWS[-1] | {"label": 7}]
        return ManifestSource(write_manifest(folder / f"changed.{self.FORMAT}", changed))


class TestCsv(ManifestContract):
    FORMAT = "csv"


class TestJsonLines(ManifestContract):
    FORMAT = "jsonl"


class TestParquet(ManifestContract):
    FORMAT = "parquet"


# ---- what is read


@pytest.mark.parametrize("ending", FORMATS)
def test_a_record_is_the_bytes_of_a_file_and_the_other_columns(folder, ending):
    source = ManifestSource(write_manifest(folder / f"train.{ending}"))
    assert (source.num_shards, source.num_examples(0), source.random_access, source.num_readers) == (1, 9, True, 0)
    record = everything(source)[4]
    assert record == {"image": b"content of images/5 of 9.jpg", "label": 1, "text": "no. 4"}
    assert record["label"].dtype == np.int64
    assert source.name(0, 4) == "images/5 of 9.jpg"


def test_the_three_kinds_of_manifest_are_the_same_data(folder):
    sources = [ManifestSource(write_manifest(folder / f"train.{ending}")) for ending in FORMATS]
    assert len({source.digest for source in sources}) == 1
    assert everything(sources[0]) == everything(sources[1]) == everything(sources[2])


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (None, ["picture", "label", "text"]),
        ([], ["picture"]),
        (["text"], ["picture", "text"]),
        ({"target": "label", "path": "file"}, ["picture", "target", "path"]),
    ],
)
def test_columns_are_taken_picked_or_renamed(folder, columns, names):
    source = ManifestSource(write_manifest(folder / "train.csv"), field="picture", columns=columns)
    assert list(everything(source)[0]) == names


def one_column(folder, ending, values):
    rows = [{"file": name, "x": value} for name, value in zip(NAMES, values, strict=False)]
    return [record["x"] for record in everything(ManifestSource(write_manifest(folder / f"one.{ending}", rows)))]


@pytest.mark.parametrize(
    ("cells", "dtype"),
    [
        (["1", "-2", "0"], np.int64),
        (["1", "2.5", "-.5e3"], np.float64),
        (["nan", "inf", "1"], np.float64),
        (["01", "2", "3"], None),
        (["1", "two", "3"], None),
        (["12345678901234567890", "x", "y"], None),
        (["9223372036854775807", "-9223372036854775808", "0"], np.int64),
        (["1234567890123456789", "1234567890123456788", "9223372036854775808"], None),
        (["9007199254740993", "0.5", "1"], None),  # which float64 would round
        (["9007199254740992", "0.5", "1e-05"], np.float64),
        (["1" + "0" * 400, "0.5", "1"], None),
        (["1e5", "2e10", "3"], None),  # a name, not 100000.0
        (["1e+5", "2E-3", "1.0e5"], np.float64),
    ],
)
def test_a_csv_column_is_numbers_where_every_cell_is_one(folder, cells, dtype):
    values = one_column(folder, "csv", cells)
    if dtype is None:
        assert values == cells
    else:
        assert [value.dtype for value in values] == [dtype] * 3
        expected = [int(cell) if dtype == np.int64 else float(cell) for cell in cells]
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(("values", "dtype"), [([1, 2], np.int64), ([0.5, 2.0], np.float64), ([True, False], np.bool_)])
def test_a_typed_column_keeps_its_type(folder, ending, values, dtype):
    found = one_column(folder, ending, values)
    assert found == values and [value.dtype for value in found] == [dtype] * 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, "two", 3], ["1", "two", "3"]),
        ([2**63 - 1, 2**63 - 2], [2**63 - 1, 2**63 - 2]),
        ([2**63, 2**63 + 1, 1], [str(2**63), str(2**63 + 1), "1"]),
        ([2**53 + 1, 0.5], [str(2**53 + 1), "0.5"]),
        ([2**53, 0.5], [float(2**53), 0.5]),
    ],
)
def test_mixed_columns_of_json_lines_keep_their_whole_numbers(folder, values, expected):
    assert one_column(folder, "jsonl", values) == expected


NUMBERS_AS_NAMES = ("3.1", "3.10", "1e5", "100000", "007", "1234567890123456789", "nan", "-0", "12345678901234567890")


@pytest.mark.parametrize("ending", FORMATS)
def test_names_of_files_are_text_whatever_they_look_like(tmp_path, ending):
    write_files(tmp_path, NUMBERS_AS_NAMES)
    source = ManifestSource(write_manifest(tmp_path / f"a.{ending}", [{"file": name} for name in NUMBERS_AS_NAMES]))
    assert [record["image"].decode() for record in everything(source)] == [
        f"content of {name}" for name in NUMBERS_AS_NAMES
    ]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_names_that_were_written_as_numbers_are_taken_where_nothing_is_lost(tmp_path, ending):
    write_files(tmp_path, ("31", "7"))
    rows = [{"label": 1, "file": 31}, {"label": 2, "file": 7}]
    records = everything(ManifestSource(write_manifest(tmp_path / f"a.{ending}", rows)))
    assert [(record["image"], record["label"]) for record in records] == [(b"content of 31", 1), (b"content of 7", 2)]
    with pytest.raises(DataError, match="column 'file': 3.1 is no name of a file, which is text"):
        ManifestSource(write_manifest(tmp_path / f"b.{ending}", [{"file": 3.10}]))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_lists_of_numbers_are_arrays_that_nobody_can_write_into(folder, ending):
    first, second = one_column(folder, ending, [[1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(second, [3, 4, 5])
    assert not first.flags.writeable


def test_empty_lines_and_a_mark_of_byte_order_do_not_matter(folder):
    (folder / "a.csv").write_bytes(b"\xef\xbb\xbffile,label\r\n\r\nimages/1 of 9.jpg,3\r\n\r\n")
    (folder / "a.jsonl").write_text('\n{"file": "images/1 of 9.jpg", "label": 3}\n\n')
    for name in ("a.csv", "a.jsonl"):
        assert everything(ManifestSource(str(folder / name)))[0]["label"] == 3


def test_a_copy_in_another_process_reads_the_same(folder):
    source = ManifestSource(write_manifest(folder / "train.jsonl"))
    assert everything(pickle.loads(pickle.dumps(source))) == everything(source)


# ---- where files lie


def test_files_are_sought_below_root(folder, tmp_path):
    manifest = write_manifest(tmp_path / "lists" / "train.csv")
    source = ManifestSource(manifest, root=str(folder))
    assert everything(source)[0]["image"] == b"content of images/1 of 9.jpg"
    assert all(isinstance(record, Broken) for record in everything(ManifestSource(manifest)))


def test_whole_paths_below_root_are_the_same_data(folder):
    whole = [row | {"file": f"{folder}/{row['file']}"} for row in ROWS]
    source = ManifestSource(write_manifest(folder / "whole.csv", whole))
    assert everything(source) == everything(ManifestSource(write_manifest(folder / "train.csv")))
    assert source.digest == ManifestSource(str(folder / "train.csv")).digest


def test_manifest_and_files_behind_a_url(folder, served, address):
    write_files(served)
    write_manifest(served / "train.csv")
    whole = [row | {"file": f"{address}/{row['file'].replace(' ', '%20')}"} for row in ROWS]
    here = ManifestSource(write_manifest(folder / "train.csv"))
    for source in (
        ManifestSource(f"{address}/train.csv"),
        ManifestSource(f"{address}/train.csv?signed=yes"),
        ManifestSource(str(folder / "train.csv"), root=address),
        ManifestSource(write_manifest(folder / "whole.jsonl", whole), root=f"{address}/"),
    ):
        assert source.num_readers == 16
        assert everything(source) == everything(here) and source.digest == here.digest


OUTSIDE = (
    "../secret.jpg",
    "images/../../secret.jpg",
    "/etc/passwd",
    "http://other/1.jpg",
    "a\0b",
    "file:///etc/passwd",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_path_that_leaves_the_root_is_refused(folder, name):
    manifest = write_manifest(folder / "train.jsonl", [ROWS[0], ROWS[1] | {"file": name}])
    with pytest.raises(DataError, match=r"train.jsonl, file 2: .* is no file below .*data. Correct it, or set root"):
        ManifestSource(manifest)


@pytest.mark.parametrize(
    "name", ["{address}/data/%2e%2e/secret.jpg", "{address}/secret.jpg", "{address}/database/1.jpg", "../x"]
)
def test_a_url_that_leaves_the_root_is_refused(folder, address, name):
    manifest = write_manifest(folder / "train.jsonl", [{"file": name.format(address=address)}])
    with pytest.raises(DataError, match="train.jsonl, file 1: .* is no file below http://127.0.0.1:.*/data"):
        ManifestSource(manifest, root=f"{address}/data")


def test_an_escaped_path_is_taken_literally_by_the_server(folder, served, address):
    (served / "data").mkdir()
    (served / "secret.jpg").write_bytes(b"secret")
    manifest = write_manifest(folder / "train.jsonl", [{"file": "%2e%2e/secret.jpg"}])
    (record,) = everything(ManifestSource(manifest, root=f"{address}/data"))
    assert isinstance(record, Broken)


# ---- what is broken


def test_a_file_that_is_missing_is_broken_and_the_others_are_not(folder, served, address):
    (folder / NAMES[2]).unlink()
    write_files(served, NAMES[:2] + NAMES[3:])
    manifest = write_manifest(folder / "train.csv")
    for source in (ManifestSource(manifest), ManifestSource(manifest, root=address)):
        records = everything(source)
        assert [isinstance(record, Broken) for record in records] == [k == 2 for k in range(9)]
        assert "3 of 9.jpg" in records[2].reason or "3%20of%209.jpg" in records[2].reason


CSV = "file,label\nimages/1 of 9.jpg,1\n"
MALFORMED = [
    ("a.csv", CSV + "b.jpg\n", "a.csv, line 3: 1 cells, the first line has 2. Correct the line"),
    ("a.csv", CSV + "b.jpg,2,3\n", "a.csv, line 3: 3 cells, the first line has 2"),
    ("a.csv", CSV + '"b.jpg,2\n', "a.csv, line 3: unexpected end of data"),
    ("a.csv", CSV + "b.jpg,\n", "a.csv, line 3: no value for 'label'. Fill it in, or name other columns"),
    ("a.csv", "file,file\na,b\n", "a.csv, line 1: a column comes twice: file, file"),
    ("a.csv", "", "a.csv: the manifest is empty. It needs one row per file"),
    ("a.csv", "file,label\n", "a.csv: the manifest lists no file. It needs one row per file"),
    ("a.csv", b"file\na.jpg\n\xff.jpg\n", "a.csv, line 3: no text in UTF-8"),
    ("a.jsonl", "", "a.jsonl: the manifest is empty"),
    ("a.jsonl", '{"file": "a"}\n{"file": \n', "a.jsonl, line 2: Expecting value"),
    ("a.jsonl", '{"file": "a"}\n["b"]\n', "a.jsonl, line 2: .* is no JSON object. Correct the line"),
    ("a.jsonl", '{"file": "a", "x": 1}\n\n{"file": "b"}\n', "a.jsonl, line 3: no value for 'x'"),
    (
        "a.jsonl",
        '{"file": "a", "x": 1}\n{"file": "b", "x": true}\n',
        "column 'x': its values are of the types bool, int",
    ),
    ("a.jsonl", '{"file": "a"}\n' + "[" * 100_000, "a.jsonl, line 2: it is nested too deeply. Correct the line"),
    ("a.jsonl", '{"file": "a", "x": ["b"]}\n', "column 'x': .*is no list of numbers"),
    ("a.parquet", "PAR1 and no more", "a.parquet: no readable Parquet file: .*Bring it there again"),
]


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED)
def test_a_malformed_manifest_is_told_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        ManifestSource(str(tmp_path / name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"file_column": "path"}, "file_column=path cannot be used. Allowed: the columns of .*: file, label, text"),
        ({"columns": ["lable"]}, "columns=lable cannot be used. Allowed: the columns of .*: file, label, text"),
        ({"columns": {"x": "lable"}}, "columns=lable cannot be used"),
        ({"columns": "label"}, r"columns=label cannot be used. Allowed: a list or a mapping of names. \[label\]"),
        ({"field": "label"}, "field=label cannot be used. .*The fields are label, label, text"),
        ({"num_readers": -1}, "num_readers=-1 cannot be used. Allowed: whole numbers >= 0"),
        ({"root": "http://here/x?token=secret"}, "url=http://here/x cannot be used. .*storage_options"),
    ],
)
@pytest.mark.parametrize("ending", FORMATS)
def test_settings_that_do_not_fit_are_refused_with_what_is_there(folder, ending, settings, message):
    with pytest.raises(SettingError, match=message):
        ManifestSource(write_manifest(folder / f"train.{ending}"), **settings)


# ---- names of classes


def of_classes(folder, names, *, ending="csv", **settings):
    rows = [{"file": name, "label": label, "x": k} for k, (name, label) in enumerate(zip(NAMES, names, strict=False))]
    manifest = write_manifest(folder / f"classes.{ending}", rows)
    return ManifestSource(manifest, class_column="label", **settings)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("columns", [None, ["x"], {"x": "x"}, {"label": "label", "x": "x"}, ["label", "x"]])
def test_names_of_classes_become_their_numbers(folder, ending, columns):
    source = of_classes(folder, ["n02", "n01", "n10"], ending=ending, columns=columns)
    assert source.classes == ("n01", "n02", "n10")
    records = everything(source)
    assert [record["label"] for record in records] == [1, 0, 2] and records[0]["label"].dtype == np.int64
    assert [record.keys() for record in records] == [{"image", "label", "x"}] * 3
    assert ManifestSource(str(folder / f"classes.{ending}")).classes is None


def test_given_classes_fix_the_numbers(folder):
    source = of_classes(folder, ["cat", "cat", "dog"], classes=["dog", "ant", "cat"])
    assert (source.classes, [record["label"] for record in everything(source)]) == (("dog", "ant", "cat"), [2, 2, 0])
    assert source.digest != of_classes(folder, ["cat", "cat", "dog"]).digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["cat"]}, "classes=1 names cannot be used. .* Missing: dog"),
        ({"classes": ["cat", "dog", "cat"]}, "classes=.*cannot be used. Allowed: every class once"),
        ({"class_column": "lable"}, "class_column=lable cannot be used. Allowed: the columns of .*: file, label, x"),
        ({"class_column": "lable", "columns": ["x"]}, "class_column=lable cannot be used. Allowed: the columns of"),
        ({"class_column": None, "classes": ["cat"]}, "class_column=None cannot be used. .*where classes are given"),
        ({"columns": {"label": "x"}}, "columns={'label': 'x'} cannot be used. .*which class_column gives"),
    ],
)
def test_classes_that_do_not_fit_the_manifest_are_refused(folder, settings, message):
    of_classes(folder, ["cat", "dog"])
    with pytest.raises(SettingError, match=message):
        ManifestSource(str(folder / "classes.csv"), **{"class_column": "label", **settings})


def test_a_parquet_manifest_with_a_column_twice_is_refused(tmp_path):
    arrays = [pyarrow.array(["a.jpg"]), pyarrow.array([1]), pyarrow.array([2])]
    table = pyarrow.Table.from_arrays(arrays, names=["file", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a.parquet: a column comes twice: file, label, label. Rename one"):
        ManifestSource(str(tmp_path / "a.parquet"))


def test_a_manifest_of_another_kind_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg")
    with pytest.raises(SettingError, match="manifest=.*list.txt cannot be used. Allowed: .*.csv, .jsonl, .parquet"):
        ManifestSource(str(tmp_path / "list.txt"))


def test_a_manifest_that_is_not_there_is_told(tmp_path, address):
    for manifest in (str(tmp_path / "list.csv"), f"{address}/list.csv"):
        with pytest.raises(DataError, match="list.csv: .*([Nn]o such file|404)"):
            ManifestSource(manifest)
