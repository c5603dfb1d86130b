"""Reading by path and URL: what is asked of a server, what is tried again, what is refused."""

import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

from dataecho.errors import DataError, SettingError
from dataecho.sources.options import RemoteOptions
from dataecho.sources.remote import MissingFile, Remote, Stat
from tests.sources.http_server import Fault

DATA = np.random.default_rng(0).bytes(700_001)


@pytest.fixture
def remote():
    return Remote(RemoteOptions(num_retries=2, first_delay=0.01, timeout=0.4))


@pytest.fixture
def url(server):
    (server.folder / "a.bin").write_bytes(DATA)
    return f"{server.url}/a.bin"


@pytest.fixture(params=["http", "memory", "path", "file"])
def any_url(request, tmp_path):
    if request.param == "http":
        return request.getfixturevalue("url")
    if request.param == "memory":
        fsspec.filesystem("memory").pipe("/somewhere/a.bin", DATA)
        return "memory://somewhere/a.bin"
    (tmp_path / "a.bin").write_bytes(DATA)
    return str(tmp_path / "a.bin") if request.param == "path" else f"file://{tmp_path}/a.bin"


class TestEveryStorage:
    def test_the_whole_and_ranges_and_streams_are_the_same_bytes(self, remote, any_url):
        assert remote.read(any_url) == DATA
        assert remote.read_range(any_url, 10, 5) == DATA[10:15]
        assert remote.read_range(any_url, len(DATA) - 1, 1) == DATA[-1:]
        assert remote.read_range(any_url, 7, 0) == b""
        assert b"".join(remote.stream(any_url)) == DATA
        assert b"".join(remote.stream(any_url, start=699_999)) == DATA[699_999:]

    def test_a_stat_has_the_size_and_a_tag_that_stays(self, remote, any_url):
        stat = remote.stat(any_url)
        assert stat.size == len(DATA)
        assert stat.tag
        assert remote.stat(any_url) == stat

    @pytest.mark.parametrize(("start", "length"), [(len(DATA) - 3, 4), (len(DATA), 1), (len(DATA) + 10, 1)])
    def test_a_range_beyond_the_end_is_an_error(self, remote, any_url, start, length):
        with pytest.raises(DataError, match=rf"a\.bin: {length} bytes from byte {start} on.*cut short"):
            remote.read_range(any_url, start, length)

    def test_a_missing_file_is_told_from_other_errors(self, remote, any_url):
        for action in (remote.read, remote.stat, lambda url: list(remote.stream(url))):
            with pytest.raises(MissingFile, match=r"nothing\.bin"):
                action(any_url.replace("a.bin", "nothing.bin"))

    def test_many_threads_may_read_at_once(self, remote, any_url):
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda number: remote.read_range(any_url, number * 1000, 1000), range(200)))
        assert b"".join(parts) == DATA[:200_000]

    def test_a_pickled_copy_reads_as_well(self, remote, any_url):
        remote.read_range(any_url, 0, 1)
        assert pickle.loads(pickle.dumps(remote)).read(any_url) == DATA


