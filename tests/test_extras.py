"""What works without the packages of extras, and what is said where one is missing."""

import os
import re
import subprocess
import sys
import tarfile

import pytest

from dataecho import extras, posix
from dataecho.errors import SettingError
from tests.support import PROJECT

#: Imports fail, as where nothing but numpy and the core's other dependencies is installed.
ALONE = """
import sys
ALLOWED = {"numpy", "filelock", "cloudpickle", "dataecho"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and root not in ALLOWED and not root.startswith("_"):
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)
sys.meta_path.insert(0, Refuse())
"""

FEED = """
import numpy as np
from dataecho import ArraySource, Feed, PipelineSettings, Stage

def negate(chunk):
    return {"x": -chunk["x"]}

for settings in (PipelineSettings(), PipelineSettings(num_threads=0), PipelineSettings(num_processes=1)):
    stages = (Stage("negate", negate, batched=True),)
    order = {"batch_size": 4, "shuffle_buffer": 4, "seed": 0, "echo_after": "negate", "factor": 2}
    with Feed(ArraySource({"x": np.arange(20)}), stages, settings=settings, **order) as feed:
        print(sum(next(feed)["x"].size for _ in range(3)))
"""

FILES = """
import sys
from dataecho import FolderSource, TarSource, Feed
for source in (TarSource(sys.argv[1] + "/{a,b}.tar"), FolderSource(sys.argv[1] + "/folder")):
    with Feed(source, (), batch_size=2, shuffle_buffer=2, seed=0) as feed:
        print(len(next(feed).weights))
"""


def run(script, *arguments):
    command = [sys.executable, "-c", ALONE + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_a_feed_needs_the_cores_dependencies_alone():
    done = run(FEED)
    assert done.stdout.split() == ["12", "12", "12"], done.stderr


def test_folders_and_archives_of_this_machine_need_nothing_else(tmp_path):
    for name in ("bee", "ant"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        (tmp_path / "folder" / name / "1.png").write_bytes(b"not looked into")
    for name in ("a.tar", "b.tar"):
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(tmp_path / "folder" / "bee" / "1.png", "1.png")
    done = run(FILES, tmp_path)
    assert done.stdout.split() == ["2", "2"], done.stderr


def test_a_url_says_what_to_install():
    done = run("from dataecho import TarSource; TarSource('http://127.0.0.1:1/a.tar').num_examples(0)")
    last = done.stderr.splitlines()[-1]
    assert re.match(
        r"dataecho\.errors\.SettingError: url=http://127\.0\.0\.1:1/a\.tar cannot be used\. Allowed: .*", last
    )
    assert "No module named 'fsspec'" in last and last.endswith(extras.install("remote"))


def test_a_public_name_says_what_to_install():
    done = run("from dataecho import ParquetSource")
    assert done.stderr.splitlines()[-1] == (
        "ImportError: dataecho.ParquetSource: ModuleNotFoundError: No module named 'pyarrow'. "
        + extras.install("parquet")
    )


def test_a_package_of_no_extra_is_told_as_it_is():
    with pytest.raises(
        SettingError, match=r"Allowed: this value where nowhere_at_all is installed\. .*nowhere_at_all'\.$"
    ):
        extras.package("nowhere_at_all.inside", key="k", value="v")


def test_the_cure_is_make_in_a_checkout_and_pip_elsewhere(monkeypatch):
    assert extras.install("ray") == "Install it: make train EXTRAS=ray, or pip install 'dataecho[ray]'."
    monkeypatch.setattr(extras, "checkout", lambda: None)
    assert extras.install("ray") == "Install it: pip install 'dataecho[ray]'."


def test_a_python_that_is_too_old_for_an_extra_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    assert extras.install("jax") == "The extra jax needs Python 3.11 or newer; this is Python 3.10."
    assert extras.install("ray").startswith("Install it: ")
    declared = re.findall(r'"jax>=.*; python_version >= \'([0-9.]+)\'"', (PROJECT / "pyproject.toml").read_text())
    assert declared == [".".join(map(str, extras._FIRST_PYTHON["jax"]))]


def test_every_extra_that_a_message_names_is_declared():
    text = (PROJECT / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    declared = set(re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE))
    assert set(extras._EXTRAS.values()) <= declared
    assert {"all", "docs", "test"} <= declared


def test_make_installs_an_extra_from_the_locks():
    shown = subprocess.run(
        ["make", "-n", "train", "EXTRAS=ray jax"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert all(f"-r requirements-{extra}.lock" in shown for extra in ("ray", "jax"))


WINDOWS = """
import os, signal, sys
sys.modules["fcntl"] = None
for name in ("pread", "pwrite", "posix_fallocate", "sched_getaffinity", "fork"):
    delattr(os, name)
for name in ("SIGIO", "SIGHUP"):
    delattr(signal, name)
"""


def test_what_windows_has_not_is_told_when_it_is_used(tmp_path):
    (tmp_path / "folder" / "bee").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        (tmp_path / "folder" / "bee" / name).write_bytes(b"not looked into")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "folder" / "bee" / "1.png", "1.png")
    feed = FEED.replace("PipelineSettings(num_processes=1)", "PipelineSettings(num_threads=2)")
    folder = FILES.replace('TarSource(sys.argv[1] + "/{a,b}.tar"), ', "")
    shards = FILES.replace("{a,b}", "a")
    assert run(WINDOWS + feed).stdout.split() == ["12", "12", "12"]
    assert run(WINDOWS + folder.replace('"/folder"))', '"/folder"),)'), tmp_path).stdout == "2\n"
    for script, told in (
        (shards, rf"urls={tmp_path}/a\.tar cannot be used\. Allowed: other values on linux: .*map-style dataset\."),
        (FEED, r"pipeline\.num_processes=above 0 cannot be used\. .* Use pipeline=threads\."),
    ):
        last = run(WINDOWS + script, tmp_path).stderr.splitlines()[-1]
        assert re.fullmatch(rf"dataecho\.errors\.SettingError: {told}", last), last


def test_cores_are_counted_where_the_system_does_not_tell_which_may_be_used(monkeypatch):
    assert posix.usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert posix.usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert posix.usable_cores() == 1


def test_what_only_linux_has_is_called_in_one_file():
    folders = (PROJECT / folder for folder in ("platform", "plugins", "tasks"))
    files = [path for folder in folders for path in folder.rglob("*.py")]
    called = re.compile(r"\bos\.(?:sched_\w+|posix_\w+|memfd_create|pidfd_open|eventfd|splice)\(")
    assert [str(path) for path in files if called.search(path.read_text())] == [posix.__file__]
