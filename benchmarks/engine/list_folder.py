"""The cost of listing a folder of many files: seconds and memory of ``FolderSource``, in a process of its own.

    python -m benchmarks.engine.list_folder --num-files 1000000

Makes that many empty files in a temporary folder, in 1,000 class folders, and removes them afterwards: the disk needs
as many free inodes. The system has them in its cache then: a first listing from a disk takes longer.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_CLASSES = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-files", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where to make the files; default: the system's temporary folder")
    parser.add_argument("--listed", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listed is not None:
        print(json.dumps(listed(arguments.listed)))
        return
    folder = Path(tempfile.mkdtemp(prefix="list-folder-", dir=arguments.folder))
    try:
        started = time.perf_counter()
        write(folder, arguments.num_files)
        print(f"{arguments.num_files:,} files written in {time.perf_counter() - started:.1f} s", flush=True)
        for _ in range(arguments.repeats):
            command = [sys.executable, "-m", "benchmarks.engine.list_folder", "--listed", str(folder)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{found['num_files']:,} files listed in {found['seconds']:.2f} s; {found['memory']:.0f} MiB kept, "
                f"{found['peak']:.0f} MiB at most, beside {found['before']:.0f} MiB of the process",
                flush=True,
            )
    finally:
        shutil.rmtree(folder)


def write(folder: Path, num_files: int) -> None:
    for number in range(NUM_CLASSES):
        place = folder / f"n{number:08d}"
        place.mkdir()
        for k in range(number, num_files, NUM_CLASSES):
            (place / f"n{number:08d}_{k}.JPEG").touch()


def listed(folder: str) -> dict[str, float]:
    from dataecho.sources.folder import FolderSource

    before = resident()
    started = time.perf_counter()
    source = FolderSource(folder)
    seconds = time.perf_counter() - started
    return {
        "num_files": source.num_examples(0),
        "seconds": seconds,
        "before": before,
        "memory": resident() - before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
    }


def resident() -> float:
    """MiB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
