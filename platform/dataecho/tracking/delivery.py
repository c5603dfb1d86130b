"""The calls that send a run to MLflow, without duplicates after repeated attempts. No threads, clocks or retries.

Every step may raise at any call, and may be called again: it first checks what has arrived, where that is unknown.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from dataecho.tracking.connection import experiment_id, open_client
from dataecho.tracking.family import PARENT_UUID_TAG, UUID_TAG, adopt_children, join_parent
from dataecho.tracking.record import NOTHING_SENT, RecordFile
from dataecho.training.spool import LoggedMark, read_spool

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

logger = logging.getLogger("dataecho.tracking")

MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}

# A call with this many metrics takes 25 ms of one core: large enough to be efficient, too small to delay training.
_METRICS_A_GROUP = 250
# MLflow's limits; older servers take 5000 characters in a tag.
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100
_NAME_LENGTH, _PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = 250, 6000, 5000, 36


class Stopped(Exception):
    """The delivery was stopped: it sends and writes nothing more."""


@dataclass(frozen=True)
class _Group:
    """Successive marks that are sent together, and the bytes of the spool that they occupy."""

    start: int
    entries: tuple[LoggedMark, ...]

    @property
    def end(self) -> int:
        return self.entries[-1].end


@final
class Delivery:
    """Sends one run. ``check`` is called before every call to the server, and may raise :class:`Stopped`."""

    def __init__(self, folder: Path, file: RecordFile, *, tracking_uri: str, check: Callable[[], None]) -> None:
        self._folder = folder
        self._file = file
        self._uri = tracking_uri
        self._check = check
        self._opened: MlflowClient | None = None
        self._is_open = False
        self._agreed = False  # whether the spool still holds what was sent from it
        self._history: dict[str, dict[int, set[int]]] = {}

    def forget_server(self) -> None:
        """A call failed: forget what is known of the server's state, the run included."""
        self._history.clear()
        self._is_open = False

    # ---- the run

    def open(self) -> None:
        """Connect, find or create the run, set it running and describe it. Returns at once if that has been done."""
        if self._is_open:
            return
        if not (self._file.now.run_id and self._continue_run()):
            self._create_run()
        if not self._file.now.described:
            self._describe()
        self._is_open = True

    def _client(self) -> MlflowClient:
        self._check()
        if self._opened is None:
            self._opened = open_client(self._uri)
            self._check()
        return self._opened

    def _continue_run(self) -> bool:
        from mlflow.exceptions import MlflowException

        run_id = self._file.now.run_id
        try:
            run = self._client().get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            logger.warning("MLflow no longer has run %s: it was deleted. The whole run is sent to a new one.", run_id)
            self._file.update(**NOTHING_SENT)
            return False
        if not self._file.now.status and run.info.status != "RUNNING":
            self._client().update_run(run_id, status="RUNNING")
        return True

    def _create_run(self) -> None:
        client, now = self._client(), self._file.now
        found = experiment_id(client, uri=self._uri, name=now.experiment, artifact_root=now.artifact_root)
        self._file.update(experiment_id=found)
        run_id = self._find_run() if now.creating else ""
        if not run_id:
            self._file.update(creating=True)  # on disk before the call, so that a crash between the two is noticed
            tags = {"mlflow.runName": now.name, "mlflow.source.type": "LOCAL", UUID_TAG: now.uuid}
            tags |= {PARENT_UUID_TAG: now.parent_uuid} if now.parent_uuid else {}
            run = self._client().create_run(found, start_time=now.start_time_ms, tags=tags, run_name=now.name)
            run_id = run.info.run_id
            if now.creating:  # the first attempt may have arrived during the second
                run_id = self._find_run() or run_id
        self._file.update(run_id=run_id, creating=False)

    def _find_run(self) -> str:
        """The id of the run with this record's uuid, empty if there is none. Deletes all but one of several: these are
        empty, since nothing is sent before one is chosen."""
        now = self._file.now
        runs = self._client().search_runs([now.experiment_id], filter_string=f"tags.`{UUID_TAG}` = '{now.uuid}'")
        run_ids = sorted(run.info.run_id for run in runs)
        for extra in run_ids[1:]:
            self._client().delete_run(extra)
        return run_ids[0] if run_ids else ""

    def _describe(self) -> None:
        """Send parameters, tags, dataset and kinship. MLflow takes the same again without a trace, so a repetition is
        safe."""
        from mlflow.entities import Param

        now = self._file.now
        params = {_name(key): value[:_PARAM_LENGTH] for key, value in now.params.items()}
        for chunk in _chunks([Param(key, value) for key, value in params.items()], _PARAMS_A_CALL):
            self._client().log_batch(now.run_id, params=chunk)
        self._send_tags(_with_mlflow_names(now.tags))
        if now.dataset:
            self._send_dataset(now.dataset)
        if now.parent_uuid:
            self._send_tags({PARENT_UUID_TAG: now.parent_uuid})  # known since a resume only, perhaps
            join_parent(self._client(), now.run_id, experiment_id=now.experiment_id, parent_uuid=now.parent_uuid)
        if now.has_children:
            adopt_children(self._client(), now.run_id, experiment_id=now.experiment_id, uuid=now.uuid)
        self._file.update(described=True)

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        run_tags = [RunTag(_name(key), str(value)[:_TAG_LENGTH]) for key, value in tags.items()]
        for chunk in _chunks(run_tags, _PARAMS_A_CALL):
            self._client().log_batch(self._file.now.run_id, tags=chunk)

    def _send_dataset(self, facts: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps(dict(facts), sort_keys=True)
        digest = str(facts.get("digest") or hashlib.sha256(source.encode()).hexdigest())[:_DIGEST_LENGTH]
        others = json.dumps({key: value for key, value in facts.items() if key not in ("name", "digest")})
        dataset = Dataset(str(facts.get("name", "dataset")), digest, "code", source, profile=others)
        context = InputTag("mlflow.data.context", "training")
        self._client().log_inputs(self._file.now.run_id, datasets=[DatasetInput(dataset, [context])])

    # ---- metrics

    def send_some(self, position: int) -> bool:
        """Send the first marks of the spool, some 250 metrics, that have not arrived and end at or before ``position``;
        return whether more are left."""
        if position > self._file.now.sent and not self._agreed:
            self._agree()
        start = self._file.now.sent
        group = next(_groups(read_spool(self._folder, start=start, end=position), start), None)
        if group is None:
            return False
        self._send_group(group)
        return group.end < position

    def _send_group(self, group: _Group) -> None:
        now = self._file.now
        doubtful = group.start < now.sending
        metrics = [metric for entry in group.entries for metric in self._missing(entry, doubtful=doubtful)]
        if group.end > now.sending:  # on disk before the call, as in _create_run
            self._file.update(sending=group.end, sending_entry=_identity(group.entries[-1]))
        for chunk in _chunks(metrics, _METRICS_A_CALL):
            self._client().log_batch(now.run_id, metrics=chunk)
        self._file.update(sent=group.end, sent_entry=_identity(group.entries[-1]))

    def _missing(self, entry: LoggedMark, *, doubtful: bool) -> Iterator[Metric]:
        """The metrics of a mark; where it is unknown what has arrived, without those that the server has."""
        from mlflow.entities import Metric

        rewound = entry.step <= self._file.now.rewound_to_step
        for key, value in entry.metrics.items():
            key = _name(key)
            times = self._points(key).get(entry.step, ()) if rewound or doubtful else ()
            if (rewound and times) or entry.time_ms in times:
                continue
            yield Metric(key, float(value), entry.time_ms, entry.step)

    def _points(self, key: str) -> dict[int, set[int]]:
        """The server's points of a metric: the times at each step."""
        if key not in self._history:
            points: dict[int, set[int]] = {}
            for point in self._client().get_metric_history(self._file.now.run_id, key):
                points.setdefault(point.step, set()).add(point.timestamp)
            self._history[key] = points
        return self._history[key]

    def _agree(self) -> None:
        """Check that the spool still holds what was sent from it. If it was cut below that, compare everything from the
        start, and send no second point for a step that has one."""
        now = self._file.now
        was_sent = {now.sent: now.sent_entry, now.sending: now.sending_entry}
        was_sent.pop(0, None)
        found = {entry.end: _identity(entry) for entry in read_spool(self._folder) if entry.end in was_sent}
        if found != was_sent:
            metrics = self._client().get_run(now.run_id).data.metrics
            last = max((step for key in metrics for step in self._points(key)), default=-1)
            logger.warning(
                "MLflow has metrics of %s up to step %d; the checkpoint that was resumed covers less. They stay, as no "
                "point can be deleted; what is trained again up to there adds no second point.",
                self._folder,
                last,
            )
            self._file.update(sent=0, sent_entry=None, sending=0, sending_entry=None, rewound_to_step=last)
        self._agreed = True

    # ---- the end

    def close(self) -> None:
        """Send artifacts, final tags and status. An artifact that fails stops neither the others nor the status; its
        error is raised at the end."""
        failed = self._send_artifacts()
        if self._file.now.final_tags:
            self._send_tags(self._file.now.final_tags)  # a repetition changes nothing
        now = self._file.now
        if not now.terminated:
            status = MLFLOW_STATUS.get(now.status, "FAILED")
            self._client().set_terminated(now.run_id, status=status, end_time=now.end_time_ms)
            self._file.update(terminated=True)
        if failed is not None:
            raise failed
        self._file.update(complete=True)

    def _send_artifacts(self) -> Exception | None:
        failed: Exception | None = None
        for name in self._file.now.artifacts:
            if name in self._file.now.sent_artifacts:
                continue
            path = self._folder / name  # an absolute name stays as it is
            if not path.exists():
                logger.warning("The artifact %s no longer exists and is left out.", path)
            else:
                inside = "" if Path(name).is_absolute() else Path(name).parent.as_posix()
                client = self._client()
                try:
                    client.log_artifact(self._file.now.run_id, str(path), None if inside in ("", ".") else inside)
                except Exception as error:
                    failed = error
                    continue
            self._file.update(sent_artifacts=(*self._file.now.sent_artifacts, name))
        return failed


def _identity(entry: LoggedMark) -> tuple[int, int]:
    return entry.step, entry.time_ms


def _groups(entries: Iterable[LoggedMark], start: int) -> Iterator[_Group]:
    """Groups of successive marks with at most 250 metrics together; a mark with more is a group by itself."""
    waiting: list[LoggedMark] = []
    num_metrics = 0
    for entry in entries:
        if waiting and num_metrics + len(entry.metrics) > _METRICS_A_GROUP:
            yield _Group(start, tuple(waiting))
            start, waiting, num_metrics = waiting[-1].end, [], 0
        waiting.append(entry)
        num_metrics += len(entry.metrics)
    if waiting:
        yield _Group(start, tuple(waiting))


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _name(text: str) -> str:
    """``text`` as a name that MLflow accepts: letters, digits and ``_-. :/``, and no path that can be shortened."""
    name = re.sub(r"[^\w\-. :/]" if os.name != "nt" else r"[^\w\-. /]", "_", text)[:_NAME_LENGTH]
    is_short = name == os.path.normpath(name).replace(os.sep, "/") and not name.startswith(("/", ".."))
    return name if is_short and name != "." else name.replace("/", "_").strip(".") or "_"


def _with_mlflow_names(tags: Mapping[str, str]) -> dict[str, str]:
    """``tags``, with the commit also under MLflow's name for the source version."""
    commit = tags.get("git_revision")
    return {**tags, **({"mlflow.source.git.commit": commit} if commit else {})}
