"""The rule of tests/conftest.py, tried on a suite of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

SUITE = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="marked so")
def test_marked():
    pass

def test_skips_itself():
    pytest.skip("said inside")

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_failure():
    raise AssertionError
"""

MODULE_SKIP = """
import pytest

pytest.skip("whole module", allow_module_level=True)
"""


def run_suite(folder: Path, *arguments: str, forbid: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "test_module_skip.py").write_text(MODULE_SKIP)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", *arguments],
        cwd=folder,
        env=os.environ | {"DATAECHO_FORBID_SKIPS": forbid},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout


def test_a_skip_is_a_failure_that_names_its_reason(tmp_path: Path) -> None:
    output = run_suite(tmp_path, "--continue-on-collection-errors", forbid="1")
    for reason in ("marked so", "said inside", "whole module"):
        assert reason in output
    # A mark skips in the set-up, a module in the collection: pytest calls a failure there an error.
    assert "1 failed, 1 passed, 1 xfailed, 2 errors in" in output


def test_under_xdist_too(tmp_path: Path) -> None:
    output = run_suite(tmp_path, "--continue-on-collection-errors", "-n", "1", forbid="1")
    assert "1 failed, 1 passed, 1 xfailed, 2 errors in" in output


@pytest.mark.parametrize("forbid", ["", "0"])
def test_without_the_variable_a_skip_is_a_skip(tmp_path: Path, forbid: str) -> None:
    assert "1 passed, 3 skipped, 1 xfailed in" in run_suite(tmp_path, forbid=forbid)
