"""The command line: composes a configuration and runs it. ``python train.py --help`` lists all settings."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dataecho.environment import prepare
from dataecho.errors import DataError, SettingError

PROJECT = Path(__file__).resolve().parent

OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)


def _settings(group: str | None = None) -> str:
    """Modes, groups and settings, for ``--help``."""
    from dataecho.reference import help_text

    return help_text(PROJECT, group)


def _settings_in_help() -> str:
    """The list as part of Hydra's template, which Hydra resolves without ``--help``, too."""
    return _settings().replace("$", "$$") if {"--help", "-h"}.intersection(sys.argv) else ""


OmegaConf.register_new_resolver("settings", _settings_in_help, replace=True)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Run one configuration; returns its cost, for a sweep to minimise."""
    from dataecho.modes import run_mode  # heavy imports, which --help and --cfg do not need
    from dataecho.training.disk import EXIT_CODE, DiskFull
    from dataecho.training.ranks import RankLost

    job = HydraConfig.get()
    in_sweep = job.mode == RunMode.MULTIRUN
    folder = Path(job.runtime.output_dir) if in_sweep else None
    try:
        return run_mode(OmegaConf.to_container(config, resolve=True), folder=folder, project=PROJECT)
    except (SettingError, DataError) as error:
        if in_sweep:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RankLost as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except DiskFull as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    prepare()
    try:
        if len(sys.argv) == 3 and sys.argv[1] in ("--help", "-h") and "=" not in sys.argv[2]:
            print(_settings(sys.argv[2]))
        else:
            main()
    except SettingError as error:  # of an unknown group
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before training begins, or for the second time
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
