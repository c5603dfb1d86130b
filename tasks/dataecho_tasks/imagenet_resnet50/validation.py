"""ImageNet's validation images as they are published: one flat folder, and their classes in a file beside it."""

from __future__ import annotations

import csv
import hashlib
import io
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np

from dataecho.errors import DataError, SettingError, require
from dataecho.sources.loose_files import LooseFiles, LooseFileSource, require_files
from dataecho.sources.options import LooseFileOptions, takes
from dataecho.sources.remote import Remote
from dataecho.sources.table import read_table
from dataecho.sources.urls import is_local, shown_url

_TRUTH, _SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_KAGGLE = ["ImageId", "PredictionString"]
_ALLOWED = f"the devkit's folder, its {_TRUTH}, LOC_val_solution.csv, or a .csv with the columns file and label"

#: File and wnid of every image.
_Labels = list[tuple[str, str]]


class ValidationSource(LooseFileSource):
    """Records ``image`` (the bytes of a file) and ``label`` (int64: the number of its class), one shard, any order.

    ``url``: the folder of the images (``ILSVRC2012_val_00000001.JPEG`` ...), here or behind a URL. ``labels``: what
    their classes are, one of

    * the folder ``ILSVRC2012_devkit_t12``, or the file ``ILSVRC2012_validation_ground_truth.txt`` in its ``data``:
      image k has the devkit's number of its class in line k, and ``meta.mat`` beside that file says which wnid it is;
    * ``LOC_val_solution.csv``, as Kaggle has it: the first word of a prediction is the wnid;
    * another ``.csv`` with the columns ``file`` and ``label``, where labels are wnids, or whatever the classes of the
      training images are called.

    Classes are numbered by ``classes``, or None: by their sorted wnids, never by the devkit's numbers, which are in
    another order. ``options`` are the fields of
    :class:`dataecho.sources.options.LooseFileOptions`. ``digest`` covers the classes, the names
    of the images and their labels; the images themselves are not looked at.

    Raises :class:`SettingError` for a folder that is none or lacks images (behind a URL these are broken), for other
    ``labels``, and for a class that is not among ``classes``; :class:`DataError` for files that are damaged.
    """

    @takes(LooseFileOptions)
    def __init__(
        self,
        url: str,
        *,
        labels: str,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        reading = LooseFileOptions(**options)
        remote = Remote(reading)
        found = sorted(_labels_in(labels, remote))
        names = [name for name, _ in found]
        require(
            len(set(names)) == len(names),
            "labels",
            shown_url(labels),
            allowed="every file once",
            cure="One comes twice.",
        )
        self._classes = tuple(sorted({wnid for _, wnid in found}) if classes is None else classes)
        number = {wnid: label for label, wnid in enumerate(self._classes)}
        unknown = sorted({wnid for _, wnid in found} - set(number))
        require(
            not unknown,
            "classes",
            f"{len(self._classes)} names",
            allowed=f"a list that has every class of {shown_url(labels)}",
            cure=f"Missing: {', '.join(unknown[:5])}.",
        )
        if is_local(url):
            require_files(url, names, key="url", of=shown_url(labels))
        label = np.array([number[wnid] for _, wnid in found], dtype=np.int64)
        facts = repr((self._classes, names)).encode() + label.tobytes()
        super().__init__(
            LooseFiles(url, names, remote=remote, num_readers=reading.num_readers),
            columns={"label": label},
            digest=hashlib.sha256(facts).hexdigest()[:32],
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The wnid of every label."""
        return self._classes


def _labels_in(labels: str, remote: Remote) -> _Labels:
    where = shown_url(labels)
    ending = posixpath.splitext(where)[1].lower()
    if ending == ".csv":
        return _of_table(remote.read(labels), where)
    require(ending in ("", ".txt"), "labels", where, allowed=_ALLOWED, cure="Unpack archives first.")
    truth = labels if ending == ".txt" else f"{labels.rstrip('/')}/data/{_TRUTH}"
    synsets = f"{truth.rpartition('/')[0]}/{_SYNSETS}" if "/" in truth else _SYNSETS
    try:
        return _of_devkit(remote.read(truth), remote.read(synsets))
    except ValueError as error:
        raise DataError(f"{shown_url(truth)}, {_SYNSETS}: {error}. Bring ILSVRC2012_devkit_t12 there again.") from None


def _of_table(data: bytes, where: str) -> _Labels:
    first_line = next(csv.reader(io.StringIO(data[:200].decode("utf-8-sig", "replace"))), [])
    file_column, label_column = _KAGGLE if first_line == _KAGGLE else ("file", "label")
    try:
        table = read_table(data, where=where, file_column=file_column, columns=[label_column])
    except SettingError as error:
        raise SettingError("labels", where, allowed=_ALLOWED, cure=str(error)) from None
    pairs = [(name, str(label)) for name, label in zip(table[file_column], table[label_column], strict=True)]
    if first_line == _KAGGLE:  # n01751748 111 108 249 242: the class, and where in the image it is
        return [(f"{name}.JPEG", said.split()[0]) for name, said in pairs]
    return pairs


def _of_devkit(truth: bytes, synsets: bytes) -> _Labels:
    """Raises ``ValueError`` where the two files are not those of the devkit."""
    wnid = _wnids(synsets)
    numbers = truth.decode().split()
    unknown = sorted(set(numbers) - set(wnid))
    if unknown or not numbers:
        raise ValueError(f"{unknown[:3]} are no numbers of classes" if numbers else "there is no label")
    return [(f"ILSVRC2012_val_{k:08d}.JPEG", wnid[number]) for k, number in enumerate(numbers, start=1)]


def _wnids(data: bytes) -> dict[str, str]:
    """The wnid of each of the devkit's numbers, but for those of groups of classes."""
    from scipy.io import loadmat  # a second of import that only its users pay

    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
        rows = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        return {str(int(number)): str(wnid) for number, wnid, num_children in rows if int(num_children) == 0}
    except Exception as error:  # of a foreign format, in many ways
        raise ValueError(f"no table of classes: {type(error).__name__}: {error}") from None
