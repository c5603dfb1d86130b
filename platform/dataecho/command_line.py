"""The command line: ``dataecho``, ``python -m dataecho`` and ``python train.py``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dataecho import __version__
from dataecho.environment import prepare
from dataecho.errors import DataError, SettingError, require
from dataecho.invocation import command, remember_command
from dataecho.places import configuration, project

_HELP = {"--help", "-h"}


def main() -> None:
    """Compose the configuration of ``sys.argv`` and run it, or make a new project."""
    prepare()
    remember_command()
    try:
        arguments = options_first(_with_settings_of_run(sys.argv[1:]))
        sys.argv[1:] = arguments
        _import_from(arguments)
        if "--version" in arguments:
            print(f"dataecho {__version__}")
        elif len(arguments) == 2 and arguments[0] in _HELP and "=" not in arguments[1]:
            print(_settings(arguments[1]))
        elif arguments[:1] == ["init"]:
            _init(arguments[1:])
        else:
            hydra.main(version_base="1.3", config_path=str(configuration()), config_name="config")(run_job)()
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before training begins, or for the second time
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def run_job(config: DictConfig) -> float | None:
    """Run one configuration; returns its cost, for a sweep to minimise."""
    from dataecho.compose.repeat import repeating_command
    from dataecho.modes import run_mode  # heavy imports, which --help and --cfg do not need
    from dataecho.training.disk import EXIT_CODE, DiskFull
    from dataecho.training.ranks import RankLost

    job = HydraConfig.get()
    in_sweep = job.mode == RunMode.MULTIRUN
    folder = Path(job.runtime.output_dir) if in_sweep else None
    try:
        require(
            in_sweep or "study" not in config,
            "study",
            job.runtime.choices.get("study"),
            allowed="studies as a multirun, of many runs",
            cure="Add -m in front of it.",
        )
        return run_mode(
            OmegaConf.to_container(config, resolve=True),
            folder=folder,
            project=project(),
            repeat=repeating_command(job),
        )
    except (SettingError, DataError) as error:
        if in_sweep:
            raise
        _print_error(error)
        sys.exit(2)
    except RankLost as error:
        _print_error(error)
        sys.exit(1)
    except DiskFull as error:
        _print_error(error)
        sys.exit(EXIT_CODE)


def _init(arguments: Sequence[str]) -> None:
    """Write a new project into the folder that is the only one of ``arguments``."""
    from dataecho.new_project import create_project

    require(
        len(arguments) == 1,
        "init",
        " ".join(arguments) or None,
        allowed="one folder",
        cure=f"For instance: {command('init', 'my_project')}",
    )
    folder = Path(arguments[0])
    files = create_project(folder)
    print(f"Wrote {', '.join(str(folder / name) for name in files)}.")
    print(f"Now: cd {shlex.quote(str(folder))} && {command('--config-dir', 'conf', 'task=bars')}")


def _print_error(error: Exception) -> None:
    """Print an error and its notes: the commands that continue and repeat its run."""
    print(f"error: {error}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)


def options_first(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with options before overrides: Hydra's parser takes overrides in one place only."""
    given, others = _options().parse_known_args(arguments)
    with_value = [text for option, value in vars(given).items() if value is not None for text in (option, value)]
    return [
        *with_value,
        *(text for text in others if text.startswith("-")),
        *(text for text in others if not text.startswith("-")),
    ]


def _with_settings_of_run(arguments: Sequence[str]) -> list[str]:
    if not any(text.startswith(("resume=", "checkpoint=")) for text in arguments):
        return list(arguments)
    from dataecho.compose.repeat import with_settings_of_run  # a heavy import, which --help and --cfg do not need

    return with_settings_of_run(arguments)


def _options() -> argparse.ArgumentParser:
    """Hydra's options that take a value, each as its own destination."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, prog=command())
    for long, short in (
        ("--cfg", "-c"),
        ("--config-dir", "-cd"),
        ("--config-name", "-cn"),
        ("--config-path", "-cp"),
        ("--package", "-p"),
    ):
        parser.add_argument(long, short, dest=long)
    parser.add_argument("--info", "-i", dest="--info", nargs="?", const="all")
    parser.add_argument("--experimental-rerun", dest="--experimental-rerun")
    return parser


def _import_from(arguments: Sequence[str]) -> None:
    """Let a ``_target_`` name modules of the current folder, and those beside the folder of ``--config-dir``.

    They come last on the path, so that no file there hides a module of the standard library or of a package."""
    folders = [Path.cwd()]
    if "--config-dir" in arguments[:-1]:
        folders.append(Path(arguments[arguments.index("--config-dir") + 1]).resolve().parent)
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _settings(group: str | None = None) -> str:
    """Modes, groups and settings, for ``--help``."""
    from dataecho.reference import help_text

    return help_text(configuration(), group)


def _settings_in_help() -> str:
    """The list as part of Hydra's template, which Hydra resolves without ``--help``, too."""
    return _settings().replace("$", "$$") if _HELP.intersection(sys.argv) else ""


# Here, so that the trials of a sweep, which import this module for `run_job`, have them, too.
OmegaConf.register_new_resolver("command", command, replace=True)
OmegaConf.register_new_resolver("project", lambda: str(project()), replace=True)
OmegaConf.register_new_resolver("settings", _settings_in_help, replace=True)
