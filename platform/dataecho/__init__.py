"""dataecho: data echoing for training that is bound by its input.

Plan in ids, run in parallel, count exactly: see ``docs/explanation/architecture.md``. The names in ``__all__`` are the
public surface and change with a major version only; every other name may change at any time. Each is imported when it
is first used, so that ``import dataecho`` is cheap; none of them needs a framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "ArraySource",
    "Batch",
    "DataError",
    "Evaluator",
    "Feed",
    "FolderSource",
    "ManifestSource",
    "MapStyleSource",
    "ParquetSource",
    "PipelineSettings",
    "SettingError",
    "Source",
    "Stage",
    "TarSource",
    "Task",
    "WeightedMeans",
    "keys",
    "once_through",
]

if TYPE_CHECKING:
    from dataecho.errors import DataError, SettingError
    from dataecho.pipeline.batch import Batch
    from dataecho.pipeline.feed import Feed, once_through
    from dataecho.pipeline.settings import PipelineSettings
    from dataecho.pipeline.source import ArraySource, Source
    from dataecho.pipeline.stage import Stage
    from dataecho.plan import keys
    from dataecho.sources.folder import FolderSource
    from dataecho.sources.manifest import ManifestSource
    from dataecho.sources.map_style import MapStyleSource
    from dataecho.sources.parquet import ParquetSource
    from dataecho.sources.tar import TarSource
    from dataecho.training.contracts import Evaluator, Task, WeightedMeans

_MODULES = {
    "ArraySource": "dataecho.pipeline.source",
    "Batch": "dataecho.pipeline.batch",
    "DataError": "dataecho.errors",
    "Evaluator": "dataecho.training.contracts",
    "Feed": "dataecho.pipeline.feed",
    "FolderSource": "dataecho.sources.folder",
    "ManifestSource": "dataecho.sources.manifest",
    "MapStyleSource": "dataecho.sources.map_style",
    "ParquetSource": "dataecho.sources.parquet",
    "PipelineSettings": "dataecho.pipeline.settings",
    "SettingError": "dataecho.errors",
    "Source": "dataecho.pipeline.source",
    "Stage": "dataecho.pipeline.stage",
    "TarSource": "dataecho.sources.tar",
    "Task": "dataecho.training.contracts",
    "WeightedMeans": "dataecho.training.contracts",
    "keys": "dataecho.plan.keys",
    "once_through": "dataecho.pipeline.feed",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dataecho' has no attribute {name!r}")
    try:
        module = importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        from dataecho.extras import cure_of_missing

        raise ImportError(f"dataecho.{name}: {cure_of_missing(error)}") from error
    value = module if name == "keys" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
