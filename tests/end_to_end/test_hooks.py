"""The example of docs/guides/hooks.md, and hooks that cannot be used."""

import re
import shlex

import pytest

from dataecho.compose import compose_training
from dataecho.errors import SettingError
from dataecho.modes import run_mode
from tests.support import PROJECT, config

PAGE = (PROJECT / "docs" / "guides" / "hooks.md").read_text()
QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1", "pictures.num_examples=0")


def test_the_example_keeps_weights_at_every_second_mark(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (command,) = re.findall(r"```\n(python train.py .*)\n```", PAGE)
    (tmp_path / "my_hooks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    budget = ("budget=fresh", "budget.fresh=900", "task.eval_interval=200", "stop_at_target=false")
    arguments = config(*shlex.split(command)[2:], *QUIET, *budget)
    run_mode(arguments, folder=tmp_path / "run", project=PROJECT)
    found = sorted(path.stem for path in (tmp_path / "run").glob("weights-*.safetensors"))
    assert len(found) == 2 and found[0] < "weights-400" <= "weights-700" < found[1]


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("{_target_: nowhere.Hook}", r"^hooks.0._target_=nowhere.Hook cannot be used. .*The import failed"),
        ("{every: 2}", r"^hooks.0._target_=None cannot be used. Allowed: the dotted path of a class"),
        (
            "{_target_: dataecho.training.contracts.NoPruner}",
            r"^hooks.0._target_=.*NoPruner cannot be used. Allowed: a class derived from .*Hook",
        ),
        ("{_target_: a.Hook, every: 0}", r"^hooks.0.every=0 cannot be used. Allowed: whole numbers >= 1"),
        ("{_target_: a.Hook, of: epochs}", r"^hooks.0.of=epochs cannot be used. Allowed: steps or marks"),
    ],
)
def test_a_hook_that_cannot_be_used_is_refused_by_its_key(tmp_path, hook, message):
    with pytest.raises(SettingError, match=message):
        compose_training(config(*QUIET, f"hooks=[{hook}]"), folder=tmp_path / "run", project=PROJECT)
    assert list(tmp_path.iterdir()) == []
