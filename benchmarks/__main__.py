"""The command ``python -m benchmarks [ROW ...]``."""

import sys

from benchmarks.harness import main

if __name__ == "__main__":  # processes that are spawned import this module, too
    sys.exit(main())