class TestStream:
    def test_all_bytes_travel_once_by_one_request(self, remote, server, url):
        stream = remote.stream(url)
        assert stream.stat == remote.stat(url)
        server.reset_counts()
        assert b"".join(stream) == DATA
        assert server.methods == []  # the request that told the stat goes on
        assert server.num_bytes["a.bin"] <= len(DATA)

    @pytest.mark.parametrize("kind", ["reset", "stall", "cut"])
    def test_a_broken_connection_is_taken_up_where_it_broke(self, remote, server, url, kind):
        server.fail("a.bin", Fault(kind=kind, after=300_000), Fault(kind=kind, after=1_000))
        assert b"".join(remote.stream(url)) == DATA
        assert server.methods == [
            ("GET", "a.bin", None),
            ("GET", "a.bin", "bytes=300000-"),
            ("GET", "a.bin", "bytes=301000-"),
        ]
        deadline = time.monotonic() + 10
        while server.num_bytes["a.bin"] < len(DATA) and time.monotonic() < deadline:
            time.sleep(0.01)  # the server counts what it has sent, which may have been read by then
        assert server.num_bytes["a.bin"] == len(DATA)

    def test_failures_count_in_a_row_only(self, remote, server, url):
        server.fail("a.bin", *[Fault(kind="cut", after=50_000)] * 6)
        assert b"".join(remote.stream(url)) == DATA

    def test_a_body_that_always_ends_early_is_an_error_in_the_end(self, remote, server, url):
        server.forever["a.bin"] = Fault(kind="cut", after=0)
        with pytest.raises(DataError, match=r"/a\.bin: .*3 times in a row.*num_retries=2"):
            list(remote.stream(url))

    def test_it_is_taken_up_from_a_server_without_ranges(self, remote, server, url):
        server.ranges = False
        server.fail("a.bin", Fault(kind="cut", after=300_000))
        assert b"".join(remote.stream(url)) == DATA
        assert remote.read_range(url, 100_000, 10) == DATA[100_000:100_010]

    def test_a_file_that_changes_on_the_way_is_an_error_that_names_both(self, remote, server, url):
        stream = remote.stream(url)
        server.fail("a.bin", Fault(kind="cut", after=300_000))
        next(stream)
        (server.folder / "a.bin").write_bytes(DATA + b"more")
        with pytest.raises(DataError, match=r"a\.bin has changed: it was 700001 bytes, tag .* and is 700005 bytes"):
            list(stream)

    def test_a_file_that_is_cut_short_on_the_way_is_an_error(self, remote, tmp_path):
        path = tmp_path / "long.bin"
        path.write_bytes(bytes(6 * 2**20))
        stream = remote.stream(str(path))
        assert len(next(stream)) == 4 * 2**20
        os.truncate(path, 5 * 2**20)
        with pytest.raises(DataError, match=r"long\.bin has changed: it was 6291456 bytes.* is 5242880 bytes"):
            list(stream)

    def test_pieces_come_as_they_arrive_on_a_slow_link(self, remote, server, url):
        server.rate = 100_000
        started, calls = time.monotonic(), []
        stream = remote.stream(url, proceed=lambda: calls.append(time.monotonic()))
        pieces = [next(stream) for _ in range(3)]
        stream.close()
        assert all(0 < len(piece) <= 80_000 for piece in pieces)
        assert b"".join(pieces) == DATA[: sum(map(len, pieces))]
        assert time.monotonic() - started < 2
        assert max(np.diff([started, *calls])) < 0.6

    def test_who_waits_is_asked_and_may_give_up(self, remote, server, url):
        server.forever["a.bin"] = Fault(kind="stall", after=0)
        patient = Remote(RemoteOptions(num_retries=2, first_delay=0.01, timeout=60))
        calls = []

        def proceed():
            calls.append(1)
            if len(calls) > 3:
                raise InterruptedError("given up")

        started = time.monotonic()
        with pytest.raises(InterruptedError, match="given up"):
            list(patient.stream(url, proceed=proceed))
        assert time.monotonic() - started < 5

    def test_an_empty_file_is_no_piece(self, remote, server, tmp_path):
        (server.folder / "empty").touch()
        (tmp_path / "empty").touch()
        assert list(remote.stream(f"{server.url}/empty")) == list(remote.stream(f"{tmp_path}/empty")) == []
        assert remote.read(f"{server.url}/empty") == b""

    def test_many_streams_at_once_share_a_slow_server(self, remote, server, url):
        server.rate = 2_000_000
        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            assert all(data == DATA for data in pool.map(lambda _: b"".join(remote.stream(url)), range(4)))
        assert time.monotonic() - started < 1.2  # one after the other they would take 1.4 seconds


