"""An hour of training steps over a bad network, with worker processes that die: is anything lost, doubled or leaked?

    python -m benchmarks.engine.soak --minutes 60

Fifty archives behind a server on this machine that stalls, resets, cuts short and refuses, and of which one is broken;
item echo by 2.5; every ten seconds a worker process is killed. Each batch is compared with a plan of its own, row by
row. Every ten seconds memory, open files and threads are noted. At the end: some lines, a CSV file and a picture.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.stage import Stage
from dataecho.plan import keys as draws
from dataecho.plan.plan import Plan
from dataecho.sources.tar import TarSource
from tests.sources.http_server import Fault, HttpServer
from tests.sources.tar_files import write_tar

NUM_SHARDS, SHARD_LENGTH, BATCH_SIZE, SHUFFLE_BUFFER, FACTOR = 50, 40, 32, 512, 2.5
BROKEN_SHARD, STEP, BETWEEN_KILLS, BETWEEN_NOTES = 7, 0.04, 10.0, 10.0
FAULTS = (
    Fault(kind="reset", after=3000),
    Fault(kind="stall", after=9000),
    Fault(kind="cut", after=5000),
    Fault(status=503),
    Fault(status=429, retry_after="0"),
)


def decode(record: dict[str, Any]) -> dict[str, Any]:
    number = int(np.frombuffer(record["bin"][:8], np.int64)[0])
    if number < 0:
        raise ValueError("a broken example")
    return {"x": np.full(1024, number, np.float32)}


def shift(example: dict[str, Any], key: np.uint64) -> dict[str, Any]:
    return {"x": example["x"], "draw": draws.integers(key, draw=0, high=1 << 30)}


STAGES = (Stage("decode", decode, mutates_input=False), Stage("shift", shift, random=True, mutates_input=False))


def write_shards(folder: Path) -> None:
    for shard in range(NUM_SHARDS):
        sign = -1 if shard == BROKEN_SHARD else 1
        numbers = [sign * (SHARD_LENGTH * shard + k) for k in range(SHARD_LENGTH)]
        members = [(f"{k:03d}.bin", np.int64(number).tobytes() + bytes(4000)) for k, number in enumerate(numbers)]
        write_tar(folder / f"shard-{shard:02d}.tar", members)


def serve(folder: Path, seed: int) -> None:
    """In a process of its own: the archives, and a fault for some shard about four times a second."""
    server, draw = HttpServer(folder), random.Random(seed)
    print(server.url, flush=True)
    number = 0
    while os.getppid() != 1:
        time.sleep(0.25)
        path = f"shard-{draw.randrange(NUM_SHARDS):02d}.tar"
        if not server.faults[path]:
            server.fail(path, draw.choice(FAULTS))
        number += 1
        if number % 40 == 0:  # connections that stall are given up in the end
            server.released.set()
            server.released.clear()


def workers(server: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes that are alive."""
    return [child for child in psutil.Process().children() if child.pid != server.pid and child.is_running()]


def note(started: float, num_batches: int, num_killed: int, server: subprocess.Popen[str]) -> dict[str, float]:
    """Memory, open files and threads of this process and its workers now."""
    process = psutil.Process()
    children = workers(server)
    sizes = [child.memory_info().rss for child in children]
    return {
        "minutes": (time.monotonic() - started) / 60,
        "batches": num_batches,
        "killed": num_killed,
        "memory_mib": process.memory_info().rss / 2**20,
        "children_mib": sum(sizes) / 2**20,
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
        "processes": len(children),
    }


def check(batch: Any, planned: Any) -> None:
    """The rows are those of the plan; those of the broken shard have weight 0."""
    for column in ("ordinal", "shard", "k", "repeat"):
        np.testing.assert_array_equal(getattr(batch.planned, column), getattr(planned, column))
    broken = planned.shard == BROKEN_SHARD
    np.testing.assert_array_equal(batch.weights == 0, broken)
    numbers = (SHARD_LENGTH * planned.shard + planned.k)[~broken]
    np.testing.assert_array_equal(batch["x"][~broken], np.broadcast_to(numbers[:, None], (len(numbers), 1024)))


