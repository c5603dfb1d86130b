"""Runs trials as tasks of a Ray cluster, on several machines, with the CPUs and GPUs that a trial needs.

Ray places and watches trials and never repeats one: the sweep learns of a lost worker or node, and continues the trial
from its checkpoint. See ``docs/guides/search_ray.md``.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from dataecho.errors import SettingError, require
from dataecho.extras import package
from dataecho_search.workers import ray_trial
from dataecho_search.workers.pool import Completion, Pool, PoolContext, TrialAttempt

_KEY = "hydra.sweeper.pool"
_SECONDS_TO_ANSWER = 60.0
_SECONDS_TO_CONNECT = 10.0
_SECONDS_TO_END = 10.0
_OBJECT_STORE = 80 * 2**20  # Ray's minimum: trials write their results into folders


@final
class RayPool(Pool):
    """Uses the cluster at ``address``: ``host:port`` of its head, ``auto`` for the cluster of this machine, None for a
    new cluster of this machine alone. ``cpus_per_trial``: None for one CPU per compute thread; ``gpus_per_trial`` may
    be a fraction where trials share a GPU."""

    def __init__(
        self,
        context: PoolContext,
        *,
        address: str | None = None,
        cpus_per_trial: int | None = None,
        gpus_per_trial: float = 0,
    ) -> None:
        cpus = context.threads_per_trial if cpus_per_trial is None else cpus_per_trial
        _check(address, cpus, gpus_per_trial)
        self._context = context
        self._resources = {"CPU": cpus, "GPU": gpus_per_trial}
        self._running: dict[Any, str] = {}
        self._token = context.folder / f"ray-{secrets.token_hex(8)}.token"
        self._ray = _import_ray(is_local=address is None)
        _connect(self._ray, address, {**context.environment, "PYTHONPATH": os.pathsep.join(_import_path())})
        try:
            self._token.touch()
            self._check_nodes()
        except BaseException:
            self.close()
            raise
        self._task = self._remote(ray_trial.run, num_cpus=cpus, num_gpus=gpus_per_trial, scheduling_strategy="SPREAD")

    @property
    def num_slots(self) -> int:
        """The number of trials that fit on the living nodes, at least one: it waits for a node to come back."""
        return max(1, min(self._context.num_slots, sum(self._capacity(node) for node in self._nodes())))

    def submit(self, attempt: TrialAttempt) -> None:
        task = self._task.options(name=f"trial {attempt.key}")
        reference = task.remote(str(self._token), str(Path.cwd()), str(attempt.folder), attempt.payload)
        self._running[reference] = attempt.key

    def wait(self, timeout: float) -> Sequence[Completion]:
        if not self._running:
            time.sleep(timeout)
            return []
        done, rest = self._ray.wait(list(self._running), timeout=timeout)
        if done and rest:
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [self._completion(reference, self._running.pop(reference)) for reference in done]

    def interrupt(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=False, recursive=False)  # the trial receives it as SIGINT

    def close(self) -> None:
        if not self._ray.is_initialized():
            return
        for reference in self._running:
            self._ray.cancel(reference, force=True, recursive=False)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_SECONDS_TO_END)
        self._running.clear()
        self._token.unlink(missing_ok=True)
        self._ray.shutdown()

    def _remote(self, function: Any, **options: Any) -> Any:
        """Make ``function`` a task with a process of its own, which Ray does not repeat."""
        return self._ray.remote(max_calls=1, max_retries=0, **options)(function)

    def _completion(self, reference: Any, key: str) -> Completion:
        try:
            code, reason = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # a node that joined later failed the check
            raise _unusable_node(self._context.folder, str(error).strip().splitlines()[-1]) from None
        except self._ray.exceptions.RayError as error:
            return Completion(key=key, exit_code=None, reason=". ".join(str(error).split(". ")[:2]))
        return Completion(key=key, exit_code=code, reason=reason)

    # ---- nodes

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _capacity(self, node: dict[str, Any]) -> int:
        """The number of trials that ``node`` runs at a time."""
        has = node["Resources"]
        return min(int(has.get(name, 0) / per_trial) for name, per_trial in self._resources.items() if per_trial)

    def _check_nodes(self) -> None:
        """Raise :class:`SettingError` where a trial fits on no node, or a node lacks the folder or the code."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in self._nodes() if self._capacity(node)]
        if not nodes:
            largest = ", ".join(
                f"{max((node['Resources'].get(name, 0) for node in self._nodes()), default=0):g} {name}s"
                for name in self._resources
            )
            raise SettingError(
                f"{_KEY}.cpus_per_trial, {_KEY}.gpus_per_trial",
                ", ".join(f"{value:g}" for value in self._resources.values()),
                allowed=f"what one node has; the most that any has: {largest}",
                cure="Ask for less, or start a node that has it.",
            )
        check = self._remote(ray_trial.check_node, num_cpus=0)
        checks = {}
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            reference = check.options(scheduling_strategy=strategy).remote(str(self._token), str(Path.cwd()))
            checks[reference] = node["NodeManagerAddress"]
        _, silent = self._ray.wait(list(checks), num_returns=len(checks), timeout=_SECONDS_TO_ANSWER)
        for reference, address in checks.items():
            if reference in silent:
                raise _unusable_node(self._context.folder, f"The node {address} does not answer")
            try:
                self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                reason = str(error).strip().splitlines()[-1]
                raise _unusable_node(self._context.folder, f"The node {address} said: {reason}") from None
            except (
                self._ray.exceptions.NodeDiedError
            ):  # the node was lost meanwhile: another one may serve, or it comes back
                pass


