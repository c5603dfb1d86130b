"""Trials on a Ray cluster: real nodes, all of them on this machine and heard on loopback alone."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from dataecho.errors import SettingError
from dataecho_search.workers import ray_trial
from dataecho_search.workers.ray_pool import RayPool
from dataecho_search.workers.trial_process import OUTPUT
from tests.search.workers.pool_contract import Attempts, PoolContract, collect, context, note, wait_for, wait_for_end
from tests.support import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # on a busy machine Ray starts slowly

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # servers bind to loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_health_check_period_ms": "500",  # a node that refuses connections is dead after five of these
}
_NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes, of one CPU and of two; the second one has two GPUs, as far as Ray knows."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: the name of a socket has 107 bytes at most
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "RAY_TMPDIR": folder}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**_NODE, "num_cpus": 1})
        cluster.add_node(**_NODE, num_cpus=2, num_gpus=2)
        yield cluster
        cluster.shutdown()
    shutil.rmtree(folder)


class TestRayPool(PoolContract):
    @pytest.fixture
    def pool_source(self, cluster):
        return (
            f"RayPool(context(folder), address={cluster.address!r})",
            "from dataecho_search.workers.ray_pool import RayPool",
        )


@pytest.fixture
def attempts(tmp_path):
    return Attempts(tmp_path, sys.modules[__name__])


# ---- functions that trials call


def meet(folder: Path) -> None:
    """Say where this is, and wait for the others."""
    import ray

    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    (folder / "place").write_text(f"{ray.get_runtime_context().get_node_id()} {devices}")
    while not (folder.parent / "go").exists():
        time.sleep(0.02)


def places(folder, keys):
    return {key: wait_for(folder / key / "place").split() for key in keys}


# ---- nodes


def test_a_lost_node_loses_no_trial(cluster, attempts, tmp_path):
    extra = cluster.add_node(**_NODE, num_cpus=1)
    with RayPool(context(tmp_path, num_slots=8), address=cluster.address) as pool:
        assert pool.num_slots == 4
        for key in "abcd":
            pool.submit(attempts.new(key, meet))
        met = places(tmp_path, "abcd")
        assert len({node for (node,) in met.values()}) == 3
        cluster.remove_node(extra, allow_graceful=False)
        ((key, lost),) = collect(pool, 1).items()
        assert met[key] == [extra.node_id]
        assert lost.is_lost and "the node it was running on is dead" in lost.reason
        (tmp_path / key / "place").unlink()
        pool.submit(attempts.new("again", meet, folder=key))
        while pool.num_slots != 3:
            time.sleep(0.1)
        (tmp_path / "go").touch()
        ended = collect(pool, 4)
        assert set(ended) == {*"abcd", "again"} - {key}
        assert all(completion.exit_code == 0 for completion in ended.values())
        assert wait_for(tmp_path / key / "place").split()[0] != extra.node_id


def halt_trial_on(node):
    """Halt the trial that ``node`` runs once it has a checkpoint, so that it cannot end before the node is lost. Return
    its process and its run folder, or None if there is no such trial."""
    for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            output = Path(os.readlink(f"/proc/{process.pid}/fd/1"))  # a trial prints into its run folder
            if output.name == OUTPUT and list(output.parent.glob("checkpoints/*")):
                process.suspend()
                if not (output.parent / "summary.json").exists():
                    return process, output.parent
                process.resume()
    return None


def test_a_sweep_loses_no_trial_with_a_node_in_the_middle(cluster, app):
    extra = cluster.add_node(**_NODE, num_cpus=2)
    sweep = app.start(
        "hydra/sweeper/pool=ray",
        f"hydra.sweeper.pool.address={cluster.address}",
        "hydra.sweeper.pool.cpus_per_trial=2",
        "hydra.sweeper.num_parallel_trials=8",
        "hydra.sweeper.threads_per_trial=1",
        "hydra.sweeper.num_trials=3",
        "optimizer.learning_rate=tag(log,interval(0.01,0.3))",
        *("echo=batch", "factor=2", "budget=fresh", "budget.fresh=12000", "task.eval_interval=1024"),
        "pipeline.throttle.examples_per_second=2000",  # no trial ends within six seconds: its node is lost before
        *("stop_at_target=false", "tracking=none", "display=none"),
        program=PROJECT / "train.py",
    )
    while not (halted := halt_trial_on(extra)):
        assert sweep.poll() is None, "the sweep has ended"
        time.sleep(0.02)
    process, lost = halted
    while not {path.parent for path in app.sweep_dir.rglob(OUTPUT)} - {lost}:  # until the other node runs a trial, too
        time.sleep(0.02)
    cluster.remove_node(extra, allow_graceful=False)
    process.kill()
    sweep.out, sweep.err = sweep.communicate()
    assert sweep.returncode == 0, sweep.err
    assert sweep.out.count("lost its worker (Task failed because the node it was running on is dead") == 1
    (result,) = app.results()
    assert [trial.state for trial in result.trials] == ["completed"] * 3
    assert len({trial.params["optimizer.learning_rate"] for trial in result.trials}) == 3
    for trial in result.trials:
        fresh = json.loads((app.sweep_dir / trial.folder / "summary.json").read_text())["fresh_examples"]
        assert 12000 - 64 < fresh <= 12000
        attempts = (app.sweep_dir / trial.folder / OUTPUT).read_text().count("Memory of the input side")
        assert attempts == 1 + (app.sweep_dir / trial.folder == lost)


def test_each_trial_has_its_own_gpu(cluster, attempts, tmp_path):
    with RayPool(context(tmp_path, num_slots=8), address=cluster.address, gpus_per_trial=1) as pool:
        assert pool.num_slots == 2
        for key in "ab":
            pool.submit(attempts.new(key, meet))
        met = places(tmp_path, "ab")
        assert {device for _, device in met.values()} == {"0", "1"}
        (tmp_path / "go").touch()
        assert all(completion.exit_code == 0 for completion in collect(pool, 2).values())


def test_a_trial_waits_for_a_process_that_still_writes_its_folder(cluster, attempts, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    lock = FileLock(tmp_path / "a" / "run.lock")
    with RayPool(context(tmp_path), address=cluster.address) as pool:
        with lock:
            pool.submit(attempts.new("a", note))
            assert not pool.wait(3)
        assert collect(pool, 1)["a"].exit_code == 0
    monkeypatch.setattr(ray_trial, "LOCK_TIMEOUT", 0.1)
    token = tmp_path / "token"
    token.touch()
    with lock:
        code, reason = ray_trial.run(str(token), str(tmp_path), str(tmp_path / "a"), b"")
    assert code is None and "still written" in reason


_LOCAL = """
import json, sys, time
from pathlib import Path
import psutil
from dataecho_search.workers.ray_pool import RayPool
from tests.search.workers.pool_contract import Attempts, context, stay, wait_for

