"""The settings of a sweep, ``hydra.sweeper.*``, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dataecho.errors import SettingError, refuse_unknown, require
from dataecho.posix import usable_cores
from dataecho.settings import check_types

Node = dict[str, Any]


class SweepSettings(BaseModel):
    """``num_trials``: completed and pruned trials of each cell and repeat, in total, however often the sweep is
    continued; ``threads_per_trial``: None for an equal share of the cores; ``storage_timeout``: seconds;
    ``max_failed_trials``, ``max_diverged_trials``: for each study, None for twice ``num_trials`` plus eight."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str | None
    num_trials: int = Field(ge=1)
    num_repeats: int = Field(ge=1)
    num_parallel_trials: int = Field(ge=1)
    threads_per_trial: int | None = Field(ge=1)
    objective: str | list[str]
    direction: str | list[str] | None
    seed: int = Field(ge=0)
    storage: str | None
    storage_timeout: float = Field(ge=0)
    max_failed_trials: int = Field(ge=0)
    max_diverged_trials: int | None = Field(ge=0)
    keep_checkpoints: Literal["winner", "all"]
    sampler: Node
    pruner: Node
    pool: Node
    params: Node

    @property
    def diverged_limit(self) -> int:
        """The number of trials of a study that may diverge."""
        return 2 * self.num_trials + 8 if self.max_diverged_trials is None else self.max_diverged_trials


def read_sweep_settings(node: Node) -> SweepSettings:
    """Check and return the settings. Raises :class:`SettingError` for the first unusable one."""
    values = {name: value for name, value in node.items() if not name.startswith("_")}
    refuse_unknown(values, SweepSettings.model_fields, prefix="hydra.sweeper.", values=values)
    for group in ("sampler", "pruner", "pool"):
        if isinstance(values.get(group), str):
            raise SettingError(
                f"hydra.sweeper.{group}",
                values[group],
                allowed="an option of the group",
                cure=f"With a slash it is one: hydra/sweeper/{group}={values[group]}",
            )
    settings = SweepSettings(**check_types("hydra.sweeper", values, SweepSettings))
    require(
        settings.name is None or settings.name.strip(". ") != "",
        "hydra.sweeper.name",
        settings.name,
        allowed="a name that a folder can have, or nothing",
        cure="Leave it out: it is made of the task and the space.",
    )
    return settings


def threads_per_trial(settings: SweepSettings, begun_with: int | None) -> int:
    """Return the compute threads of each trial. A continued sweep keeps the number that it was ``begun_with``, as a
    checkpoint requires. Raises :class:`SettingError` for more parallel trials than cores."""
    num_cores, wanted = usable_cores(), settings.threads_per_trial
    if begun_with is not None:
        require(
            wanted in (None, begun_with),
            "hydra.sweeper.threads_per_trial",
            wanted,
            allowed=f"{begun_with}, with which the sweep was begun: another number rounds differently",
            cure="Leave it out, or begin another sweep.",
        )
        return begun_with
    require(
        wanted is not None or settings.num_parallel_trials <= num_cores,
        "hydra.sweeper.num_parallel_trials",
        settings.num_parallel_trials,
        allowed=f"1 to {num_cores}, the cores that this process may use",
        cure="More only get in each other's way; where they mostly wait (for a GPU, a network), say "
        "hydra.sweeper.threads_per_trial=1 as well.",
    )
    return wanted or max(1, num_cores // settings.num_parallel_trials)


def backend_name(composed: Node) -> str:
    """Return the name of the framework that a run imports, empty where it has no backend."""
    backend = composed.get("backend")
    return str(backend.get("name", "")) if isinstance(backend, Mapping) else ""
