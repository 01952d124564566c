"""`genopt` and `python -m genopt`: the command line, which Ctrl-C ends quietly while it still loads, too."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from genopt.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
