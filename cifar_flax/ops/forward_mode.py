"""What forward-mode differentiation of the fast operations says."""

import functools
from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable)

ADVICE = (
  "The operations of cifar_flax with gradients of their own have reverse-mode"
  " derivatives only (jax.grad, jax.vjp, jax.jacrev, also of each other). For jax.jvp,"
  " jax.linearize, jax.jacfwd and jax.hessian use model.ops=lax and no dropout; without"
  " these, jax.jacrev(jax.grad(f)) is a Hessian."
)


def reverse_only(function: _Function) -> _Function:
  """Makes a function with a custom VJP say what to do where JAX needs a JVP.

  JAX raises its own error where it differentiates a function that is already traced,
  such as one inside `jax.jit`, and where the result of `jax.linearize` is called.
  """

  @functools.wraps(function)
  def explained(*args, **kwargs):
    try:
      return function(*args, **kwargs)
    except TypeError as error:
      if "forward-mode" not in str(error) or ADVICE in str(error):
        raise
      raise TypeError(f"{error} {ADVICE}") from error

  return explained  # type: ignore[return-value]
