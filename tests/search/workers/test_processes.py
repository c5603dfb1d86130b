"""Servers that trials are forked from: how they begin and end."""

import os
import signal
import time

import cloudpickle
import pytest

from dataecho_search.workers.pool import PoolContext, TrialAttempt
from dataecho_search.workers.processes import ProcessPool
from tests.search.conftest import alive
from tests.search.workers.pool_contract import PoolContract


class TestProcessPool(PoolContract):
    @pytest.fixture
    def pool_source(self):
        return "ProcessPool(context(folder), preload={})", "from dataecho_search.workers.processes import ProcessPool"


def payload(code):
    """In place of a trial: what the server unpacks runs ``code``, then ends with an exit code."""

    class Runs:
        def __reduce__(self):
            return (exec, (code,))

    return cloudpickle.dumps(Runs())


def job(folder, key, code, backend="one"):
    return TrialAttempt(key=key, backend=backend, folder=folder, payload=payload(code))


@pytest.fixture
def pool(tmp_path):
    context = PoolContext(
        folder=tmp_path, num_slots=2, threads_per_trial=1, environment={"OF_A_TRIAL": "yes"},
        modules={"one": ["json", "not_installed_anywhere"], "two": []},
    )  # fmt: skip
    with ProcessPool(context, preload={"two": ["csv"]}) as made:
        yield made


def wait(pool, num, seconds=20.0):
    done, deadline = {}, time.monotonic() + seconds
    while len(done) < num and time.monotonic() < deadline:
        for completion in pool.wait(0.2):
            assert completion.key not in done
            done[completion.key] = completion
    assert len(done) == num
    return done


def test_exit_codes_and_deaths_are_told_apart(pool, tmp_path):
    pool.submit(job(tmp_path, "a", "import os; os._exit(7)"))
    pool.submit(job(tmp_path, "b", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    done = wait(pool, 2)
    assert (done["a"].exit_code, done["a"].is_lost) == (7, False)
    assert done["b"].is_lost and done["b"].reason == "killed by SIGKILL"


def test_every_backend_has_a_server_of_its_own_with_its_modules(pool, tmp_path):
    tell = (
        "import sys, os, json\n"
        "open({!r}, 'w').write(json.dumps(['csv' in sys.modules, os.environ['OF_A_TRIAL']])); os._exit(0)"
    )
    pool.submit(job(tmp_path, "1", tell.format(str(tmp_path / "1")), "one"))
    pool.submit(job(tmp_path, "2", tell.format(str(tmp_path / "2")), "two"))
    wait(pool, 2)
    assert (tmp_path / "1").read_text() == '[false, "yes"]' and (tmp_path / "2").read_text() == '[true, "yes"]'


def test_a_server_that_dies_takes_its_trials_along_and_is_replaced(pool, tmp_path):
    sleep = "import os, time; open({!r}, 'w').write(f'{{os.getppid()}} {{os.getpid()}}'); time.sleep(60)"
    pool.submit(job(tmp_path, "a", sleep.format(str(tmp_path / "pids"))))
    deadline = time.monotonic() + 20
    while not (tmp_path / "pids").exists() or " " not in (tmp_path / "pids").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server, trial = map(int, (tmp_path / "pids").read_text().split())
    os.kill(server, signal.SIGKILL)
    assert wait(pool, 1)["a"].reason == "its server process died"
    time.sleep(0.2)
    assert not alive(trial)
    pool.submit(job(tmp_path, "b", "import os; os._exit(0)"))
    assert wait(pool, 1)["b"].exit_code == 0


def test_closing_leaves_nothing_behind(pool, tmp_path):
    grandchild = (
        "import os, subprocess, time; child = subprocess.Popen(['sleep', '60'])\n"
        "open({!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(60)"
    )
    pool.submit(job(tmp_path, "a", grandchild.format(str(tmp_path / "pids"))))
    deadline = time.monotonic() + 20
    while not (tmp_path / "pids").exists() or " " not in (tmp_path / "pids").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pool.close()
    time.sleep(0.3)
    assert not any(map(alive, map(int, (tmp_path / "pids").read_text().split())))
