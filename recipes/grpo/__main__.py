"""`python -m recipes.grpo`."""

import sys

from recipes.grpo.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
