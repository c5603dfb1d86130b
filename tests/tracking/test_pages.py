"""A person looks at a real sweep: MLflow's own pages, in a real browser."""

import json
import subprocess
import sys

import pytest
from selenium.webdriver.common.by import By

from tests.support import PROJECT
from tests.tracking.pages import chromium, mlflow_server, wait_for

pytestmark = pytest.mark.slow

_VIEW = "viewStateShareKey=dataecho"
_EXPAND = 'button[data-component-id*="runnamecellrenderer"]'


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two cells of two trials each, trained; the folder with the database in it."""
    folder = tmp_path_factory.mktemp("pages")
    command = [
        *(sys.executable, str(PROJECT / "train.py"), "-m", "echo=none,before_augmentation", "factor=4"),
        *("optimizer.learning_rate=tag(log,interval(0.05,0.3))", "task.target=0.8", "accelerator=cpu"),
        *("hydra.sweeper.num_trials=2", f"hydra.sweep.dir={folder / 'sweep'}", "backend.compute_threads=1"),
        f"tracking.tracking_uri=sqlite:///{folder / 'mlflow.db'}",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=240)
    return folder


@pytest.fixture(scope="module")
def client(sweep):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{sweep / 'mlflow.db'}")


@pytest.fixture(scope="module")
def runs(client):
    """The runs of the sweep by name."""
    (experiment,) = (found for found in client.search_experiments() if found.name == "dataecho")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


class Pages:
    """The pages of one server in one browser."""

    def __init__(self, driver, address):
        self.driver = driver
        self.address = address
        self.open("/version")  # a page without a script, to say that the assistant is not wanted
        for key, value in (("panelOpen_v1", "false"), ("fab.autoOpenedOnFirstLoad_v1", "true")):
            driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", f"mlflow.assistant.{key}", value)

    def open(self, path):
        self.driver.get("about:blank")  # so that the page is built anew, not changed
        self.driver.get(self.address + path)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector="body"):
        return "\n".join(element.text for element in self.all(selector))

    def wait_for_text(self, *texts):
        for text in texts:
            wait_for(lambda text=text: text in self.text(), what=f"{text!r} on {self.driver.current_url}")


@pytest.fixture(scope="module")
def pages(sweep):
    with chromium(sweep) as driver, mlflow_server(sweep / "mlflow.db", sweep) as address:
        yield Pages(driver, address)


def page_of(run, tab=""):
    return f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}{tab}"


def rows_of(pages):
    """The cells of every row of the runs table, by the run's name. The table has a part that is scrolled sideways."""
    cells = {}
    for row in pages.all(".ag-row"):
        found = {cell.get_attribute("col-id"): cell.text for cell in row.find_elements(By.CSS_SELECTOR, ".ag-cell")}
        cells.setdefault(row.get_attribute("row-id"), {}).update(found)
    return {row["attributes.`Run Name`"].splitlines()[-1]: row for row in cells.values()}


def expand_all(pages, number):
    """Unfold the sweep and its studies, until ``number`` rows are there."""
    opened = set()

    def unfold():
        for row in pages.all(".ag-row"):
            buttons = row.find_elements(By.CSS_SELECTOR, _EXPAND)
            if buttons and row.get_attribute("row-id") not in opened:
                buttons[0].click()
                opened.add(row.get_attribute("row-id"))
                return False  # the rows below have moved
        return len(rows_of(pages)) == number

    wait_for(unfold, what=f"{number} rows; there are {rows_of(pages).keys()}")


def test_the_experiment_page_lists_the_runs_with_what_they_cost(pages, runs):
    experiment = next(iter(runs.values())).info.experiment_id
    pages.open(f"/#/experiments/{experiment}/runs?{_VIEW}")
    expand_all(pages, len(runs))
    rows = rows_of(pages)
    assert rows.keys() == runs.keys()
    assert len(runs) == 1 + 2 + 4  # the sweep, two studies, two trials each
    for name, run in runs.items():
        cost = run.data.metrics.get("fresh_examples_to_target")
        shown = rows[name]["metrics.`fresh_examples_to_target`"]
        assert shown == ("-" if cost is None else f"{cost:g}"), name
        assert rows[name]["tags.`echo`"] == run.data.tags.get("echo", "-")
    assert sum("fresh_examples_to_target" in run.data.metrics for run in runs.values()) >= 3
    assert {row["tags.`task`"] for name, row in rows.items() if name.startswith("trial")} == {"digits"}


def test_a_run_page_shows_the_learning_curve(pages, runs):
    run = next(run for name, run in runs.items() if name.startswith("trial"))
    pages.open(page_of(run, "/model-metrics"))
    wait_for(lambda: pages.all(".js-plotly-plot .scatterlayer path.js-line"), what="a line in a chart")
    pages.wait_for_text("accuracy")
    drawn = pages.all(".js-plotly-plot .scatterlayer path.js-line")
    assert max(line.get_attribute("d").count("L") for line in drawn) > 2  # a curve, not a point


@pytest.mark.parametrize(
    ("kind", "file"), [("trial", "learning_curve.png"), ("study", "slice.png"), ("sweep", "costs.png")]
)
def test_a_run_page_shows_its_pictures(pages, runs, kind, file):
    run = next(run for name, run in runs.items() if name.startswith(kind))
    pages.open(page_of(run, f"/artifacts/{file}"))
    image = wait_for(lambda: pages.all(f'img[src*="{file}"], .artifact-view img, img[src^="blob:"]'), what=file)[0]
    size = wait_for(
        lambda: pages.driver.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image),
        what="the picture",
    )
    assert min(size) > 200


def test_the_parent_shows_its_children_and_leads_to_the_best(pages, runs):
    name, study = next((name, run) for name, run in runs.items() if name.startswith("study echo=before"))
    children = [other for other in runs if other.endswith(f" of {name.removeprefix('study ')}")]
    assert len(children) == 2
    pages.open(page_of(study))
    pages.wait_for_text("Child runs", *children, "Parent run", "Best trial")
    best = study.data.tags["best_run"]
    link = wait_for(lambda: pages.all(f'a[href$="runs/{best}"]'), what="a link to the best trial")
    assert f"trial {study.data.tags['best_trial']}" in {element.text for element in link}


def test_the_pages_asked_nobody_but_this_machine(pages):
    asked = set()
    for entry in pages.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.responseReceived":
            asked.add(message["params"]["response"]["url"])
    outside = {url for url in asked if not url.startswith((pages.address, "blob:", "data:", "about:", "chrome"))}
    assert len(asked) > 10
    assert outside == set()
