"""Real MLflow on a real sqlite file; and MLflow's own server, with faults put in front of it."""

import json
import shutil
import socket
import threading
import time
from collections import deque

import pytest

from dataecho.training.contracts import RunInfo
from dataecho.training.spool import Spool


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """One new database for all tests: creating one takes 4 seconds, copying it none."""
    from dataecho.tracking.connection import open_client

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    open_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(tmp_path, empty_database):
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_database, path)
    return path


@pytest.fixture
def uri(database):
    return f"sqlite:///{database}"


class Run:
    """A run folder with its spool, as a trainer writes it: a mark is an entry with three metrics."""

    def __init__(self, folder, *, position=0, clock=1_700_000_000_000, **info):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.spool = Spool(folder, position=position)
        self.clock = clock
        facts = {"name": "digits", "digest": "d" * 50, "num_examples": 1797}
        defaults = {"params": {"factor": 2.0, "echo.after": "decode"}, "tags": {"git_revision": "abc123"}}
        self.info = RunInfo(folder=folder, name="first", dataset=facts, **{**defaults, **info})

    def mark(self, mark):
        metrics = {"train_loss": 1 / (mark + 1), "eval/accuracy": mark / 100, "steps": 10 * mark}
        self.spool.append(100 * mark, metrics, time_ms=self.clock + mark)
        self.spool.flush()
        return self.spool.position

    def marks(self, *marks):
        return [self.mark(mark) for mark in marks][-1]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def new_run(tmp_path):
    """Makes runs, by default in the folder of ``run``, so that one is resumed."""
    return lambda name="run", **options: Run(tmp_path / name, **options)


class Calls:
    """Every call of a client to MLflow, in order; ``before`` and ``after`` may raise, as a network does."""

    METHODS = (
        *("get_experiment_by_name", "create_experiment", "create_run", "search_runs", "get_run", "update_run"),
        *("delete_run", "log_batch", "log_inputs", "get_metric_history", "log_artifact", "set_terminated", "set_tag"),
        *("get_experiment", "set_experiment_tag"),
    )

    def __init__(self, monkeypatch):
        from mlflow import MlflowClient

        self.names = []
        self.points = []  # (key, step, time) of all metrics that were sent and arrived
        self.before = self.after = lambda number, name: None
        for name in self.METHODS:
            monkeypatch.setattr(MlflowClient, name, self._wrapped(name, getattr(MlflowClient, name)))

    def _wrapped(self, name, method):
        def call(client, *args, **options):
            number = len(self.names)
            kind = name + "".join(f":{what}" for what in ("metrics", "params", "tags") if options.get(what))
            self.names.append(kind if name == "log_batch" else name)
            self.before(number, self.names[number])
            result = method(client, *args, **options)
            self.points += [(metric.key, metric.step, metric.timestamp) for metric in options.get("metrics", ())]
            self.after(number, self.names[number])
            return result

        return call


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


class FaultyServer:
    """MLflow's server in a thread. ``faults`` are used up by the next requests: ``fail`` answers 500 and ``deny`` 401
    without doing the work, ``lose`` does it and answers 500, ``hang`` answers only when the server is released. With
    ``loses_first`` the first answer of every kind is lost."""

    def __init__(self, app):
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *args):
                pass

        self.faults = deque()
        self.loses_first = False
        self.requests = []
        self._app = app
        self._released = threading.Event()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def _answer(self, environ, start_response):
        kind = environ["PATH_INFO"].rpartition("/mlflow/")[2]
        fault = self.faults.popleft() if self.faults else ""
        if self.loses_first and kind not in self.requests:
            fault = "lose"
        self.requests.append(kind)
        if fault == "hang":
            self._released.wait(60)
        if fault == "lose":
            list(self._app(environ, lambda *answer: None))
        if not fault:
            return self._app(environ, start_response)
        if fault == "deny":
            start_response("401 Unauthorized", [("Content-Type", "text/plain")])
            return [b"You are not authenticated."]
        start_response("500 Internal Server Error", [("Content-Type", "application/json")])
        return [json.dumps({"error_code": "INTERNAL_ERROR", "message": "the test says no"}).encode()]

    def release(self):
        self.faults.clear()
        self._released.set()

    def stop(self):
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(database, tmp_path, monkeypatch):
    from mlflow.server import app, handlers
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{database}", str(tmp_path / "artifacts"))
    monkeypatch.setattr(handlers, "_tracking_store", store)
    server = FaultyServer(app)
    yield server
    server.stop()


@pytest.fixture
def history(uri):
    """Reads back (step, time, value) of every point, by metric, of the only run in the database."""
    from mlflow import MlflowClient

    def read(run_id=None):
        client = MlflowClient(uri)
        run_id = run_id or only_run(client).info.run_id
        keys = client.get_run(run_id).data.metrics
        points = {key: client.get_metric_history(run_id, key) for key in keys}
        return {key: sorted((p.step, p.timestamp, p.value) for p in found) for key, found in points.items()}

    return read


def only_run(client):
    (run,) = all_runs(client)
    return run


def all_runs(client):
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments)


def dead_address():
    """An address on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(uri)


@pytest.fixture
def stored_run(client):
    """Reads the only run in the database; fails if there are more."""
    return lambda: only_run(client)


@pytest.fixture
def wait_until():
    def wait(condition, seconds=30):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)

    return wait
