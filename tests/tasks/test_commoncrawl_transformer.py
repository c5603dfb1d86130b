"""The Common Crawl task: the contract, its shards whole and broken, what is chosen of them, its miniature."""

import gzip
import io
import itertools
import json
import pickle
import zlib

import fsspec
import numpy as np
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from dataecho.build import build
from dataecho.errors import DataError, SettingError
from dataecho.modes import run_mode
from dataecho.pipeline.stage import Broken
from dataecho.sources.remote import MissingFile
from dataecho.testing.source_contract import SourceContract, all_positions
from dataecho.testing.task_contract import TaskContract
from dataecho.training.contracts import Task
from dataecho_tasks.commoncrawl_transformer.miniature import miniature
from dataecho_tasks.commoncrawl_transformer.pages import PageSource
from dataecho_tasks.shared.text.source import tokenized
from dataecho_tasks.shared.text.tokenizer import ByteTokenizer
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu")
SMALL = (
    "task=commoncrawl_transformer",
    "task.train.num_pages=40",
    "task.train.num_eval_pages=8",
    "task.sequence_length=32",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("miniature"))


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """Nothing of a test stays in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


def crawl(cache, *overrides):
    return build(config(*QUIET, *SMALL, f"task.train.cache_dir={cache}", *overrides)["task"], Task, key="task")


class TestCommonCrawl(TaskContract):
    @pytest.fixture
    def task(self, cache):
        return crawl(cache)

    @pytest.fixture
    def outputs(self):
        candidates = {"candidates": [101, 116, 97], "scores": [3.0, 2.0, 1.0]}
        return {"loss": 0.5, **candidates}, {"loss": 5.0, **candidates}


def write_wet(path, *records, kind="conversion"):
    """A WET file as Common Crawl writes it: a record about the file, then one per page, (language, text) each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=True)
        writer.write_record(writer.create_warcinfo_record(path.name, {"software": "test"}))
        for number, (language, text) in enumerate(records):
            data = text if isinstance(text, bytes) else text.encode()
            headers = [("WARC-Type", kind), ("Content-Type", "text/plain"), ("Content-Length", str(len(data)))]
            if language is not None:
                headers.append(("WARC-Identified-Content-Language", language))
            record = writer.create_warc_record(
                f"https://example.org/{number}",
                kind,
                payload=io.BytesIO(data),
                length=len(data),
                warc_headers=StatusAndHeaders("", headers, protocol="WARC/1.0"),
            )
            writer.write_record(record)
    return str(path)


def source(urls, *, sequence_length=11, **settings):
    chosen = {"min_line_length": 5, "min_page_length": 10} | settings
    return PageSource(urls, tokenizer=ByteTokenizer(), sequence_length=sequence_length, **chosen)


def write_pages(folder, *, first="sentence 0"):
    """Three shards of lines of 10 bytes: rows of 11 tokens are a line, its end, and the next one's first letter."""
    for shard in range(3):
        lines = [f"sentence {letter}" for letter in "0123456"]
        if shard == 0:
            lines[0] = first
        name = f"{shard}b" if shard == 0 and first != "sentence 0" else f"{shard}"
        pages = [
            ("eng", "\n".join(line.replace("e", str(shard), 1) for line in part)) for part in (lines[:4], lines[4:])
        ]
        write_wet(folder / f"{name}.warc.wet.gz", *pages)
    return f"{folder}/*.warc.wet.gz"


