"""S3 and Google Cloud Storage, by their real interfaces on this machine: what is read, tried again, refused."""

import os
import pickle
import threading

import numpy as np
import pytest
from gcsfs.retry import HttpError

from dataecho.errors import DataError
from dataecho.sources import file, fsspec_files
from dataecho.sources.options import RemoteOptions
from dataecho.sources.remote import MissingFile, Remote
from dataecho.sources.retry import TransientError
from dataecho.sources.tar import TarSource
from dataecho.testing.source_contract import all_positions, fingerprints
from tests.sources.object_stores import GcsServer, S3Server
from tests.sources.tar_files import write_shards

DATA = np.random.default_rng(0).bytes(10_001)
QUICK = {"num_retries": 2, "first_delay": 0.01}


@pytest.fixture(autouse=True)
def no_credentials(tmp_path, monkeypatch):
    """Those of whoever runs the tests are not looked at."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.fixture
def s3():
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def gcs():
    server = GcsServer()
    yield server
    server.close()


@pytest.fixture(params=["s3", "gcs"])
def store(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def small_blocks(monkeypatch):
    """A stream asks for a thousand bytes at once."""
    monkeypatch.setattr(file, "_BLOCK", 1000)


def remote(store, **settings):
    return Remote(RemoteOptions(storage_options=store.options(), **{**QUICK, **settings}))


def actions(reader):
    return reader.read, reader.stat, lambda url: list(reader.stream(url)), lambda url: reader.read_range(url, 0, 3)


class TestEveryStore:
    def test_the_whole_and_ranges_and_streams_are_the_same_bytes(self, store, small_blocks):
        url, reader = store.put("some/a.bin", DATA), remote(store)
        assert reader.read(url) == DATA
        assert reader.read_range(url, 10, 5) == DATA[10:15]
        assert b"".join(reader.stream(url)) == DATA
        assert b"".join(reader.stream(url, start=9_999)) == DATA[9_999:]
        stat = reader.stat(url)
        assert stat.size == len(DATA) and stat.tag and stat.date and reader.stat(url) == stat
        assert reader.read_range(url, 10, 5, expected=stat) == DATA[10:15]

    def test_names_are_listed(self, store):
        urls = [store.put(f"some/{name}", b"x") for name in ("b.tar", "a.tar", "c.txt")]
        assert remote(store).list(f"{store.root}/some/*.tar") == [urls[1], urls[0]]
        with pytest.raises(MissingFile, match="no file matches"):
            remote(store).list(f"{store.root}/other/*.tar")

    def test_a_range_beyond_the_end_and_a_missing_key_are_told(self, store):
        url = store.put("a.bin", DATA)
        with pytest.raises(DataError, match=r"a\.bin: 5 bytes from byte 20000 on were asked for, 0 came"):
            remote(store).read_range(url, 20_000, 5)
        for action in actions(remote(store)):
            with pytest.raises(MissingFile, match=r"none\.bin: there is no such file"):
                action(f"{store.root}/none.bin")

    def test_a_key_that_vanishes_on_the_way_is_a_missing_file(self, store, small_blocks):
        stream = remote(store).stream(store.put("a.bin", DATA))
        assert next(stream) == DATA[:1000]
        store.delete("a.bin")
        with pytest.raises(MissingFile, match=r"a\.bin: there is no such file"):
            list(stream)

    def test_an_object_that_is_replaced_is_noticed(self, store, small_blocks):
        url, reader = store.put("a.bin", DATA), remote(store)
        before, stream = reader.stat(url), reader.stream(url)
        assert next(stream) == DATA[:1000]
        store.put("a.bin", DATA[::-1])  # of the same size
        with pytest.raises(DataError, match=r"a\.bin has changed: it was 10001 bytes, tag .* when it was begun"):
            list(stream)
        with pytest.raises(DataError, match=r"a\.bin has changed: it was 10001 bytes, tag .* when it was indexed"):
            reader.read_range(url, 0, 5, expected=before)
        assert reader.read(url) == DATA[::-1]


def test_shards_in_a_store_give_the_examples_of_local_ones(store, tmp_path):
    names = write_shards(tmp_path / "data")
    for name in names:
        store.put(f"far/{name}", (tmp_path / "data" / name).read_bytes())
    far = TarSource(f"{store.root}/far/*.tar", storage_options=store.options(), **QUICK)
    near = TarSource(f"{tmp_path}/data/*.tar")
    assert far.digest == near.digest
    expected = fingerprints(near.read(*all_positions(near)))
    assert fingerprints(far.read(*all_positions(far))) == expected  # fetched for their indexes
    again = pickle.loads(pickle.dumps(far))
    for shard in range(3):
        far.drop(shard)
    assert fingerprints(again.read(*all_positions(near))) == expected
    assert far.name(1, 2) == near.name(1, 2) == "train-0001.tar: 01-0002"


class TestS3:
    def test_missing_credentials_are_an_error_at_once_that_says_where_to_give_them(self, s3):
        url = s3.put("a.bin", DATA)
        reader = Remote(RemoteOptions(storage_options={"client_kwargs": {"endpoint_url": s3.endpoint}}, first_delay=60))
        for action in actions(reader):
            with pytest.raises(DataError, match=r"s3://bucket/a\.bin: NoCredentials.*storage_options \(key, secret,"):
                action(url)
        assert not s3.requests

    def test_credentials_without_the_right_are_an_error_at_once(self, s3):
        url = s3.put("a.bin", DATA)
        for options in (s3.a_stranger(), {"key": "nobody", "secret": "s3cret"}):
            reader = Remote(RemoteOptions(storage_options=s3.options(**options), first_delay=60))
            for action in (*actions(reader), lambda url, reader=reader: reader.list("s3://bucket/*.bin")):
                s3.requests.clear()
                with pytest.raises(DataError, match=r"s3://bucket/.*PermissionError.*Give credentials") as caught:
                    action(url)
                assert not isinstance(caught.value, MissingFile) and s3.requests.total() <= 1
                assert options["secret"] not in str(caught.value)

    @pytest.mark.parametrize(
        "fault", [(503, "SlowDown"), (500, "InternalError"), (503, "ServiceUnavailable"), (429, "TooManyRequests")]
    )
    def test_throttling_and_faults_that_pass_are_tried_again_as_often_as_set_and_no_more(self, s3, fault):
        url, reader = s3.put("a.bin", DATA), remote(s3)
        for action in (reader.read, reader.stat):
            s3.requests.clear()
            s3.faults.extend([fault] * 2)
            action(url)
            assert s3.requests.total() == 3
            s3.requests.clear()
            s3.faults.extend([fault] * 9)
            with pytest.raises(DataError, match=r"s3://bucket/a\.bin: .*3 times in a row.*num_retries=2"):
                action(url)
            assert s3.requests.total() == 3
            s3.faults.clear()

    def test_an_endpoint_that_is_down_is_an_error_when_patience_ends(self, s3):
        url, reader = s3.put("a.bin", DATA), remote(s3)
        s3.shut_down()
        for action in actions(reader):
            with pytest.raises(DataError, match=r"a\.bin: EndpointConnectionError.*3 times in a row.*num_retries=2"):
                action(url)

    def test_an_endpoint_that_comes_back_is_read_on(self, s3):
        url = s3.put("a.bin", DATA)
        s3.shut_down()
        found = []
        waiting = threading.Thread(target=lambda: found.append(remote(s3, num_retries=60, first_delay=0.1).read(url)))
        waiting.start()
        again = S3Server(port=s3.port, create=False)  # what was written is the process's
        waiting.join()
        again.shut_down()
        assert found == [DATA]

    def test_a_shard_that_is_replaced_between_two_epochs_is_refused_and_both_are_named(self, s3, tmp_path):
        for name in write_shards(tmp_path / "data"):
            s3.put(name, (tmp_path / "data" / name).read_bytes())
        source = TarSource("s3://bucket/train-*.tar", storage_options=s3.options(), **QUICK)
        source.fetch(0, proceed=lambda: None)
        source.drop(0)
        data = (tmp_path / "data" / "train-0000.tar").read_bytes()
        s3.put("train-0000.tar", data[:-1] + b"x")
        with pytest.raises(DataError, match=r"train-0000\.tar has changed: it was .* tag .* Put the old file back"):
            source.fetch(0, proceed=lambda: None)
        with pytest.raises(DataError, match=r"train-0000\.tar has changed"):
            source.read(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
        s3.put("train-0000.tar", data)  # a new date, and the old content: the ETag tells
        source.fetch(0, proceed=lambda: None)
        s3.delete("train-0001.tar")
        with pytest.raises(MissingFile, match=r"s3://bucket/train-0001\.tar: there is no such file"):
            source.fetch(1, proceed=lambda: None)


class TestGcs:
    @pytest.mark.parametrize(("status", "match"), [(403, "Give credentials"), (400, "Check the path")])
    def test_what_does_not_pass_is_an_error_at_once(self, gcs, status, match):
        url, reader = gcs.put("a.bin", DATA), remote(gcs, first_delay=60)
        for action in (reader.read, reader.stat):
            gcs.faults.extend([status] * 9)
            with pytest.raises(DataError, match=rf"gs://bucket/a\.bin: .*{match}"):
                action(url)
            assert len(gcs.faults) >= 6  # gcsfs asks up to three things at once, and nothing twice
            gcs.faults.clear()

    def test_a_fault_that_passes_passes(self, gcs):
        url = gcs.put("a.bin", DATA)
        gcs.faults.append(503)
        assert remote(gcs).read(url) == DATA

    def test_an_end_of_the_patience_of_gcsfs_is_no_end_of_ours(self):
        reader = fsspec_files.FsspecFiles(Failing(HttpError({"code": 503, "message": "busy"})))
        with pytest.raises(TransientError, match="busy, 503"):
            reader.read("gs://bucket/a", 0, 1)
        reader = fsspec_files.FsspecFiles(Failing(HttpError({"code": 401, "message": "who?"})))
        with pytest.raises(DataError, match="who.*Give credentials"):
            reader.read("gs://bucket/a", 0, 1)


class Failing:
    """As a file system whose own patience has ended; to wait for it takes a minute."""

    def __init__(self, error):
        self._error = error

    def cat_file(self, *arguments, **settings):
        raise self._error
