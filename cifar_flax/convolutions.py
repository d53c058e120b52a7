"""The types of convolution, each a small Flax module.

Every type maps `[batch, height, width, in]` to `[batch, height', width', features]`,
with height' = height for padding "SAME" and stride 1. Its attribute `conv` makes the
convolutions inside, and binds their type, initialisation, bias and implementation, so
that a module contains only what distinguishes its type. The parameter counts below are
without biases; with them, each convolution inside adds its number of output channels.
"""

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Layer = Callable[[jax.Array], jax.Array]


class MakeConv(Protocol):
  """Makes a convolution: `nn.Conv`, or a `partial` of it that binds its dtype."""

  def __call__(
    self,
    features: int,
    kernel_size: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: str = "SAME",
    kernel_dilation: tuple[int, int] = (1, 1),
    feature_group_count: int = 1,
    use_bias: bool = True,
    name: str | None = None,
  ) -> Layer:
    """Returns a layer that maps [batch, height, width, in] to `features` channels."""


class MakeLayer(Protocol):
  """Makes a layer with all parameters bound, such as BatchNorm and ReLU."""

  def __call__(self, *, name: str | None = None) -> Layer:
    """Returns a layer that keeps the shape of its input."""


class Convolution(nn.Module, kw_only=True):
  """Base of the types of convolution.

  Attributes:
    features: number of output channels.
    strides: rows and columns from one output to the next.
    padding: "SAME" or "VALID".
    conv: makes an `nn.Conv`, with dtype, bias and initialisation bound.
  """

  features: int
  strides: tuple[int, int] = (1, 1)
  padding: str = "SAME"
  conv: MakeConv = nn.Conv

  @property
  def divisor(self) -> int:
    """What the numbers of channels must be divisible by; nothing, by default."""
    return 1

  def split(self, parts: int) -> int:
    """Returns the number of output channels of each of `parts` branches or groups.

    Raises:
      ValueError: `features` is not divisible by `parts`.
    """
    if self.features % parts:
      raise ValueError(
        f"{type(self).__name__}: features={self.features} must be divisible by {parts}"
      )
    return self.features // parts

  def convolve(self, x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    """Convolves with a kernel that a type makes of parameters of its own.

    It does so as `self.conv` would: in its precision and by its implementation, with
    the strides and the padding of the type, without a bias.

    Args:
      x: [batch, height, width, in].
      kernel: [rows, columns, in / groups, features].
      **options: of `lax.conv_general_dilated`, such as `rhs_dilation`.

    Returns:
      [batch, rows, columns, features].
    """
    bound = getattr(self.conv, "keywords", {})
    implementation = bound.get("conv_general_dilated") or lax.conv_general_dilated
    dtype = bound.get("dtype") or jnp.result_type(x, kernel)
    return implementation(
      x.astype(dtype),
      kernel.astype(dtype),
      self.strides,
      self.padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      **options,
    )


class Plain(Convolution):
  """A convolution in which every output depends on all input channels in its window.

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
    between: makes a layer applied between the two, such as BatchNorm and ReLU; none by
      default.

  >>> import jax
  >>> layer = SpatiallySeparable(features=64)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 32)))
  >>> [v["params"][name]["kernel"].shape for name in ("vertical", "horizontal")]
  [(3, 1, 32, 64), (1, 3, 64, 64)]
  """

  kernel_size: int = 3
  between: MakeLayer | None = None

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
  """A depthwise convolution, then a 1 x 1 convolution across channels.

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
  """A grouped convolution: outputs depend on the input channels of their group only.

  y[i, j, o] = sum over (u, v, c in group(o)) of k[u, v, c, o] x[i+u, j+v, c].
  Krizhevsky et al. 2012; Xie et al. 2017, "Aggregated residual transformations".
  Parameters: kh * kw * in * features / groups.

  Attributes:
    groups: number of groups, which must divide the input channels and `features`.
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

  @property
  def divisor(self) -> int:
    """What the numbers of input and output channels must be divisible by."""
    return self.groups

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
  """Parallel convolutions of several kernel sizes, each over all input channels.

  y = concat over s of (k_s * x), k_s: s x s with features / len(kernel_sizes) outputs.
  Szegedy et al. 2015, "Going deeper with convolutions" (its parallel branches).
  Parameters: in * features / len(kernel_sizes) * sum of s * s.
  Padding must be "SAME", because the outputs of the branches would differ in size.

  Attributes:
    kernel_sizes: side lengths s of the kernels, with one branch for each.

  Raises:
    ValueError: `features` is not divisible by the number of branches, or the padding is
      not "SAME".

  >>> import jax
  >>> layer = FilterGroups(features=128)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 32)))
  >>> [v["params"][name]["kernel"].shape for name in ("branch_3x3", "branch_5x5")]
  [(3, 3, 32, 64), (5, 5, 32, 64)]
  """

  kernel_sizes: tuple[int, ...] = (3, 5)

  @property
  def divisor(self) -> int:
    """What the number of output channels must be divisible by."""
    return len(self.kernel_sizes)

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
  """Parallel convolutions of several dilation rates, each over all input channels.

  y = concat over d of y_d, y_d[i, j, o] = sum of k_d[u, v, c, o] x[i+d*u, j+d*v, c].
  Yu and Koltun 2016, "Multi-scale context aggregation by dilated convolutions".
  Parameters: kh * kw * in * features, for any rates.
  Padding must be "SAME", because the outputs of the branches would differ in size.

  Attributes:
    dilations: dilation rates d, with one branch for each.
    kernel_size: rows and columns of each window, before dilation.

  Raises:
    ValueError: `features` is not divisible by the number of branches, or the padding is
      not "SAME".

  >>> import jax
  >>> layer = DilatedBranches(features=128)
  >>> v = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 8, 8, 32)))
  >>> [v["params"][name]["kernel"].shape for name in ("dilation_1", "dilation_2")]
  [(3, 3, 32, 64), (3, 3, 32, 64)]
  """

  dilations: tuple[int, ...] = (1, 2)
  kernel_size: tuple[int, int] = (3, 3)

  @property
  def divisor(self) -> int:
    """What the number of output channels must be divisible by."""
    return len(self.dilations)

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
  """Raises ValueError unless the padding is "SAME"."""
  if layer.padding != "SAME":
    raise ValueError(
      f"{type(layer).__name__}: padding={layer.padding!r} must be 'SAME', "
      "so that its branches have the same size"
    )
