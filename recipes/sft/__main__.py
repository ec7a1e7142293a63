"""`python -m recipes.sft`."""

import sys

from recipes.sft.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
