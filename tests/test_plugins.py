"""The example plugin, and that Hydra finds it in the installed environment from wherever the command is given."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataecho.errors import shown
from dataecho.training.schedule import Schedule
from dataecho_cosine.schedule import CosineSchedule

TRAIN = Path(__file__).parents[1] / "train.py"

DISCOVER = """
from hydra import compose, initialize
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

print(*(found.__module__ for found in Plugins.instance().discover(SearchPathPlugin)))
with initialize(version_base=None, config_path=None):
    print(compose(overrides=["+schedule=cosine"]))
"""


def run_python(*arguments: str | Path, cwd: Path) -> str:
    # PYTHONPATH could show Hydra a plugin that the installation hides.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hydra_discovers_the_plugin_and_its_config_from_another_folder(tmp_path: Path) -> None:
    modules, config = run_python("-c", DISCOVER, cwd=tmp_path).splitlines()
    assert "hydra_plugins.dataecho_cosine.search_path" in modules.split()
    expected = {"schedule": {"_target_": "dataecho_cosine.schedule.CosineSchedule", "final_fraction": 0.0}}
    assert config == str(expected)


def test_train_takes_the_schedule_from_another_folder(tmp_path: Path) -> None:
    output = run_python(TRAIN, "schedule=cosine", "schedule.final_fraction=0.1", "--cfg", "job", cwd=tmp_path)
    assert "_target_: dataecho_cosine.schedule.CosineSchedule" in output
    assert "final_fraction: 0.1" in output


def test_train_lists_the_plugin_in_its_search_path(tmp_path: Path) -> None:
    assert "pkg://dataecho_cosine.conf" in run_python(TRAIN, "--info", "searchpath", cwd=tmp_path)


@pytest.mark.parametrize(
    ("final_fraction", "spent_fraction", "expected"),
    [
        (0.0, 0.0, 1.0),
        (0.0, 0.5, 0.5),
        (0.0, 1.0, 0.0),
        (0.25, 0.0, 1.0),
        (0.25, 0.5, 0.625),
        (0.25, 1.0, 0.25),
        (1.0, 0.5, 1.0),
    ],
)
def test_values_are_exact(final_fraction: float, spent_fraction: float, expected: float) -> None:
    assert CosineSchedule(final_fraction=final_fraction).factor(spent_fraction) == expected


def test_between_the_exact_points_it_is_a_cosine() -> None:
    assert CosineSchedule().factor(0.25) == pytest.approx((2 + math.sqrt(2)) / 4, rel=1e-15)


def test_it_is_a_schedule() -> None:
    assert isinstance(CosineSchedule(), Schedule)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.5", None])
def test_a_final_fraction_outside_0_to_1_is_refused(value: object) -> None:
    message = rf"schedule\.final_fraction={shown(value)} cannot be used.*from 0 to 1.*write 0\.1"
    with pytest.raises(ValueError, match=message):
        CosineSchedule(final_fraction=value)  # type: ignore[arg-type]
