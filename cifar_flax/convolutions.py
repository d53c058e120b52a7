"""The vocabulary: one small module per type of convolution.

Every type maps `[batch, height, width, in]` to `[batch, height', width', features]`,
with height' = height at padding "SAME" and stride 1. `conv` makes the convolutions
inside: an `nn.Conv` with precision, initialisation, bias and implementation already
bound, so that a type holds one idea and nothing else. Parameter counts below are
without biases; each convolution inside adds its number of output channels with them.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

ModuleDef = Callable[..., Any]


class Convolution(nn.Module, kw_only=True):
  """What all types have in common.

  Attributes:
    features: number of output channels.
    strides: rows and columns from one output to the next.
    padding: "SAME" or "VALID".
    conv: makes an `nn.Conv`; bind dtype, bias and initialisation here.
  """

  features: int
  strides: tuple[int, int] = (1, 1)
  padding: str = "SAME"
  conv: ModuleDef = nn.Conv

  def split(self, parts: int) -> int:
    """Output channels of each of `parts` equal branches or groups.

    Raises:
      ValueError: `features` is not divisible by `parts`.
    """
    if self.features % parts:
      raise ValueError(
        f"{type(self).__name__}: features={self.features} must be divisible by {parts}"
      )
    return self.features // parts


class Plain(Convolution):
  """A convolution: every output sees every input channel of its window.

  y[i, j, o] = sum over (u, v, c) of k[u, v, c, o] x[i+u, j+v, c].
  LeCun et al. 1998, "Gradient-based learning applied to document recognition".
  Parameters: kh * kw * in * features.

  Attributes:
    kernel_size: rows and columns of the window.

  >>> import jax
  >>> layer = Plain(features=64, conv=nn.Conv)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 32)))
  >>> v["params"]["conv"]["kernel"].shape
  (3, 3, 32, 64)
  """

  kernel_size: tuple[int, int] = (3, 3)

  @nn.compact
  def __call__(self, x):
    """Convolves `x` [batch, height, width, channels]."""
    conv = self.conv(
      self.features,
      self.kernel_size,
      strides=self.strides,
      padding=self.padding,
      name="conv",
    )
    return conv(x)


class SpatiallySeparable(Convolution):
  """A k x 1 convolution, then a 1 x k convolution.

  y = r * (f(q * x)) with q: k x 1 over all channels, r: 1 x k, f: `between`.
  Szegedy et al. 2016, "Rethinking the Inception architecture", section 3.2.
  Parameters: k * in * features + k * features * features.

  Attributes:
    kernel_size: k.
    between: makes a module applied between the two, such as BatchNorm and ReLU.

  >>> import jax
  >>> layer = SpatiallySeparable(features=64)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 32)))
  >>> [v["params"][name]["kernel"].shape for name in ("vertical", "horizontal")]
  [(3, 1, 32, 64), (1, 3, 64, 64)]
  """

  kernel_size: int = 3
  between: ModuleDef | None = None

  @nn.compact
  def __call__(self, x):
    """Convolves `x` [batch, height, width, channels]."""
    rows, columns = self.strides
    x = self.conv(
      self.features,
      (self.kernel_size, 1),
      strides=(rows, 1),
      padding=self.padding,
      name="vertical",
    )(x)
    if self.between is not None:
      x = self.between(name="between")(x)
    return self.conv(
      self.features,
      (1, self.kernel_size),
      strides=(1, columns),
      padding=self.padding,
      name="horizontal",
    )(x)


class DepthwiseSeparable(Convolution):
  """One filter per input channel, then a 1 x 1 convolution across channels.

  z[i, j, c] = sum over (u, v) of d[u, v, c] x[i+u, j+v, c]
  y[i, j, o] = sum over c of p[c, o] z[i, j, c].
  Chollet 2017, "Xception: deep learning with depthwise separable convolutions".
  Parameters: kh * kw * in + in * features.

  Attributes:
    kernel_size: rows and columns of the depthwise window.

  >>> import jax
  >>> layer = DepthwiseSeparable(features=128)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 64)))
  >>> [v["params"][name]["kernel"].shape for name in ("depthwise", "pointwise")]
  [(3, 3, 1, 64), (1, 1, 64, 128)]
  """

  kernel_size: tuple[int, int] = (3, 3)

  @nn.compact
  def __call__(self, x):
    """Convolves `x` [batch, height, width, channels]."""
    channels = x.shape[-1]
    x = self.conv(
      channels,
      self.kernel_size,
      strides=self.strides,
      padding=self.padding,
      feature_group_count=channels,
      name="depthwise",
    )(x)
    return self.conv(self.features, (1, 1), name="pointwise")(x)


class Grouped(Convolution):
  """Channels in groups; an output sees only its own group's input channels.

  y[i, j, o] = sum over (u, v, c in group(o)) of k[u, v, c, o] x[i+u, j+v, c].
  Krizhevsky et al. 2012; Xie et al. 2017, "Aggregated residual transformations".
  Parameters: kh * kw * in * features / groups.

  Attributes:
    groups: number of groups; divides the input channels and `features`.
    kernel_size: rows and columns of the window.

  Raises:
    ValueError: `groups` does not divide the channels.

  >>> import jax
  >>> layer = Grouped(features=64, groups=4)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 32)))
  >>> v["params"]["conv"]["kernel"].shape
  (3, 3, 8, 64)
  """

  groups: int = 4
  kernel_size: tuple[int, int] = (3, 3)

  @nn.compact
  def __call__(self, x):
    """Convolves `x` [batch, height, width, channels]."""
    self.split(self.groups)
    if x.shape[-1] % self.groups:
      raise ValueError(
        f"Grouped: input channels={x.shape[-1]} must be divisible by "
        f"groups={self.groups}"
      )
    conv = self.conv(
      self.features,
      self.kernel_size,
      strides=self.strides,
      padding=self.padding,
      feature_group_count=self.groups,
      name="conv",
    )
    return conv(x)


class FilterGroups(Convolution):
  """Parallel filter groups of several kernel sizes, each seeing all channels.

  y = concat over s of (k_s * x), k_s: s x s with features / len(kernel_sizes) outputs.
  Szegedy et al. 2015, "Going deeper with convolutions" (its parallel branches).
  Parameters: in * features / len(kernel_sizes) * sum of s * s.
  Needs padding "SAME": otherwise the branches differ in size.

  Attributes:
    kernel_sizes: one branch for each side length.

  Raises:
    ValueError: `features` not divisible by the branches, or padding not "SAME".

  >>> import jax
  >>> layer = FilterGroups(features=128)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 32)))
  >>> [v["params"][name]["kernel"].shape for name in ("branch_3x3", "branch_5x5")]
  [(3, 3, 32, 64), (5, 5, 32, 64)]
  """

  kernel_sizes: tuple[int, ...] = (3, 5)

  @nn.compact
  def __call__(self, x):
    """Convolves `x` [batch, height, width, channels]."""
    _require_same(self)
    features = self.split(len(self.kernel_sizes))
    branches = [
      self.conv(
        features,
        (size, size),
        strides=self.strides,
        padding="SAME",
        name=f"branch_{size}x{size}",
      )(x)
      for size in self.kernel_sizes
    ]
    return jnp.concatenate(branches, axis=-1)


class DilatedBranches(Convolution):
  """Parallel convolutions of several dilation rates, each seeing all channels.

  y = concat over d of y_d, y_d[i, j, o] = sum of k_d[u, v, c, o] x[i+d*u, j+d*v, c].
  Yu and Koltun 2016, "Multi-scale context aggregation by dilated convolutions".
  Parameters: kh * kw * in * features, whatever the rates.
  Needs padding "SAME": otherwise the branches differ in size.

  Attributes:
    dilations: one branch for each rate.
    kernel_size: rows and columns of each window, before dilation.

  Raises:
    ValueError: `features` not divisible by the branches, or padding not "SAME".

  >>> import jax
  >>> layer = DilatedBranches(features=128)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 32)))
  >>> [v["params"][name]["kernel"].shape for name in ("dilation_1", "dilation_2")]
  [(3, 3, 32, 64), (3, 3, 32, 64)]
  """

  dilations: tuple[int, ...] = (1, 2)
  kernel_size: tuple[int, int] = (3, 3)

  @nn.compact
  def __call__(self, x):
    """Convolves `x` [batch, height, width, channels]."""
    _require_same(self)
    features = self.split(len(self.dilations))
    branches = [
      self.conv(
        features,
        self.kernel_size,
        strides=self.strides,
        padding="SAME",
        kernel_dilation=(rate, rate),
        name=f"dilation_{rate}",
      )(x)
      for rate in self.dilations
    ]
    return jnp.concatenate(branches, axis=-1)


def _require_same(layer: Convolution) -> None:
  if layer.padding != "SAME":
    raise ValueError(
      f"{type(layer).__name__}: padding={layer.padding!r} must be 'SAME', "
      "so that its branches agree in size"
    )