class TestFailures:
    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    def test_what_may_pass_is_tried_again(self, remote, server, url, status):
        for action in (remote.read, remote.stat, lambda url: list(remote.stream(url))):
            server.reset_counts()
            server.fail("a.bin", Fault(status=status), Fault(status=status))
            action(url)
            assert server.requests["a.bin"] == 3

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_it_is_an_error_when_patience_ends(self, remote, server, url, status):
        server.forever["a.bin"] = Fault(status=status)
        with pytest.raises(DataError, match=rf"/a\.bin: HTTP {status} .*3 times in a row.*num_retries=2 and first_del"):
            remote.read(url)
        assert server.requests["a.bin"] == 3

    @pytest.mark.parametrize(
        ("status", "cure"), [(401, "Give credentials"), (400, "another program"), (407, "Give credentials")]
    )
    def test_what_does_not_pass_is_an_error_at_once(self, remote, server, url, status, cure):
        server.forever["a.bin"] = Fault(status=status)
        for action in (remote.read, remote.stat, lambda url: list(remote.stream(url))):
            server.reset_counts()
            with pytest.raises(DataError, match=rf"/a\.bin: HTTP {status} .*{cure}"):
                action(url)
            assert server.requests["a.bin"] == 1

    @pytest.mark.parametrize(("status", "kind"), [(403, DataError), (404, MissingFile), (410, MissingFile)])
    def test_refused_and_missing(self, remote, server, url, status, kind):
        server.forever["a.bin"] = Fault(status=status)
        with pytest.raises(kind, match=rf"/a\.bin: HTTP {status}") as caught:
            remote.read(url)
        assert type(caught.value) is kind
        assert server.requests["a.bin"] == 1

    @pytest.mark.parametrize("date", [False, True])
    def test_the_time_that_a_server_asks_for_is_given(self, remote, server, url, date):
        after = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2)) if date else "1"
        server.fail("a.bin", Fault(status=429, retry_after=after))
        started = time.monotonic()
        assert remote.read(url) == DATA
        assert 0.9 < time.monotonic() - started < 2.5

    def test_a_reset_and_a_stall_pass(self, remote, server, url):
        server.fail("a.bin", Fault(kind="reset", after=1000), Fault(kind="stall", after=1000))
        assert remote.read(url) == DATA
        server.fail("a.bin", Fault(kind="reset", after=1000), Fault(kind="cut", after=1000))
        assert remote.read_range(url, 5, 5000) == DATA[5:5005]

    def test_a_server_that_is_not_there_is_an_error_when_patience_ends(self, remote):
        with pytest.raises(DataError, match=r"127\.0\.0\.1:9/a: .*3 times in a row"):
            remote.read("http://127.0.0.1:9/a")

    def test_nothing_is_tried_again_without_retries(self, server, url):
        server.fail("a.bin", Fault(status=500))
        with pytest.raises(DataError, match="HTTP 500 .*1 times in a row"):
            Remote(RemoteOptions(num_retries=0)).read(url)

    def test_only_the_thread_that_needs_the_answer_waits(self, server, url):
        server.fail("b.bin", *[Fault(status=503)] * 2)
        (server.folder / "b.bin").write_bytes(b"b")
        remote = Remote(RemoteOptions(num_retries=2, first_delay=1.0))
        waiting = threading.Thread(target=remote.read, args=(url.replace("a.bin", "b.bin"),), daemon=True)
        waiting.start()
        started = time.monotonic()
        assert remote.read(url) == DATA
        assert time.monotonic() - started < 0.5
        waiting.join()

    def test_a_stat_is_had_from_a_server_that_refuses_head(self, remote, server, url):
        expected = remote.stat(url)
        server.refuses_head = True
        assert remote.stat(url) == expected
        assert server.methods[-1] == ("GET", "a.bin", "bytes=0-0")

    def test_a_range_of_a_file_that_changed_is_an_error_that_names_both(self, remote, url):
        with pytest.raises(DataError, match=r"a\.bin has changed: it was 5 bytes when it was indexed.*700001 bytes"):
            remote.read_range(url, 0, 1, expected=Stat(5, ""))
        with pytest.raises(DataError, match=r"tag \"old\" when"):
            remote.read_range(url, 0, 1, expected=Stat(700_001, '"old"'))

    def test_a_weak_etag_is_the_same(self, remote, server, url):
        before = remote.stat(url)
        server.etag = 'W/"{}"'
        assert remote.stat(url).tag == f"W/{before.tag}"
        assert remote.read_range(url, 0, 3, expected=before) == DATA[:3]

    def test_etags_that_differ_at_equal_size_and_date_are_refused_and_the_error_names_the_switch(self, server, url):
        """As nodes of a CDN give them; a file that was replaced within the second looks the same."""
        before = Remote().stat(url)
        server.etag = '"node-b-{}"'
        with pytest.raises(
            DataError, match=r"a\.bin has changed: it was .*storage_options\.ignore_etags=true"
        ) as caught:
            Remote().read_range(url, 0, 3, expected=before)
        assert before.tag in str(caught.value) and '"node-b-' in str(caught.value) and before.date in str(caught.value)
        switched = Remote(RemoteOptions(storage_options={"ignore_etags": True}))
        assert switched.read_range(url, 0, 3, expected=before) == DATA[:3]
        os.utime(server.folder / "a.bin", (0, 0))
        for reader in (Remote(), switched):  # the date tells, too, and then no switch is named
            with pytest.raises(DataError, match=r"a\.bin has changed: .*01 Jan 1970") as caught:
                reader.read_range(url, 0, 3, expected=before)
            assert "ignore_etags" not in str(caught.value)
        (server.folder / "a.bin").write_bytes(DATA[:-1])
        with pytest.raises(DataError, match=r"a\.bin has changed: .*700000 bytes"):
            switched.read_range(url, 0, 3, expected=before)

    def test_a_stream_that_another_node_goes_on_with_is_refused_unless_switched(self, server, url):
        def pieces(reader):
            server.etag = '"{}"'
            server.fail("a.bin", Fault(kind="cut", after=100_000))
            for number, piece in enumerate(reader.stream(url)):
                if number == 0:
                    server.etag = '"node-b-{}"'
                yield piece

        settings = {"num_retries": 2, "first_delay": 0.01}
        with pytest.raises(DataError, match=r"has changed.*\+task\.train\.storage_options\.ignore_etags=true"):
            list(pieces(Remote(RemoteOptions(**settings))))
        assert b"".join(pieces(Remote(RemoteOptions(storage_options={"ignore_etags": True}, **settings)))) == DATA

    def test_the_switch_is_true_or_false(self):
        with pytest.raises(SettingError, match=r"storage_options\.ignore_etags=maybe cannot be used.*true or false"):
            Remote(RemoteOptions(storage_options={"ignore_etags": "maybe"}))

    def test_what_this_machine_refuses_is_an_error_at_once(self, remote, tmp_path):
        started = time.monotonic()
        with pytest.raises(DataError, match=r"is a folder.*/\*"):
            remote.stat(str(tmp_path))
        with pytest.raises(DataError, match="IsADirectoryError"):
            Remote(RemoteOptions(first_delay=5)).read(str(tmp_path))
        assert time.monotonic() - started < 1

    @pytest.mark.parametrize("protocol", ["s4", "abfss"])
    def test_a_protocol_that_cannot_be_had_names_the_cure(self, remote, protocol):
        with pytest.raises(SettingError, match=rf"url={protocol}://bucket/a cannot be used"):
            remote.read(f"{protocol}://bucket/a")

    @pytest.mark.parametrize("fault", [Fault(status=404), Fault(status=403), Fault(status=500), Fault(kind="cut")])
    def test_no_error_shows_a_secret(self, server, url, fault):
        server.forever["a.bin"] = fault
        secret = url.replace("http://", "http://user:pass%40word@") + "?token=abcdefgh&sig=12345678"
        remote = Remote(RemoteOptions(num_retries=0))
        for action in (remote.read, remote.stat, lambda url: list(remote.stream(url))):
            if fault.kind is not None and action == remote.stat:
                continue
            with pytest.raises(DataError) as caught:
                action(secret)
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None or caught.value.__suppress_context__
            text = str(caught.value)
            assert "/a.bin" in text
            assert not any(word in text for word in ("user", "pass", "abcdefgh", "12345678"))


