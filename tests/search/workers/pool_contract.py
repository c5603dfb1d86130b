"""The contract tests of every pool, with real trials: Hydra composes them, processes run them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext
from omegaconf import open_dict

from dataecho_search.workers import trial_process
from dataecho_search.workers.pool import Completion, Pool, PoolContext, TrialAttempt
from tests.search.conftest import alive
from tests.support import PROJECT

Function = Callable[[Any], None]


def context(folder: Path, *, num_slots: int = 2) -> PoolContext:
    """What a sweep would build a pool from; trials know by a variable how many threads they have."""
    return PoolContext(
        folder=folder,
        num_slots=num_slots,
        threads_per_trial=1,
        modules={"none": ["dataecho_search.workers.preloaded"]},
        environment={"OMP_NUM_THREADS": "1"},
    )


class Attempts:
    """Makes attempts at trials of a sweep in ``folder``; each calls a function with its run folder."""

    def __init__(self, folder: Path, module: ModuleType) -> None:
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        cloudpickle.register_pickle_by_value(module)
        self._folder = folder
        conf = folder / "conf"
        conf.mkdir()
        (conf / "config.yaml").write_text(
            "defaults: [override hydra/job_logging: disabled]\nhydra: {output_subdir: null}\n"
        )
        with initialize_config_dir(str(conf), version_base="1.3"):
            self._config = compose("config", return_hydra_config=True)
            self._context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
        with open_dict(self._config):
            self._config.hydra.runtime.cwd = str(folder)

    def new(self, key: str, function: Function, *, folder: str | None = None) -> TrialAttempt:
        run_folder = self._folder / (folder or key)
        sweep = trial_process.pack_sweep(self._context, lambda config: function(run_folder), self._config)
        trial = trial_process.TrialSpec(
            overrides=[], number=0, sweep_dir=self._folder, subdir=run_folder.name, link=None, submitted=0.0
        )
        return TrialAttempt(key=key, backend="none", folder=run_folder, payload=trial_process.pack_trial(sweep, trial))


def collect(pool: Pool, number: int) -> dict[str, Completion]:
    """The next ``number`` completions, by key."""
    found: dict[str, Completion] = {}
    while len(found) < number:
        for completion in pool.wait(0.5):
            assert completion.key not in found
            found[completion.key] = completion
    return found


def wait_for(path: Path, *, writer: subprocess.Popen[bytes] | None = None) -> str:
    while not path.exists() or not path.read_text():
        assert writer is None or writer.poll() is None, "its writer ended"
        time.sleep(0.02)
    return path.read_text()


def wait_for_end(*pids: int | str) -> None:
    """Wait until all processes have ended; as everywhere here, pytest's timeout is the only limit."""
    while any(alive(int(pid)) for pid in pids):
        time.sleep(0.02)


# ---- functions that trials call


def note(folder: Path) -> None:
    (folder / "noted").write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")


def note_server(folder: Path) -> None:
    (folder / "noted").write_text(os.environ["MLFLOW_TRACKING_URI"])


def end_with_3(folder: Path) -> None:
    print("this is printed")
    sys.exit(3)


def fail(folder: Path) -> None:
    raise ValueError("no such thing")


