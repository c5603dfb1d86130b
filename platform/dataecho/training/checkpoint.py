"""Checkpoints: a folder each, of safetensors and JSON, written atomically. No pickle."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as dump_arrays

from dataecho.errors import SettingError
from dataecho.training.contracts import RANK, Arrays
from dataecho.training.ranks import Ranks

log = logging.getLogger(__name__)

FORMAT = 2
FOLDER = "checkpoints"
_ARRAYS, _VALUES = "arrays.safetensors", "state.json"
_PREFIX, _REPLACED = "step-", ".old"


class CheckpointStore:
    """The checkpoints of one run folder: the last ``keep`` and the best stay."""

    def __init__(self, run_folder: Path, *, keep: int = 2) -> None:
        self._folder = run_folder / FOLDER
        self._keep = keep

    def save(self, state: dict[str, Any], *, steps: int, best_steps: int | None) -> Path:
        """Write a draft, fsync, rename: a reader sees a whole checkpoint or none. Then remove checkpoints that are no
        longer kept, and later ones: a resume from an older checkpoint has abandoned them with their part of the spool.
        A checkpoint that is replaced stays readable, as ``.<name>.old``, until the new one is there. May be repeated
        after an error."""
        final = self._folder / f"{_PREFIX}{steps:012d}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._drop_drafts()  # first: drafts of a process that died may have this process's id, or fill the disk
        draft = self._folder / f".{final.name}.{os.getpid()}"
        try:
            _write_draft(draft, state, steps=steps)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)  # other files need the space on a full disk
            raise
        if final.exists():  # damaged, abandoned, or written just before a signal
            final.rename(self._folder / f".{final.name}{_REPLACED}")
        draft.rename(final)
        _sync(self._folder)
        self._drop(steps, best_steps)
        return final

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest readable checkpoint, None where none was written. A warning names unreadable ones;
        raises :class:`SettingError` if all are unreadable: to start over would lose them."""
        damage: SettingError | None = None
        for path in reversed(list_checkpoints(self._folder)):
            try:
                return load_checkpoint(path)
            except SettingError as error:
                log.warning("%s", str(error))
                damage = error
        if damage is not None:
            raise damage
        return None

    def _drop(self, newest_steps: int, best_steps: int | None) -> None:
        paths = list_checkpoints(self._folder)
        kept = [path for path in paths if _steps(path) <= newest_steps][-self._keep :]
        for path in paths:
            if path not in kept and _steps(path) != best_steps:
                shutil.rmtree(path)
        self._drop_drafts()

    def _drop_drafts(self) -> None:
        for path in list_checkpoints(self._folder):
            if path.name.endswith(_REPLACED):  # the process died before its replacement was there
                path.rename(self._folder / f"{_PREFIX}{_steps(path):012d}")
        for draft in self._folder.glob(f".{_PREFIX}*"):
            shutil.rmtree(draft)


def _write_draft(draft: Path, state: dict[str, Any], *, steps: int) -> None:
    draft.mkdir()
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    values = _without_arrays(state, "", arrays)
    blob = dump_arrays(arrays)
    _write(draft / _ARRAYS, blob)
    header = {"format": FORMAT, "steps": steps, "sha256": _digest(values, blob), "state": values}
    _write(draft / _VALUES, json.dumps(header).encode())
    _sync(draft)


def split_by_rank(arrays: Arrays, values: dict[str, Any]) -> tuple[dict[str, Any], Arrays]:
    """A backend's state: the part that all ranks have alike, and the arrays of this rank alone."""
    own = {name: array for name, array in arrays.items() if name.startswith(RANK)}
    return {"arrays": {name: array for name, array in arrays.items() if name not in own}, "values": values}, own


def gather_states(ranks: Ranks, state: dict[str, Any]) -> dict[str, Any]:
    """The ``state`` of every rank by its number as text; collective, with the same result on every rank."""
    if ranks.num_ranks == 1:
        return {"0": state}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    values = json.dumps(_without_arrays(state, "", arrays)).encode()
    all_values, all_arrays = ranks.gather_bytes(values), ranks.gather_bytes(dump_arrays(arrays))
    return {
        str(rank): _with_arrays(json.loads(text), load_arrays(blob))
        for rank, (text, blob) in enumerate(zip(all_values, all_arrays, strict=True))
    }


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder's ``checkpoints``, oldest first; the old one where a process died while it
    replaced one."""
    replaced = [path for path in folder.glob(f".{_PREFIX}*{_REPLACED}") if _digits(path).isdigit()]
    whole = [path for path in folder.glob(f"{_PREFIX}*") if _digits(path).isdigit()]
    found = {_steps(path): path for path in [*replaced, *whole]}
    return [found[steps] for steps in sorted(found)]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint folder. Raises :class:`SettingError` where it is missing, truncated or altered."""
    try:
        header = json.loads((path / _VALUES).read_bytes())
        blob = (path / _ARRAYS).read_bytes()
        if header["format"] != FORMAT:
            raise _broken(path, f"format {header['format']}, this version reads format {FORMAT}")
        if _digest(header["state"], blob) != header["sha256"]:
            raise _broken(path, f"{_ARRAYS} or {_VALUES} is truncated or was altered")
        state: dict[str, Any] = _with_arrays(header["state"], load_arrays(blob))
        return state
    except FileNotFoundError as error:
        raise _broken(path, f"{Path(error.filename).name} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise _broken(path, f"{_VALUES} is truncated or no checkpoint") from error
    except SafetensorError as error:
        raise _broken(path, f"{_ARRAYS}: {error}") from error


def find_checkpoint(path: Path, *, best: bool) -> Path:
    """The checkpoint folder at ``path``, or the best or newest one of the run folder at ``path``."""
    path = path.absolute()
    if (path / _VALUES).exists():
        return path
    found = list_checkpoints(path / FOLDER)
    if not found:
        raise SettingError(
            "checkpoint" if best else "resume",
            str(path),
            allowed=f"a run folder with {FOLDER}/, or one of the folders in it",
            cure="Look into the run folder: a run writes its first checkpoint at its first evaluation.",
        )
    if best:
        best_steps = load_checkpoint(found[-1])["best"]["steps"]
        return next((candidate for candidate in found if _steps(candidate) == best_steps), found[-1])
    return found[-1]


def _steps(path: Path) -> int:
    return int(_digits(path))


def _digits(path: Path) -> str:
    """The digits in the name of a checkpoint, or of one that is being replaced."""
    if path.name.startswith("."):
        return path.name.removeprefix(f".{_PREFIX}").removesuffix(_REPLACED)
    return path.name.removeprefix(_PREFIX)


def _broken(path: Path, why: str) -> SettingError:
    return SettingError(
        "checkpoint", str(path), allowed="a whole checkpoint", cure=f"This one cannot be used: {why}. Use an older one."
    )


def _without_arrays(value: Any, path: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        return {key: _without_arrays(item, f"{path}/{key}" if path else key, arrays) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        assert path not in arrays, f"two arrays are called {path}"
        arrays[path] = np.asarray(value, order="C")  # ascontiguousarray would add an axis to an array without axes
        return {"__array__": path}
    return value


def _with_arrays(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__array__"}:
            return arrays[value["__array__"]]
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    return value


def _digest(values: Any, blob: bytes) -> str:
    """The digest of both files. JSON is the same text after it was read and written again."""
    digest = hashlib.sha256(json.dumps(values).encode())
    digest.update(blob)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
