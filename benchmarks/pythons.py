"""Every supported Python that pyenv has: the core with numpy alone, and a training run of each framework.

    python -m benchmarks.pythons                  # writes docs/reference/pythons.md
    python -m benchmarks.pythons --only newest    # some rows of it; the others stay

Environments are made in ``build/pythons``. The core's tests are those of ``tests/plan`` and ``tests/pipeline`` whose
imports are installed there.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = PROJECT / "build" / "pythons"
PAGE = PROJECT / "docs" / "reference" / "pythons.md"
BEGIN, END = "<!-- table: make matrix -->", "<!-- end -->"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
#: The oldest numpy from 1.26 on that has a wheel, by Python; the newest is what pip takes.
OLDEST = {"3.10": "1.26.0", "3.11": "1.26.0", "3.12": "1.26.0", "3.13": "2.1.0"}
#: PyTorch has no lock of its own here: its wheel differs by accelerator, so it is run where it is installed already.
FRAMEWORKS = ("tensorflow", "jax")
CORE = ["cloudpickle>=3.1,<4", "filelock>=3.20,<5", "pytest", "pytest-timeout"]


def pythons() -> dict[str, Path]:
    """The interpreters by version, of those that pyenv has."""
    root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
    found = {}
    for path in sorted(Path(root, "versions").glob("3.*/bin/python")):
        version = ".".join(path.parts[-3].split(".")[:2])
        if version in VERSIONS:
            found[version] = path
    return found


def environment(python: Path, name: str, *requirements: str) -> Path:
    """The interpreter of a virtual environment with this code and ``requirements``."""
    folder = ENVIRONMENTS / name
    inside = folder / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, *requirements], cwd=PROJECT, check=True)
    subprocess.run([*pip, "--no-deps", "--editable", "."], cwd=PROJECT, check=True)
    return inside


def version_of(inside: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([inside, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def core_tests(inside: Path) -> list[str]:
    """The test files whose imports are installed."""
    files = [path for room in ("plan", "pipeline") for path in sorted((PROJECT / "tests" / room).rglob("test_*.py"))]
    roots = {path: _imports(path) for path in files}
    names = sorted(set().union(*roots.values()))
    code = f"import importlib.util; print(*(n for n in {names!r} if importlib.util.find_spec(n)))"
    there = subprocess.run([inside, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()
    return [str(path.relative_to(PROJECT)) for path in files if roots[path] <= {*there, "tests"}]


def _imports(path: Path, seen: frozenset[Path] = frozenset()) -> set[str]:
    """The packages that a file imports, and those of the test files that it imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if name == "tests.sources.http_server":  # whoever serves files reads them, too
                found |= {"aiohttp", "fsspec"}
            found.add(name.partition(".")[0])
            inner = PROJECT / (name.replace(".", "/") + ".py")
            if name.startswith("tests.") and inner.exists() and inner not in seen:
                found |= _imports(inner, seen | {path})
    return found


def run_core(inside: Path) -> str:
    tests = core_tests(inside)
    done = subprocess.run(
        [inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip().splitlines()[-1].partition(" in ")[0] if done.stdout else done.stderr[-200:]


def run_training(inside: Path, framework: str, folder: Path) -> str:
    """What came of the README's echoed run with ``framework``."""
    done = subprocess.run(
        [inside, "train.py", f"backend={framework}", "echo=batch", "factor=2", "tracking=none", f"run_dir={folder}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    return "reached its target" if "Reached" in done.stdout else (done.stderr or done.stdout).strip().splitlines()[-1]


def run_one(version: str, kind: str, python: Path) -> None:
    """Run one row of the table, and keep its outcome beside its environment."""
    name = f"{version}-{kind}"
    if kind in ("oldest", "newest"):
        numpy = f"numpy=={OLDEST[version]}" if kind == "oldest" else "numpy>=1.26,<3"
        inside = environment(python, name, numpy, *CORE)
        row = (version, f"numpy {version_of(inside, 'numpy')} alone", run_core(inside))
    else:
        inside = environment(python, name, "-r", "requirements.lock", "-r", f"requirements-{kind}.lock")
        shown = version_of(inside, {"tensorflow": "tensorflow-cpu"}.get(kind, kind))
        row = (version, f"{kind} {shown}", run_training(inside, kind, ENVIRONMENTS / f"run-{name}"))
    (ENVIRONMENTS / f"{name}.txt").write_text(f"| {' | '.join(row)} |")
    print(*row, sep=" | ", flush=True)


def write_page(names: list[str]) -> None:
    """The outcomes that are known, into the page."""
    rows = []
    for name in names:
        outcome = ENVIRONMENTS / f"{name}.txt"
        version, _, kind = name.partition("-")
        rows.append(outcome.read_text() if outcome.exists() else f"| {version} | numpy alone, {kind} | not run |")
    table = "\n".join(["| Python | with | outcome |", "|---|---|---|", *rows])
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name has this, such as 3.13 or 3.13-newest")
    given = parser.parse_args()
    found = pythons()
    kinds = ("oldest", "newest", *FRAMEWORKS)
    names = [f"{version}-{kind}" for version in found for kind in kinds if (version, kind) != ("3.10", "jax")]
    for name in names:
        if given.only in name:
            version, _, kind = name.partition("-")
            run_one(version, kind, found[version])
    write_page(names)


if __name__ == "__main__":
    sys.exit(main())
