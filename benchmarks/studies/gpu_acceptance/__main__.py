"""Run the command of this package."""

import sys

from benchmarks.studies.gpu_acceptance import main

if __name__ == "__main__":
    sys.exit(main())
