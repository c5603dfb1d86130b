"""The results of a study as plain records, which go to JSON and back. The unit is the repeat: one independent search,
or one fresh seed of a tuned cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dataecho.errors import DataError

#: Axes of a cell. ``factor`` is 1 without echo; ``shuffle_buffer`` is the length that the study varies, in examples;
#: ``throttle_ratio`` is the R that was set.
ECHO, FACTOR, BATCH_SIZE = "echo", "factor", "batch_size"
SHUFFLE_BUFFER, THROTTLE_RATIO = "shuffle_buffer", "throttle_ratio"
AXES = (ECHO, FACTOR, BATCH_SIZE, SHUFFLE_BUFFER, THROTTLE_RATIO)
NO_ECHO = "none"
#: The key of a protocol from which a report knows how many epochs had entered.
EXAMPLES_PER_EPOCH = "examples_per_epoch"

_STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One independent repeat of a cell, by its winner.

    ``fresh``: fresh examples at the first evaluation that reached the target; ``seconds``: the run's own wall time up
    to it; both infinite where the target was missed. ``best``: best held-out value of the study's metric; ``train``:
    the same metric on training data at the end. ``entered``: examples that had entered the pipeline at the target.
    ``ratio``: R as measured. ``settings``: the winner's, by key. ``trials``: those that count, ``missed`` of which did
    not reach the target; ``diverged`` trials do not count. ``border``: warnings about a winner at the border of its
    space. ``run``: the winner's folder, relative to the study's.
    """

    number: int
    seed: int
    fresh: float
    seconds: float
    best: float
    train: float | None = None
    entered: float | None = None
    ratio: float | None = None
    settings: dict[str, Any]
    trials: int
    missed: int
    diverged: int
    border: list[str]
    run: str

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Runs that differ by repeat only. ``key``: its name, such as ``echo=batch,factor=2``; ``axes``: by name, what
    varies in the study."""

    key: str
    axes: dict[str, float | str]
    repeats: list[Repeat]

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study of one task.

    ``metric``: its name; ``goal``: whether small or large values are good; ``is_tuned_once``: repeats are fresh seeds
    given one tuning, not searches; ``is_complete``: every planned repeat has ended. ``command``: what makes it again;
    ``machine``: cores and model, no name; ``seconds_total``: the machine's time; ``protocol``: searches, trials,
    budget, interval and the like, by name.
    """

    name: str
    task: str
    backend: str
    scale: str
    metric: str
    goal: Literal["min", "max"]
    target: float
    is_tuned_once: bool
    is_complete: bool
    cells: list[Cell]
    command: str
    versions: dict[str, str]
    machine: str
    seconds_total: float
    protocol: dict[str, Any]

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def to_json(self) -> str:
        """Return the study as JSON; infinite numbers become the text ``Infinity``."""
        return _ADAPTER.dump_json(self, indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Study:
        """Return the study that :meth:`to_json` has written. Raises :class:`DataError` for other text, naming the first
        field that is wrong."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise DataError(f"This is no study: {first_problem(error)}. Make it again with mode=report.") from None


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, with its place and without the value, which may be long."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the text"
    return f"{place}: {first['msg']}"


_ADAPTER = TypeAdapter(Study)
