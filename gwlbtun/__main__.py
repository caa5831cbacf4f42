"""``python -m gwlbtun`` is the ``gwlbtun`` command."""

import sys

from gwlbtun.cli import main

if __name__ == "__main__":
    sys.exit(main())
