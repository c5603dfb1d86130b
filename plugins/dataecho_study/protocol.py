"""The definition of a study, ``conf/study/*.yaml``, checked; and its plan, which a run folder keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict, Field

from dataecho.errors import DataError, SettingError, refuse_unknown, require
from dataecho.invocation import command
from dataecho.settings import Node, check_types
from dataecho_study.claims import read_claims
from dataecho_study.figures import Picture
from dataecho_study.results import BATCH_SIZE

PLAN = "plan.json"
_FULL, _TINY = "full", "tiny"
Objective = Literal["fresh", "best"]


class Scale(BaseModel):
    """The extent of a study. ``num_seeds``: fresh seeds of each cell, where it is tuned once; ``cells``: instead of the
    study's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_repeats: int = Field(ge=1)
    num_trials: int = Field(ge=1)
    num_seeds: int = Field(5, ge=1)
    cells: list[Node] | None = None


class Size(BaseModel):
    """The study size of a task. ``echoes``: those that it has; ``settings``: overrides by key; ``num_trials``: of a
    search at full scale, None for the study's own; ``tiny``: more of them at that scale, for every cell;
    ``of_batch_size``: more of them, dimensions of the space too, for cells of such a batch size; ``space``: dimensions
    by key, in Hydra's syntax. The others are values for the cells of studies; ``quick_buffer``: examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    echoes: list[str] = Field(min_length=1)
    settings: Node
    num_trials: int | None = Field(None, ge=1)
    tiny: Node = {}
    space: dict[str, str] = Field(min_length=1)
    of_batch_size: dict[int, Node] = {}
    example_echo: str
    batch_sizes: list[int] = Field(min_length=1)
    two_batch_sizes: list[int] = Field(min_length=2, max_length=2)
    shuffle_buffers: list[int] = Field(min_length=1)
    quick_buffer: int = Field(ge=0)


class Definition(BaseModel):
    """A study of one task. ``settings``: overrides of every run; ``tuned_once``: one search for each cell, then fresh
    seeds of its winner, instead of a search for each repeat; ``winners_of``: a study whose winners are run with fresh
    seeds, without a search of its own; ``winners``: its folder, None for the usual one; ``stop_past``: a trial ends
    beyond so many times the best cost of its search, None to let all go on; ``training_examples``: evaluated at the end
    of a run, for the gap to held-out values; ``picture``: its axes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    scale: str
    scales: dict[str, Scale]
    cells: list[Node] = Field(min_length=1)
    claims: list[Node]
    picture: Node
    settings: Node = {}
    objective: Objective = "fresh"
    tuned_once: bool = False
    winners_of: str | None = None
    winners: str | None = None
    training_examples: int | None = Field(None, ge=1)
    stop_past: float | None = Field(2.0, gt=1)
    size: Size

    @property
    def extent(self) -> Scale:
        """The scale that was chosen."""
        chosen = self.scales[self.scale]
        if self.scale == _FULL and self.size.num_trials is not None:
            return chosen.model_copy(update={"num_trials": self.size.num_trials})
        return chosen

    @property
    def chosen_cells(self) -> list[Node]:
        """The cells at this scale."""
        return self.extent.cells or self.cells

    def run_settings(self, axes: Mapping[str, float | str]) -> Node:
        """Overrides, by key, of the runs of a cell at ``axes``."""
        more = self.size.of_batch_size.get(int(axes.get(BATCH_SIZE, 0)), {})
        tiny = self.size.tiny if self.scale == _TINY else {}
        return {**self.size.settings, **more, **self.settings, **tiny}


def read_definition(node: Mapping[str, Any], *, task: str) -> Definition:
    """Check and return a study's definition. Raises :class:`SettingError` for the first mistake, claims included."""
    values = dict(node)
    refuse_unknown(values, Definition.model_fields, prefix="study.", values=values)
    if not values.get("size"):
        raise SettingError(
            "task",
            task,
            allowed="a task with a study size, conf/study/size/<task>.yaml",
            cure="Write one like conf/study/size/digits.yaml.",
        )
    for group, model in (("size", Size), ("scales", Scale)):
        nodes = {group: values[group]} if group == "size" else values.get(group, {})
        for name, inner in nodes.items():
            key = f"study.{group}" if group == "size" else f"study.{group}.{name}"
            refuse_unknown(inner, model.model_fields, prefix=f"{key}.", values=inner)
            check_types(key, inner, model)
    definition = Definition(**check_types("study", values, Definition))
    require(
        definition.scale in definition.scales,
        "study.scale",
        definition.scale,
        allowed=", ".join(definition.scales),
        cure="study.scale=small takes minutes, tiny seconds.",
    )
    read_claims(definition.claims)
    read_picture(definition.picture)
    return definition


def read_picture(node: Node) -> Picture:
    """Check and return the axes of a study's picture. Raises :class:`SettingError`."""
    refuse_unknown(node, Picture.model_fields, prefix="study.picture.", values=node)
    return Picture(**check_types("study.picture", node, Picture))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study's folder says about itself, written before its first run. ``cells``: key and axes of each, and
    the ``space`` of what is tuned, by key as Optuna serializes dimensions; ``num_trials``: that count, for each
    repeat, 1 for fresh seeds; ``command``: without paths."""

    name: str
    task: str
    backend: str
    scale: str
    metric: str
    goal: Literal["min", "max"]
    target: float
    objective: Objective
    is_tuned_once: bool
    num_repeats: int
    num_trials: int
    cells: list[dict[str, Any]]
    claims: list[Node]
    picture: Node
    protocol: dict[str, Any]
    command: str
    machine: str

    def save(self, folder: Path) -> None:
        """Write it to ``folder``, unless it is there."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        path = folder / PLAN
        if path.exists() and path.read_text() == text:
            return
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(path)


def read_plan(folder: Path) -> Plan:
    """Return the plan in ``folder``. Raises :class:`DataError` where there is none."""
    try:
        return Plan(**json.loads((folder / PLAN).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder} is no folder of a study: it has no usable {PLAN} ({error}). Name one that "
            f"`{command('-m', 'study=...')}` has written."
        ) from None


@final
class PastBest(BasePruner):
    """Ends a trial that has spent more than ``ratio`` times the fresh examples of its search's best: it cannot win.
    For studies that minimise fresh examples, the unit of a trial's steps."""

    def __init__(self, *, ratio: float) -> None:
        self._ratio = ratio

    def prune(self, study: optuna.study.Study, trial: optuna.trial.FrozenTrial) -> bool:
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        best = min((other.value for other in ended if other.value is not None), default=float("inf"))
        return trial.last_step is not None and trial.last_step > self._ratio * best
