"""TensorFlow's devices and threads, and the strategy that keeps one model on all devices."""

from __future__ import annotations

import os
import sys

from dataecho.backends.tensorflow_ranks import launched_ranks, strategy_of_workers
from dataecho.backends.tensorflow_start import tf, without_start_up_lines
from dataecho.errors import SettingError, require
from dataecho.posix import usable_cores
from dataecho.training.contracts import AcceleratorSettings

DEVICES = ("auto", "cpu", "cuda", "mps", "tpu")


def device_name(name: str) -> str:
    """The device for the setting ``accelerator``. Raises :class:`SettingError` with a list of the devices present."""
    present = ["cpu"]
    if tf.config.list_physical_devices("GPU"):
        present.insert(0, "mps" if sys.platform == "darwin" else "cuda")
    if tf.config.list_physical_devices("TPU") or "TPU_NAME" in os.environ:
        present.insert(0, "tpu")
    require(
        name in DEVICES,
        "accelerator",
        name,
        allowed=", ".join(DEVICES),
        cure="backend=tensorflow has no other; accelerator=auto takes the best there is.",
    )
    if name == "auto":
        return present[0]
    require(
        name in present,
        "accelerator",
        name,
        allowed=f"what this machine has: {', '.join(present)}",
        cure="Use accelerator=auto, or install a TensorFlow build and driver for the device.",
    )
    return name


def set_threads(number: int | None) -> None:
    """Compute with ``number`` threads; None keeps TensorFlow's default, or the number of an earlier run in this
    process."""
    if number is None:
        return
    require(number >= 1, "backend.compute_threads", number, allowed=">= 1", cure="Leave it out.")
    try:
        tf.config.threading.set_intra_op_parallelism_threads(number)
        tf.config.threading.set_inter_op_parallelism_threads(number)
    except RuntimeError as error:
        raise SettingError(
            "backend.compute_threads",
            number,
            allowed=f"{num_threads()}, with which TensorFlow has started in this process",
            cure="Leave it out, or start a new process: TensorFlow decides once.",
        ) from error


def num_threads() -> int:
    """The number of threads that compute one operation."""
    chosen = tf.config.threading.get_intra_op_parallelism_threads() or int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0))
    return chosen or usable_cores()


def set_deterministic(wanted: bool) -> None:
    """Use only deterministic operations, or any, for the rest of this process."""
    if wanted:
        tf.config.experimental.enable_op_determinism()
    else:
        from tensorflow.python.framework.config import disable_op_determinism  # no public function switches it off

        disable_op_determinism()


def new_strategy(name: str, settings: AcceleratorSettings, *, timeout: float) -> tf.distribute.Strategy:
    """One copy of the model on each of ``settings.devices`` devices called ``name``, in every process that
    ``TF_CONFIG`` names. The processes wait for each other at most ``timeout`` seconds.

    Raises :class:`SettingError` where there are fewer devices.
    """
    if name == "tpu":
        return _on_tpu(settings.devices)
    kind = "CPU" if name == "cpu" else "GPU"
    if kind == "GPU":
        _grow_memory()
    if launched_ranks() > 1:
        _show_devices(kind, settings.devices)
        return strategy_of_workers(timeout)
    if kind == "CPU":
        _divide_cpu(settings.devices)
    with without_start_up_lines():  # TensorFlow starts here
        present = len(tf.config.list_logical_devices(kind))
    _require_devices(settings.devices, present, of=f"{name} devices of this machine")
    places = [f"/{kind}:{number}" for number in range(settings.devices)]
    if settings.devices == 1:
        return tf.distribute.OneDeviceStrategy(places[0])
    on_cpu = tf.distribute.ReductionToOneDevice() if kind == "CPU" else None  # None: NCCL
    return tf.distribute.MirroredStrategy(places, cross_device_ops=on_cpu)


def _show_devices(kind: str, wanted: int) -> None:
    """A worker uses all GPUs that it sees, or its CPU: make ``wanted`` devices visible."""
    gpus = tf.config.list_physical_devices("GPU") if kind == "GPU" else []
    present = len(gpus) if gpus else 1
    _require_devices(wanted, present, of="devices that a process of several can have here")
    if tf.config.get_visible_devices("GPU") != gpus[:wanted]:
        tf.config.set_visible_devices(gpus[:wanted], "GPU")


def _on_tpu(wanted: int) -> tf.distribute.Strategy:
    """All cores of the TPU that ``TPU_NAME`` names, or of this machine."""
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=os.environ.get("TPU_NAME", "local"))
    if "TPU_NAME" in os.environ:
        tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    strategy = tf.distribute.TPUStrategy(resolver)
    require(
        wanted == strategy.num_replicas_in_sync,
        "accelerator.devices",
        wanted,
        allowed=f"{strategy.num_replicas_in_sync}, the cores of this TPU",
        cure="A TPU is used as a whole.",
    )
    return strategy


def _divide_cpu(wanted: int) -> None:
    """Divide the CPU into ``wanted`` devices, so that several devices can be tried on any machine."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if wanted <= len(tf.config.get_logical_device_configuration(cpu) or [cpu]):
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * wanted)
    except RuntimeError as error:
        present = len(tf.config.list_logical_devices("CPU"))
        raise SettingError(
            "accelerator.devices",
            wanted,
            allowed=f"at most {present}, with which TensorFlow has started in this process",
            cure="Start a new process: TensorFlow divides the CPU once.",
        ) from error


def _grow_memory() -> None:
    """Allocate memory when it is needed: other programs may use the device, too."""
    for device in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(device, True)
        except RuntimeError:  # TensorFlow has already started in this process, and the setting cannot change
            return


def _require_devices(wanted: int, present: int, *, of: str) -> None:
    require(
        wanted <= present,
        "accelerator.devices",
        wanted,
        allowed=f"at most {present}, the {of}",
        cure="Use fewer.",
    )
