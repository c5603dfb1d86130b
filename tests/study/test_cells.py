"""Blocks of a study's YAML become cells: names, axes and settings."""

import pytest

from dataecho.errors import SettingError
from dataecho_study.cells import expand

ECHOES = ["none", "batch", "before_augmentation"]


def cells(*blocks, echoes=ECHOES):
    return expand(blocks, echoes, batch_size=64)


def test_a_block_is_all_combinations_of_its_lists():
    found = cells({"echo": "none"}, {"echo": ["batch", "before_augmentation"], "factor": [2, 4]})
    assert [cell.key for cell in found] == [
        "echo=none",
        "echo=batch,factor=2",
        "echo=batch,factor=4",
        "echo=before_augmentation,factor=2",
        "echo=before_augmentation,factor=4",
    ]
    assert found[0].axes == {"echo": "none", "factor": 1.0}
    assert found[2].axes == {"echo": "batch", "factor": 4.0}
    assert found[2].overrides == {"echo": "batch", "factor": 4}


def test_a_cell_without_echo_has_no_factor_and_comes_once():
    assert [cell.key for cell in cells({"echo": ["none", "batch"], "factor": [2, 3]})] == [
        "echo=none",
        "echo=batch,factor=2",
        "echo=batch,factor=3",
    ]


def test_echoes_that_the_task_lacks_are_left_out():
    assert [cell.key for cell in cells({"echo": ["none", "example"], "factor": 2})] == ["echo=none"]


def test_axes_are_settings():
    (cell,) = cells({"echo": "none", "batch_size": 256, "throttle_ratio": 4, "shuffle_buffer": 128})
    assert cell.overrides == {
        "echo": "none",
        "task.batch_size": 256,
        "task.shuffle_buffer": 128,
        "pipeline.throttle.ratio": 4,
    }


@pytest.mark.parametrize(("rows", "batches"), [(0, 0), (128, 2), (129, 3)])
def test_batch_echo_has_its_buffer_behind_the_echo_in_batches(rows, batches):
    (cell,) = cells({"echo": "batch", "factor": 2, "shuffle_buffer": rows})
    assert cell.overrides == {"echo": "batch", "factor": 2, "echo.shuffle_buffer": batches}
    assert cell.axes["shuffle_buffer"] == rows


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"echo": "batch"}, r"^study.cells.0.factor=None cannot be used. .*Add it: factor: 2"),
        ({"factor": 2}, r"^study.cells.0.echo=None cannot be used. Allowed: none, batch"),
        (
            {"echo": "none", "batch": 2},
            r"^study.cells.0.batch=2 cannot be used. .*Did you mean study.cells.0.batch_size",
        ),
        ({"echo": "example", "factor": 2}, r"^study.cells=.* Allowed: cells with an echo that the task has: none"),
    ],
)
def test_a_block_that_cannot_be_used_is_refused(block, message):
    with pytest.raises(SettingError, match=message):
        cells(block)
