"""The command ``dataecho``, also as ``python -m dataecho``; tells where the extra that it needs is not installed."""

from __future__ import annotations

import sys

from dataecho.extras import cure_of_missing


def main() -> None:
    """See :func:`dataecho.command_line.main`."""
    try:
        from dataecho.command_line import main as run
    except ModuleNotFoundError as error:
        print(f"error: {cure_of_missing(error)}", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