class TestLocalPages(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        urls = write_pages(tmp_path / "data")
        return lambda: source(urls)

    @pytest.fixture
    def changed_source(self, tmp_path):
        return source(write_pages(tmp_path / "changed", first="Sentence 0"))


class TestFarPages(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        write_pages(tmp_path / "data")
        memory = fsspec.filesystem("memory")
        for path in (tmp_path / "data").iterdir():
            memory.pipe(f"/crawl/{path.name}", path.read_bytes())
        made = []

        def new():
            made.append(1)
            return source("memory://crawl/*.warc.wet.gz", cache_dir=str(tmp_path / f"cache-{len(made)}"))

        return new

    @pytest.fixture
    def changed_source(self, tmp_path):
        return source(write_pages(tmp_path / "changed", first="Sentence 0"))


def rows(of):
    records = of.read(*all_positions(of))
    found = [tokenized(record, tokenizer=of.tokenizer, sequence_length=of.sequence_length) for record in records]
    return [bytes(row["tokens"].astype(np.uint8)) for row in found]


# ---- what is chosen


def chosen(tmp_path, *records, **settings):
    return list(source(write_wet(tmp_path / "a.warc.wet.gz", *records), **settings).lines(0))


def test_pages_are_chosen_by_their_first_language(tmp_path):
    records = [
        ("eng", "english text"),
        ("deu,eng", "deutscher Text"),
        ("eng,deu", "both of them"),
        (None, "nobody knows"),
    ]
    assert chosen(tmp_path, *records) == [b"english text", b"both of them"]
    assert chosen(tmp_path / "deu", *records, language="deu") == [b"deutscher Text"]
    assert len(chosen(tmp_path / "any", *records, language=None)) == 4


def test_short_lines_and_pages_of_another_length_are_left_out(tmp_path):
    records = [("eng", "menu\n  a line to keep \r\nhome\n\nanother one"), ("eng", "too short"), ("eng", "long " * 8)]
    assert chosen(tmp_path, *records, max_page_length=30) == [b"a line to keep", b"another one"]
    with pytest.raises(SettingError, match="min_page_length=10 cannot be used. Allowed: 0 to max_page_length=5"):
        chosen(tmp_path / "other", *records, max_page_length=5)


def test_a_line_that_came_before_in_the_shard_is_left_out(tmp_path):
    records = [("eng", "cookies please\nfirst page\ncookies please"), ("eng", "cookies please\nsecond page")]
    assert chosen(tmp_path, *records) == [b"cookies please", b"first page", b"second page"]


@pytest.mark.parametrize("sequence_length", [1, 4, 11, 23])
def test_rows_are_the_chosen_lines_each_beginning_where_the_last_ended(tmp_path, sequence_length):
    records = [("eng", "first page\nmenu\nits second line"), ("deu", "etwas anderes"), ("eng", "first page\nthe third")]
    of = source(write_wet(tmp_path / "a.warc.wet.gz", *records), sequence_length=sequence_length)
    text = b"first page\nits second line\nthe third\n"
    number = (len(text) - 1) // sequence_length
    assert rows(of) == [text[r * sequence_length : (r + 1) * sequence_length + 1] for r in range(number)]
    assert rows(pickle.loads(pickle.dumps(of))) == rows(of)


def test_what_is_chosen_is_part_of_the_digest(tmp_path):
    urls = write_pages(tmp_path)
    settings = ({}, {"language": None}, {"min_line_length": 6}, {"min_page_length": 11}, {"max_page_length": 99})
    assert len({source(urls, **changed).digest for changed in settings}) == 5


# ---- broken data


def test_a_file_that_is_cut_short_anywhere_is_told(tmp_path):
    path = tmp_path / "a.warc.wet.gz"
    write_wet(path, ("eng", "the first page has a line"), ("eng", "the second page has a line"))
    data = path.read_bytes()
    ends = [end for end in range(1, len(data)) if data[end : end + 3] == b"\x1f\x8b\x08"]
    assert len(ends) == 2
    for end in sorted({2, 30, len(data) // 2, len(data) - 9, len(data) - 1} - set(ends)):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match="a.warc.wet.gz is cut short: the record at byte"):
            source(str(path)).num_examples(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Bring it there again"),
        (b"WARC/1.0\r\n", "is not compressed by gzip"),
        (gzip.compress(b"no record at all"), "no WARC record.* at byte 0. Bring the whole file"),
        (
            gzip.compress(b"WARC/1.0\r\nWARC-Type: conversion\r\n\r\na line of a page\r\n\r\n"),
            "a.warc.wet.gz: no WARC record: its Content-Length is None, no number of bytes, at byte 0",
        ),
        (
            gzip.compress(b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: many\r\n\r\na line\r\n\r\n"),
            "a.warc.wet.gz: no WARC record: its Content-Length is many, no number of bytes, at byte 0",
        ),
        (
            gzip.compress(b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 4\r\n\r\na line that goes on"),
            r"a.warc.wet.gz: no WARC record: .*in the member's byte 58, at byte 0",
        ),
        (
            gzip.compress(b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 99\r\n\r\nless"),
            "99 bytes of text were",
        ),
    ],
    ids=[
        "empty",
        "no_gzip",
        "no_record",
        "no_length",
        "a_word_for_a_length",
        "goes_on",
        "cut_short",
    ],  # gzip writes the time: no name for a test
)
def test_a_file_that_is_no_wet_file_is_told(tmp_path, content, message):
    path = tmp_path / "a.warc.wet.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        source(str(path)).num_examples(0)


def test_a_damaged_byte_is_told(tmp_path):
    path = tmp_path / "a.warc.wet.gz"
    write_wet(path, ("eng", "a line of the page"))
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # of a checksum
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged at byte .* incorrect data check"):
        source(str(path)).num_examples(0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("metadata", r"is a WAT file \(.warc.wat.gz\): its first record has the kind metadata. Take the .warc.wet.gz"),
        ("response", r"is a WARC file \(.warc.gz\): its first record has the kind response. Take the .warc.wet.gz"),
        ("request", r"is a WARC file \(.warc.gz\): its first record has the kind request. Take the .warc.wet.gz"),
    ],
)
def test_other_files_of_a_crawl_are_told_apart_before_their_end_is_read(tmp_path, kind, message):
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>a page</html>"  # headers inside of the record
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
    path = tmp_path / "a.warc.gz"
    write_wet(path)
    data = path.read_bytes() + 2 * gzip.compress(head + answer + b"\r\n\r\n", mtime=0)
    for cut in (0, 40):
        path.write_bytes(data[: len(data) - cut])
        with pytest.raises(DataError, match=rf"a.warc.gz {message}"):
            source(str(path)).num_examples(0)


def test_a_file_without_pages_and_a_wrong_folder_are_told(tmp_path):
    with pytest.raises(DataError, match="has no text of pages, but records of the kind warcinfo. Take the"):
        source(write_wet(tmp_path / "a.warc.gz")).num_examples(0)
    with pytest.raises(MissingFile, match="no file matches.*wet.paths.gz"):
        source(f"{tmp_path}/none/*.warc.wet.gz")


# ---- records that share a member


def joined(path, *, sizes):
    """The same records, so many of them in each member."""
    content = [gzip.decompress(member) for member in split_members(path.read_bytes())]
    parts = iter(content)
    path.write_bytes(b"".join(gzip.compress(b"".join(itertools.islice(parts, size)), mtime=0) for size in sizes))


def split_members(data):
    while data:
        inflater = zlib.decompressobj(31)
        inflater.decompress(data)
        yield data[: len(data) - len(inflater.unused_data)]
        data = inflater.unused_data


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3), (1, 2, 2), (5,), (3, 1, 1)])
def test_every_record_of_a_member_is_read(tmp_path, sizes):
    pages = [("eng", "\n".join(f"page {page} line {line}" for line in range(6))) for page in range(4)]
    path = tmp_path / "a.warc.wet.gz"
    write_wet(path, *pages)
    joined(path, sizes=sizes)
    of = source(str(path), sequence_length=14)
    lines = [f"page {page} line {line}".encode() for page in range(4) for line in range(6)]
    assert list(of.lines(0)) == lines and len(lines) == 24
    text = b"\n".join(lines) + b"\n"
    assert rows(of) == [text[14 * r : 14 * r + 15] for r in range((len(text) - 1) // 14)]


def test_many_records_in_one_large_member_are_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr("dataecho_tasks.commoncrawl_transformer.pages._MAX_SHARED", 1000)
    path = tmp_path / "a.warc.wet.gz"
    write_wet(path, ("eng", "a long page " * 100), ("eng", "another page"))
    assert source(str(path), max_page_length=5000).num_examples(0) > 0  # a large page alone is none
    joined(path, sizes=(1, 2))
    with pytest.raises(DataError, match="a.warc.wet.gz has many records in one piece of .* warcio recompress OLD NEW"):
        source(str(path)).num_examples(0)


# ---- the list of a crawl


def write_list(folder, *, compressed):
    """Four files below ``folder``, and the list of them as a crawl has it."""
    paths = [f"crawl-data/CC/segments/{number // 2}/wet/{number}.warc.wet.gz" for number in range(4)]
    for number, path in enumerate(paths):
        write_wet(folder / path, ("eng", f"line of the page {number}"))
    text = "".join(f"{path}\n" for path in paths).encode()
    name = "wet.paths.gz" if compressed else "wet.paths"
    (folder / name).write_bytes(gzip.compress(text) if compressed else text)
    return str(folder / name)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("part", "numbers"), [({}, [0, 1, 2, 3]), ({"num_files": 1}, [0]), ({"first_file": 1, "num_files": 2}, [1, 2])]
)
def test_the_list_of_a_crawl_stands_for_its_files(tmp_path, compressed, part, numbers):
    of = source(write_list(tmp_path, compressed=compressed), root=str(tmp_path), **part)
    assert all_lines(of) == [f"line of the page {number}".encode() for number in numbers]


def test_paths_of_a_list_lie_where_common_crawl_has_them(tmp_path):
    of = source(write_list(tmp_path, compressed=True), num_files=2)
    assert of._urls[1] == "https://data.commoncrawl.org/crawl-data/CC/segments/0/wet/1.warc.wet.gz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wet.paths is no list of WET files: it is empty"),
        (b"a/b.warc.gz\n", r"no list of WET files: 'a/b.warc.gz' is in it. Take wet.paths.gz, not warc.paths.gz"),
        (b"a/b.warc.wet.gz\n../c.warc.wet.gz", r"no list of WET files: '../c.warc.wet.gz' is in it"),
        (b"\x1f\x8b and no more", "wet.paths is no list of files"),
        (b"\xff\xfe", "wet.paths is no list of files"),
    ],
)
def test_what_is_no_list_of_wet_files_is_told(tmp_path, content, message):
    (tmp_path / "wet.paths").write_bytes(content)
    with pytest.raises(DataError, match=message):
        source(str(tmp_path / "wet.paths"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_files": 5}, r"num_files=5 cannot be used. Allowed: null \(all\) or 1 to 4"),
        ({"num_files": 0}, "num_files=0 cannot be used"),
        ({"first_file": 4}, "first_file=4 cannot be used. Allowed: 0 to 3"),
        ({"first_file": 2, "num_files": 3}, r"num_files=3 cannot be used. Allowed: null \(all\) or 1 to 2"),
    ],
)
def test_a_part_that_a_list_does_not_have_is_refused(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        source(write_list(tmp_path, compressed=True), **settings)


@pytest.mark.parametrize("name", ["root", "first_file", "num_files"])
def test_what_belongs_to_a_list_is_refused_without_one(tmp_path, name):
    write_pages(tmp_path)
    with pytest.raises(SettingError, match=f"{name}=.* cannot be used. Allowed: null, unless urls is a list"):
        source(f"{tmp_path}/*.warc.wet.gz", **{name: "x" if name == "root" else 1})


def test_a_shard_of_which_nothing_is_chosen_is_told(tmp_path):
    path = write_wet(tmp_path / "a.warc.wet.gz", ("deu", "eine Zeile der Seite"))
    with pytest.raises(DataError, match="has no page with language=eng and 10 to 100000 bytes in lines of 5"):
        source(path).num_examples(0)


def test_a_row_that_is_not_utf_8_fails_alone(tmp_path):
    lines = b"0123456789\n01234\xff6789\n1123456789\n2123456789\n3123456789"
    of = source(write_wet(tmp_path / "a.warc.wet.gz", ("eng", lines)))
    found = []
    for record in of.read(*all_positions(of)):
        try:
            found.append(len(tokenized(record, tokenizer=of.tokenizer, sequence_length=11)["tokens"]))
        except UnicodeDecodeError:
            found.append("broken")
    assert found == ["broken", "broken", 12, 12]


def test_a_record_that_is_damaged_after_it_was_indexed_is_broken(tmp_path):
    path = tmp_path / "a.warc.wet.gz"
    write_wet(path, ("eng", "first page, line\nanother line of it"), ("eng", "second page, with a longer line"))
    of = source(str(path))
    before = of.read(*all_positions(of))
    offset, size = int(of._index(0)[1]["offset"][1]), int(of._index(0)[1]["size"][1])
    with open(path, "r+b") as file:  # the same file, open already: neither its size nor its reader tells
        file.seek(offset + size - 6)
        file.write(b"\0\0")
    after = of.read(*all_positions(of))
    assert after[0] == before[0] and isinstance(after[-1], Broken) and "damaged" in after[-1].reason


# ---- the miniature, and the task


def small(cache, split="train"):
    settings = {"num_pages": 40, "num_eval_pages": 8, "cache_dir": cache}
    return miniature(split=split, tokenizer=ByteTokenizer(), sequence_length=32, **settings)


def all_lines(of):
    return [line for shard in range(of.num_shards) for line in of.lines(shard)]


def test_no_line_of_the_miniature_is_both_trained_on_and_held_out(cache):
    train, held_out = all_lines(small(cache)), all_lines(small(cache, "eval"))
    assert len(train) > 200 and len(held_out) > 30
    assert not set(train) & set(held_out)


def test_the_miniature_is_always_the_same_bytes(cache, tmp_path):
    small(cache), small(str(tmp_path))
    first, second = (
        {path.name: path.read_bytes() for path in folder.rglob("*.warc.wet.gz")}
        for folder in map(type(tmp_path), (cache, str(tmp_path)))
    )
    assert first == second and len(first) == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.train.num_pages=999999", "task.train.num_pages=999999 cannot be used. Allowed: at most"),
        ("task.train.num_pages=3", "task.train.num_pages=3 cannot be used. Allowed: whole numbers >= 8"),
        ("task.train.split=dev", "task.train.split=dev cannot be used. Allowed: train, eval"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(cache, override, message):
    with pytest.raises(SettingError, match=message):
        crawl(cache, override)


def test_the_full_size_has_the_papers_numbers(tmp_path):
    overrides = ("task.train.urls=/a/*.gz", "task.eval.urls=/b/*.gz", "task.tokenizer.path=/c.json")
    node = config(*QUIET, "task=commoncrawl_transformer", "task/commoncrawl_transformer_data=full", *overrides)["task"]
    assert (node["batch_size"], node["shuffle_buffer"], node["target"]) == (1024, 1_000_000, 3.9)
    assert node["budget"] == 60_000 * 1024
    lm1b = config(
        *QUIET, "task=lm1b_transformer", "task/lm1b_transformer_data=full", "task.train.folder=/a",
        "task.tokenizer.path=/c.json",
    )["task"]  # fmt: skip
    assert node["models"] == lm1b["models"]
    with pytest.raises(SettingError, match="path=/c.json cannot be used"):
        build(node, Task, key="task")


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_it_learns_with_an_echo(cache, tmp_path, backend):
    sizes = ("task.models.torch.num_layers=1", "task.models.torch.width=32", "task.sequence_length=16")
    run = ("echo=batch", "factor=2", "budget.fresh=1024", "task.batch_size=16", "task.eval_interval=512")
    node = config(
        *QUIET, *SMALL, *sizes, *run, "budget=fresh", f"backend={backend}", f"task.train.cache_dir={cache}",
        f"run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    run_mode(node, folder=None, project=PROJECT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["fresh_examples"] == 1024 and summary["steps"] == 128
    assert summary["cross_entropy"] < 3.5, "bytes alone have 4.2"
