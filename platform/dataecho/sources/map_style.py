"""Any object with a length and an index: PyTorch's map-style datasets, Hugging Face datasets, lists."""

from __future__ import annotations

import copy
import hashlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import SettingError, require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import READ, Broken, Chunk, Example
from dataecho.sources.pillow_images import pixels_of

_NUM_DIGESTED = 16
_FORMAT = 2  # of what is made of an example: another number where the same data become another batch


@runtime_checkable
class MapStyle(Protocol):
    """The interface of a dataset: ``len(dataset)`` and ``dataset[k]`` for k in 0..len - 1, the same whenever asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, k: Any, /) -> Any: ...


Fields = Sequence[str] | Mapping[str, str | int] | None


class MapStyleSource(Source):
    """``dataset[k]`` as record k of one shard, read at random.

    ``fields``: None where ``dataset[k]`` is a dictionary that is taken as it is; a list names the elements of a tuple
    in order, or picks keys of a dictionary; a mapping gives every field's name and its key or position.
    Values: tensors and whatever else numpy can read become arrays that cannot be written to, PIL images uint8 arrays
    [height, width] or [height, width, 3] (see :func:`dataecho.sources.pillow_images.pixels_of`), numbers numpy scalars
    (int64, float64, bool); text and bytes stay; dictionaries of ``bytes`` and ``path``, as Hugging Face keeps images,
    become the bytes. An example whose reading raises is broken; so is one with a value that is none of these.

    One thread reads at a time, for most datasets share a file handle or a connection; worker processes have a copy
    each. ``concurrent`` true: the dataset may be read by several threads at once.
    ``num_readers`` > 0: so many threads of its own read ahead, for datasets that wait for a network.

    Raises :class:`SettingError` for what is no such dataset, has no example, or gives another value each time: a
    random transform belongs into a stage of the task, where every repeat draws anew.

        >>> from dataecho import Feed, MapStyleSource
        >>> source = MapStyleSource([(0.5, 1), (0.25, 0)], fields=["x", "label"])  # or any PyTorch dataset
        >>> with Feed(source, [], batch_size=2, shuffle_buffer=0, seed=0) as feed:
        ...     batch = next(feed)
        >>> batch["x"].dtype, batch["label"].dtype
        (dtype('float64'), dtype('int64'))
    """

    def __init__(
        self, dataset: MapStyle, *, fields: Fields = None, concurrent: bool = False, num_readers: int = 0
    ) -> None:
        require(
            isinstance(dataset, MapStyle) and not isinstance(dataset, Mapping | str | bytes),
            "dataset",
            type(dataset).__name__,
            allowed="an object with a length that is indexed by 0, 1, 2 ...",
            cure="Choose one split of a dictionary of splits; an iterable dataset needs a source of shards.",
        )
        self._length = len(dataset)
        require(
            self._length > 0,
            "dataset",
            f"{type(dataset).__name__} of length 0",
            allowed="at least one example",
            cure="Check its path and split.",
        )
        require(num_readers >= 0, "num_readers", num_readers, allowed=">= 0", cure="0: a read does not wait.")
        self._dataset, self._unread = dataset, _copied(dataset)
        self._fields = fields
        self._num_readers = num_readers
        self._concurrent = concurrent
        self._turn: AbstractContextManager[Any] = nullcontext() if concurrent else threading.Lock()
        # Hugging Face datasets read many rows much faster than one by one; PyTorch's loader calls the same method.
        self._get_many: Callable[[list[int]], Any] | None = getattr(dataset, "__getitems__", None)
        self._check_first()

    @property
    def num_shards(self) -> int:
        return 1

    def num_examples(self, shard: int) -> int:
        return self._length

    @property
    def random_access(self) -> bool:
        return True

    @property
    def num_readers(self) -> int:
        return self._num_readers

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the labels, where the dataset has them: in ``classes``, as torchvision's do, or as the
        ``ClassLabel`` of its column ``label``, as Hugging Face's do; else None."""
        found = getattr(self._dataset, "classes", None)
        if found is None:
            features = getattr(self._dataset, "features", None)
            label = features.get(self._label_key()) if isinstance(features, Mapping) else None
            found = getattr(label, "names", None)
        if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str) for name in found):
            return None
        return tuple(found)

    @property
    def digest(self) -> str:
        """Of the class, the length, the fields, up to 16 examples at even distances, and the fingerprint that a
        Hugging Face dataset has. A change elsewhere goes unnoticed."""
        return self._digest

    def name(self, shard: int, k: int) -> str:
        return f"{type(self._dataset).__name__}[{k}]"

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        with self._turn:
            examples = self._get(ks.tolist())
        return [example if isinstance(example, Broken) else self._record(example) for example in examples]

    def __reduce__(self) -> tuple[Any, ...]:
        # A lock is no part of a copy in another process: that one has a dataset of its own.
        settings: dict[str, Any] = {
            "fields": self._fields,
            "concurrent": self._concurrent,
            "num_readers": self._num_readers,
        }
        # The copy has opened nothing: a file that a dataset opens when it is first read cannot travel.
        return partial(MapStyleSource, **settings), (self._unread,)

    def _get(self, ks: list[int]) -> list[Any]:
        if self._get_many is not None and len(ks) > 1:
            try:
                return list(self._get_many(ks))
            except Exception:  # one by one, to find the example that is to blame
                pass
        return [self._get_one(k) for k in ks]

    def _get_one(self, k: int) -> Any:
        try:
            return self._dataset[k]
        except Exception as error:
            return Broken.by(READ, error)

    def _record(self, example: Any) -> dict[str, Any] | Broken:
        try:
            return {name: _value(name, value) for name, value in self._named(example).items()}
        except Exception as error:
            return Broken.by(READ, error)

    def _named(self, example: Any) -> Mapping[str, Any]:
        if self._fields is None:
            if not isinstance(example, Mapping):
                raise TypeError(f"an example must be a dictionary where no fields are given, not {_kind(example)}")
            return example
        if isinstance(self._fields, Mapping):
            return {name: example[key] for name, key in self._fields.items()}
        if isinstance(example, Mapping):
            return {name: example[name] for name in self._fields}
        return dict(zip(self._fields, example, strict=True))

    def _label_key(self) -> str | int:
        """The dataset's own name of the field ``label``."""
        return self._fields.get("label", "label") if isinstance(self._fields, Mapping) else "label"

    def _check_first(self) -> None:
        zero = np.zeros(1, dtype=np.int64)
        (first,), (again,) = self.read(zero, zero), self.read(zero, zero)
        if isinstance(first, Broken):
            require(
                not isinstance(first.cause, _NoValue),
                "dataset",
                type(self._dataset).__name__,
                allowed="numbers, text, bytes, images, and arrays of numbers as fields of an example",
                cure=f"In example 0 {first.cause}. Convert it in the dataset, or leave it out: fields=[...] names "
                "those to take.",
            )
            raise SettingError(
                "fields",
                self._fields,
                allowed="null for dictionaries, names for tuples ([image, label]), or {name: key or position}",
                cure=f"Example 0 is {_kind(self._get_one(0))} and could not be read: {first.reason}",
            )
        if _fingerprint(first) != _fingerprint(again):
            raise SettingError(
                "dataset",
                type(self._dataset).__name__,
                allowed="a dataset that gives the same example whenever it is asked",
                cure="Example 0 came out differently the second time: take the random transform out of the dataset "
                "and make it a random stage of the task.",
            )

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        kind = type(self._dataset)
        facts = (_FORMAT, kind.__module__, kind.__qualname__, self._length, repr(self._fields))
        digest.update(repr((*facts, getattr(self._dataset, "_fingerprint", None))).encode())
        ks = np.unique(np.linspace(0, self._length - 1, _NUM_DIGESTED).astype(np.int64))
        for record in self.read(np.zeros_like(ks), ks):
            digest.update(_fingerprint(record))
        return digest.hexdigest()[:32]


