"""Runs that older code left are taken up, and come to the same counts as if nothing had killed them."""

import json
import shutil

import pytest

from tests.golden.runs import BACKENDS, ECHOES, EXPECTED, FOLDER, counts, run

RECORDED = json.loads(EXPECTED.read_text())


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_older_run_goes_on(tmp_path, backend, echo):
    folder = tmp_path / "run"
    shutil.copytree(FOLDER / f"{backend}-{echo}", folder)
    assert run(folder, backend, echo, resume=True) == 0
    assert counts(folder) == RECORDED[f"{backend}-{echo}"]
