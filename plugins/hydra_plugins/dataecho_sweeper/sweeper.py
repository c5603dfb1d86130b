"""The sweeper's class and options, which Hydra finds here. Hydra reads this file at every start, so it imports little.

It has no `from __future__ import annotations`: Hydra 1.3 runs this module before it is in `sys.modules`, where
dataclasses resolve annotations.
"""

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Dict, List, Optional  # noqa: UP035 - OmegaConf's structured configs know these

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig, OmegaConf


@dataclass
class OptunaSweeperConf:
    """`docs/guides/search.md` explains every field."""

    _target_: str = "hydra_plugins.dataecho_sweeper.sweeper.OptunaSweeper"
    _recursive_: bool = False
    defaults: List[Any] = field(  # noqa: UP006
        default_factory=lambda: ["_self_", {"sampler": "qmc"}, {"pruner": "none"}, {"pool": "processes"}]
    )
    name: Optional[str] = None  # noqa: UP045
    num_trials: int = 20
    num_repeats: int = 1
    num_parallel_trials: int = 1
    threads_per_trial: Optional[int] = None  # noqa: UP045
    objective: Any = "fresh_examples_to_target"
    direction: Any = None
    seed: int = 0
    storage: Optional[str] = None  # noqa: UP045
    storage_timeout: float = 300.0
    max_failed_trials: int = 3
    max_diverged_trials: Optional[int] = None  # noqa: UP045
    keep_checkpoints: str = "winner"
    sampler: Any = MISSING
    pruner: Any = MISSING
    pool: Any = MISSING
    params: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006


def _adaptive(name: str, **options: Any) -> dict[str, Any]:
    return {"_target_": "dataecho_search.samplers.Adaptive", "sampler": f"optuna.samplers.{name}", "options": options}


_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "sampler": {
        "qmc": {"_target_": "dataecho_search.samplers.QuasiRandom", "sequence": "sobol"},
        "random": {"_target_": "dataecho_search.samplers.Random"},
        "grid": {"_target_": "dataecho_search.samplers.Grid"},
        "tpe": _adaptive("TPESampler", n_startup_trials=10, multivariate=True, constant_liar=True),
        "cmaes": _adaptive("CmaEsSampler", n_startup_trials=1, warn_independent_sampling=False),
        "nsgaii": _adaptive("NSGAIISampler", population_size=50),
        "gp": _adaptive("GPSampler", n_startup_trials=10),
    },
    "pruner": {
        "none": {"_target_": "optuna.pruners.NopPruner"},
        "median": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 5, "n_warmup_steps": 0},
        "percentile": {
            "_target_": "optuna.pruners.PercentilePruner",
            "percentile": 25.0,
            "n_startup_trials": 5,
            "n_warmup_steps": 0,
        },
        "successive_halving": {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "reduction_factor": 4},
        "hyperband": {"_target_": "optuna.pruners.HyperbandPruner", "min_resource": 1000, "reduction_factor": 3},
        "threshold": {"_target_": "optuna.pruners.ThresholdPruner", "lower": None, "upper": None, "n_warmup_steps": 0},
    },
    "pool": {
        "processes": {
            "_target_": "dataecho_search.workers.processes.ProcessPool",
            # Modules that runs import late, by backend; those that are not installed are left out.
            "preload": {"all": ["matplotlib.pyplot", "sklearn.datasets"], "torch": ["torch._dynamo"]},
        },
        "ray": {
            "_target_": "dataecho_search.workers.ray_pool.RayPool",
            "address": None,
            "cpus_per_trial": None,
            "gpus_per_trial": 0,
        },
    },
}

_STORE = ConfigStore.instance()
_STORE.store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="dataecho_sweeper")
for _group, _nodes in _OPTIONS.items():
    for _name, _node in _nodes.items():
        _STORE.store(group=f"hydra/sweeper/{_group}", name=_name, node=_node, provider="dataecho_sweeper")
# Launchers that are not installed have a name, too, so that the sweeper can say what to use instead of them.
for _name in ("joblib", "ray", "rq", "submitit_local", "submitit_slurm"):
    _target = f"hydra_plugins.hydra_{_name.partition('_')[0]}_launcher"
    if find_spec(_target) is None:
        _STORE.store(group="hydra/launcher", name=_name, node={"_target_": _target}, provider="dataecho_sweeper")


class OptunaSweeper(Sweeper):
    """The adapter between Hydra and `dataecho_search`."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._context: Optional[HydraContext] = None  # noqa: UP045

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep to its end. Mistakes are one line and exit code 2, as for a single run."""
        from dataecho.errors import SettingError
        from dataecho_search.study.storage import StorageUnavailable
        from dataecho_search.sweep.start import run_sweep

        assert self._context is not None and self.config is not None
        node = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        assert isinstance(node, dict)
        settings = {str(name): value for name, value in node.items()}
        try:
            return run_sweep(settings, arguments, self._context, self._task, self.config)
        except SettingError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except StorageUnavailable as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
