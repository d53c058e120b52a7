"""Trains CIFAR-10 networks made of different kinds of convolution.

import cifar_flax as cf

network = cf.fit("configs/quickstart.py", "runs/quickstart")
network.predict(images)  # probabilities; images are uint8, or floats in [0, 1]
print(cf.costs("configs/net6b.py"))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from cifar_flax.api import Costs, costs, fit, load, register, runs
  from cifar_flax.config import Config

__all__ = ["Config", "Costs", "costs", "fit", "load", "register", "runs"]


def __getattr__(name: str) -> Any:
  """Imports what is asked for, so that importing this package stays fast."""
  if name not in __all__:
    raise AttributeError(f"module 'cifar_flax' has no attribute {name!r}")
  from cifar_flax import api

  return getattr(api, name)


def __dir__() -> list[str]:
  """Returns the public names."""
  return sorted({*globals(), *__all__})
