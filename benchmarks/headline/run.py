"""Wall time to a target over a slow network: the project's headline, measured. See docs/results/headline.md.

    apt-get install -y nginx-light iproute2       # the web server, which need not run as a service; ip and tc
    pip install webdataset==1.0.2                 # the peer, into the project's environment
    python -m benchmarks.headline.run             # half an hour, on a machine that does nothing else
    python -m benchmarks.headline.run --quick     # two minutes, to see that it runs

nginx serves tar shards of JPEG scenes over a slow line (slow_line.py), so slow that reading a fresh batch takes about
six times as long as a step (R). A small network is trained to a target, from the same data, with the same shuffle
buffer, decoding, augmentation, optimizer and line:

    webdataset         what a user would write instead: webdataset in PyTorch's DataLoader, a plain loop
    none               dataecho without echo
    2 to 6             dataecho, every example echoed so often before augmentation
    auto               dataecho with factor=auto
    none, local cache  dataecho without echo, fetched shards kept on the local disk: for honesty
    ..., batch 128     three of them with a batch that suits training without echo better: for honesty, too

Every run has a process of its own, and the arms take turns over the seeds. A run during which other programs took more
than 5 % of the machine is repeated, three times at most; the least disturbed counts, whatever it gave.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from rich.console import Console

from benchmarks.headline import dataset, slow_line
from benchmarks.headline.arms import ARMS, BYTES_PER_SECOND, ECHOED, NONE, Arm, run_once
from benchmarks.headline.machine import OtherPrograms, machine
from benchmarks.headline.report import Line, picture, read_lines, table
from benchmarks.headline.server import Server
from dataecho.environment import prepare

SEEDS = (205, 206, 207, 208)
MOST_FOREIGN, MOST_TRIES = 0.05, 4


def measured(arm: Arm, seed: int, server: Server, held_out: Path, output: TextIO, console: Console) -> None:
    """One run over the line, again if it was disturbed; every try becomes a line of ``output``."""
    for _ in range(MOST_TRIES):
        others = OtherPrograms(server.process)
        result = run_once(arm, arm.new_run(seed, where=server.url, held_out=held_out))
        traffic = server.take_traffic()
        line = Line(
            arm=arm.name,
            seed=seed,
            learning_rate=arm.learning_rate,
            other_programs=others.share(),
            num_bytes=traffic.num_bytes,
            busy_seconds=traffic.busy_seconds,
            result=result,
        )
        output.write(json.dumps(asdict(line)) + "\n")
        output.flush()
        console.print(str(line), highlight=False)
        if line.other_programs <= MOST_FOREIGN:
            return


def main() -> None:
    """Measure, save, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [arm.name for arm in ARMS]
    parser.add_argument("--data", type=Path, default=Path("runs/headline-data"), help="made if not there: 85 MB")
    parser.add_argument("--output", type=Path, default=Path("runs/headline"), help="folder of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--arms", nargs="+", choices=names, default=names)
    parser.add_argument("--bytes-per-second", type=float, default=BYTES_PER_SECOND, help="of the line")
    parser.add_argument("--quick", action="store_true", help="only one seed of none and 6")
    parser.add_argument("--report", action="store_true", help="only table and picture, of results that are there")
    options = parser.parse_args()
    prepare()
    console = Console(width=200)
    if options.quick:
        options.arms, options.seeds = [NONE.name, ECHOED[-1].name], SEEDS[:1]
    path = options.output / ("quick.jsonl" if options.quick else "results.jsonl")
    if not options.report:
        slow_line.enter()
        slow_line.limit(options.bytes_per_second)
        train, held_out = dataset.write(options.data)
        console.print(machine(), highlight=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as output, Server(train) as server:
            arms = [arm for arm in ARMS if arm.name in options.arms]
            for number, seed in enumerate(options.seeds):
                first = number % len(arms)
                for arm in (*arms[first:], *arms[:first]):
                    measured(arm, seed, server, held_out.resolve(), output, console)
    lines = read_lines(path)
    console.print("\n".join(table(lines)), highlight=False, soft_wrap=True)
    picture(lines, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
