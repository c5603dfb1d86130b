"""What a killed process had spent."""

import json

import pytest

from dataecho.training.heartbeat import FILE_NAME, Heartbeat, read_heartbeat

ZEROS = {"wall_time": 0.0, "train_time": 0.0, "read_examples": 0.0}


@pytest.fixture
def seconds():
    return [100.0]


@pytest.fixture
def heartbeat(tmp_path, seconds):
    return Heartbeat(tmp_path, interval=2.0, now=lambda: seconds[0])


def beat(heartbeat, number=1):
    heartbeat.beat(wall_time=number + 0.5, train_time=number + 0.25, read_examples=number)


def test_a_beat_is_due_once_in_every_interval(heartbeat, seconds):
    due = []
    for _ in range(8):
        seconds[0] += 0.5
        due.append(heartbeat.is_due())
        if due[-1]:
            beat(heartbeat)
    assert due == [False, False, False, True, False, False, False, True]


def test_a_beat_stays_due_until_it_is_written(heartbeat, seconds):
    seconds[0] += 2
    assert heartbeat.is_due() and heartbeat.is_due()


def test_the_last_beat_is_read_back_and_leaves_no_draft(heartbeat, tmp_path):
    beat(heartbeat, 1)
    beat(heartbeat, 7)
    assert read_heartbeat(tmp_path) == {"wall_time": 7.5, "train_time": 7.25, "read_examples": 7.0}
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_no_beat_reads_as_zeros(tmp_path):
    assert read_heartbeat(tmp_path) == ZEROS
    assert read_heartbeat(tmp_path / "nowhere") == ZEROS


def test_a_torn_beat_reads_as_zeros_wherever_it_is_torn(heartbeat, tmp_path):
    beat(heartbeat, 7)
    whole = (tmp_path / FILE_NAME).read_bytes()
    for length in range(len(whole)):
        (tmp_path / FILE_NAME).write_bytes(whole[:length])
        assert read_heartbeat(tmp_path) == ZEROS


@pytest.mark.parametrize("content", [b"\x00" * 60, b"\xff\xfe", b"[]", b"3", b'{"wall_time": 1}'])
def test_a_beat_that_is_none_reads_as_zeros(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    assert read_heartbeat(tmp_path) == ZEROS


@pytest.mark.parametrize("value", [None, [], "x"])
def test_a_value_that_is_no_number_reads_as_zeros(tmp_path, value):
    (tmp_path / FILE_NAME).write_text(json.dumps({**ZEROS, "read_examples": value}))
    assert read_heartbeat(tmp_path) == ZEROS
