"""ImageNet's training images as they are published: one tar file per class, named by the class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import require
from dataecho.pipeline.source import Source, shard_lengths
from dataecho.pipeline.stage import Broken, Chunk
from dataecho.sources.remote import Remote
from dataecho.sources.tar import TarSource
from dataecho.sources.urls import is_local, shown_url

#: Of the endings that an image may have, the first that is there.
IMAGE_FIELDS = "jpeg;jpg;png;webp;bmp"


class ClassTarSource(Source):
    """Records ``image`` (the bytes of a file) and ``label`` (int64: the number of its class), one shard, any order.

    ``urls``: the files of the classes (``n01440764.tar`` ...) on this machine, with braces and stars. They are not
    unpacked; the headers of all are read once, when the source is made, and kept in ``index_dir`` if one is given.
    Together they are one shard: taken one after the other, whole classes would follow each other, which no shuffle
    buffer mixes. Files behind a URL are refused for that reason. ``classes``: the names in the order of their
    numbers; None: those of the files, sorted. Raises :class:`DataError` for what is no such archive, as for
    ``ILSVRC2012_img_train.tar`` itself, which has them all in it and must be unpacked once.
    """

    def __init__(
        self, urls: str | Sequence[str], *, classes: Sequence[str] | None = None, index_dir: str | None = None
    ) -> None:
        files = Remote().list(urls)
        far = [shown_url(url) for url in files if not is_local(url)]
        require(
            not far,
            "urls",
            ", ".join(far[:1]),
            allowed="files of this machine",
            cure="Behind a URL classes would come one after the other: pack shards that mix them, for "
            "task/imagenet_resnet50_data=tar.",
        )
        names = [PurePosixPath(url).name.partition(".")[0] for url in files]
        require(
            len(set(names)) == len(names),
            "urls",
            ", ".join(sorted({name for name in names if names.count(name) > 1})),
            allowed="one file per class",
            cure="Join the files of a class, or use shards.",
        )
        self._classes = tuple(sorted(names) if classes is None else classes)
        unknown = sorted(set(names) - set(self._classes))
        require(
            not unknown,
            "classes",
            f"a list of {len(self._classes)}",
            allowed="a list that has the class of every file",
            cure=f"Missing: {', '.join(unknown[:5])}.",
        )
        number = {name: label for label, name in enumerate(self._classes)}
        self._labels = np.array([number[name] for name in names], dtype=np.int64)
        self._tars = TarSource(files, fields={"image": IMAGE_FIELDS}, index_dir=index_dir)
        self._starts = np.cumsum([0, *shard_lengths(self._tars)])

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of every label."""
        return self._classes

    @property
    def num_shards(self) -> int:
        return 1

    def num_examples(self, shard: int) -> int:
        return int(self._starts[-1])

    @property
    def random_access(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        """Of the files' names, the numbers of examples in them, and the classes."""
        facts = f"{self._tars.digest} {self._starts.tolist()} {self._classes}"
        return hashlib.sha256(facts.encode()).hexdigest()[:32]

    def name(self, shard: int, k: int) -> str:
        tar = int(self._tar_of(np.array([k]))[0])
        return self._tars.name(tar, k - int(self._starts[tar]))

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        tars = self._tar_of(ks)
        records = self._tars.read(tars, ks - self._starts[tars])
        return [
            record if isinstance(record, Broken) else {**record, "label": label}
            for record, label in zip(records, self._labels[tars], strict=True)
        ]

    def _tar_of(self, ks: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, ks, side="right") - 1
