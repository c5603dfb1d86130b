"""Weights in a safetensors file with framework-neutral names, which any run in any framework can start from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dataecho.errors import SettingError
from dataecho.invocation import command
from dataecho.training.checkpoint import load_checkpoint
from dataecho.training.contracts import MODEL, Arrays

FILE_NAME = "weights.safetensors"


def checkpoint_weights(path: Path) -> Arrays:
    """The weights in a checkpoint folder, by :meth:`Backend.weights`' names. Raises :class:`SettingError` for a
    checkpoint that cannot be used, or whose backend has not saved its weights as every backend has to."""
    arrays = load_checkpoint(path)["backend"]["arrays"]
    weights = {name.removeprefix(MODEL): array for name, array in arrays.items() if name.startswith(MODEL)}
    if not weights:
        raise SettingError(
            "checkpoint",
            str(path),
            allowed=f"one whose backend has saved the weights under names that begin with {MODEL}",
            cure=f"It has only {', '.join(sorted(arrays)[:3]) or 'no arrays'}: let the backend's `state()` name its "
            f"`weights()` so (dataecho.testing.backend_contract says what it must do), and train again.",
        )
    return weights


def write_weights(path: Path, weights: Arrays) -> Path:
    """Write the file at ``path`` atomically."""
    draft = path.with_suffix(f".{os.getpid()}")
    save_file(weights, draft)
    draft.replace(path)
    return path


def weights_digest(path: Path) -> str:
    """The digest of the file's content, wherever it lies. Raises :class:`SettingError` for a file that cannot be
    read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    except OSError as error:
        raise _unreadable(path, error) from error


def read_weights(path: Path) -> Arrays:
    """The weights in a file of :func:`write_weights`, or of any program that uses the same names. Raises
    :class:`SettingError` for a file that cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SettingError:
    return SettingError(
        "weights",
        str(path),
        allowed="a safetensors file of weights",
        cure=f"{command('mode=export', 'checkpoint=<run folder>')} writes one ({error}).",
    )
