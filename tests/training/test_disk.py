"""A disk that is full for a while costs nothing; one that stays full ends a run that can go on."""

import errno
import logging
import os
import signal

import pytest

from dataecho.training import checkpoint
from dataecho.training.budget import Budget
from dataecho.training.checkpoint import list_checkpoints
from dataecho.training.disk import is_full, retry_while_full
from dataecho.training.journal import Journal
from dataecho.training.recipe import CheckpointSettings
from tests.training.conftest import Now

FULL = OSError(errno.ENOSPC, "No space left on device")


def fails(times, error=FULL, then=lambda: "written"):
    left = [error] * times

    def write():
        if left:
            raise left.pop()
        return then()

    return write


def test_a_full_disk_is_waited_for_and_told_once(tmp_path, caplog):
    now = Now()
    with caplog.at_level(logging.INFO):
        assert retry_while_full(fails(5), folder=tmp_path, timeout=60, now=now, sleep=now.advance) == "written"
    assert [f"{tmp_path} is full" in caplog.text, caplog.text.count("is full"), caplog.text.count("room again")] == [
        True,
        1,
        1,
    ]
    assert now.seconds - 100 == pytest.approx(0.5 + 1 + 2 + 4 + 8)


def test_it_is_not_waited_for_longer_than_said_nor_where_somebody_waits(tmp_path):
    now = Now()
    with pytest.raises(OSError, match="No space left"):
        retry_while_full(fails(99), folder=tmp_path, timeout=60, now=now, sleep=now.advance)
    assert now.seconds - 100 == pytest.approx(60)
    with pytest.raises(OSError, match="No space left"):
        retry_while_full(
            fails(99), folder=tmp_path, timeout=60, gives_up=lambda: now.seconds > 162, now=now, sleep=now.advance
        )
    assert 162 < now.seconds < 162.3


def test_other_errors_are_not_waited_for(tmp_path):
    with pytest.raises(PermissionError):
        retry_while_full(fails(1, PermissionError(errno.EACCES, "no")), folder=tmp_path, timeout=60)
    assert is_full(OSError(errno.EDQUOT, "quota")) and not is_full(ValueError()) and not is_full(None)


def test_a_line_that_finds_no_room_is_whole_when_it_is_repeated(tmp_path, monkeypatch):
    journal, real = Journal(tmp_path / "lines"), os.write
    journal.append({"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]) if len(data) > 6 else fails(1)())
        with pytest.raises(OSError, match="No space left"):
            journal.append({"n": 22})
    assert (tmp_path / "lines").read_bytes() == b'{"n": 1}\n' and journal.position == 9
    journal.append({"n": 3})
    journal.close()
    assert (tmp_path / "lines").read_bytes() == b'{"n": 1}\n{"n": 3}\n'


@pytest.fixture
def disk(monkeypatch):
    """Its ``num_full`` next checkpoints find no room."""

    class Disk:
        num_full = 0

    real = checkpoint._write

    def write(path, data):
        if Disk.num_full:
            Disk.num_full -= 1
            path.write_bytes(data[: len(data) // 2])
            raise FULL
        real(path, data)

    monkeypatch.setattr(checkpoint, "_write", write)
    return Disk


def test_a_run_outlasts_a_full_disk_and_is_the_run_it_would_have_been(new_run, other_run, disk):
    whole = other_run(1, budget=Budget(fresh=24)).run()
    disk.num_full = 2
    run = new_run(budget=Budget(fresh=24)).run()
    assert disk.num_full == 0
    assert (run.trained, run.exact_outcome, run.exact_spool) == (whole.trained, whole.exact_outcome, whole.exact_spool)


def test_a_run_that_ends_by_a_full_disk_goes_on_from_its_last_checkpoint(new_run, other_run, disk):
    whole = other_run(1, budget=Budget(fresh=24)).run()

    def fill():
        disk.num_full = 99

    run = new_run(
        budget=Budget(fresh=24),
        checkpoints=CheckpointSettings(disk_timeout=0),
        on_step=lambda steps: steps == 4 and fill(),
    )
    with pytest.raises(OSError, match="No space left"):
        run.run()
    disk.num_full = 0
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step-000000000002"]
    resumed = new_run(budget=Budget(fresh=24), resume_from=run.checkpoint()).run()
    assert resumed.trained == whole.trained[2:]
    assert resumed.exact_outcome == whole.exact_outcome and resumed.exact_spool == whole.exact_spool


def test_a_run_that_is_asked_to_end_does_not_wait_for_room(new_run, disk):
    def end():
        disk.num_full = 99
        signal.raise_signal(signal.SIGTERM)

    run = new_run(
        budget=Budget(fresh=24),
        checkpoints=CheckpointSettings(disk_timeout=1e6),
        on_step=lambda steps: steps == 3 and end(),
    )
    with pytest.raises(OSError, match="No space left"):
        run.run()
    assert len(list_checkpoints(run.folder / "checkpoints")) == 1
