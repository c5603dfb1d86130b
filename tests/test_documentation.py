"""What the README and docs tell a user to type works as it stands there."""

import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import dataecho
from dataecho.compose import compose_workload
from tests.support import PROJECT, config

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md")), *(PROJECT / "conf").rglob("*.yaml")]

#: The arguments of a command: in a line of code, or between backticks.
COMMAND = (
    r"(?:python train\.py|(?:^ *|`|-m )dataecho(?= +[^ \n]*=)|\$\{command:\})"
    r"((?: +(?:'[^'\n]*'|[^\n`)'])*)?)(?=$|[\n`)])"
)


def commands():
    """Every command of the pages that is no sweep, makes no project and asks Hydra for nothing."""
    found = set()
    for page in PAGES:
        for line in re.findall(COMMAND, page.read_text(), flags=re.MULTILINE):
            line = line.split("  ")[0]  # after two spaces the help says what a command does
            arguments = shlex.split(line, comments=True)
            if (
                arguments[:1] != ["init"]
                and not {"-m", "--help", "--cfg", "--info", "--version", "--config-dir"} & set(arguments)
                and not any("<" in item or "[group" in item for item in arguments)
            ):
                found.add(tuple(arguments))
    return sorted(found)


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_line_composes(arguments):
    node = config(*arguments, "tracking=none")
    if "compute_threads" in node["backend"]:
        node["backend"]["compute_threads"] = None  # TensorFlow takes a number once in a process, this one has many runs
    # A reader's own folder, and a reader's own devices, are not here.
    if node["mode"] == "train" and not any("/data/" in item or item == "accelerator=cuda" for item in arguments):
        compose_workload(node)


def module_commands():
    """Every ``python -m <module> ...`` of the pages: the module and the options that it is given."""
    found = set()
    for page in (*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md"), PROJECT / "benchmarks/README.md"):
        text = page.read_text().replace("\\\n", " ")
        for module, rest in re.findall(r"python3? -m ([a-z_]+(?:\.[a-z_]+)*)((?: [^`\n#]*)?)", text):
            found.add((module, tuple(sorted(set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest))))))
    return sorted(found)


@pytest.mark.parametrize(("module", "options"), module_commands(), ids=str)
def test_every_module_that_a_page_runs_has_the_options_that_it_is_given(module, options):
    """The benchmarks, the explorer and the fault matrix take too long to run here."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if module.startswith(("benchmarks.", "tests.")):
        text = "".join(path.read_text() for path in Path(spec.origin).parent.glob("*.py"))
        assert [option for option in options if f'"{option}"' not in text] == []


def test_every_make_target_that_a_page_names_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    pages = [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")]
    named = {
        name for page in pages for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE)
    }
    assert len(named) > 5
    assert named <= targets


def test_there_are_command_lines_to_check():
    assert len(commands()) > 15


def test_the_example_of_the_own_loop_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("(64, 32, 32, 3) fresh: ")
    fresh = [int(line.rsplit(" ", 1)[1]) for line in lines]
    assert 0 < sum(fresh) < 640  # echoed: not every row is fresh


def test_the_example_of_the_guide_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/guides/own_loop.md").read_text(), flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.splitlines()[-1] == "1000 examples, each once"


def test_the_site_builds_without_a_broken_link(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/reference/api.html").read_text()
    assert all(f'id="dataecho.{name}"' in page for name in dataecho.__all__)
    assert "shuffle_buffer" in page and ":class:" not in page
    assert "&gt;&gt;&gt;" in page and "<blockquote>" not in page  # examples are code, not quotations
    assert not re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)', page)  # nothing is fetched


def test_every_file_that_the_architecture_names_is_there():
    """Paths are relative to the project, or to any folder of ``platform/dataecho``."""
    text = (PROJECT / "docs/explanation/architecture.md").read_text()
    names = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", text))
    assert len(names) > 30
    library = PROJECT / "platform/dataecho"
    there = {name for name in names if (PROJECT / name).exists() or any(library.rglob(name))}
    assert sorted(names - there) == []


#: Tables, code and links may be wider.
WIDE = re.compile(r"^\s*\||^!\[|^\s*\[[^\]]*\]\([^)]*\)\.?$")

#: Pages whose prose is at most 120 characters wide.
NARROW = [
    *(PROJECT / "docs").glob("index.md"),
    *(PROJECT / "docs/concepts").glob("*.md"),
    *(PROJECT / "docs/start").glob("*.md"),
    *(PROJECT / "docs/results").glob("[bh]e*.md"),
    *(PROJECT / "docs/explanation").glob("[art]*.md"),
    *(PROJECT / "docs/guides").glob("o*.md"),
]


@pytest.mark.parametrize("page", NARROW, ids=lambda page: page.name)
def test_prose_is_at_most_120_characters_wide(page):
    parts = page.read_text().split("```")
    prose = itertools.chain.from_iterable(part.splitlines() for part in parts[::2])
    assert [line for line in prose if len(line) > 120 and not WIDE.match(line)] == []


@pytest.mark.parametrize(
    "page", ["README.md", *(str(path.relative_to(PROJECT)) for path in PROJECT.glob("tasks/*/*/README.md"))]
)
def test_every_file_that_a_readme_links_to_is_there(page):
    folder = (PROJECT / page).parent
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (PROJECT / page).read_text())
    assert links
    assert [link for link in links if not (folder / link).exists()] == []
