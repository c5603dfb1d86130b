"""MLflow's own server and a browser without a window, both on this machine only, for as long as they are needed."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

SECONDS = 60  # the longest that anything here is waited for; the server needs 10 to 25


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(command, *, ready, log, **environment):
    """A server, from when ``ready`` answers; yields nothing, and leaves no process."""
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_for(lambda: _answers(ready) or process.poll() is not None, what=f"{ready}; see {log}")
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def mlflow_server(database, folder):
    """``make dashboard`` for another database; yields its address."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"),
        *("--default-artifact-root", str(folder / "mlruns"), "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1"),
    ]
    address = f"http://127.0.0.1:{port}"
    slim = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with running(command, ready=f"{address}/health", log=folder / "server.log", **slim):
        yield address


@contextmanager
def chromium(folder):
    """Debian's browser, which reaches nothing but this machine. Skips, with the reason, where it is not installed."""
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; on Debian: apt-get install {package}")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking"),
        *("disable-component-update", "disable-default-apps", "disable-sync", "no-first-run", "no-proxy-server"),
        *("host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "window-size=1600,1000"),
        f"user-data-dir={folder / 'chromium'}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(SECONDS)
        yield driver
    finally:
        driver.quit()


def wait_for(condition, *, what, seconds=SECONDS):
    """The first true value of ``condition``; elements that a page is just replacing are looked for again."""
    end = time.monotonic() + seconds
    while True:
        try:
            value = condition()
        except Exception as error:
            value, what = None, f"{what}: {error}"[:1000]
        if value:
            return value
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


def _answers(address):
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
