"""The storage of studies: a journal file in the sweep's folder, or a database."""

from __future__ import annotations

import logging
import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage

from dataecho.errors import SettingError
from dataecho.extras import cure_of_missing
from dataecho.tracking.redact import without_credentials
from dataecho.training.disk import is_full
from dataecho_search.study.journal_file import JournalFile

T = TypeVar("T")

log = logging.getLogger(__name__)

JOURNAL = "journal.log"
_ALLOWED = (
    "nothing (a journal file in the sweep's folder), sqlite:////absolute/path.db, postgresql://user@host/database"
)
_LONGEST_PAUSE = 30.0
_SMALL_TRIAL = 1 << 20  # bytes


class StorageUnavailable(RuntimeError):
    """The database did not answer, or a disk was full, until the timeout. No result of a trial is lost."""


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open the storage at ``url``, or the journal in ``folder`` where it is None. Raises :class:`SettingError` for an
    unusable URL, and the database's own error where it does not answer."""
    if url is None:
        return JournalStorage(JournalFile(folder / JOURNAL))
    shown = _shown(url)
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and not rest.startswith("//"):
        raise SettingError(
            "hydra.sweeper.storage",
            shown,
            allowed=_ALLOWED,
            cure="A relative path would depend on the current folder: write it in full, with four slashes.",
        )
    if scheme in ("postgresql", "postgres"):
        url = f"postgresql+psycopg://{rest}"
    elif scheme not in ("sqlite", "postgresql+psycopg"):
        raise SettingError("hydra.sweeper.storage", shown, allowed=_ALLOWED, cure="Leave it out for the journal.")
    try:
        # Replaces a connection that broke while trials ran.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True}, heartbeat_interval=None)
    except ImportError as error:
        raise SettingError(
            "hydra.sweeper.storage",
            shown,
            allowed=_ALLOWED,
            cure=f"The driver is missing: {cure_of_missing(error)}",
        ) from error


def retry_while_unavailable(call: Callable[[], T], *, url: str | None, timeout: float, results: Path) -> T:
    """Return ``call()``, repeated with growing pauses while the database does not answer or a disk is full. ``call``
    must be repeatable: only its answer may have been lost. Raises :class:`StorageUnavailable` after ``timeout``
    seconds; ``results``: the folder that the message names, where trials keep their results meanwhile."""
    start, pause = time.monotonic(), 0.1
    while True:
        try:
            return call()
        except Exception as error:
            if not isinstance(error, _unreachable()) and not is_full(error):
                raise
            what, is_wrong, was_wrong = _trouble(error, url, results)
            spent = time.monotonic() - start
            if spent >= timeout:
                raise StorageUnavailable(
                    f"{what} {was_wrong} for {spent:.0f} s (hydra.sweeper.storage_timeout). Trials that ended "
                    f"meanwhile have their results in {results}; the same command, when that is mended, tells them to "
                    f"the study and goes on. It said: {_first_line(error)}"
                ) from error
            if pause >= 1.0:
                log.warning("%s %s (%s); trying again in %.0f s", what, is_wrong, _first_line(error), pause)
            # Random, so that the members of a sweep do not all ask at once.
            time.sleep(min(pause, max(0.0, timeout - spent)) * random.uniform(0.8, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)


def require_disk_space(folder: Path) -> None:
    """Raise ``OSError`` where the disk of ``folder`` lacks the space for a small trial's files (1 MiB)."""
    path = folder / f".space-{os.getpid()}"
    try:
        with open(path, "wb") as file:
            file.write(bytes(_SMALL_TRIAL))
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def silence_optuna() -> None:
    """Silence Optuna's own messages: the sweep reports what happens."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _unreachable() -> tuple[type[BaseException], ...]:
    from sqlalchemy.exc import DBAPIError

    return (DBAPIError, optuna.exceptions.StorageInternalError, ConnectionError)


def _trouble(error: BaseException, url: str | None, folder: Path) -> tuple[str, str, str]:
    """The subject of a message about ``error``, and its predicate in the present and in the perfect tense."""
    if is_full(error):
        return f"The disk of the sweep in {folder}", "is full", "has been full"
    return f"hydra.sweeper.storage={_shown(url)}", "does not answer", "has not answered"


def _shown(url: str | None) -> str:
    if url is None:
        return JOURNAL
    try:
        return without_credentials(url)
    except ValueError:
        return "(no URL)"


def _first_line(error: Any) -> str:
    return next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
