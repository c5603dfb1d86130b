"""Where studies are kept: a journal that outlives torn writes, and databases that come and go."""

import errno
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from dataecho.errors import SettingError
from dataecho_search.study import storage as storage_module
from dataecho_search.study.journal_file import JournalFile
from dataecho_search.study.results import read_results
from dataecho_search.study.storage import JOURNAL, StorageUnavailable, open_storage, retry_while_unavailable
from tests.search.conftest import points


def test_a_journal_that_ended_in_a_torn_line_is_read_and_goes_on(tmp_path, caplog):
    optuna.create_study(study_name="first", storage=open_storage(None, tmp_path))
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"op_code":0,"worker_id":"x","study_na')
    storage = open_storage(None, tmp_path)
    optuna.create_study(study_name="second", storage=storage)
    assert "torn line" in caplog.text
    names = [study.study_name for study in open_storage(None, tmp_path).get_all_studies()]
    assert names == ["first", "second"]


HALF = b'{"op_code":0,"worker_id":"x","study_na'
NULS = bytes(20) + b"\n"


def study_names(folder):
    return [study.study_name for study in open_storage(None, folder).get_all_studies()]


def test_half_a_line_of_one_storage_is_gone_before_another_appends(tmp_path, caplog):
    """Two shells: one dies while it writes, the other, which has long been open, goes on."""
    one, other = open_storage(None, tmp_path), open_storage(None, tmp_path)
    optuna.create_study(study_name="first", storage=one)
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(HALF)
    optuna.create_study(study_name="second", storage=other)
    optuna.create_study(study_name="third", storage=one)
    assert study_names(tmp_path) == ["first", "second", "third"]
    assert HALF not in (tmp_path / JOURNAL).read_bytes() and caplog.text.count("torn line") == 1


