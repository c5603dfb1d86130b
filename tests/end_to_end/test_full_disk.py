"""A run on a disk that is really full ends with exit code 75, and its own command continues it when there is room.

The disk is a small file system in memory, where this user may mount one in a namespace of its own; elsewhere the error
is raised where checkpoints are written.
"""

import json
import shlex
import subprocess
import sys

import pytest

from dataecho.training.disk import EXIT_CODE
from tests.support import PROJECT

pytestmark = pytest.mark.slow

SETTINGS = [
    *("tracking=none", "display=none", "run_dir=disk/run", "resume=auto", "stop_at_target=false"),
    *("budget=steps", "budget.steps=16", "checkpoints.disk_timeout=0.1", "pictures.num_examples=0"),
]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
CAN_MOUNT = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
FULL_AFTER_ONE_CHECKPOINT = """
import errno, runpy, sys
from dataecho.training import checkpoint
real, folders = checkpoint._write, set()
def write(path, data):
    folders.add(path.parent)
    if len(folders) > 1:
        raise OSError(errno.ENOSPC, "No space left on device")
    real(path, data)
checkpoint._write = write
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script():
    """Run twice in ``disk``: with room for one checkpoint (152 KB), then with more."""
    train = [str(PROJECT / "train.py"), *SETTINGS]
    run = shlex.join([sys.executable, *train])
    if CAN_MOUNT:
        steps = ["mkdir disk", "mount -t tmpfs -o size=256k none disk", run, "mount -o remount,size=16m none disk", run]
    else:
        steps = ["mkdir disk", shlex.join([sys.executable, "-c", FULL_AFTER_ONE_CHECKPOINT, *train]), run]
    return "\n".join(step + ("; echo $? >> codes" if "train.py" in step else " || exit 1") for step in steps)


def test_a_run_ends_with_75_and_goes_on_when_there_is_room(tmp_path):
    shell = [*(NAMESPACE if CAN_MOUNT else []), "bash", "-c", f"{script()}\ncp disk/run/*.json* ."]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "codes").read_text().split() == [str(EXIT_CODE), "0"], done.stderr
    assert EXIT_CODE == 75 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    folder = tmp_path / "disk" / "run"
    assert f"The disk of {folder} is full" in line and "Make room, and continue." in line
    assert f"Everything up to {folder / 'checkpoints' / 'step-0000000000'}" in line
    assert f"resume={folder}" in done.stderr.partition("Continue: ")[2]
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 16
    marks = [json.loads(text)["step"] for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert marks == sorted(set(marks)) and len(marks) > 3  # none lost, none twice
