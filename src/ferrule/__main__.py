"""``python -m ferrule`` is the command ``ferrule``."""

import sys

from ferrule.cli import main

if __name__ == "__main__":
    sys.exit(main())