class TestSettings:
    @pytest.mark.parametrize("settings", [{"timeout": 0}, {"num_retries": -1}, {"first_delay": -0.1}])
    def test_what_cannot_be_is_refused(self, settings):
        with pytest.raises(SettingError, match=f"{next(iter(settings))}=.*Allowed"):
            Remote(RemoteOptions(**settings))

    def test_options_reach_the_file_system(self, server, url):
        assert Remote(RemoteOptions(storage_options={"headers": {"Range": "bytes=1-3"}})).read(url) == DATA[1:4]


class TestList:
    def test_braces_count_and_list(self, remote):
        assert remote.list("a-{08..11}-{x,y}.tar") == [
            f"a-{number}-{letter}.tar" for number in ("08", "09", "10", "11") for letter in "xy"
        ]
        assert remote.list("{8..10}") == ["10", "8", "9"]

    def test_several_are_sorted_and_none_may_come_twice(self, remote):
        assert remote.list(["b", "a"]) == ["a", "b"]
        with pytest.raises(SettingError, match=r"urls=b cannot.*every file once"):
            remote.list(["b", "{a,b}"])

    def test_stars_are_looked_up_everywhere(self, remote, server, tmp_path):
        memory = fsspec.filesystem("memory")
        for name in ("b.tar", "a.tar", "a.txt"):
            (server.folder / name).write_bytes(b"x")
            memory.pipe(f"/list/{name}", b"x")
        assert remote.list(f"{server.url}/*.tar") == [f"{server.url}/a.tar", f"{server.url}/b.tar"]
        assert remote.list("memory://list/*.tar") == ["memory:///list/a.tar", "memory:///list/b.tar"]
        assert remote.list(f"{server.folder}/?.tar") == [os.fspath(server.folder / name) for name in ("a.tar", "b.tar")]

    @pytest.mark.parametrize("name", ["[späce] {1,2}", "what?", "a*b", "[!x]"])
    def test_the_folders_that_are_there_stand_for_themselves(self, remote, tmp_path, monkeypatch, name):
        folder = tmp_path / name / "{0..1}"
        folder.mkdir(parents=True)
        for file in ("train-0.tar", "train-1.tar", "train-[2].tar"):
            (folder / file).touch()
        both = [f"{folder}/train-0.tar", f"{folder}/train-1.tar"]
        assert remote.list(f"{folder}/train-?.tar") == remote.list(f"{folder}/train-{{0..1}}.tar") == both
        assert remote.list(f"{tmp_path / name}/*/train-[01].tar") == both
        assert remote.list(f"{tmp_path / name}/**/train-[01].tar") == both
        assert remote.list(f"file://{folder}/train-?.tar") == both
        assert remote.list(f"{folder}/train-[2].tar") == [f"{folder}/train-[2].tar"]
        monkeypatch.chdir(tmp_path)
        assert remote.list(f"{name}/{{0..1}}/train-?.tar") == both
        with pytest.raises(MissingFile, match="no file matches"):
            remote.list(f"{folder}/eval-?.tar")

    def test_a_pattern_without_a_match_is_an_error(self, remote, server, tmp_path):
        for pattern in (f"{tmp_path}/*.none", f"{server.url}/*.none", "memory://nowhere/*.none"):
            with pytest.raises(MissingFile, match=r"none: no file matches"):
                remote.list(pattern)

    def test_new_credentials_change_no_order(self, remote):
        def urls(*tokens):
            return [
                f"http://u:{token}@h/get?token={token}&file={name}.tar"
                for token, name in zip(tokens, "cab", strict=True)
            ]

        for given in (urls(1, 2, 3), urls(3, 2, 1), urls(2, 3, 1)):
            assert [url[-5:] for url in remote.list(given)] == ["a.tar", "b.tar", "c.tar"]
        same = [f"http://h/get?token={token}" for token in (2, 1)]  # nothing else tells them apart: as they are given
        assert remote.list(same) == same

    def test_a_question_mark_begins_a_query_behind_http(self, remote):
        assert remote.list("http://127.0.0.1:9/a?b=1") == ["http://127.0.0.1:9/a?b=1"]