def be_killed_once(folder: Path) -> None:
    if not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def stay(folder: Path) -> None:
    child = subprocess.Popen(["sleep", "600"])
    (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def train(folder: Path) -> None:
    """As a run does: after a signal, one more step and a checkpoint."""
    from dataecho.training.interruption import Interruption

    with Interruption() as interruption:
        (folder / "pid").write_text(str(os.getpid()))
        while not interruption.signal_number:
            time.sleep(0.02)
        time.sleep(0.2)
        (folder / "checkpoint").touch()
    sys.exit(128 + interruption.signal_number)


_OWNER = """
import sys, time
from pathlib import Path
from tests.search.workers import pool_contract
from tests.search.workers.pool_contract import Attempts, context, stay
{imports}
folder = Path(sys.argv[1])
with {pool} as pool:
    pool.submit(Attempts(folder, pool_contract).new("a", stay))
    time.sleep(600)
"""


class PoolContract:
    """Subclass it with a fixture ``pool_source``: an expression that makes a pool of two slots from
    ``context(folder)``, and the import that it needs."""

    @pytest.fixture
    def pool(self, pool_source: tuple[str, str], tmp_path: Path) -> Iterator[Pool]:
        expression, imports = pool_source
        names = {"context": context, "folder": tmp_path}
        exec(imports, names)
        with eval(expression, names) as pool:
            yield pool

    @pytest.fixture
    def attempts(self, tmp_path: Path) -> Attempts:
        return Attempts(tmp_path, sys.modules[type(self).__module__])

    def test_attempts_know_the_mlflow_server_of_the_sweep(
        self, pool: Pool, attempts: Attempts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also on machines whose own environment names none."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
        pool.submit(attempts.new("server", note_server))
        assert collect(pool, 1)["server"].exit_code == 0
        assert wait_for(tmp_path / "server" / "noted") == "http://mlflow.example:5000"

    def test_jobs_run_in_processes_of_their_own_and_say_how_they_ended(
        self, pool: Pool, attempts: Attempts, tmp_path: Path
    ) -> None:
        assert pool.num_slots == 2
        began = time.monotonic()
        assert not pool.wait(0.3)
        assert time.monotonic() - began >= 0.25
        pool.submit(attempts.new("a", note))
        pool.submit(attempts.new("b", note))
        ended = collect(pool, 2)
        pool.submit(attempts.new("three", end_with_3))
        pool.submit(attempts.new("fails", fail))
        ended |= collect(pool, 2)
        codes = {key: completion.exit_code for key, completion in ended.items()}
        assert codes == {"a": 0, "b": 0, "three": 3, "fails": 1}
        assert not any(completion.is_lost for completion in ended.values())
        notes = [wait_for(tmp_path / key / "noted").split() for key in "ab"]
        assert [threads for _, threads in notes] == ["1", "1"]
        assert len({os.getpid(), *(int(pid) for pid, _ in notes)}) == 3
        assert "this is printed" in (tmp_path / "three" / trial_process.OUTPUT).read_text()
        assert (tmp_path / "fails" / trial_process.ERROR).read_text() == "ValueError: no such thing\n"
        pool.submit(attempts.new("killed", be_killed_once))
        (lost,) = collect(pool, 1).values()
        assert lost.key == "killed" and lost.is_lost and lost.reason
        pool.submit(attempts.new("again", be_killed_once, folder="killed"))
        (again,) = collect(pool, 1).values()
        assert again.key == "again" and again.exit_code == 0

    def test_jobs_end_one_by_one_when_interrupted_and_when_the_pool_is_closed(
        self, pool: Pool, attempts: Attempts, tmp_path: Path
    ) -> None:
        pool.submit(attempts.new("long", train))
        pool.submit(attempts.new("short", note))
        assert list(collect(pool, 1)) == ["short"]
        assert alive(int(wait_for(tmp_path / "long" / "pid")))
        pool.interrupt()
        (interrupted,) = collect(pool, 1).values()
        assert interrupted.exit_code in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert (tmp_path / "long" / "checkpoint").exists()
        pool.submit(attempts.new("endless", stay))
        pids = wait_for(tmp_path / "endless" / "pids").split()
        pool.close()
        wait_for_end(*pids)
        pool.close()

    def test_no_job_outlives_an_owner_that_is_killed(self, pool_source: tuple[str, str], tmp_path: Path) -> None:
        expression, imports = pool_source
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER.format(pool=expression, imports=imports), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(PROJECT)])},
        )
        try:
            pids = wait_for(tmp_path / "a" / "pids", writer=owner).split()
        finally:
            owner.kill()
            owner.wait()
        wait_for_end(*pids)
