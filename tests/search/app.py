"""A Hydra program whose runs take as long, end as they are told, and leave a summary as a run of ``train.py`` does."""

import errno
import os
import signal
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dataecho.report.summary import write_summary


@hydra.main(version_base="1.3", config_path="app_conf", config_name="config")
def main(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    begun = time.time()
    with open(folder / "attempts.txt", "a") as file:
        file.write(f"{begun} {os.getpid()}\n")
    time.sleep(config.seconds)
    if _above(config.dies_once_above, config.x) and len((folder / "attempts.txt").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if _above(config.fails_above, config.x):
        raise ValueError(f"x={config.x} is too much")
    if config.fails_while is not None and Path(config.fails_while).exists():
        raise OSError("no space left on the disk")
    if config.full_while is not None and Path(config.full_while).exists():
        raise OSError(errno.ENOSPC, "No space left on device")
    print("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS"))
    write_summary(
        folder,
        {
            "fresh_examples_to_target": None if config.misses else round(1000 * (1 + (config.x - 0.3) ** 2)),
            "eval_loss": abs(config.x - 0.7),
            "diverged": bool(_above(config.diverges_above, config.x)),
            "pruned": False,
            "metric": "accuracy",
            "accuracy": 1 - config.x,
            "seed": config.seed,
            "begun": begun,
            "ended": time.time(),
        },
    )


def _above(limit: float | None, x: float) -> bool:
    return limit is not None and x > limit


if __name__ == "__main__":
    main()