def soak(minutes: float, seed: int) -> tuple[list[dict[str, float]], dict[str, float]]:
    notes: list[dict[str, float]] = []
    draw, matrix = random.Random(seed), np.ones((64, 64), np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder)
        command = [sys.executable, "-m", "benchmarks.engine.soak", "--serve", str(folder), "--seed", str(seed)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        source = TarSource(
            f"{url}/shard-{{00..{NUM_SHARDS - 1}}}.tar",
            index_dir=str(folder / "index"),
            max_local_bytes=6 * (folder / "shard-00.tar").stat().st_size,
            num_retries=8,
            first_delay=0.05,
            timeout=1.0,
        )
        settings = PipelineSettings(num_processes=2, max_skipped_share=0.1, max_waiting=1)
        echo = {"batch_size": BATCH_SIZE, "shuffle_buffer": SHUFFLE_BUFFER, "seed": seed}
        lengths = dict.fromkeys(range(NUM_SHARDS), SHARD_LENGTH)
        plan = Plan(
            lengths, num_shards=NUM_SHARDS, factor=FACTOR, deal_shards=True, shuffle_items=source.random_access, **echo
        )
        num_batches = num_killed = num_skipped = 0
        with Feed(source, STAGES, echo_after="decode", factor=FACTOR, settings=settings, **echo) as feed:
            started = last_kill = last_note = time.monotonic()
            while time.monotonic() - started < 60 * minutes:
                batch = next(feed)
                check(batch, plan.take(1)[0])
                num_skipped += len(batch.skipped)
                matrix = np.minimum(matrix @ matrix, 1.0)
                batch.release()
                num_batches += 1
                if num_batches % 100 == 0:
                    feed.state(num_batches)
                time.sleep(STEP)
                now = time.monotonic()
                if now - last_kill > BETWEEN_KILLS:
                    last_kill = now
                    victims = workers(server)
                    if victims:
                        os.kill(draw.choice(victims).pid, signal.SIGKILL)
                        num_killed += 1
                if now - last_note > BETWEEN_NOTES:
                    last_note = now
                    notes.append(note(started, num_batches, num_killed, server))
                    print({key: round(value, 1) for key, value in notes[-1].items()}, flush=True)
            reading = feed.meter.read()
        server.kill()
    totals = {
        "batches": num_batches,
        "killed": num_killed,
        "restarts": reading.num_restarts,
        "skipped": num_skipped,
        "fetched_mib": reading.fetched_bytes / 2**20,
    }
    return notes, totals


def draw_picture(notes: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    minutes = [row["minutes"] for row in notes]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(minutes, [row["memory_mib"] for row in notes], label="this process")
    above.plot(minutes, [row["children_mib"] for row in notes], label="two worker processes")
    above.set_ylabel("memory, MiB")
    below.plot(minutes, [row["open_files"] for row in notes], label="open files")
    below.plot(minutes, [row["threads"] for row in notes], label="threads")
    below.set_ylabel("number")
    below.set_xlabel("minutes")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, loc="lower right")
    above.set_title("Soak: shards over a bad network, a worker process killed every ten seconds")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.seed)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    notes, totals = soak(given.minutes, given.seed)
    with (given.folder / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(notes[0]))
        writer.writeheader()
        writer.writerows(notes)
    draw_picture(notes, given.folder / "soak.png")
    half = len(notes) // 2
    for key in ("memory_mib", "children_mib", "open_files", "threads"):
        first, second = (float(np.median([row[key] for row in part])) for part in (notes[:half], notes[half:]))
        print(f"{key}: median {first:.1f} in the first half, {second:.1f} in the second")
    print(totals)


if __name__ == "__main__":
    main()
