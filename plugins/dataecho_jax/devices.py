"""Where to compute: one device, with the threads that XLA has started."""

from __future__ import annotations

import logging
import os

import jax

from dataecho.errors import require
from dataecho.invocation import command
from dataecho.posix import usable_cores
from dataecho.training.contracts import AcceleratorSettings

DEVICES = ("auto", "cpu", "cuda", "tpu")


def find_device(settings: AcceleratorSettings) -> tuple[str, jax.Device]:
    """The name and the device to use. Raises :class:`SettingError` that lists what is there for one that is not."""
    require(
        settings.name in DEVICES,
        "accelerator",
        settings.name,
        allowed=", ".join(DEVICES),
        cure="backend=jax has no other; accelerator=auto takes the best there is.",
    )
    require(
        settings.devices == 1,
        "accelerator.devices",
        settings.devices,
        allowed="1 with backend=jax",
        cure="backend=torch trains on several devices.",
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    require(
        started == 1,
        "torchrun --nproc-per-node",
        started,
        allowed="1 with backend=jax, whose processes know nothing of each other",
        cure=f"Start {command()} itself, or use backend=torch.",
    )
    present = {name: devices[0] for name in ("tpu", "cuda", "cpu") if (devices := _devices(name))}
    name = next(iter(present)) if settings.name == "auto" else settings.name
    require(
        name in present,
        "accelerator",
        name,
        allowed=f"what this machine has: {', '.join(present)}",
        cure="Use accelerator=auto, or install a JAX build and driver for the device.",
    )
    return name, present[name]


def check_threads(compute_threads: int | None) -> int:
    """The number of threads that XLA computes with on the CPU. Raises :class:`SettingError` where ``compute_threads``
    asks for another one: it has been settled when JAX started."""
    asked = os.environ.get("PJRT_NPROC") or os.environ.get("NPROC")  # read by XLA's CPU client
    num_threads = max(1, int(asked)) if asked and asked.isdecimal() else usable_cores()
    require(
        compute_threads in (None, num_threads),
        "backend.compute_threads",
        compute_threads,
        allowed=f"null or {num_threads}, the number that XLA has taken",
        cure=f"Leave it out, or start with PJRT_NPROC={compute_threads} in the environment.",
    )
    return num_threads


def _devices(name: str) -> list[jax.Device]:
    log = logging.getLogger("jax")
    if log.level == logging.NOTSET:
        log.setLevel(logging.WARNING)  # what is not there is no news, but Hydra shows all that is logged
    try:
        return jax.local_devices(backend=name)
    except RuntimeError:  # this build or machine has no such thing
        return []
