"""Tar shards, here and on a real server, whole and broken."""

import os
import pickle
import subprocess
import sys
import threading
import time

import fsspec
import numpy as np
import pytest

from dataecho.errors import DataError, SettingError
from dataecho.pipeline.source import shard_lengths
from dataecho.pipeline.stage import Broken
from dataecho.sources.remote import MissingFile
from dataecho.sources.tar import KEY, TarSource
from dataecho.testing.source_contract import SourceContract, all_positions, fingerprints
from tests.sources.http_server import Fault
from tests.sources.tar_files import example, image, write_shards, write_tar

QUICK = {"num_retries": 2, "first_delay": 0.01, "timeout": 0.5}


def go_on():
    pass


def read(source, shard, *ks):
    return source.read(np.full(len(ks), shard), np.array(ks, dtype=np.int64))


def write_changed(folder):
    """As ``write_shards``, one label apart; a digest knows the names of shards, so one has another."""
    write_shards(folder)
    (folder / "train-0001.tar").unlink()
    members = [member for k in range(5) for member in example(1, k)]
    write_tar(folder / "train-0001b.tar", [*members[:-1], (members[-1][0], b"99")])


class TestLocalTar(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        write_shards(tmp_path / "data")
        return lambda: TarSource(f"{tmp_path}/data/*.tar")

    @pytest.fixture
    def changed_source(self, tmp_path):
        write_changed(tmp_path / "changed")
        return TarSource(f"{tmp_path}/changed/*.tar")


class TestFarTar(SourceContract):
    @pytest.fixture
    def new_source(self, server):
        write_shards(server.folder / "data")
        return lambda: TarSource(server.url + "/data/train-{0000..0002}.tar", **QUICK)

    @pytest.fixture
    def changed_source(self, server):
        write_changed(server.folder / "changed")
        return TarSource([server.url + f"/changed/train-{name}.tar" for name in ("0000", "0001b", "0002")], **QUICK)


class TestCachedTar(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        memory = fsspec.filesystem("memory")
        for name in write_shards(tmp_path / "data"):
            memory.pipe(f"/tars/{name}", (tmp_path / "data" / name).read_bytes())
        made = []

        def new():
            made.append(1)
            return TarSource("memory://tars/train-*.tar", cache_dir=str(tmp_path / f"cache-{len(made)}"))

        return new

    @pytest.fixture
    def changed_source(self, tmp_path):
        write_changed(tmp_path / "changed")
        return TarSource(f"{tmp_path}/changed/*.tar")


@pytest.fixture
def served(server):
    """Three shards on the server; makes sources of them."""
    write_shards(server.folder)
    return lambda **settings: TarSource(server.url + "/train-{0000..0002}.tar", **{**QUICK, **settings})


class TestRecords:
    def test_suffixes_say_what_the_bytes_are(self, tmp_path):
        members = [
            ("1.jpg", b"\xff\xd8"),
            ("1.cls", b" 7\n"),
            ("1.txt", "löwe".encode()),
            ("1.meta.json", b'{"a": [1]}'),
        ]
        source = TarSource(str(write_tar(tmp_path / "s.tar", [*members, ("2.txt", b"")])))
        first, second = read(source, 0, 0, 1)
        assert first == {KEY: "1", "jpg": b"\xff\xd8", "cls": 7, "txt": "löwe", "meta.json": {"a": [1]}}
        assert type(first["cls"]) is np.int64
        assert second == {KEY: "2", "txt": ""}

    def test_fields_select_and_rename_the_first_that_is_there(self, tmp_path):
        members = [("1.png", b"p"), ("1.cls", b"1"), ("2.jpg", b"j"), ("2.png", b"p"), ("2.cls", b"2")]
        path = write_tar(tmp_path / "s.tar", members)
        source = TarSource(str(path), fields={"image": ".JPG; png", "label": "cls", "id": KEY})
        assert read(source, 0, 0, 1) == [
            {"image": b"p", "label": 1, "id": "1"},
            {"image": b"j", "label": 2, "id": "2"},
        ]

    def test_a_broken_example_is_told_and_the_others_come(self, tmp_path):
        members = [("1.jpg", b"a"), ("1.cls", b"1"), ("2.jpg", b"b"), ("3.jpg", b""), ("3.cls", b"3")]
        path = write_tar(tmp_path / "s.tar", [*members, ("4.jpg", b"d"), ("4.cls", b"four")])
        source = TarSource(str(path), fields={"image": "jpg;jpeg", "label": "cls"})
        records = read(source, 0, 0, 1, 2, 3)
        assert records[:3] == [
            {"image": b"a", "label": 1},
            Broken("no cls; there is jpg"),
            Broken("jpg: the file is empty"),
        ]
        assert isinstance(records[3], Broken) and "cls: invalid literal for int" in records[3].reason

    def test_a_field_that_no_example_has_is_a_mistake_in_the_setting(self, tmp_path):
        source = TarSource(str(write_tar(tmp_path / "s.tar", example(0, 0))), fields={"image": "png", "label": "cls"})
        with pytest.raises(DataError, match=r"s\.tar has no png in any example, which fields\.image.*It has cls, jpg"):
            read(source, 0, 0)

    def test_a_class_that_is_no_number_of_64_bits_and_json_that_is_nested_too_deeply_are_broken(self, tmp_path):
        members = [
            ("1.cls", b"9223372036854775807"),
            ("2.cls", str(2**70).encode()),
            ("3.cls", b"-9223372036854775809"),
        ]
        members += [("4.json", b"[" * 100_000), ("5.cls", b"1" * 5000)]
        source = TarSource(str(write_tar(tmp_path / "s.tar", members)))
        first, second, third, fourth, fifth = read(source, 0, 0, 1, 2, 3, 4)
        assert first["cls"] == 2**63 - 1
        assert second == Broken("cls: b'1180591620717411303424' is too large for 64 bits")
        assert third == Broken("cls: b'-9223372036854775809' is too large for 64 bits")
        assert fourth == Broken("json: it is nested too deeply")
        assert isinstance(fifth, Broken)

    def test_names_with_a_number_after_a_dot_do_not_become_one_example_in_silence(self, tmp_path):
        members = [("a/im_1.5.jpg", b"a"), ("a/im_1.6.jpg", b"b"), ("a/im_2.jpg", b"c"), ("a/im_2.5.jpg", b"d")]
        path = str(write_tar(tmp_path / "s.tar", members))
        message = r"s.tar: 2 examples have several files that end in .jpg, such as a/im_1 with 5.jpg, 6.jpg: "
        with pytest.raises(DataError, match=message + r".* write another sign for the dot .*fields=\{a: 5.jpg, ...\}"):
            read(TarSource(path), 0, 0)
        first, second = read(TarSource(path, fields={"image": "jpg"}), 0, 0, 1)
        assert "no jpg; there is 5.jpg, 6.jpg. 5.jpg, 6.jpg: what follows the first dot" in first.reason
        assert second == {"image": b"c"}
        (named, _) = read(TarSource(path, fields={"a": "5.jpg"}), 0, 0, 1)
        assert named == {"a": b"a"}
        with pytest.raises(DataError, match="has no tif in any example"):
            read(TarSource(path, fields={"image": "tif"}), 0, 0)

    @pytest.mark.parametrize(
        "names",
        [
            ("1.left.jpg", "1.right.jpg"),
            ("1.jpg", "1.meta.json", "1.json"),
            ("1.5.jpg", "2.5.jpg"),
            ("1.5.cls", "1.5.jpg"),
        ],
    )
    def test_fields_with_dots_that_are_no_other_examples_stay(self, tmp_path, names):
        path = write_tar(tmp_path / "s.tar", [(name, b"7") for name in names])
        source = TarSource(str(path))
        found = read(source, 0, *range(source.num_examples(0)))
        assert sum(len(record) - 1 for record in found) == len(names)

    def test_as_many_fields_as_examples_are_refused_before_they_fill_the_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr("dataecho.sources.tar_index._MAX_PLACES", 80)
        path = write_tar(tmp_path / "s.tar", [(f"{k}.{k:04d}.jpg", b"x") for k in range(9)])
        with pytest.raises(
            DataError, match="s.tar has 9 different fields in 9 examples, such as 0000.jpg: what follows"
        ):
            TarSource(str(path)).num_examples(0)

    def test_examples_are_named_by_their_key(self, served):
        source = served()
        assert source.name(1, 3) == "train-0001.tar: example 3"
        source.num_examples(1)
        assert source.name(1, 3) == "train-0001.tar: 01-0003"

    def test_a_position_that_is_not_there_is_an_error(self, served):
        for k in (4, -1):
            with pytest.raises(IndexError, match="train-0002.tar has 4 examples"):
                read(served(), 2, k)


class TestSettings:
    def test_local_shards_are_neither_fetched_nor_copied(self, tmp_path, user_cache, monkeypatch):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        write_shards(tmp_path / "data")
        before = set(tmp_path.rglob("*"))
        source = TarSource(f"{tmp_path}/data/*.tar")
        assert (source.num_fetches, source.num_readers, source.fetch(0, proceed=go_on)) == (0, 0, 0)
        source.read(*all_positions(source))
        assert set(tmp_path.rglob("*")) == before

    def test_far_shards_are_fetched_at_once_as_set(self, served):
        assert (served().num_fetches, served().num_readers, served().random_access) == (4, 8, True)
        assert (served(num_fetches=2).num_fetches, served(num_readers=3).num_readers) == (2, 3)

    def test_the_digest_is_that_of_a_copy_elsewhere(self, served, server, tmp_path):
        write_shards(tmp_path / "copy")
        assert TarSource(f"{tmp_path}/copy/*.tar").digest == served().digest
        assert TarSource(f"{tmp_path}/copy/*.tar", fields={"a": "jpg"}).digest != served().digest
        assert TarSource(f"{tmp_path}/copy/train-000[01].tar").digest != served().digest
        assert (
            TarSource(server.url + "/train-{0000..0002}.tar?token=1", cache_dir=str(tmp_path)).digest == served().digest
        )

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"num_fetches": 0}, "num_fetches=0"),
            ({"num_readers": 0}, "num_readers=0"),
            ({"max_local_bytes": 0}, "max_local_bytes=0"),
            ({"fields": {"image": "jpg;"}}, r"fields\.image=jpg; cannot"),
            ({"urls": []}, r"urls=\[\] cannot"),
            ({"urls": ["a.tar.gz", "b.tgz"]}, r"urls=a\.tar\.gz, b\.tgz cannot.*plain \.tar files.*Unpack"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings, match):
        with pytest.raises(SettingError, match=match):
            TarSource(**{"urls": "http://127.0.0.1:9/a.tar", **settings})

    def test_a_pickled_source_sees_what_was_fetched(self, served, server):
        source = served()
        source.fetch(0, proceed=go_on)
        server.reset_counts()
        assert read(pickle.loads(pickle.dumps(source)), 0, 1) == read(source, 0, 1)
        assert server.methods == []


