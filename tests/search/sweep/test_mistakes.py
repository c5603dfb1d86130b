"""What a sweep cannot be: told before anything runs, with what to write instead."""

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext

from dataecho.posix import usable_cores
from tests.search.conftest import APP

LR = "x=interval(0,1)"
OTHER = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
ConfigStore.instance().store(group="hydra/launcher", name="other", node=OTHER, provider="test")

MISTAKES = {
    "more trials than cores": (
        [LR, f"hydra.sweeper.num_parallel_trials={usable_cores() + 1}"],
        f"hydra.sweeper.num_parallel_trials={usable_cores() + 1} cannot be used. Allowed: 1 to {usable_cores()}",
    ),
    "no trials": ([LR, "hydra.sweeper.num_trials=0"], "hydra.sweeper.num_trials=0"),
    "unknown objective": (
        [LR, "hydra.sweeper.objective=speed"],
        "hydra.sweeper.direction=None cannot be used. Allowed: minimize, maximize. Say which for speed",
    ),
    "an option that is no group": (
        [LR, "hydra.sweeper.sampler=tpe"],
        "With a slash it is one: hydra/sweeper/sampler=tpe",
    ),
    "an option of the sampler": (
        [LR, "hydra/sweeper/sampler=tpe", "+hydra.sweeper.sampler.options.gama=1"],
        "Did you mean hydra.sweeper.sampler.options.gamma",
    ),
    "an option of the pruner": (
        [LR, "hydra/sweeper/pruner=median", "+hydra.sweeper.pruner.warmup=1"],
        "hydra.sweeper.pruner.warmup=1",
    ),
    "a relative database": ([LR, "hydra.sweeper.storage=sqlite:///studies.db"], "with four slashes"),
    "an unknown database": ([LR, "hydra.sweeper.storage=redis://x"], "Leave it out for the journal"),
    "an unreachable database": (
        [LR, "hydra.sweeper.storage=postgresql://a:secret@127.0.0.1:9/x", "hydra.sweeper.storage_timeout=0.5"],
        "has not answered for",
    ),
    "a launcher": (
        [LR, "hydra/launcher=other"],
        "hydra/launcher=other cannot be used. Allowed: basic: a launcher is not asked here, for pools run the trials. "
        "Leave it out, and say hydra.sweeper.num_parallel_trials=4, for instance, or hydra/sweeper/pool=ray",
    ),
    "an empty space": (["x=interval(1,0)"], "no number lies between 1"),
    "a key that is not there": (["z=interval(0,1)"], "Could not override 'z'"),
}


def sweep(*arguments):
    """What a multirun of ``app.py`` does, in this process, with a task function that must not be called."""
    hydras = [text for text in arguments if text.lstrip("+").startswith(("hydra/", "hydra."))]
    with initialize_config_dir(str(APP.with_name("app_conf")), version_base="1.3"):
        config = compose("config", ["hydra/hydra_logging=none", *hydras], return_hydra_config=True)
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=lambda config: pytest.fail("it ran"), config=config
        )
        sweeper.sweep([text for text in arguments if text not in hydras])


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_anything_runs(name, tmp_path, monkeypatch, capsys):
    arguments, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, HydraException)) as raised:
        sweep(*arguments)
    told = capsys.readouterr()
    assert message in (told.err if isinstance(raised.value, SystemExit) else str(raised.value))
    assert "secret" not in told.err + told.out and list(tmp_path.rglob("summary.json")) == []
