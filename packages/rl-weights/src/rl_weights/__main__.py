"""`python -m rl_weights`."""

import sys

from rl_weights.cli import main

if __name__ == "__main__":
    sys.exit(main())
