"""The named steps of a pipeline, and the echo point as one of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import SettingError
from dataecho.plan.keys import Keys

#: One example on its way: a dictionary of arrays and numbers, or, before it is decoded, whatever its source reads.
Example = Any
#: A few examples: a list, or one dictionary of arrays whose first axis is the example.
Chunk = list[Example] | dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Broken:
    """A record that could not be read, or an example that could not be made, and why."""

    reason: str


READ, BATCH, DEVICE = "read", "batch", "device"

#: Names for an echo point that are not a stage's own.
ALIASES = ("before_augmentation", "after_augmentation", "example")


@dataclass(frozen=True)
class Stage:
    """A named function from example to example.

    ``random`` marks augmentation: the function gets a second argument, one 64-bit key per example, and draws from it
    with :func:`dataecho.plan.keys.uniform` and ``integers``: new keys for every use after the echo point, the same key
    for every use before it. ``batched``: the function takes and gives a dictionary of arrays whose first axis is the
    example, and keys [n]; it must treat every row alone, for the cut into chunks changes nothing. A function never
    writes into what it was given.
    """

    name: str
    function: Callable[..., Any]
    random: bool = False
    batched: bool = False


def stage_names(stages: Sequence[Stage]) -> tuple[str, ...]:
    """Every possible echo point of a pipeline, in order: ``read``, the stages, ``batch``, ``device``."""
    names = (READ, *(stage.name for stage in stages), BATCH, DEVICE)
    repeated = sorted({name for name in names if names.count(name) > 1} | (set(names) & set(ALIASES)))
    if repeated:
        raise SettingError(
            "stages",
            ", ".join(names[1:-2]),
            allowed=f"names that differ from each other and from {', '.join((READ, BATCH, DEVICE, *ALIASES))}",
            cure=f"Rename {', '.join(repeated)}.",
        )
    return names


def echo_point(after: str, stages: Sequence[Stage]) -> str:
    """The stage that ``after`` names: a stage's own name, or one of :data:`ALIASES`.

    ``before_augmentation`` is the stage just before the first random one, ``after_augmentation`` the last random one;
    where nothing is random both are the same thing, called ``example``: the last stage before ``batch``.
    """
    names = stage_names(stages)
    randoms = [number for number, stage in enumerate(stages, start=1) if stage.random]
    if after in names:
        return after
    if after not in ALIASES:
        raise SettingError(
            "echo.after", after, allowed=", ".join((*names, *ALIASES)), cure="Name a stage of this task's pipeline."
        )
    if after == "example":
        if randoms:
            raise SettingError(
                "echo",
                after,
                allowed="before_augmentation or after_augmentation, for this task augments",
                cure="Choose on which side of the augmentation the copies are made.",
            )
        return names[-3]
    if not randoms:
        raise SettingError(
            "echo",
            after,
            allowed="example, for this task has no augmentation",
            cure="Before and after are the same thing here: use echo=example.",
        )
    return names[randoms[0] - 1] if after == "before_augmentation" else names[randoms[-1]]


class ExampleError(RuntimeError):
    """A stage failed on an example; names both. The original exception is its cause."""

    def __init__(self, stage: str, where: str, cause: BaseException) -> None:
        super().__init__(f"stage {stage!r} failed on {where}: {type(cause).__name__}: {cause}")


def run_stage(stage: Stage, chunk: Chunk, keys: Keys | None, where: Callable[[int], str]) -> Chunk:
    """``stage`` over ``chunk``; ``where(i)`` names its i-th example. Raises :class:`ExampleError`."""
    if stage.batched:
        return _run_batched(stage, as_stacked(chunk), keys, where)
    results = []
    for number, example in enumerate(as_examples(chunk)):
        try:
            results.append(stage.function(example, keys[number]) if keys is not None else stage.function(example))
        except Exception as error:
            raise ExampleError(stage.name, where(number), error) from error
    return results


def _run_batched(stage: Stage, chunk: dict[str, NDArray[Any]], keys: Keys | None, where: Callable[[int], str]) -> Chunk:
    length = chunk_length(chunk)
    try:
        results: Chunk = stage.function(chunk, keys) if keys is not None else stage.function(chunk)
        if chunk_length(results) != length:
            raise ValueError(
                f"a batched stage must keep the number of examples: {length} in, {chunk_length(results)} out"
            )
        return results
    except Exception as error:
        if length == 1:
            raise ExampleError(stage.name, where(0), error) from error
        for number in range(length):  # one by one, to name the example that is to blame
            row = slice(number, number + 1)
            example = {name: array[row] for name, array in chunk.items()}
            _run_batched(stage, example, keys[row] if keys is not None else None, _from(number, where))
        raise ExampleError(stage.name, f"{where(0)} and the {length - 1} after it, together", error) from error


def _from(start: int, where: Callable[[int], str]) -> Callable[[int], str]:
    return lambda number: where(start + number)


def chunk_length(chunk: Chunk) -> int:
    """Number of examples."""
    return len(chunk) if isinstance(chunk, list) else len(next(iter(chunk.values())))


def as_examples(chunk: Chunk) -> list[Example]:
    """One by one."""
    if isinstance(chunk, list):
        return chunk
    names = list(chunk)
    return [dict(zip(names, row, strict=True)) for row in zip(*chunk.values(), strict=True)]


def as_stacked(chunk: Chunk) -> dict[str, NDArray[Any]]:
    """As arrays whose first axis is the example. Raises ``ValueError`` where shapes or fields differ."""
    if isinstance(chunk, dict):
        return chunk
    for example in chunk:
        if not isinstance(example, dict):
            raise ValueError(f"an example must be a dictionary of arrays here, not {type(example).__name__}")
    fields = set(chunk[0])
    for example in chunk:
        if set(example) != fields:
            raise ValueError(f"examples of one batch have different fields: {sorted(fields)} and {sorted(example)}")
    return {name: np.stack([example[name] for example in chunk]) for name in chunk[0]}


def frozen(example: Example) -> Example:
    """An example of its own memory that no later stage can write into."""
    if isinstance(example, dict):
        return {name: frozen(value) for name, value in example.items()}
    if isinstance(example, np.ndarray):
        # A view would keep the whole chunk it was cut from alive.
        example = example.copy() if example.base is not None else example.view()
        example.flags.writeable = False
    return example


def own(example: Example) -> Example:
    """The same arrays in dictionaries of one's own: a stage may put something else into them."""
    return {name: own(value) for name, value in example.items()} if isinstance(example, dict) else example


def num_bytes(example: Example) -> int:
    """Bytes of the arrays and byte strings of an example."""
    if isinstance(example, dict):
        return sum(num_bytes(value) for value in example.values())
    if isinstance(example, np.ndarray | np.generic):
        return int(example.nbytes)
    return len(example) if isinstance(example, bytes | bytearray | memoryview) else 0
