"""The spool: what was written is read back, a cut is exact, a torn line is left out."""

import math

import pytest

from dataecho.errors import SettingError
from dataecho.training.spool import FILE_NAME, LoggedMark, Spool, read_spool


def write(folder, *steps, position=0):
    spool = Spool(folder, position=position)
    ends = []
    for step in steps:
        spool.append(step, {"loss": step / 10}, time_ms=1000 + step)
        ends.append(spool.position)
    spool.close()
    return ends


def test_entries_come_back_in_order_with_their_end_positions(tmp_path):
    ends = write(tmp_path, 10, 20, 30)
    assert list(read_spool(tmp_path)) == [
        LoggedMark(step, 1000 + step, {"loss": step / 10}, end) for step, end in zip((10, 20, 30), ends, strict=True)
    ]
    assert ends[-1] == (tmp_path / FILE_NAME).stat().st_size


def test_every_range_between_two_positions_holds_its_entries(tmp_path):
    positions = [0, *write(tmp_path, 10, 20, 30)]
    for first in range(4):
        for last in range(first, 4):
            found = [entry.step for entry in read_spool(tmp_path, start=positions[first], end=positions[last])]
            assert found == [10, 20, 30][first:last]


def test_an_end_inside_an_entry_leaves_the_entry_out(tmp_path):
    first, second = write(tmp_path, 10, 20)
    assert [entry.step for entry in read_spool(tmp_path, end=second - 1)] == [10]
    assert [entry.step for entry in read_spool(tmp_path, end=first - 1)] == []


def test_resume_at_every_position_drops_what_came_after(tmp_path):
    for kept in range(4):
        folder = tmp_path / str(kept)
        folder.mkdir()
        positions = [0, *write(folder, 10, 20, 30)]
        write(folder, 99, position=positions[kept])
        assert [entry.step for entry in read_spool(folder)] == [*[10, 20, 30][:kept], 99]


@pytest.mark.parametrize("torn", [1, 5, 40])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    write(tmp_path, 10, 20)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-torn])
    assert [entry.step for entry in read_spool(tmp_path)] == [10]


def test_what_is_appended_is_visible_at_once(tmp_path):
    spool = Spool(tmp_path)
    spool.append(1, {"loss": 0.5}, time_ms=1)
    assert [entry.step for entry in read_spool(tmp_path)] == [1]
    spool.close()


def test_odd_values_survive(tmp_path):
    spool = Spool(tmp_path)
    spool.append(1, {"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf, "tiny": 5e-324}, time_ms=1)
    spool.close()
    (entry,) = read_spool(tmp_path)
    assert math.isnan(entry.metrics["nan"])
    assert {k: v for k, v in entry.metrics.items() if k != "nan"} == {
        "inf": math.inf,
        "minus_inf": -math.inf,
        "tiny": 5e-324,
    }


def test_no_file_is_no_entries(tmp_path):
    assert list(read_spool(tmp_path)) == []


def test_a_spool_shorter_than_the_checkpoint_is_refused_and_left_as_it_is(tmp_path):
    (end,) = write(tmp_path, 10)
    with pytest.raises(SettingError, match=rf"{end} bytes.*at least the {end + 1} bytes"):
        Spool(tmp_path, position=end + 1)
    assert [entry.step for entry in read_spool(tmp_path)] == [10]


def test_close_twice_is_fine(tmp_path):
    spool = Spool(tmp_path)
    spool.close()
    spool.close()
