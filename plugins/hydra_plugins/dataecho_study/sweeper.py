"""The sweeper of a study, which Hydra finds here. Hydra reads this file at every start, so it imports little."""

import sys
from typing import Any, Optional

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """The adapter between Hydra and `dataecho_study`; `conf/study/*.yaml` choose it."""

    def __init__(self, **settings: Any) -> None:
        self._context: Optional[HydraContext] = None  # noqa: UP045

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the studies to their end. Mistakes are one line and exit code 2, as for a single run."""
        from dataecho.errors import DataError, SettingError
        from dataecho_search.study.storage import StorageUnavailable
        from dataecho_study.run import run_studies

        assert self._context is not None and self.config is not None
        try:
            return run_studies(arguments, self._context, self._task, self.config)
        except (SettingError, DataError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except StorageUnavailable as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
