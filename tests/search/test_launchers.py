"""A launcher is not asked by this sweeper, whether it is installed or not."""

import subprocess
import sys

import pytest

from tests.support import PROJECT


@pytest.mark.parametrize("name", ["joblib", "submitit_slurm"])
def test_a_launcher_is_told_what_does_its_work_here(tmp_path, name):
    command = [sys.executable, str(PROJECT / "train.py"), "-m", f"hydra/launcher={name}", "seed=1,2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: hydra/launcher={name} cannot be used. Allowed: basic: a launcher is not")
    assert "hydra.sweeper.num_parallel_trials=4" in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
