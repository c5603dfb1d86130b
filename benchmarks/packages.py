"""What each extra brings, in MB of installed files, and the licence of every installed package, as it states it.

    python -m benchmarks.packages

Sizes are those of the files that the packages list, of the extra and of what it needs, without the core's own.
"""

from __future__ import annotations

import os
from collections import defaultdict
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions

from packaging.requirements import Requirement


def licence_of(distribution: Distribution) -> str:
    """From ``License-Expression``, else from the classifiers, else the first line of ``License``."""
    facts = distribution.metadata
    if facts.get("License-Expression"):
        return str(facts["License-Expression"])
    classified = [
        text.rpartition(" :: ")[2] for text in facts.get_all("Classifier", []) if text.startswith("License :: ")
    ]
    if classified and classified != ["OSI Approved"]:
        return ", ".join(sorted(classified))
    lines = str(facts.get("License") or "").strip().splitlines()
    return lines[0].strip()[:60] if lines else "not stated"


def closure(name: str, extra: str, seen: set[tuple[str, str]]) -> set[str]:
    """The packages that ``name[extra]`` needs here, itself left out where nothing of it is installed."""
    if (name, extra) in seen:
        return set()
    seen.add((name, extra))
    try:
        here = distribution(name)
    except PackageNotFoundError:
        return set()
    found = {name}
    for text in here.requires or []:
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            for inner in ("", *needed.extras):
                found |= closure(needed.name.lower().replace("_", "-"), inner, seen)
    return found


def size_of(names: set[str]) -> float:
    """MB of the files that these packages list."""
    paths = (file.locate() for name in names for file in distribution(name).files or [])
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path)) / 1e6


def print_sizes() -> None:
    core = closure("dataecho", "", set())
    print(f"core: {size_of(core - {'dataecho'}):.0f} MB")
    for extra in sorted(distribution("dataecho").metadata.get_all("Provides-Extra", [])):
        print(f"{extra}: {size_of(closure('dataecho', extra, set()) - core):.0f} MB")


def main() -> None:
    print_sizes()
    packages: dict[str, set[str]] = defaultdict(set)
    for one in distributions():
        packages[licence_of(one)].add(f"{one.metadata['Name']} {one.version}")
    for licence, names in sorted(packages.items(), key=lambda item: -len(item[1])):
        print(f"{licence}: {len(names)}")
        print(*(f"    {name}" for name in sorted(names, key=str.lower)), sep="\n")


if __name__ == "__main__":
    main()