folder = Path(sys.argv[1])
with RayPool(context(folder)) as pool:
    pool.submit(Attempts(folder, sys.modules["tests.search.workers.pool_contract"]).new("a", stay))
    wait_for(folder / "a" / "pids")
    processes = psutil.Process().children(recursive=True)
    ips = {c.laddr.ip for p in [psutil.Process(), *processes] for c in p.net_connections() if c.status == "LISTEN"}
    (folder / "found").write_text(json.dumps([[p.pid for p in processes], sorted(ips)]))
    time.sleep(600)
"""


def test_a_cluster_of_its_own_is_heard_on_loopback_alone_and_dies_with_its_owner(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    folder = tempfile.mkdtemp(prefix="ray-")
    environment |= {"PYTHONPATH": os.pathsep.join([*sys.path, str(PROJECT)]), "RAY_TMPDIR": folder}
    owner = subprocess.Popen([sys.executable, "-c", _LOCAL, str(tmp_path)], env=environment)
    try:
        processes, ips = json.loads(wait_for(tmp_path / "found", writer=owner))
    finally:
        owner.kill()
        owner.wait()
    assert set(map(int, (tmp_path / "a" / "pids").read_text().split())) < set(processes)
    assert all(ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1") for ip in ips) and ips
    for process in map(psutil.Process, filter(psutil.pid_exists, processes)):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "agent" in " ".join(process.cmdline()).lower():  # before and after it has renamed itself
                process.kill()  # it would end as well, when it has looked for its head for a minute
    wait_for_end(*processes)
    shutil.rmtree(folder)


# ---- what cannot be used


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "ray://10.0.0.1:10001"}, r"address=ray://10.0.0.1:10001 .* ray start --address=<host>:<port>"),
        ({"address": "head"}, r"address=head .* Ray could not be reached: invalid literal for int"),
        ({"address": "127.0.0.1:9"}, r"address=127.0.0.1:9 .* Ray could not be reached: .*refused"),
        ({"cpus_per_trial": 0}, r"cpus_per_trial=0 .* a whole number from 1 on"),
        ({"gpus_per_trial": 1.5}, r"gpus_per_trial=1.5 .* a fraction below 1"),
        ({"gpus_per_trial": -1}, r"gpus_per_trial=-1 "),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_starts(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        RayPool(context(tmp_path), **settings)


def test_a_trial_that_fits_on_no_node_is_refused(cluster, tmp_path):
    with pytest.raises(SettingError, match=r"cannot be used.*the most that any has: 2 CPUs, 2 GPUs"):
        RayPool(context(tmp_path), address=cluster.address, cpus_per_trial=3)


def test_a_folder_that_a_node_does_not_see_is_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "touch", lambda self: None)  # never arrives there
    with pytest.raises(SettingError, match=r"hydra.sweep.dir=.*file system that all nodes share.*is not shared with"):
        RayPool(context(tmp_path), address=cluster.address)


def test_ray_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"pip install 'dataecho\[ray\]'"):
        RayPool(context(tmp_path))
