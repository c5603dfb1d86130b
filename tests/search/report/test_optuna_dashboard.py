"""`make optuna-dashboard` shows a sweep's journal, on this machine only."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from dataecho_search.study.storage import open_storage
from tests.search.studies import new_study
from tests.support import PROJECT
from tests.tracking.pages import free_port, running


def command(*variables):
    """With the environment that runs the tests, as it is: nothing is installed."""
    return ["make", "-C", str(PROJECT), "-o", ".venv/.stamp-train", f"BIN={Path(sys.executable).parent}",
            "optuna-dashboard", *variables]  # fmt: skip


@pytest.mark.slow
def test_it_lists_the_studies_of_a_sweep_folder_on_loopback(tmp_path):
    import optuna

    result = new_study({"echo": "none"}, 1, [3.0, 2.0])
    storage = open_storage(None, tmp_path)
    optuna.copy_study(
        from_study_name=result.name, from_storage=result.study._storage, to_storage=storage, to_study_name=result.name
    )
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with running(
        command(f"STORAGE={tmp_path}", f"OPTUNA_PORT={port}"), ready=f"{address}/api/studies", log=tmp_path / "log"
    ):
        with urllib.request.urlopen(f"{address}/api/studies", timeout=10) as answer:
            names = [study["study_name"] for study in json.load(answer)["study_summaries"]]
        listening = {
            found.laddr.ip for found in psutil.net_connections("inet") if found.laddr.port == port and not found.raddr
        }
    assert names == ["echo=none/1"]
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("storage", "message"), [("", "No sweep was found in runs/. Allowed: a sweep folder"), ("/no/such", "is no file")]
)
def test_without_a_sweep_it_says_what_is_allowed(storage, message):
    done = subprocess.run(command(f"STORAGE={storage}"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert message in done.stderr
