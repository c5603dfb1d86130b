"""Makes the report of studies again from their run folders, also of unfinished ones::

    python -m dataecho_study runs/studies/figure_3-digits-full

Several folders have one report together, in the first of them or in ``--into``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dataecho.errors import DataError, SettingError
from dataecho_study.run import write_results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dataecho_study", description=__doc__.partition("::")[0] + ".")
    parser.add_argument("folders", nargs="+", type=Path, help="folders of studies")
    parser.add_argument("--into", type=Path, help="the folder of the report; by default the first of folders")
    arguments = parser.parse_args()
    try:
        files = write_results(arguments.folders, arguments.into or arguments.folders[0])
    except (DataError, SettingError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for path in files:
        print(path)


if __name__ == "__main__":
    main()
