"""Folders whose names mean something to Hydra, a shell or rich: what is printed is what is there, and can be pasted."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dataecho.errors import SettingError, setting
from dataecho.modes import run_mode
from dataecho.settings import read_settings
from dataecho.sources.remote import Remote
from tests.support import PROJECT, config

TEXTS = (
    *("echo=none,factor=2", "/data/a b/ä[1]{v1}", "2026", "1e5", "-5", "null", "True", "it's", "back\\", "a\\'b"),
    *(
        "${x}",
        "~home",
        "(x)",
        "%$?*",
        "",
        "_1",
        "1_000",
        ".5",
        "nan",
        "inf",
        '"',
        "runs/mine",
        "http://host:5000",
        "#1",
    ),
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_setting_that_is_pasted_is_read_back(text):
    (word,) = shlex.split(setting("key", text))
    (override,) = OverridesParser.create().parse_overrides([word])
    assert OmegaConf.create({"key": override.value()}).key == text


def test_what_needs_no_quotes_has_none():
    assert setting("resume", "/data/runs/2026-01-01/12-00") == "resume=/data/runs/2026-01-01/12-00"


@pytest.mark.parametrize("key", ["run_dir", "resume", "checkpoint"])
@pytest.mark.parametrize("value", ["2026", "1.5", "true"])
def test_a_name_that_is_a_number_says_that_quotes_are_missing(key, value):
    with pytest.raises(SettingError, match=rf"{key}=.*Allowed: text. Quotes are missing.*\"?{key}='") as raised:
        read_settings(config(f"{key}={value}"))
    cure = re.search(r": (['\"]\S+)", str(raised.value))[1].rstrip(",")
    assert isinstance(getattr(read_settings(config(*shlex.split(cure))), key), str)


def command(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, str(PROJECT / "train.py"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["echo=none,factor=2 [red]{v1} ä:x:"])
def test_a_run_in_a_folder_with_an_odd_name_can_be_evaluated_exported_continued_and_reported(tmp_path, name):
    folder = tmp_path / name
    small = ("tracking=none", "display=plain", "budget=steps", "budget.steps=8", "pictures.num_examples=0")
    shown = command(*small, *shlex.split(setting("run_dir", folder)), cwd=tmp_path)
    assert f"Run folder: {folder}\n" in shown
    shown = command(*small[:1], "mode=evaluate", *shlex.split(setting("checkpoint", folder)), cwd=tmp_path)
    assert str(folder / "checkpoints") in shown
    exported = command("mode=export", *shlex.split(setting("checkpoint", folder)), cwd=tmp_path)
    pasted = shlex.split(exported.splitlines()[-1])
    command(*small, *pasted, "run_dir=other", cwd=tmp_path)
    shutil.rmtree(folder / "checkpoints" / sorted((folder / "checkpoints").iterdir())[-1].name)
    command(*small, *shlex.split(setting("resume", folder)), cwd=tmp_path)
    run_mode(
        config("mode=report", f"run_dir={tmp_path}/report") | {"runs": [str(folder)]}, folder=None, project=PROJECT
    )
    assert (tmp_path / "report" / "report.md").exists()


def test_a_file_is_found_by_its_name_whatever_brackets_it_has(tmp_path):
    for name in ("a[1].tar", "a1.tar", "b{v1,v2}.tar", "c*.tar", "cc.tar"):
        (tmp_path / name).write_text("")
    remote = Remote()
    for name in ("a[1].tar", "b{v1,v2}.tar", "c*.tar"):
        assert remote.list(f"{tmp_path}/{name}") == [f"{tmp_path}/{name}"]
    assert remote.list(f"{tmp_path}/[a]1.tar") == [f"{tmp_path}/a1.tar"]
