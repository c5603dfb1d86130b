"""Tracking with MLflow. The run folder keeps what a slow, failing or absent server has not received."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from dataecho.errors import SettingError, require
from dataecho.extras import install
from dataecho.masking import masked_text
from dataecho.tracking.connection import check_settings, cure, dashboard, experiment_id, open_client
from dataecho.tracking.delivery import MLFLOW_STATUS
from dataecho.tracking.destination import Destination
from dataecho.tracking.family import PARENT_UUID_TAG, UUID_TAG
from dataecho.tracking.record import FILE_NAME, NOTHING_SENT, Record, RecordFile, read_record
from dataecho.tracking.redact import masked, masked_error, without_credentials
from dataecho.tracking.sender import Sender
from dataecho.training import spool
from dataecho.training.contracts import RunInfo, Tracker
from dataecho.training.spool import read_spool

logger = logging.getLogger("dataecho.tracking")

_TRIES = 3  # to reach another server, before a run is sent there
_TAKEN = (UUID_TAG, PARENT_UUID_TAG, "mlflow.runName")
_LOCK_NAME = "tracking.lock"
_SECONDS_FOR_ANOTHER_PROCESS_TO_LEAVE = 5.0


@final
class MLflowTracker(Tracker):
    """Sends a run's metrics, in order and each once, from its spool to MLflow, in a background thread.

    ``tracking_uri``: an absolute sqlite URL, or the URI of a server; its credentials are neither logged nor stored.
    None: the server of the run that is resumed, else ``MLFLOW_TRACKING_URI``, else ``default_uri``. ``experiment``:
    None likewise stands for the experiment of the resumed run, ``MLFLOW_EXPERIMENT_NAME``, or ``dataecho``.
    ``artifact_root``: the folder for artifacts of a new experiment of a sqlite store; by default ``mlruns`` beside the
    database. ``start_timeout``: seconds that :meth:`start` waits for MLflow, whose import and creation of a database
    would otherwise take the cores from training. ``finish_timeout``: seconds without an arrival after which
    :meth:`finish` gives up. ``send_interval``: seconds for which metrics are collected.
    ``max_share``: the share of one processor's time, above 0 and at most 1, that sending may take during training, in
    the same interpreter. A run with frequent marks and short steps lags behind in MLflow until its end.
    ``run_name`` replaces the name of the run. ``tags``: additional tags, which take precedence over those of the run.
    ``parent_uuid``: the tag ``dataecho.uuid`` of the parent run, below which MLflow shows this one as soon as both
    exist; ``has_children``: whether other runs have this one as their parent.

    Use one tracker for one run: ``start`` once, ``covered`` any number of times, ``finish`` once. ``covered`` comes
    after the spool was cut at the checkpoint's position. :func:`send_later` sends what is left after the end.
    """

    def __init__(
        self,
        *,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        default_uri: str = "",
        artifact_root: str | None = None,
        start_timeout: float = 20.0,
        finish_timeout: float = 30.0,
        retry_interval: float = 1.0,
        send_interval: float = 5.0,
        max_share: float = 0.005,
        run_name: str | None = None,
        tags: Mapping[str, str | int | float | bool] | None = None,
        parent_uuid: str | None = None,
        has_children: bool = False,
    ) -> None:
        self._destination = Destination(tracking_uri=tracking_uri, experiment=experiment, default_uri=default_uri)
        self._destination.check(artifact_root)
        times = {"start_timeout": start_timeout, "finish_timeout": finish_timeout, "retry_interval": retry_interval}
        for name, value in times.items():
            _require_time(name, value)
        require(
            send_interval >= 0,
            "tracking.send_interval",
            send_interval,
            allowed="seconds >= 0",
            cure="0 sends every evaluation by itself.",
        )
        require(
            0 < max_share <= 1,
            "tracking.max_share",
            max_share,
            allowed="0 < part of a processor's time <= 1",
            cure="1 sends without rest; 0.005, the default, leaves training as good as alone.",
        )
        _check_own(tags or {}, parent_uuid)
        _require_mlflow()
        self._uri, self._experiment = self._destination.of(None)
        self._artifact_root = artifact_root
        self._start_timeout = start_timeout
        self._finish_timeout = finish_timeout
        self._retry_interval = retry_interval
        self._send_interval = send_interval
        self._max_share = max_share
        self._run_name = run_name
        self._tags = masked(tags or {})
        self._parent_uuid = parent_uuid or ""
        self._has_children = has_children
        self._folder = Path()
        self._file: RecordFile | None = None
        self._sender: Sender | None = None
        self._lock: FileLock | None = None

    @property
    def uuid(self) -> str:
        """The ``parent_uuid`` of child runs; empty if the run is not tracked. Known after :meth:`start`, even without a
        server."""
        return self._file.now.uuid if self._file else ""

    @property
    def cure(self) -> str:
        """The cure for a failure that waiting does not help, while the run is recorded; empty if there is none."""
        return self._sender.cure if self._sender is not None else ""

    @property
    def where(self) -> str:
        """``make dashboard``, another command, or an address that shows the run, without credentials."""
        now = self._file.now if self._file else None
        return dashboard(self._uri, experiment_id=now.experiment_id if now else "", run_id=now.run_id if now else "")

    def start(self, run: RunInfo) -> None:
        """Begin, or continue, the record of ``run``. Returns when MLflow is ready or fails, or after ``start_timeout``.

        Parameters, tags and dataset of the run are those of the first start. If another process records the folder, or
        it cannot be written, the run continues untracked, with a warning.
        """
        self._folder = run.folder
        try:
            self._lock = _lock(run.folder, timeout=min(self._start_timeout, _SECONDS_FOR_ANOTHER_PROCESS_TO_LEAVE))
            self._file = RecordFile(run.folder, self._begin(run))
            self._file.update()
        except (OSError, Timeout) as error:
            logger.warning("%s is not tracked: %s", run.folder, masked_error(error, uri=self._uri))
            self._release()
            return
        self._sender = Sender(
            run.folder,
            self._file,
            tracking_uri=self._uri,
            retry_interval=self._retry_interval,
            send_interval=self._send_interval,
            max_share=self._max_share,
        )
        self._sender.start(timeout=self._start_timeout)

    def covered(self, position: int) -> None:
        """Allow the first ``position`` bytes of the spool to be sent. Takes microseconds, with any server."""
        if self._sender is not None:
            self._sender.covered(position)

    def finish(self, *, status: str, artifacts: Sequence[Path], tags: Mapping[str, str]) -> None:
        """Send the rest. After ``finish_timeout`` seconds without an arrival, keep it and log how to send it later. A
        status other than ``finished`` and ``interrupted`` counts as ``failed``."""
        if self._sender is None or self._file is None:
            return
        sender, self._sender = self._sender, None
        now = self._file.now
        names = [_inside(path, self._folder) for path in artifacts]
        try:
            self._file.update(
                status=status if status in MLFLOW_STATUS else "failed",
                end_time_ms=_now_ms(),
                covered=sender.position or now.covered,
                artifacts=tuple(dict.fromkeys([*now.artifacts, *names])),
                final_tags={**now.final_tags, **masked(tags)},
            )
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._folder / FILE_NAME, str(error))
        sender.finish(timeout=self._finish_timeout)
        self._release()

    def leave(self) -> None:
        """Stop recording without ending the run: a later start continues it."""
        if self._sender is not None:
            self._sender.stop()
            self._sender = None
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # ---- the record at the start

    def _begin(self, run: RunInfo) -> Record:
        try:
            record = read_record(run.folder)
        except ValueError as error:
            broken = run.folder / f"{FILE_NAME}.broken"
            os.replace(run.folder / FILE_NAME, broken)
            logger.warning("%s. It is kept as %s; the whole run is sent to a new one.", str(error), broken)
            record = None
        self._uri, self._experiment = self._destination.of(record)
        return self._new_record(run) if record is None else self._continued(record)

    def _new_record(self, run: RunInfo) -> Record:
        return Record(
            uuid=uuid.uuid4().hex,
            tracking_uri=without_credentials(self._uri),
            experiment=self._experiment,
            artifact_root=self._artifact_root,
            name=masked_text(self._run_name or run.name),
            start_time_ms=_now_ms(),
            parent_uuid=self._parent_uuid,
            has_children=self._has_children,
            params=masked(run.params),
            tags={**masked(run.tags), **self._tags},
            dataset={key: _json_value(value) for key, value in run.dataset.items()},
        )

    def _continued(self, record: Record) -> Record:
        changes: dict[str, Any] = {"status": "", "end_time_ms": 0, "terminated": False, "complete": False}
        # A resume from an older checkpoint may have cut the spool below the covered position.
        changes["covered"] = min(record.covered, _size(self._folder / spool.FILE_NAME))
        own = {
            "tags": {**record.tags, **self._tags},
            "parent_uuid": self._parent_uuid or record.parent_uuid,
            "has_children": self._has_children or record.has_children,
        }
        if any(getattr(record, name) != value for name, value in own.items()):
            changes |= {**own, "described": False}
        here = without_credentials(self._uri)
        if record.tracking_uri != here:
            if record.run_id or record.creating:
                logger.warning(
                    "%s was tracked at %s and is now tracked at %s: the whole run is sent to a new one there.",
                    self._folder,
                    record.tracking_uri,
                    here,
                )
            changes |= {**NOTHING_SENT, "tracking_uri": here, "artifact_root": self._artifact_root}
        if record.experiment != self._experiment:
            if record.run_id and record.tracking_uri == here:
                logger.warning(
                    "%s was tracked in the experiment %s and is now tracked in %s: the whole run is sent to a new one "
                    "there.",
                    self._folder,
                    record.experiment,
                    self._experiment,
                )
            changes |= {**NOTHING_SENT, "experiment": self._experiment}
        return dataclasses.replace(record, **changes)


def send_later(
    folder: Path,
    *,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    position: int | None = None,
    timeout: float = 300.0,
    retry_interval: float = 1.0,
) -> bool:
    """Send the rest of an ended run in ``folder``; return whether MLflow now has everything.

    The default for ``tracking_uri`` and ``experiment`` is the record of the run; credentials are not stored, and come
    from ``tracking_uri`` or ``MLFLOW_TRACKING_URI``. Another server or experiment gets the whole run, as a new one.
    ``position``: the bytes of the spool that the last checkpoint covers, by default the tracker's last position. A
    killed run is recorded as ``interrupted``, and can still be resumed. While the run is still in progress, nothing is
    sent and the result is False.

    Raises :class:`SettingError` if the folder was never tracked, or another server does not accept runs now.
    """
    _require_time("retry_interval", retry_interval)
    record = _record_to_send(folder)
    tracking_uri, experiment = Destination(tracking_uri=tracking_uri, experiment=experiment).of(record)
    check_settings(tracking_uri=tracking_uri, experiment=experiment, artifact_root=None)
    is_elsewhere = (without_credentials(tracking_uri), experiment) != (record.tracking_uri, record.experiment)
    if record.complete and not is_elsewhere:
        return True
    _require_mlflow()
    if is_elsewhere:
        _require_answer(tracking_uri, experiment, retry_interval=retry_interval)
    try:
        lock = _lock(folder, timeout=0.0)
    except Timeout:
        logger.warning("%s is being recorded by another process: nothing is sent now.", folder)
        return False
    try:
        record = _moved(_record_to_send(folder), folder, tracking_uri=tracking_uri, experiment=experiment)
        file = RecordFile(folder, _ended(folder, record, position))
        file.update()
        sender = Sender(folder, file, tracking_uri=tracking_uri, retry_interval=retry_interval)
        sender.start(timeout=timeout)
        return sender.finish(timeout=timeout)
    finally:
        lock.release()


def _require_time(name: str, value: object) -> None:
    allowed = isinstance(value, int | float) and value > 0
    require(allowed, f"tracking.{name}", value, allowed="seconds > 0", cure=f"Set tracking.{name}.")


def _record_to_send(folder: Path) -> Record:
    try:
        record = read_record(folder)
    except ValueError as error:
        raise SettingError(
            "resume", str(folder), allowed="the folder of a tracked run", cure=f"{error}. Resume the run instead."
        ) from error
    if record is None:
        raise SettingError(
            "resume",
            str(folder),
            allowed=f"the folder of a tracked run, with {FILE_NAME}",
            cure="It was trained without tracking; resume it with tracking=mlflow.",
        )
    return record


def _require_answer(tracking_uri: str, experiment: str, *, retry_interval: float) -> None:
    """Raise :class:`SettingError` unless the server accepts runs now; call before a run is sent elsewhere."""
    error: Exception | None = None
    for left in reversed(range(_TRIES)):
        try:
            experiment_id(open_client(tracking_uri), uri=tracking_uri, name=experiment, artifact_root=None)
            return
        except Exception as caught:
            error = caught
        if left:
            time.sleep(retry_interval)
    assert error is not None
    raise SettingError(
        "tracking.tracking_uri",
        without_credentials(tracking_uri),
        allowed=f"a place that takes runs now ({masked_error(error, uri=tracking_uri)})",
        cure=cure(error, uri=tracking_uri) or "Try again when it answers; the record of the run is as it was.",
    ) from error


def _moved(record: Record, folder: Path, *, tracking_uri: str, experiment: str) -> Record:
    """``record`` with this server and experiment. Nothing has been sent yet, if they are new."""
    here = without_credentials(tracking_uri)
    if (here, experiment) == (record.tracking_uri, record.experiment):
        return record
    if record.run_id or record.creating:
        logger.warning(
            "%s was tracked in %s at %s. The whole run is sent to a new one in %s at %s; what is there already stays.",
            folder,
            record.experiment,
            record.tracking_uri,
            experiment,
            here,
        )
    return dataclasses.replace(record, **NOTHING_SENT, tracking_uri=here, experiment=experiment)


def _ended(folder: Path, record: Record, position: int | None) -> Record:
    changes: dict[str, Any] = {} if position is None else {"covered": position}
    if not record.status:
        times = [entry.time_ms for entry in read_spool(folder)]
        changes |= {"status": "interrupted", "end_time_ms": max([record.start_time_ms, *times[-1:]])}
    return dataclasses.replace(record, **changes)


def _lock(folder: Path, *, timeout: float) -> FileLock:
    """Lock ``folder`` for one sender; the system releases the lock when the process dies. Raises Timeout."""
    lock = FileLock(folder / _LOCK_NAME, thread_local=False)
    lock.acquire(timeout=timeout)
    return lock


def _check_own(tags: Mapping[str, str | int | float | bool], parent_uuid: str | None) -> None:
    for name in tags:
        require(
            name not in _TAKEN,
            f"tracking.tags.{name}",
            tags[name],
            allowed=f"other names than {', '.join(_TAKEN)}",
            cure="Set tracking.run_name or tracking.parent_uuid, or choose another name.",
        )
    require(
        parent_uuid is None or re.fullmatch(r"[0-9a-f]{32}", parent_uuid) is not None,
        "tracking.parent_uuid",
        parent_uuid,
        allowed="the tag dataecho.uuid of another run: 32 digits and letters a to f",
        cure="MLflow's page shows it among the run's tags; without a parent leave it out.",
    )


def _require_mlflow() -> None:
    require(
        importlib.util.find_spec("mlflow") is not None,
        "tracking",
        "mlflow",
        allowed="none, as mlflow is not installed",
        cure=f"{install('mlflow')} Or use tracking=none.",
    )


def _inside(path: Path, folder: Path) -> str:
    """``path`` relative to ``folder``, so that the folder can be moved; absolute if it is outside."""
    path, folder = Path(path).absolute(), folder.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _json_value(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else masked_text(str(value))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
