"""What dataecho expects of a task: its stages keep their promises, its held-out data are held out."""

from pathlib import Path

import pytest
from bars.data import Bars
from omegaconf import OmegaConf

from dataecho.testing.task_contract import TaskContract


class TestBars(TaskContract):
    @pytest.fixture
    def task(self) -> Bars:
        facts = OmegaConf.to_container(OmegaConf.load(Path(__file__).parent / "conf/task/bars.yaml"))
        assert isinstance(facts, dict)
        return Bars(**{str(name): value for name, value in facts.items() if name != "_target_"})

    @pytest.fixture
    def outputs(self) -> tuple[dict[str, float], dict[str, float]]:
        return {"loss": 0.1, "correct": 1.0}, {"loss": 3.0, "correct": 0.0}