@pytest.mark.parametrize(
    ("bad", "kept", "told"),
    [
        (HALF, ["first", "second", "third"], "1 whole records were read"),  # glued to the second
        (HALF + HALF, ["first", "second", "third"], "1 whole records were read"),
        (HALF + b"\n", ["first", "second", "third"], "is left out"),
        (NULS, ["first", "second", "third"], "is left out"),
        (b"[1]\n\n{}\n", ["first", "second", "third"], "is left out"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_line_that_an_earlier_version_left_broken_is_read_around(tmp_path, caplog, bad, kept, told, last):
    for number, name in enumerate(kept):
        if number == 1 and not last:
            (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes() + bad)
            with open(tmp_path / JOURNAL, "ab") as file:
                record = {"op_code": 0, "worker_id": "y", "study_name": name, "directions": [1]}
                file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            continue
        optuna.create_study(study_name=name, storage=open_storage(None, tmp_path))
    if last:
        (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes() + bad)
        told = "torn line" if not bad.endswith(b"\n") else told
    caplog.clear()
    storage = open_storage(None, tmp_path)
    assert [study.study_name for study in storage.get_all_studies()] == kept
    assert told in caplog.text
    optuna.create_study(study_name="fourth", storage=storage)
    assert [study.study_name for study in storage.get_all_studies()] == [*kept, "fourth"] == study_names(tmp_path)


def test_records_that_are_read_one_by_one_are_those_that_are_read_at_once(tmp_path):
    """As two shells see them, with broken lines among them: each record once, with the same number."""
    journal = JournalFile(tmp_path / JOURNAL)
    seen = []
    for number in range(6):
        with open(tmp_path / JOURNAL, "ab") as file:
            file.write([b"", HALF + b"\n", NULS, b'{"op_code":1,"n":100}'][number % 4])
        with open(tmp_path / JOURNAL, "ab") as file:
            file.write(b'{"op_code":1,"n":%d}\n' % number)
        seen += journal.read_logs(len(seen))
    assert seen == list(JournalFile(tmp_path / JOURNAL).read_logs(0))
    assert [record["n"] for record in seen] == [0, 1, 2, 100, 3, 4, 5]
    for begin in range(len(seen) + 1):
        assert list(journal.read_logs(begin)) == seen[begin:]


def test_a_record_that_finds_no_room_is_not_there_and_comes_when_there_is_room(tmp_path, monkeypatch, caplog):
    storage, other = open_storage(None, tmp_path), open_storage(None, tmp_path)
    optuna.create_study(study_name="first", storage=storage)
    before = (tmp_path / JOURNAL).read_bytes()
    real, full = os.write, []

    def write(descriptor, data):
        if len(full) < 3:
            full.append(real(descriptor, data[:10]))
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    def sleep(seconds):
        assert (tmp_path / JOURNAL).read_bytes() == before
        assert [study.study_name for study in other.get_all_studies()] == ["first"]

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(storage_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    study = retry_while_unavailable(
        lambda: optuna.create_study(study_name="second", storage=storage), url=None, timeout=5, results=tmp_path
    )
    assert study.study_name == "second" and len(full) == 3
    assert study_names(tmp_path) == ["first", "second"]


def test_a_disk_that_stays_full_is_told_by_its_folder(tmp_path):
    def call():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        StorageUnavailable, match=rf"The disk of the sweep in {tmp_path} has been full for 0 s .*No space left"
    ):
        retry_while_unavailable(call, url=None, timeout=0, results=tmp_path)
    with pytest.raises(PermissionError):  # another trouble is not waited for
        retry_while_unavailable(raise_permission, url=None, timeout=5, results=tmp_path)


def raise_permission():
    raise PermissionError(errno.EACCES, "no")


def test_a_process_that_dies_while_it_writes_holds_nobody_up(tmp_path):
    storage = open_storage(None, tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from dataecho_search.study.storage import open_storage\n"
        f"open_storage(None, Path({str(tmp_path)!r}))._backend._lock.acquire()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    begun = time.monotonic()
    optuna.create_study(study_name="first", storage=storage)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("url", ["sqlite:///relative.db", "mysql://user:secret@host/db", "nothing"])
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(url, tmp_path):
    with pytest.raises(SettingError, match=r"hydra.sweeper.storage=.*sqlite:////absolute/path.db") as raised:
        open_storage(url, tmp_path)
    assert "secret" not in str(raised.value)


def test_what_does_not_answer_is_asked_again_and_then_told(tmp_path, caplog):
    answers = [ConnectionError("no"), ConnectionError("no"), 7]

    def call():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry_while_unavailable(call, url=None, timeout=5, results=tmp_path) == 7
    answers += [ConnectionError("not today")] * 99
    with pytest.raises(
        StorageUnavailable, match=r"postgresql://host/db has not answered .*their results in /.*not today"
    ):
        retry_while_unavailable(call, url="postgresql://me:secret@host/db", timeout=0.3, results=tmp_path)


# A real PostgreSQL server


def _binaries():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) or [Path(shutil.which("postgres") or "")]
    return found[-1].parent


class Postgres:
    """A server of its own, on a free port of this machine alone."""

    def __init__(self, folder):
        self.binaries, self.folder = _binaries(), folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # As root it refuses to run.
        self.user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        self.url = f"postgresql://dataecho@127.0.0.1:{self.port}/postgres"
        folder.mkdir()
        if self.user:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", folder / "data", "-U", "dataecho", "-A", "trust", "--no-sync", "-E", "UTF8")

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-o", options, "-l", self.folder / "log", "-w", "start")

    def stop(self):
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def _run(self, program, *arguments):
        command = [*self.user, self.binaries / program, *arguments]
        done = subprocess.run(list(map(str, command)), cwd="/", capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    if not (_binaries() / "initdb").exists():
        pytest.skip("PostgreSQL is not installed")
    # Its owner has to reach the folder.
    folder = Path("/tmp") / f"dataecho-postgres-{os.getpid()}"
    server = Postgres(folder)
    server.start()
    yield server
    try:
        server.stop()
    except AssertionError:
        logging.getLogger(__name__).warning("it had stopped already")
    shutil.rmtree(folder)


def test_a_sweep_in_postgresql_outlives_a_restart_of_the_server_and_a_kill(postgres, app):
    arguments = (
        "x=interval(0,1)", "echo=a,b", "seconds=0.3", "hydra.sweeper.num_trials=4",
        "hydra.sweeper.num_parallel_trials=2",
        f"hydra.sweeper.storage={postgres.url}",
    )  # fmt: skip
    first = app.start(*arguments)
    app.until(lambda: len(app.pids()) >= 2)
    postgres.stop()
    time.sleep(1.0)
    postgres.start()
    app.until(lambda: len(app.pids()) >= 5)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    last = app.run(*arguments)
    assert last.returncode == 0, last.err
    results = read_results(open_storage(postgres.url, app.sweep_dir))
    assert [[trial.state for trial in result.trials] for result in results] == [["completed"] * 4] * 2
    assert len(points(results)) == 8 and sum(app.attempts().values()) <= 10
    assert not (app.sweep_dir / JOURNAL).exists()


def test_a_database_that_stays_away_ends_the_sweep_and_its_results_are_told_later(postgres, app):
    arguments = (
        "x=interval(0,1)", "seconds=1.5", "hydra.sweeper.num_trials=2", "hydra.sweeper.storage_timeout=3",
        f"hydra.sweeper.storage={postgres.url}", "y=7",
    )  # fmt: skip
    first = app.start(*arguments)
    app.until(lambda: len(app.pids()) >= 1)
    postgres.stop()
    _, error = first.communicate(timeout=30)
    postgres.start()
    assert first.returncode == 1 and "has not answered for" in error and "tells them to the study" in error
    summaries = list(app.sweep_dir.rglob("summary.json"))
    assert len(summaries) == 1
    last = app.run(*arguments)
    assert last.returncode == 0, last.err
    assert set(app.attempts().values()) == {1}
