"""The earlier name of the command `python -m cifar_flax reproduce`."""

import sys

from cifar_flax.tools.reproduce import main

if __name__ == "__main__":
  sys.exit(main())
