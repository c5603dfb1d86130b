"""The whole configuration, with types and bounds checked before anything is built.

Nodes with a ``_target_`` (task, backend, schedule, tracking, pruner, hooks) are checked against their class when they
are built: see ``build.py``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from dataecho.declare import Declared, SettingGroup, declared_settings, inner_group, setting
from dataecho.errors import SettingError, refuse_unknown, require
from dataecho.pipeline.settings import PipelineSettings
from dataecho.training.auto_factor import DEFAULT_MAX_FACTOR
from dataecho.training.budget import Budget
from dataecho.training.contracts import AcceleratorSettings, OptimizerSettings
from dataecho.training.hooks import Unit
from dataecho.training.recipe import CheckpointSettings

Node = dict[str, Any]
G = TypeVar("G", bound=SettingGroup)


@dataclass(frozen=True, kw_only=True)
class EchoSettings(SettingGroup, key="echo"):
    """The stage whose output is used again."""

    name: str = setting(help="The name of this echo in runs and reports.")
    after: str | None = setting(None, help="The name of a stage, or the name of this echo; null: no echo.")
    shuffle_buffer: int = setting(
        0,
        at_least=0,
        unit="batches",
        help="Shuffles repeated batches; 0: copies side by side (paper, Fig. 7a).",
    )


@dataclass(frozen=True, kw_only=True)
class PicturesSettings(SettingGroup, key="pictures"):
    """The picture of predictions at the end of a run."""

    num_examples: int = setting(24, at_least=0, help="Held-out examples in the picture; 0: no picture.")


@dataclass(frozen=True, kw_only=True)
class PreviewSettings(SettingGroup, key="preview"):
    """The picture of mode=preview."""

    num_examples: int = setting(4, at_least=1, help="Rows, one for each example.")
    num_repeats: int = setting(4, at_least=1, help="First uses of each example, where there is an echo.")


@dataclass(frozen=True, kw_only=True)
class DiagnoseSettings(SettingGroup, key="diagnose"):
    """The measurement of mode=diagnose."""

    seconds: float = setting(20.0, above=0, unit="seconds", help="Approximate length of the measurement.")


@dataclass(frozen=True, kw_only=True)
class HookSchedule(SettingGroup, key="hooks"):
    """When a hook is called."""

    every: int = setting(1, at_least=1, help="Steps or marks between calls.")
    of: Unit = setting("steps", help="The unit of every.")


@dataclass(frozen=True, kw_only=True)
class Settings(SettingGroup, key=""):
    """The settings of every mode."""

    mode: str = setting(
        "train",
        help="The work to do.",
        choices={
            "train": "Train one run, from its first batch to its summary.",
            "preview": "Draw examples after every stage, and their repeats, without training.",
            "diagnose": "Measure where the time goes, and advise where and how often to echo.",
            "evaluate": "Compute the held-out metrics of a checkpoint.",
            "export": "Write the weights of a checkpoint for any framework.",
            "report": "Compare finished runs.",
            "sync": "Send what MLflow has not received from a run, or from every run of a sweep.",
        },
    )
    factor: float | str | None = setting(
        None,
        help="Uses of each output of the echoed stage: a real number >= 1; auto: as many as are free, measured while "
        "training; <run folder>/factor_history.json: the factors of an earlier run.",
        cure="Any real number >= 1, auto, or a recorded history (*.json), with an echo: "
        "echo=before_augmentation factor=4.",
    )
    max_factor: float | None = setting(
        None, at_least=1, help=f"The largest factor that factor=auto may choose; null: {DEFAULT_MAX_FACTOR:g}."
    )
    seed: int = setting(0, at_least=0, help="The seed of all random draws.")
    stop_at_target: bool = setting(True, help="End the run at the target; false: spend the whole budget.")
    max_loss_ratio: float | None = setting(
        10.0,
        above=1,
        help="A run has diverged when its training loss exceeds that of the first evaluation so many times, or is no "
        "number; null: only when it is no number.",
    )
    run_dir: str | None = setting(None, help="The folder of the run; null: runs/<date>/<time>.")
    resume: str | None = setting(
        None, help="A run folder or checkpoint to continue; auto: continue run_dir if it has a checkpoint."
    )
    checkpoint: str | None = setting(
        None, help="mode=evaluate, mode=export: a checkpoint, or a run folder for its best one."
    )
    weights: str | None = setting(
        None, help="A file of mode=export, from any framework, that a new run starts from; a task may take a backbone."
    )
    law: str | None = setting(
        None,
        help="mode=diagnose: a law.json of a study, to predict the saving of an echo; null: the one in the task's own "
        "folder, if a study has put one there.",
    )
    runs: list[str] = setting([], help="mode=report: run folders; wildcards are allowed.")
    display: Literal["auto", "rich", "plain", "none"] = setting("auto", help="How the terminal shows a run.")
    task: Node = setting(help="Data, model and target.")
    backend: Node = setting(help="The framework that trains.")
    accelerator: AcceleratorSettings
    pipeline: PipelineSettings
    echo: EchoSettings
    optimizer: OptimizerSettings
    schedule: Node = setting(help="The learning rate over the budget.")
    budget: Budget
    tracking: Node = setting(help="Where runs are recorded besides their folder.")
    pruner: Node = setting(help="Ends a run that is not worth continuing; a sweep sets it by hydra/sweeper/pruner=...")
    hooks: list[Node] = setting(
        [], help="A list of {_target_: <class>, every: <n>, of: steps | marks, ...}: see docs/guides/hooks.md."
    )
    checkpoints: CheckpointSettings
    pictures: PicturesSettings
    preview: PreviewSettings
    diagnose: DiagnoseSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        declared = {declared.name: declared for declared in declared_settings(Settings)}["factor"]
        require(
            not isinstance(self.factor, str) or self.factor == "auto" or self.factor.endswith(".json"),
            declared.key,
            self.factor,
            allowed="a number, auto, or a recorded history (*.json)",
            cure=declared.cure,
        )


def read_settings(config: Node) -> Settings:
    """The settings in a resolved configuration. Raises :class:`SettingError` for the first that cannot be used."""
    return read_group(Settings, config)


def read_group(group: type[G], node: Node, *, key: str | None = None) -> G:
    """The settings of ``group`` in ``node``. Errors name ``key``, by default the group's own. Raises
    :class:`SettingError` for the first unknown, missing or unusable one."""
    prefix = group.key if key is None else key
    prefix = f"{prefix}." if prefix else ""
    declared = {one.name: replace(one, key=prefix + one.name) for one in declared_settings(group)}
    refuse_unknown(node, declared, prefix=prefix, values=node)
    fields: dict[str, Any] = {name: (_field_type(one), ...) for name, one in declared.items()}
    model = create_model("Values", __config__=ConfigDict(strict=True), **fields)
    try:
        values = dict(model.model_validate(node))
    except ValidationError as error:
        _refuse(error, prefix=prefix, declared=declared)
    for name, one in declared.items():
        if (inner := inner_group(one)) is not None:
            values[name] = read_group(inner, values[name])
        elif one.takes_numbers:
            values[name] = str(values[name])
        one.check(values[name])
    return group(**values)


def check_types(key: str, values: Node, model: type[BaseModel]) -> Node:
    """``values`` as ``model`` converts them; errors name ``key.<field>``."""
    try:
        return dict(model.model_validate(values))
    except ValidationError as error:
        _refuse(error, prefix=f"{key}.", declared={})


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys; lists stay whole, empty dictionaries vanish."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value
        for name, item in node.items()
        for key, value in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _field_type(declared: Declared) -> Any:
    """The type of a value before its group checks it: a dictionary for a group, and any text for a choice of texts."""
    if inner_group(declared) is not None:
        return Node
    if declared.takes_numbers:
        return str | int
    annotation = declared.type
    if not declared.choices or declared.choice_help:
        return annotation
    kinds = (annotation,) if get_origin(annotation) is Literal else get_args(annotation)
    members: list[Any] = [type(value) for value in declared.choices]
    members += [kind for kind in kinds if get_origin(kind) is not Literal]
    union = members[0]
    for member in members[1:]:
        union = union | member
    return union


def _refuse(error: ValidationError, *, prefix: str, declared: Mapping[str, Declared]) -> NoReturn:
    first = error.errors()[0]
    key = prefix + ".".join(str(part) for part in first["loc"] if part not in ("float", "int", "str"))
    if first["type"] == "missing":
        raise SettingError(key, "nothing", allowed="a value", cure=f"Give one: {key}=...")
    one = declared.get(str(first["loc"][0]))
    if first["type"] == "string_type" and (one is None or not one.choices) and isinstance(first["input"], int | float):
        # `1e3` or `007` could not be told from the number any more: only the user can say what was meant.
        example = shlex.quote(f"{key}='{first['input']}'")
        cure = f"Quotes are missing; without them it is no text: {example}, with what you meant between them."
        raise SettingError(key, first["input"], allowed="text", cure=cure)
    if one is not None and inner_group(one) is None and one.type is not Node:
        raise SettingError(key, first["input"], allowed=one.allowed, cure=one.advice)
    allowed = first["msg"].removeprefix("Input should be ")
    raise SettingError(key, first["input"], allowed=allowed, cure=f"Change {key}, or leave it out.")
