"""Contracts keep the names by which configurations of older runs know them."""

import pytest

from dataecho.build import build
from dataecho.training import contracts


@pytest.mark.parametrize(
    ("name", "contract", "expected"),
    [
        ("dataecho.tracking.no_tracker.NoTracker", contracts.Tracker, contracts.NoTracker),
        ("dataecho.report.display.NoDisplay", contracts.Display, contracts.NoDisplay),
        ("dataecho.training.contracts.NoPruner", contracts.Pruner, contracts.NoPruner),
    ],
)
def test_names_of_older_configurations_are_understood(name, contract, expected):
    assert type(build({"_target_": name}, contract, key="part")) is expected
