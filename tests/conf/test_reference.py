"""The comments and defaults in conf and docs/reference/settings.md follow from the declarations."""

import shutil

import pytest

from dataecho.declare import SettingGroup, declared_settings, inner_group
from dataecho.reference import help_text, read_options, written
from dataecho.settings import Settings
from tests.support import PROJECT, config


def test_what_follows_from_the_declarations_is_written():
    stale = [str(path) for path, text in written(PROJECT).items() if path.read_text() != text]
    assert stale == [], "run: python -m dataecho.reference"


def groups(group=Settings):
    """A group and all groups in it."""
    inner = [found for declared in declared_settings(group) if (found := inner_group(declared)) is not None]
    return [group, *(one for found in inner for one in groups(found))]


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.key or "settings")
def test_every_setting_has_a_sentence_and_stands_in_conf(group):
    assert issubclass(group, SettingGroup)
    node = config()
    for name in filter(None, group.key.split(".")):
        node = node[name]
    assert {declared.name for declared in declared_settings(group)} == set(node) - {"hydra"}
    assert [one.key for one in declared_settings(group) if not one.help.endswith((".", "=..."))] == []


@pytest.mark.parametrize(
    "group", ["echo", "optimizer", "accelerator", "budget", "pipeline", "backend", "task", "schedule"]
)
def test_every_option_has_a_sentence(group):
    assert [option.name for option in read_options(PROJECT / "conf" / group) if not option.about] == []


def test_a_stale_default_and_a_stale_comment_are_written_anew(tmp_path):
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    path = tmp_path / "conf" / "pipeline" / "threads.yaml"
    text = path.read_text()
    path.write_text(text.replace("num_threads: 2 ", "num_threads: 7 ").replace("Batches in work", "Something else"))
    assert path.read_text() != text
    assert written(tmp_path)[path] == text


def test_help_lists_every_declared_setting():
    text = help_text(PROJECT / "conf")
    for group in groups():
        assert [one.key for one in declared_settings(group) if inner_group(one) is None and one.key not in text] == []