def _copied(dataset: MapStyle) -> MapStyle:
    """The same dataset before it is read for the first time; itself where it cannot be copied."""
    try:
        return copy.copy(dataset)
    except Exception:
        return dataset


def _value(name: str, value: Any) -> Example:
    """A value of a record: text, bytes, or something numpy has a type for. Raises :class:`_NoValue`."""
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping):
        if set(value) == {"bytes", "path"} and value["bytes"] is not None:
            return value["bytes"]
        return {inner: _value(f"{name}.{inner}", item) for inner, item in value.items()}
    pillow = sys.modules.get("PIL.Image")  # whoever has such an image has imported it
    try:
        array = np.asarray(pixels_of(value) if pillow is not None and isinstance(value, pillow.Image) else value)
    except Exception as error:  # of a foreign object
        raise _NoValue(f"field {name!r} is {_kind(value)}, which numpy cannot read: {error}") from error
    if array.dtype.kind not in "biufc":
        raise _NoValue(f"field {name!r} is {_kind(value)}, {_why_none(value)}")
    if array.ndim == 0:
        return array[()]
    array = array.view()
    array.flags.writeable = False  # the dataset may hand out the same memory again
    return array


class _NoValue(ValueError):
    """A value that no example can hold, by the name of its field."""


def _why_none(value: Any) -> str:
    if value is None:
        return "which stands for nothing: leave such examples out, or name the other fields"
    if isinstance(value, int):
        return f"{value} is too large for 64 bits: give it as text, or as a smaller number"
    return "no number, text, bytes, image, nor an array of numbers"


def _fingerprint(record: Any) -> bytes:
    if isinstance(record, Mapping):
        parts = [name.encode() + _fingerprint(value) for name, value in sorted(record.items())]
        return hashlib.sha256(b"".join(parts)).digest()
    if isinstance(record, np.ndarray | np.generic):
        return hashlib.sha256(f"{record.dtype.str}{record.shape}".encode() + record.tobytes()).digest()
    return hashlib.sha256(repr(record).encode()).digest()


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
