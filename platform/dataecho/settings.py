"""The typed configuration: every key that a run has, checked before anything is built.

The nodes with a ``_target_`` (task, backend, schedule, tracking) are checked against what they build: see ``build.py``.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataecho.errors import SettingError, refuse_unknown
from dataecho.training.hooks import Unit

Node = dict[str, Any]


_Path = Annotated[str, Field(min_length=1)]
_Measured = Annotated[str, Field(pattern=r"^auto$|\.json$")]  # while it trains, or by an earlier run


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EchoNode(_Strict):
    """``after``: a stage's name or an alias; null for no echo. ``shuffle_buffer``: in batches, for batch echo."""

    name: str
    after: str | None
    shuffle_buffer: int = Field(ge=0)


class ThrottleNode(_Strict):
    """Slows the training source down on purpose; see :class:`dataecho.pipeline.throttle.Throttle`."""

    bytes_per_second: float | None
    examples_per_second: float | None
    latency: float


class PipelineNode(_Strict):
    """``num_processes`` 0: threads. ``chunk_size``: a number or ``auto``. ``max_waiting``, ``max_spill`` and
    ``max_memory`` in MiB."""

    num_threads: int = Field(ge=0)
    num_processes: int = Field(ge=0)
    look_ahead: int = Field(ge=1)
    chunk_size: int | str
    loop_helps: bool
    stall_timeout: Annotated[float, Field(gt=0)]
    read_ahead: int = Field(ge=1)
    max_waiting: int = Field(ge=0)
    max_spill: int = Field(ge=0)
    max_memory: int | None
    max_skipped_share: float
    throttle: ThrottleNode


class AcceleratorNode(_Strict):
    name: str
    precision: str | int
    devices: int = Field(ge=1)


class OptimizerNode(_Strict):
    name: str
    learning_rate: float
    momentum: float
    beta_2: float
    epsilon: float
    weight_decay: float


class BudgetNode(_Strict):
    fresh: int | None
    steps: int | None
    seconds: float | None


class DiagnoseNode(_Strict):
    """``seconds``: about how long ``mode=diagnose`` measures."""

    seconds: float = Field(gt=0)


class PreviewNode(_Strict):
    """``num_examples`` rows of ``mode=preview``, each with its first ``num_repeats`` uses."""

    num_examples: int = Field(ge=1)
    num_repeats: int = Field(ge=1)


class PicturesNode(_Strict):
    """``num_examples``: held-out examples in the picture at the end of a run; 0: no picture."""

    num_examples: int = Field(ge=0)


class HookNode(_Strict):
    """A hook: ``_target_`` and its arguments, called after every so many ``steps`` or ``marks``."""

    model_config = ConfigDict(extra="allow")

    every: int = Field(default=1, ge=1)
    of: Unit = "steps"


class CheckpointsNode(_Strict):
    """``interval`` in evaluations, 0: only at the end and on a signal; ``keep``: the last so many, besides the best;
    ``disk_timeout``: seconds that a full disk is waited for."""

    interval: int = Field(ge=0)
    keep: int = Field(ge=1)
    disk_timeout: float = Field(ge=0)


class Settings(_Strict):
    """The whole configuration."""

    mode: Literal["train", "preview", "diagnose", "evaluate", "export", "report", "sync"]
    factor: float | _Measured | None
    max_factor: Annotated[float, Field(ge=1)] | None
    seed: int = Field(ge=0)
    stop_at_target: bool
    max_loss_ratio: Annotated[float, Field(gt=1)] | None
    run_dir: _Path | None
    resume: _Path | None
    checkpoint: _Path | None
    weights: _Path | None
    runs: list[_Path]
    display: Literal["auto", "rich", "plain", "none"]
    task: Node
    backend: Node
    accelerator: AcceleratorNode
    pipeline: PipelineNode
    echo: EchoNode
    optimizer: OptimizerNode
    schedule: Node
    budget: BudgetNode
    tracking: Node
    pruner: Node
    hooks: list[HookNode] = []
    checkpoints: CheckpointsNode
    diagnose: DiagnoseNode
    preview: PreviewNode
    pictures: PicturesNode


def read_settings(config: Node) -> Settings:
    """The settings in a resolved configuration. Raises :class:`SettingError` for the first that cannot be used."""
    refuse_unknown(config, Settings.model_fields, values=config)
    for group, model in _nodes().items():
        if isinstance(config.get(group), dict):
            refuse_unknown(config[group], model.model_fields, prefix=f"{group}.", values=config[group])
    try:
        return Settings.model_validate(config)
    except ValidationError as error:
        _refuse(error, prefix="")


def check_types(key: str, values: Node, model: type[BaseModel]) -> Node:
    """``values`` as ``model`` converts them; errors name ``key.<field>``."""
    try:
        return dict(model.model_validate(values))
    except ValidationError as error:
        _refuse(error, prefix=f"{key}.")


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys; lists stay whole, empty dictionaries vanish."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value
        for name, item in node.items()
        for key, value in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _nodes() -> dict[str, type[BaseModel]]:
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def _refuse(error: ValidationError, *, prefix: str) -> NoReturn:
    first = error.errors()[0]
    key = prefix + ".".join(str(part) for part in first["loc"] if part not in ("float", "int", "str"))
    message = first["msg"].removeprefix("Input should be ")
    if first["type"] == "missing":
        raise SettingError(key, "nothing", allowed="a value", cure=f"Give one: {key}=...")
    if first["type"] == "string_type" and isinstance(first["input"], int | float):
        # `1e3` or `007` could not be told from the number any more: only the user can say what was meant.
        example = shlex.quote(f"{key}='{first['input']}'")
        cure = f"Quotes are missing, for without them it is no text: {example}, with what you meant between them."
        raise SettingError(key, first["input"], allowed="text", cure=cure)
    raise SettingError(key, first["input"], allowed=message, cure=_CURES.get(key, f"Change {key}, or leave it out."))


_CURES = {
    "factor": "Any real number >= 1, auto, or a recorded history (*.json), with an echo: "
    "echo=before_augmentation factor=4.",
    "mode": "mode=train is the default.",
}
