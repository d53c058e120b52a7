"""The earlier name of the command `python -m cifar_flax sweep`."""

import sys

from cifar_flax.tools.sweep import main

if __name__ == "__main__":
  sys.exit(main())
