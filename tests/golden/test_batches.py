"""Ids, batches and states are those that were recorded, whatever works on them."""

import json

import pytest

from dataecho.pipeline.engine.processes import WorkerPool
from tests.golden.feeds import ECHOES, SOURCES, WORKERS, digests, pass_digests, shards
from tests.golden.record import FILE

RECORDED = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with shards(folder) as url:
        yield folder, url


@pytest.fixture(scope="module")
def pool():
    with WorkerPool() as pool:
        yield pool


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("workers", WORKERS)
def test_batches_are_those_that_were_recorded(served, pool, source, workers):
    open_source, stages = SOURCES[source]
    for echo, settings in ECHOES.items():
        found = digests(open_source(*served), stages, settings, WORKERS[workers], pool)
        assert found == RECORDED[f"{source}: {echo}"], echo
    assert pass_digests(open_source(*served), stages, WORKERS[workers], pool) == RECORDED[f"{source}: once through"]
