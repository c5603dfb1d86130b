"""Records what today's code gives: ``python -m tests.golden.record``. Run it only where batches are meant to change.

Every kind of worker must agree before anything is written.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from dataecho.pipeline.engine.processes import WorkerPool
from tests.golden.feeds import ECHOES, SOURCES, WORKERS, digests, pass_digests, shards

FILE = Path(__file__).with_name("batches.json")


def main() -> None:
    recorded: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder, shards(Path(folder)) as url, WorkerPool() as pool:
        for source, (open_source, stages) in SOURCES.items():
            for echo, settings in ECHOES.items():
                found = [
                    digests(open_source(Path(folder), url), stages, settings, workers, pool)
                    for workers in WORKERS.values()
                ]
                assert all(one == found[0] for one in found), (source, echo, found)
                recorded[f"{source}: {echo}"] = found[0]
            once = [pass_digests(open_source(Path(folder), url), stages, workers, pool) for workers in WORKERS.values()]
            assert all(one == once[0] for one in once), (source, once)
            recorded[f"{source}: once through"] = once[0]
    FILE.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