class TestFetching:
    def test_every_byte_of_an_epoch_travels_once(self, served, server):
        source = served()
        sizes = [(server.folder / f"train-{shard:04d}.tar").stat().st_size for shard in range(3)]
        for _epoch in range(2):
            server.reset_counts()
            for shard in range(3):
                assert source.fetch(shard, proceed=go_on) == sizes[shard]
                assert source.fetch(shard, proceed=go_on) == 0
                length = source.num_examples(shard)
                assert [record["cls"] for record in read(source, shard, *range(length))] == [
                    10 * shard + k for k in range(length)
                ]
                source.drop(shard)
                source.drop(shard)
            assert dict(server.num_bytes) == {f"train-{shard:04d}.tar": size for shard, size in enumerate(sizes)}
            assert [method[::2] for method in server.methods] == [("GET", None)] * 3

    @pytest.mark.parametrize("kind", ["reset", "stall", "cut"])
    def test_a_break_in_the_middle_fetches_no_byte_twice(self, served, server, kind):
        source = served()
        size = (server.folder / "train-0000.tar").stat().st_size
        server.fail("train-0000.tar", Fault(kind=kind, after=5000), Fault(status=503))
        assert source.fetch(0, proceed=go_on) == server.num_bytes["train-0000.tar"] == size
        assert [method[2] for method in server.methods] == [None, "bytes=5000-", "bytes=5000-"]
        assert read(source, 0, 4)[0]["jpg"] == image(0, 4)

    def test_a_dropped_shard_is_gone_and_its_examples_come_by_range(self, served, server):
        source = served()
        source.fetch(1, proceed=go_on)
        copies = source._copied.folder
        assert len(list(copies.glob("*.copy"))) == 1
        source.drop(1)
        assert not list(copies.glob("*.copy"))
        server.reset_counts()
        assert read(source, 1, 3) == [{KEY: "01-0003", "jpg": image(1, 3), "cls": 13}]
        assert len(server.methods) == 1
        assert server.num_bytes["train-0001.tar"] < 2 * len(image(1, 3)) + 1024

    def test_a_resumed_run_reads_single_examples_without_fetching(self, served, server):
        served().num_examples(1)
        server.reset_counts()
        source = served()  # as in a new process: the index is on disk
        assert source.num_examples(1) == 5
        assert server.methods == []
        assert read(source, 1, 0)[0]["jpg"] == image(1, 0)
        assert [method[0] for method in server.methods] == ["GET"]
        assert server.num_bytes["train-0001.tar"] < 2000

    def test_without_an_index_a_read_fetches_the_shard_once(self, served, server):
        source = served()
        source.read(*all_positions(source))
        assert sum(server.requests.values()) == 3

    def test_shards_are_fetched_side_by_side(self, served, server):
        server.rate = 40_000
        source = served()
        size = sum((server.folder / f"train-{shard:04d}.tar").stat().st_size for shard in range(3))
        started = time.monotonic()
        threads = [
            threading.Thread(target=source.fetch, args=(shard,), kwargs={"proceed": go_on}) for shard in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - started < 0.8 * size / server.rate
        assert shard_lengths(source) == [5, 5, 4]

    def test_temporary_copies_go_with_the_source(self, served):
        source = served()
        source.fetch(0, proceed=go_on)
        folder = source._copied.folder
        assert folder.exists()
        del source
        assert not folder.exists()

    def test_threads_that_want_the_same_shard_fetch_it_once(self, served, server):
        source = served()
        threads = [threading.Thread(target=source.fetch, args=(0,), kwargs={"proceed": go_on}) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.requests["train-0000.tar"] == 1
        for _ in range(5):
            source.drop(0)
        assert source.fetch(0, proceed=go_on) == 0  # one of the six still wants it


class TestCache:
    def test_a_hit_makes_no_request(self, served, server, tmp_path):
        first = served(cache_dir=str(tmp_path / "cache"))
        expected = fingerprints(first.read(*all_positions(first)))
        for shard in range(3):
            first.drop(shard)
        server.reset_counts()
        second = served(cache_dir=str(tmp_path / "cache"))
        assert [second.fetch(shard, proceed=go_on) for shard in range(3)] == [0, 0, 0]
        assert fingerprints(second.read(*all_positions(second))) == expected
        assert server.methods == []

    def test_it_stays_within_its_bound_and_keeps_what_was_used_last(self, served, server, tmp_path):
        size = (server.folder / "train-0000.tar").stat().st_size
        source = served(cache_dir=str(tmp_path / "cache"), max_local_bytes=2 * size + 100)
        for shard in (0, 1, 0, 2):
            source.fetch(shard, proceed=go_on)
            source.drop(shard)
            assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.copy")) <= 2 * size + 100
        server.reset_counts()
        assert [source.fetch(shard, proceed=go_on) for shard in (0, 2)] == [0, 0]
        assert server.methods == []
        assert not list((tmp_path / "cache").glob("*0001.tar*.copy"))

    def test_two_processes_share_it(self, served, server, tmp_path):
        server.rate = 60_000
        script = (
            "import sys\n"
            "import numpy as np\n"
            "from dataecho.sources.tar import TarSource\n"
            "source = TarSource(sys.argv[1], cache_dir=sys.argv[2])\n"
            "print(sum(source.fetch(shard, proceed=lambda: None) for shard in range(3)))\n"
            "records = source.read(np.array([0, 0, 1, 2]), np.array([0, 4, 4, 3]))\n"
            "print([int(record['cls']) for record in records])\n"
        )
        command = [sys.executable, "-c", script, server.url + "/train-{0000..0002}.tar", str(tmp_path / "cache")]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
        assert outputs[0][1] == outputs[1][1] == "[0, 4, 14, 23]"
        assert sum(int(output[0]) for output in outputs) == sum(server.num_bytes.values())
        assert dict(server.requests) == {f"train-{shard:04d}.tar": 1 for shard in range(3)}

    def test_a_copy_of_another_size_than_indexed_is_not_used(self, served, tmp_path):
        source = served(cache_dir=str(tmp_path / "cache"))
        source.fetch(0, proceed=go_on)
        source.drop(0)
        copy = next((tmp_path / "cache").glob("*.copy"))
        os.truncate(copy, 1000)
        with pytest.raises(DataError, match=r"copy has 1000 bytes, http.*/train-0000\.tar has 20480.*try again"):
            source.fetch(0, proceed=go_on)
        assert source.fetch(0, proceed=go_on) == 20480
        assert read(source, 0, 4)[0]["jpg"] == image(0, 4)


class TestBrokenShards:
    @pytest.mark.parametrize("far", [False, True])
    def test_a_truncated_shard_is_an_error_that_names_it(self, served, server, tmp_path, far):
        os.truncate(server.folder / "train-0001.tar", 2500)
        source = served() if far else TarSource(f"{server.folder}/*.tar")
        assert source.num_examples(0) == 5
        for _ in range(2):
            with pytest.raises(DataError, match=r"train-0001\.tar is cut short: .*the file at byte 2500.*again"):
                source.num_examples(1)
        if far:
            with pytest.raises(DataError, match=r"train-0001\.tar is cut short"):
                source.fetch(1, proceed=go_on)
            assert len(list(source._copied.folder.glob("*.copy"))) == 1  # the good one
            assert not list(source._copied.folder.glob("*.part"))

    @pytest.mark.parametrize("far", [False, True])
    def test_a_missing_shard_is_an_error_that_names_it(self, served, server, far):
        urls = server.url if far else str(server.folder)
        source = TarSource(urls + "/train-{0000..0005}.tar", **QUICK)
        assert source.num_examples(0) == 5
        with pytest.raises(MissingFile, match=r"/train-0005\.tar: "):
            source.num_examples(5)

    @pytest.mark.parametrize(
        ("fault", "match"),
        [
            (Fault(status=403), r"train-0000\.tar: HTTP 403 .*credentials"),
            (Fault(status=500), r"train-0000\.tar: HTTP 500 .*3 times in a row"),
            (Fault(kind="stall"), r"train-0000\.tar: .*3 times in a row"),
            (Fault(kind="reset"), r"train-0000\.tar: .*3 times in a row"),
            (Fault(kind="cut"), r"train-0000\.tar: .*3 times in a row"),
        ],
    )
    def test_a_server_that_does_not_recover_is_an_error(self, served, server, fault, match):
        server.forever["train-0000.tar"] = fault
        source = served()
        with pytest.raises(DataError, match=match):
            source.fetch(0, proceed=go_on)
        assert [path.name for path in source._copied.folder.iterdir() if path.suffix in (".copy", ".part")] == []
        del server.forever["train-0000.tar"]
        assert source.fetch(0, proceed=go_on) > 0

    def test_a_shard_that_changed_since_it_was_indexed_is_an_error_that_names_both(self, served, server, user_cache):
        source = served()
        source.num_examples(0)
        old = (server.folder / "train-0000.tar").stat().st_size
        write_tar(server.folder / "train-0000.tar", [member for k in range(9) for member in example(0, k)])
        new = (server.folder / "train-0000.tar").stat().st_size
        for again in (source, served()):  # in this run, and in the next
            again.drop(0)
            copies = again._copied.folder
            for copy in copies.glob("*.copy"):
                copy.unlink()
            both = rf"train-0000\.tar has changed: it was {old} bytes, tag .* indexed, and is {new} bytes"
            with pytest.raises(DataError, match=f"{both}.*delete its index"):
                again.fetch(0, proceed=go_on)
        with pytest.raises(DataError, match=r"train-0000\.tar has changed"):  # by range
            read(served(), 0, 1)
        next(user_cache.glob("index/train-0000*")).unlink()
        assert served().num_examples(0) == 9

    def test_a_local_shard_that_changed_while_it_is_used_is_an_error(self, tmp_path):
        write_shards(tmp_path)
        source = TarSource(f"{tmp_path}/*.tar")
        source.num_examples(0)
        write_tar(tmp_path / "train-0000.tar", [member for k in range(9) for member in example(0, k)])
        with pytest.raises(DataError, match=r"train-0000\.tar has changed: it was .* Put the old file back\.$"):
            read(source, 0, 1)

    def test_a_local_shard_that_changed_between_runs_is_noticed_where_indexes_are_kept(self, tmp_path):
        write_shards(tmp_path)
        settings = {"urls": f"{tmp_path}/*.tar", "index_dir": str(tmp_path / "index")}
        assert TarSource(**settings).num_examples(0) == 5
        assert len(list((tmp_path / "index").glob("*.tar.json"))) == 1
        write_tar(tmp_path / "train-0000.tar", [member for k in range(9) for member in example(0, k)])
        with pytest.raises(DataError, match=r"train-0000\.tar has changed.*or delete its index"):
            read(TarSource(**settings), 0, 1)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "size": 1, "tag": "", "content": {}}']
    )
    def test_an_index_that_cannot_be_read_is_made_again(self, served, user_cache, text):
        served().num_examples(0)
        index = next(user_cache.glob("index/train-0000*"))
        whole = index.read_text()
        index.write_text(text)
        assert served().num_examples(0) == 5
        assert index.read_text() == whole

    def test_a_shard_that_does_not_fit_is_an_error_with_the_numbers(self, served, server, tmp_path):
        source = served(max_local_bytes=20_000)
        with pytest.raises(
            DataError, match=r"train-0000.* of 20480 bytes finds no room.*max_local_bytes=20000, \d+ bytes"
        ):
            source.fetch(0, proceed=go_on)

    def test_no_secret_of_a_url_is_written_or_told(self, server, tmp_path):
        write_shards(server.folder)
        secret = server.url.replace("//", "//user:secret123@")
        source = TarSource(secret + "/train-{0000..0003}.tar?sig=abcdef99", cache_dir=str(tmp_path / "cache"), **QUICK)
        source.num_examples(0)
        with pytest.raises(MissingFile) as caught:
            source.num_examples(3)
        text = str(caught.value) + source.name(0, 0) + source.name(3, 0)
        for path in (tmp_path / "cache").rglob("*"):
            text += path.name + (path.read_text() if path.suffix == ".json" else "")
        assert "train-0003.tar" in text
        assert not any(word in text for word in ("user", "secret123", "abcdef99"))
