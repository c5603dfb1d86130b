"""The public surface is ``dataecho.__all__``: documented, with examples that run, typed, and cheap to import."""

import doctest
import inspect
import re
import subprocess
import sys

import pytest

import dataecho
from tests.support import PROJECT

PAGE = (PROJECT / "docs/reference/api.md").read_text()

#: A user's file that takes every public name as its page says.
USERS_FILE = """
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import dataecho
from dataecho import ArraySource, Batch, DataError, Evaluator, Feed, FolderSource, ManifestSource, MapStyleSource
from dataecho import ParquetSource, PipelineSettings, SettingError, Source, Stage, TarSource, Task, WeightedMeans, keys
from dataecho import once_through


def jitter(example: dict[str, NDArray[np.float32]], key: np.uint64) -> dict[str, NDArray[np.float32]]:
    return {"x": example["x"] + np.float32(keys.uniform(key, draw=0)) + keys.integers(key, draw=1, high=2)}


class Line(Task):
    @property
    def name(self) -> str:
        return "line"

    @property
    def metric(self) -> str:
        return "eval_loss"

    @property
    def higher_is_better(self) -> bool:
        return False

    def train_source(self) -> Source:
        return ArraySource({"x": np.zeros(100, np.float32)})

    def eval_source(self) -> Source:
        return FolderSource("pets", classes=["cat"], num_retries=2)

    def stages(self) -> Sequence[Stage]:
        return [Stage("jitter", jitter, random=True)]

    def eval_stages(self) -> Sequence[Stage]:
        return []

    def evaluator(self) -> Evaluator:
        return WeightedMeans({"eval_loss": "loss"})


def sources(dataset: list[tuple[float, int]]) -> list[Source]:
    tar = TarSource(["a.tar"], fields={"image": "jpg"}, num_fetches=2)
    table = ParquetSource("a.parquet", columns=["x"], shuffle_rows=True)
    return [tar, table, ManifestSource("list.csv"), MapStyleSource(dataset, fields=["x", "label"])]


def train(task: Task) -> int:
    fresh = 0
    settings = PipelineSettings(num_threads=1)
    try:
        source, stages = task.train_source(), task.stages()
        with Feed(
            source, stages, batch_size=4, shuffle_buffer=8, seed=0, echo_after="read", factor=2.5, settings=settings
        ) as feed:
            batch: Batch = next(feed)
            fresh += batch.planned.num_fresh
            state: dict[str, object] = feed.state(1)
        with once_through(source, [], batch_size=4) as batches:
            for one in batches:
                fresh += len(one["x"])
    except (SettingError, DataError) as error:
        print(error, dataecho.__version__, state)
    return fresh
"""


def test_the_page_shows_exactly_the_public_names():
    assert sorted(re.findall(r"^::: dataecho\.(\S+)$", PAGE, flags=re.MULTILINE)) == sorted(dataecho.__all__)
    assert dataecho.__all__ == sorted(set(dataecho.__all__)) and set(dataecho.__all__) <= set(dir(dataecho))


@pytest.mark.parametrize("name", dataecho.__all__)
def test_a_public_name_has_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(dataecho, name), name=name, globs={})
    assert f" {name}" in example.docstring.partition("import")[2]  # it takes the name from where a user does
    told = []
    result = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(example, out=told.append)
    assert result.failed == 0 and result.attempted > 1, "".join(told)


@pytest.mark.parametrize("name", dataecho.__all__)
def test_a_public_name_says_what_it_raises(name):
    """An error says instead what it is."""
    text = inspect.getdoc(getattr(dataecho, name))
    assert re.search(r"Raises|raises|A ``\w+Error``|is a ``KeyError``", text), name


def test_importing_dataecho_imports_nothing_else_and_no_public_name_needs_a_framework():
    code = (
        "import sys, dataecho; assert 'numpy' not in sys.modules\n"
        "for name in dataecho.__all__: getattr(dataecho, name)\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    heavy = {"hydra", "jax", "keras", "matplotlib", "mlflow", "omegaconf", "optuna", "ray", "tensorflow", "torch"}
    assert not heavy & set(done.stdout.split())


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'dataecho' has no attribute 'Fede'"):
        dataecho.Fede  # noqa: B018


@pytest.mark.slow
def test_a_users_file_passes_a_strict_type_checker(tmp_path):
    program = tmp_path / "line.py"
    program.write_text(USERS_FILE)
    assert set(re.findall(r"\w+", USERS_FILE)) >= set(dataecho.__all__)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(tmp_path), "line.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout) == (0, "Success: no issues found in 1 source file\n")
    program.write_text(USERS_FILE.replace("seed=0", "sead=0"))
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert 'Unexpected keyword argument "sead" for "Feed"' in wrong.stdout