def _check(address: str | None, cpus: float, gpus: float) -> None:
    require(
        address is None or "://" not in address,
        f"{_KEY}.address",
        address,
        allowed="null (this machine alone), auto, <host>:<port> of the cluster's head",
        cure="The sweep runs on a machine of the cluster: make this one a node with ray start --address=<host>:<port>, "
        "with --num-cpus=0 if it shall run no trials.",
    )
    require(
        cpus >= 1,
        f"{_KEY}.cpus_per_trial",
        cpus,
        allowed="a whole number from 1 on, or null for as many as compute threads",
        cure="null is the default.",
    )
    require(
        0 <= gpus < 1 or gpus == int(gpus) > 0,
        f"{_KEY}.gpus_per_trial",
        gpus,
        allowed="0, a whole number, or a fraction below 1 for trials that share a GPU",
        cure="0 is the default.",
    )


def _import_ray(*, is_local: bool) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if is_local:  # a cluster of its own listens on loopback only, and takes this process's token only
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # makes its servers bind to loopback
        os.environ.setdefault("RAY_enable_metrics_collection", "0")
        if not any(name.startswith("RAY_AUTH_") for name in os.environ):
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    return package("ray", key="hydra/sweeper/pool", value="ray")


def _connect(ray: Any, address: str | None, environment: dict[str, str]) -> None:
    own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE} if address is None else {}
    try:
        if address not in (None, "auto"):
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()
        ray.init(
            address=address or "local",  # Ray's own None would read RAY_ADDRESS first
            runtime_env={"env_vars": environment, **_quoted_executable()},
            log_to_driver=False,  # trials print into their folders
            logging_level="ERROR",
            configure_logging=False,
            **own,
        )
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise SettingError(
            f"{_KEY}.address",
            address,
            allowed="null (this machine alone), auto, <host>:<port> of the cluster's head",
            cure=f"Ray could not be reached: {error}",
        ) from error


def _quoted_executable() -> dict[str, str]:
    """Ray gives the path of each node's Python to a shell without quotes. Where this one's needs quotes, all nodes get
    it, quoted."""
    quoted = shlex.quote(sys.executable)
    return {} if quoted == sys.executable else {"py_executable": quoted}


def _import_path() -> list[str]:
    """The folders from which this process imports what is not installed; nodes must see them, or install it."""
    standard, installed = sysconfig.get_path("stdlib"), ("site-packages", "dist-packages")
    return [
        path
        for path in map(os.path.abspath, sys.path)
        if os.path.isdir(path) and not path.startswith(standard) and not any(name in path for name in installed)
    ]


def _unusable_node(folder: Path, reason: str) -> SettingError:
    return SettingError(
        "hydra.sweep.dir",
        str(folder),
        allowed="a folder on a file system that all nodes share, with this code and its packages on each of them",
        cure=f"{reason}.",
    )
