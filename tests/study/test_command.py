"""Studies from the command line, at the scale ``tiny``."""

import os
import subprocess
import sys
import time

import pytest

from dataecho_study.claims import read_claims
from dataecho_study.protocol import read_plan
from dataecho_study.results import Study
from dataecho_study.verdicts import judge
from tests.support import PROJECT

QUIET = ("tracking=none",)
pytestmark = pytest.mark.timeout(1200)  # on a machine that others load, too


class Command:
    """``python train.py -m ...`` in ``folder``."""

    def __init__(self, folder):
        self.folder, self.started = folder, []

    def start(self, *arguments):
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "train.py"), *arguments, *QUIET],
            cwd=self.folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments):
        process = self.start(*arguments)
        process.out, process.err = process.communicate(timeout=1000)
        return process

    def study(self, name):
        return Study.from_json((self.folder / "runs" / "studies" / name / "study.json").read_text())


@pytest.fixture
def command(tmp_path):
    made = Command(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def counts(study):
    """Everything of a study but times and what depends on them."""
    return {
        (cell.key, repeat.number): (repeat.seed, repeat.fresh, repeat.best, repeat.settings, repeat.run, repeat.border)
        for cell in study.cells
        for repeat in cell.repeats
    }


TINY = ("task=digits", "study.scale=tiny")


@pytest.mark.slow
@pytest.mark.parametrize("study", ["figure_3", "figure_6", "figure_7", "figure_8"])
def test_a_study_ends_in_its_report(command, study):
    process = command.run("-m", f"study={study}", *TINY)
    assert process.returncode == 0, process.err
    folder = command.folder / "runs" / "studies" / f"{study}-digits-tiny"
    found = command.study(folder.name)
    assert found.is_complete and found.name == study and found.scale == "tiny" and found.metric == "accuracy"
    assert all(len(cell.repeats) == 2 for cell in found.cells)
    assert f"study={study} study.scale=tiny task=digits" in found.command or f"study={study}" in found.command
    assert {path.name for path in folder.glob(f"{study}_digits.*")} == {f"{study}_digits.png", f"{study}_digits.svg"}
    assert "of all" not in process.out and f"Report of {study} digits: {folder / 'report.html'}" in process.out
    if study == "figure_8":
        assert all(repeat.train is not None for cell in found.cells for repeat in cell.repeats)


@pytest.mark.slow
def test_figure_4_runs_the_winners_of_figure_5_with_fresh_seeds(command):
    cells = "study.cells=[{echo:none,batch_size:64%s},{echo:before_augmentation,factor:2,batch_size:64%s}]"
    tuning = ("study=figure_5", *TINY, cells % ("", ""), "hydra.sweep.dir=tuned")
    assert command.run("-m", *tuning).returncode == 0
    ratios = ",throttle_ratio:[1,4]"
    found = ("study=figure_4", *TINY, cells % (ratios, ratios), "hydra.sweep.dir=found", "study.winners=tuned")
    process = command.run("-m", *found)
    assert process.returncode == 0, process.err
    tuned, found = (Study.from_json((command.folder / name / "study.json").read_text()) for name in ("tuned", "found"))
    assert found.is_tuned_once and found.is_complete and len(found.cells) == 4
    best = {cell.key: min(cell.repeats, key=lambda repeat: repeat.fresh) for cell in tuned.cells}
    for cell in found.cells:
        winner = best[cell.key.partition(",throttle_ratio")[0]]
        assert [repeat.settings for repeat in cell.repeats] == [winner.settings] * 2
        assert winner.seed not in [repeat.seed for repeat in cell.repeats]
        assert all(repeat.ratio > 0 for repeat in cell.repeats)


@pytest.mark.slow
def test_a_cell_is_tuned_once_and_then_runs_with_fresh_seeds(command):
    process = command.run("-m", "study=figure_3", *TINY, "study.tuned_once=true", "hydra.sweep.dir=once")
    assert process.returncode == 0, process.err
    study = Study.from_json((command.folder / "once" / "study.json").read_text())
    assert study.is_tuned_once and study.is_complete
    for cell in study.cells:
        assert len({repeat.seed for repeat in cell.repeats}) == len(cell.repeats) == 5
        assert len({str(repeat.settings) for repeat in cell.repeats}) == 1
    assert (command.folder / "once" / "tuning" / "echo=none" / "0").is_dir()


@pytest.mark.slow
def test_a_killed_and_continued_study_equals_an_unbroken_one(command):
    few = ("study.cells=[{echo:none},{echo:batch,factor:2}]",)
    assert command.run("-m", "study=figure_3", *TINY, *few, "hydra.sweep.dir=unbroken").returncode == 0
    for num_ended in (1, 3):
        process = command.start("-m", "study=figure_3", *TINY, *few, "hydra.sweep.dir=broken")
        deadline = time.monotonic() + 200
        while len(list((command.folder / "broken").rglob("summary.json"))) < num_ended:
            assert time.monotonic() < deadline and process.poll() is None, "too few trials ended"
            time.sleep(0.05)
        process.kill()
        process.communicate()
    again = subprocess.run(
        [sys.executable, "-m", "dataecho_study", "broken"], cwd=command.folder, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert not Study.from_json((command.folder / "broken" / "study.json").read_text()).is_complete
    assert "unfinished" in (command.folder / "broken" / "report.html").read_text()
    assert command.run("-m", "study=figure_3", *TINY, *few, "hydra.sweep.dir=broken").returncode == 0
    unbroken, broken = (
        Study.from_json((command.folder / name / "study.json").read_text()) for name in ("unbroken", "broken")
    )
    assert broken.is_complete and len(counts(broken)) == 4 and counts(broken) == counts(unbroken)
    claims = read_claims(read_plan(command.folder / "broken").claims)
    assert judge(broken, claims) == judge(unbroken, claims) != []


@pytest.mark.slow
def test_mistakes_are_told_before_anything_runs(command):
    for arguments, message in (
        (["study=figure_3"], "error: study=figure_3 cannot be used. Allowed: studies as a multirun"),
        (["-m", "study=figure_3", "echo=batch"], "error: echo=batch cannot be used. Allowed: settings that all cells"),
        (["-m", "study=figure_3", "seed=1,2"], "error: seed=1,2 cannot be used."),
        (["-m", "study=figure_4", *TINY], "allowed: the folder of a study figure_5 of task digits"),
    ):
        process = command.run(*arguments)
        assert process.returncode == 2
        assert message.lower() in " ".join(process.err.split()).lower(), process.err
    assert not list(command.folder.rglob("summary.json"))


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    again = subprocess.run([sys.executable, "-m", "dataecho_study", "."], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2 and "is no folder of a study" in again.stderr
