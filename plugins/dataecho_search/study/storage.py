"""Where studies are kept: a journal file in the sweep's folder, or a database by its URL."""

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
_ROOM = 1 << 20  # bytes


class StorageLost(RuntimeError):
    """The database did not answer, or a disk was full, for so long that the sweep gave up. Nothing that trials computed
    is lost."""


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at ``url``, by default a journal in ``folder``. Raises :class:`SettingError` for a URL that cannot be
    used, whatever the database raises if it does not answer."""
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
        # A connection that broke while trials ran is made anew.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True}, heartbeat_interval=None)
    except ImportError as error:
        raise SettingError(
            "hydra.sweeper.storage",
            shown,
            allowed=_ALLOWED,
            cure=f'The driver is missing: pip install "dataecho[search]" ({error}).',
        ) from error


def patiently(call: Callable[[], T], *, url: str | None, timeout: float, results: Path) -> T:
    """What ``call`` returns; repeated with growing pauses while the database does not answer or a disk is full, for
    ``timeout`` seconds. ``call`` may be repeated though it has happened: only the answer may have been lost. Raises
    :class:`StorageLost` in the end; ``results``: where everything is that trials computed meanwhile."""
    start, pause = time.monotonic(), 0.1
    while True:
        try:
            return call()
        except (OSError, *_unreachable()) as error:
            if not isinstance(error, _unreachable()) and not is_full(error):
                raise
            what, is_wrong, was_wrong = _trouble(error, url, results)
            spent = time.monotonic() - start
            if spent >= timeout:
                raise StorageLost(
                    f"{what} {was_wrong} for {spent:.0f} s (hydra.sweeper.storage_timeout). Trials that ended "
                    f"meanwhile have their results in {results}; the same command, when that is mended, tells them to "
                    f"the study and goes on. It said: {_first_line(error)}"
                ) from error
            if pause >= 1.0:
                log.warning("%s %s (%s); trying again in %.0f s", what, is_wrong, _first_line(error), pause)
            time.sleep(
                min(pause, max(0.0, timeout - spent)) * random.uniform(0.8, 1.0)
            )  # shells do not all ask at once
            pause = min(2 * pause, _LONGEST_PAUSE)


def make_sure_of_room(folder: Path) -> None:
    """Raise ``OSError`` where the disk of ``folder`` has no room for what a small trial writes."""
    path = folder / f".room-{os.getpid()}"
    try:
        with open(path, "wb") as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def quiet_optuna() -> None:
    """Optuna's own lines go nowhere: the sweep tells what happens."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _unreachable() -> tuple[type[BaseException], ...]:
    from sqlalchemy.exc import DBAPIError

    return (DBAPIError, optuna.exceptions.StorageInternalError, ConnectionError)


def _trouble(error: BaseException, url: str | None, folder: Path) -> tuple[str, str, str]:
    """Who is in trouble, and the trouble, in the present and in the perfect."""
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
