"""Packages that not everybody needs, and the extra of this distribution that brings each."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from dataecho.errors import SettingError
from dataecho.places import checkout

#: By the name that is imported.
_EXTRAS = {
    "aiohttp": "remote",
    "cmaes": "search",
    "cv2": "tasks",
    "fsspec": "remote",
    "gcsfs": "gcs",
    "hydra": "train",
    "jax": "jax",
    "jinja2": "study",
    "keras": "tensorflow",
    "matplotlib": "train",
    "mlflow": "mlflow",
    "omegaconf": "train",
    "optuna": "train",
    "psycopg": "search",
    "pyarrow": "parquet",
    "pycocotools": "tasks",
    "pydantic": "train",
    "ray": "ray",
    "rich": "train",
    "s3fs": "s3",
    "safetensors": "train",
    "scipy": "study",
    "sklearn": "tasks",
    "tensorflow": "tensorflow",
    "tokenizers": "tasks",
    "torch": "torch",
    "warcio": "tasks",
}

#: The first Python for which the extra brings anything, where it is not the first that is supported.
_FIRST_PYTHON = {"jax": (3, 11)}


def cure_of_missing(error: BaseException) -> str:
    """``error``, by which an import failed, in its first line, and how to install the missing package, where an extra
    of this distribution has it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    package = str(cause.name).partition(".")[0] if cause is not None else ""
    shown = cause or error
    text = f"{type(shown).__name__}: {shown}".partition("\n")[0]
    return f"{text}. {install(_EXTRAS[package])}" if package in _EXTRAS else f"{text}."


def install(extra: str) -> str:
    """The sentence that says how to install ``extra``: in a checkout by make, from the lock, else by pip.
    Where this Python is too old for it, the sentence says so instead."""
    first = _FIRST_PYTHON.get(extra, (3, 10))
    if sys.version_info < first:
        found = ".".join(map(str, sys.version_info[:2]))
        return f"The extra {extra} needs Python {'.'.join(map(str, first))} or newer; this is Python {found}."
    by_pip = f"pip install 'dataecho[{extra}]'"
    return f"Install it: make train EXTRAS={extra}, or {by_pip}." if checkout() else f"Install it: {by_pip}."


def package(name: str, *, key: str, value: Any) -> ModuleType:
    """The module ``name``, which ``key=value`` needs. Raises :class:`SettingError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingError(
            key, value, allowed=f"this value where {name.partition('.')[0]} is installed", cure=cure_of_missing(error)
        ) from error
