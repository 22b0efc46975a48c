"""`python -m inference.pool` runs the SAM 3 pool."""

import sys

from inference.pool.server import main

if __name__ == "__main__":
    sys.exit(main())
