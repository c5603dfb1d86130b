"""The named steps of a pipeline, and the echo point as one of their names."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import SettingError
from dataecho.plan.keys import Keys

#: One example on its way: a dictionary of arrays and numbers, or, before it is decoded, whatever its source reads.
Example = Any
#: A few examples: a list, or one dictionary of arrays whose first axis is the example.
Chunk = list[Example] | dict[str, NDArray[Any]]

READ, BATCH, DEVICE = "read", "batch", "device"

#: Kept examples are made of these without a copy for each use; arrays among them cannot be written to.
_UNCHANGING = (np.ndarray, np.generic, bytes, str, int, float, bool, type(None), memoryview)

#: Names for an echo point that are not a stage's own.
ALIASES = ("before_augmentation", "after_augmentation", "example")


@dataclass(frozen=True)
class Stage:
    """A named function from example to example.

    ``random`` marks augmentation: the function gets a second argument, one 64-bit key per example, and draws from it
    with :func:`dataecho.plan.keys.uniform` and ``integers``: new keys for every use after the echo point, the same key
    for every use before it. ``batched``: the function takes and gives a dictionary of arrays whose first axis is the
    example, and keys [n]; it must treat every row alone, for the cut into chunks changes nothing. ``mutates_input``
    false promises that the function never writes into what it is given, in place or through another library's view of
    it; without the promise it is given arrays of its own, which costs a copy of those that others use, too. A function
    never writes again into what it gave.

    An error of the function makes its example broken: the feed raises ``ExampleError``, which names both, or skips it
    (``max_skipped_share``). Names that are taken raise :class:`SettingError` in the feed.

        >>> import numpy as np
        >>> from dataecho import Stage, keys
        >>> def flip(chunk, key):  # image [n, height, width], key [n]
        ...     flipped = keys.integers(key, draw=0, high=2) == 1
        ...     return {**chunk, "image": np.where(flipped[:, None, None], chunk["image"][:, :, ::-1], chunk["image"])}
        >>> Stage("flip", flip, random=True, batched=True, mutates_input=False).name
        'flip'
    """

    name: str
    function: Callable[..., Any]
    random: bool = False
    batched: bool = False
    mutates_input: bool = True


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


@dataclass(frozen=True)
class Broken:
    """The stand-in for a record that could not be read, or an example that ``stage`` failed on, with the reason."""

    reason: str
    stage: str = READ
    cause: Exception | None = field(default=None, compare=False, repr=False)

    @classmethod
    def by(cls, stage: str, cause: Exception) -> Broken:
        """``stage`` raised ``cause``."""
        return cls(f"{type(cause).__name__}: {cause}", stage, cause)


class ExampleError(RuntimeError):
    """A stage failed on an example; names both. The original exception, if there was one, is its cause."""

    def __init__(self, stage: str, where: str, reason: str) -> None:
        super().__init__(f"stage {stage!r} failed on {where}: {reason}")
        self._arguments = (stage, where, reason)

    def __reduce__(self) -> tuple[type[ExampleError], tuple[str, str, str]]:
        return type(self), self._arguments


def run_stage(stage: Stage, chunk: Chunk, keys: Keys | None) -> Chunk:
    """``stage`` over ``chunk``. An example that it fails on becomes :class:`Broken`, and one that is stays as it is.

    Raises what a batched stage raises on a chunk, but on none of its examples alone.
    """
    if not stage.batched:
        return list(one_by_one((stage,), chunk, (keys,), [0.0]))
    if isinstance(chunk, list) and any(isinstance(example, Broken) for example in chunk):
        return _run_on_the_others(stage, chunk, keys)
    return _run_batched(stage, as_stacked(chunk), keys)


def one_by_one(
    stages: Sequence[Stage], chunk: Chunk, keys: Sequence[Keys | None], seconds: list[float]
) -> Iterator[Example]:
    """All of some stages that are not batched on one example of ``chunk``, then on the next: what one stage has made is
    still in the processor's cache when it is taken up. ``keys`` and ``seconds``, which are added to: of every stage.
    Broken examples as in :func:`run_stage`."""
    numbered = list(enumerate(zip(stages, keys, strict=True)))
    for row, example in enumerate(as_examples(chunk)):
        result, started = example, time.perf_counter()
        for number, (stage, its_keys) in numbered:
            if isinstance(result, Broken):
                break
            try:
                if stage.mutates_input:
                    result = writable(result)
                result = stage.function(result) if its_keys is None else stage.function(result, its_keys[row])
            except Exception as error:
                result = Broken.by(stage.name, error)
            ended = time.perf_counter()
            seconds[number] += ended - started
            started = ended
        yield result


def _run_on_the_others(stage: Stage, examples: list[Example], keys: Keys | None) -> list[Example]:
    whole = [number for number, example in enumerate(examples) if not isinstance(example, Broken)]
    results = list(examples)
    if whole:
        chunk = run_stage(stage, [examples[number] for number in whole], keys[whole] if keys is not None else None)
        for number, result in zip(whole, as_examples(chunk), strict=True):
            results[number] = result
    return results


def _run_batched(stage: Stage, chunk: dict[str, NDArray[Any]], keys: Keys | None) -> Chunk:
    length = chunk_length(chunk)
    try:
        # All of it a copy: where the function fails, its examples are taken up again one by one, as they were.
        given = {name: array.copy() for name, array in chunk.items()} if stage.mutates_input else chunk
        results: Chunk = stage.function(given, keys) if keys is not None else stage.function(given)
        if chunk_length(results) != length:
            raise ValueError(
                f"a batched stage must keep the number of examples: {length} in, {chunk_length(results)} out"
            )
        return results
    except Exception as error:
        if length == 1:
            return [Broken.by(stage.name, error)]
        alone = [  # one by one, to find the example that is to blame
            as_examples(
                _run_batched(
                    stage,
                    {name: array[number : number + 1] for name, array in chunk.items()},
                    keys[number : number + 1] if keys is not None else None,
                )
            )[0]
            for number in range(length)
        ]
        if not any(isinstance(example, Broken) for example in alone):
            raise
        return alone


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
    for example in chunk:
        refuse_lost_ends(example)
    return {name: np.stack([example[name] for example in chunk]) for name in chunk[0]}


def refuse_lost_ends(example: dict[str, Any]) -> None:
    """Raise ``ValueError`` for text that ends in NUL: an array of text, which has one length, would lose it."""
    for name, value in example.items():
        if isinstance(value, str | bytes) and value[-1:] in ("\0", b"\0"):
            raise ValueError(
                f"field {name!r} is text that ends in NUL, which a batch would lose: leave the field out, strip it, or "
                "make it an array of bytes (np.frombuffer)"
            )


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
    """A kept example for one use: dictionaries of one's own, into which a stage may put something else, around the same
    arrays and byte strings; of any other object a copy, for nothing else keeps it from being written to."""
    if isinstance(example, dict):
        return {name: own(value) for name, value in example.items()}
    return example if isinstance(example, _UNCHANGING) else copy.deepcopy(example)


def writable(example: Example) -> Example:
    """An example whose arrays may be written to: copies of those that may not."""
    if isinstance(example, dict):
        return {name: writable(value) for name, value in example.items()}
    if isinstance(example, np.ndarray) and not example.flags.writeable:
        return example.copy()
    return example


def num_bytes(example: Example) -> int:
    """Bytes of the arrays and byte strings of an example."""
    if isinstance(example, dict):
        return sum(num_bytes(value) for value in example.values())
    if isinstance(example, np.ndarray | np.generic):
        return int(example.nbytes)
    return len(example) if isinstance(example, bytes | bytearray | memoryview) else 0
