"""The training step, and many of them in one call to the devices.

One call to the devices is many steps: `jax.pmap` around a loop over the steps, with
the images resident. The state is the same on every device and is donated; the one
mapped argument is which images each device takes.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics

from cifar_flax import models, ops, optimizer
from cifar_flax.config import Config
from cifar_flax.data import augmentation
from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.ops import compiler

AXIS = "devices"


@flax.struct.dataclass
class Metrics:
  """Sums over the images seen so far, and how many they were."""

  loss: clu_metrics.Average
  accuracy: clu_metrics.Average

  @classmethod
  def empty(cls) -> "Metrics":
    """Nothing seen."""
    return cls(clu_metrics.Average.empty(), clu_metrics.Average.empty())

  def merge(self, other: "Metrics") -> "Metrics":
    """What both have seen."""
    return Metrics(self.loss.merge(other.loss), self.accuracy.merge(other.accuracy))

  def means(self) -> dict[str, float]:
    """The means as Python numbers; waits for the devices."""
    sums = {"loss": self.loss, "accuracy": self.accuracy}
    return {name: float(s.total) / float(s.count) for name, s in sums.items()}


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes; with the config, all that a run is.

  Attributes:
    step: updates made, int32.
    finite_step: updates made when the epoch's loss, the parameters and BatchNorm's
      moving averages were all finite for the last time, int32.
    params: the network's parameters.
    batch_stats: BatchNorm's moving averages.
    opt_state: the optimizer's state.
    ema: moving averages of `params` and `batch_stats`, or {} without them.
    metrics: sums over the epoch so far.
  """

  step: jax.Array
  finite_step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState
  ema: Any
  metrics: Metrics


def parameter_dtype(config: Config):
  """Type of parameters, pixels and sums: `config.model.dtype`, at least float32."""
  return jnp.promote_types(config.model.dtype, jnp.float32)


def create_state(
  config: Config,
  network: models.Network,
  tx: optax.GradientTransformation,
  image_shape: tuple[int, ...],
) -> TrainState:
  """The state before the first step, a function of `config.seed`, in host memory."""
  dtype = parameter_dtype(config)

  def initial_state(seed) -> TrainState:
    images = jnp.zeros((1, *image_shape), dtype)
    variables = network.init(jax.random.key(seed), images, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    # Flax makes float32 averages, whatever the parameters are.
    batch_stats = jax.tree.map(lambda average: average.astype(dtype), batch_stats)
    averages = {"params": params, "batch_stats": batch_stats}
    return TrainState(
      step=jnp.zeros([], jnp.int32),
      finite_step=jnp.zeros([], jnp.int32),
      params=params,
      batch_stats=batch_stats,
      opt_state=tx.init(params),
      ema=averages if config.ema_decay else {},
      metrics=Metrics.empty(),
    )

  options: Mapping[str, str] = {}
  if jax.default_backend() == "cpu":  # the same bits, compiled in a fifth of the time
    options = compiler.supported({"xla_backend_optimization_level": "0"})
  # The seed is an argument, so that all seeds share what the compilation cache keeps.
  state = jax.jit(initial_state, compiler_options=dict(options))(np.int32(config.seed))
  # Donation forbids that two of its arrays share a buffer, as zeros and copies may.
  return jax.tree.map(np.array, state)


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
  """Cross-entropy of each example, [batch], in at least float32.

  Args:
    logits: [batch, classes].
    labels: int [batch].
    smoothing: weight of the uniform label.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return optax.softmax_cross_entropy(
    logits, optax.smooth_labels(targets, smoothing) if smoothing else targets
  )


def _pixels(images: jax.Array, config: Config) -> jax.Array:
  """Bytes, one image a row or as they are, to images of numbers in [0, 1].

  Wider than bfloat16, for augmentation's sake.
  """
  if images.ndim == 2:
    images = images.reshape(len(images), *IMAGE_SHAPE)
  return images.astype(parameter_dtype(config)) / 255


def _metrics(logits, labels, losses, mask=None) -> Metrics:
  """Sums over all devices; `mask` [batch] is 0 for what does not count."""
  average = functools.partial(clu_metrics.Average.from_model_output, mask=mask)
  correct = jnp.argmax(logits, -1) == labels
  sums = Metrics(average(losses), average(correct.astype(jnp.float32)))
  sums = jax.lax.psum(sums, AXIS)
  return jax.tree.map(lambda s, zero: s.astype(zero.dtype), sums, Metrics.empty())


def _all_finite(tree: Any) -> jax.Array:
  return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def make_train_step(
  config: Config,
  network: models.Network,
  tx: optax.GradientTransformation,
  steps_per_epoch: int,
) -> Callable:
  """Returns `train_step(state, images, labels, indices) -> state` for one device."""
  apply: Callable = network.apply

  def train_step(state: TrainState, images, labels, indices) -> TrainState:
    noise = ops.hash_uint32(config.seed, state.step.astype(jnp.uint32), indices)
    x = _pixels(images[indices], config)
    x = augmentation.augment(x, noise, config.augmentation)
    y = labels[indices]

    def loss_fn(params):
      variables = {"params": params, "batch_stats": state.batch_stats}
      logits, updated = apply(
        variables,
        x,
        train=True,
        noise=noise,
        mutable=["batch_stats"],
      )
      losses = cross_entropy(logits, y, config.label_smoothing)
      return losses.mean(), (logits, losses, updated.get("batch_stats", {}))

    grads, (logits, losses, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = tx.update(
      jax.lax.pmean(grads, AXIS), state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if config.ema_decay:
      new = {"params": params, "batch_stats": batch_stats}
      ema = optax.incremental_update(new, ema, 1 - config.ema_decay)
    new_epoch = state.step % steps_per_epoch == 0
    sums = jax.tree.map(lambda m: jnp.where(new_epoch, 0, m), state.metrics)
    sums = sums.merge(_metrics(logits, y, losses))
    step = state.step + 1
    finite = _all_finite((sums.loss, params, batch_stats))
    return TrainState(
      step=step,
      finite_step=jnp.where(finite, step, state.finite_step),
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      ema=ema,
      metrics=sums,
    )

  return train_step


def make_eval_step(config: Config, network: models.Network, flip: bool) -> Callable:
  """Returns `eval_step(variables, images, labels, indices, mask) -> Metrics`.

  With `flip`, probabilities are the mean of those of the image and its mirror image.
  """
  apply: Callable = network.apply

  def eval_step(variables, images, labels, indices, mask) -> Metrics:
    x = _pixels(images[indices], config)
    y = labels[indices]
    logits = apply(variables, x, train=False)
    if flip:
      both = jnp.stack([logits, apply(variables, x[:, :, ::-1], train=False)])
      both = jax.nn.log_softmax(both.astype(jnp.promote_types(both.dtype, jnp.float32)))
      logits = jnp.logaddexp(*both) - jnp.log(2.0).astype(both.dtype)
    return _metrics(logits, y, cross_entropy(logits, y, 0.0), mask)

  return eval_step


def map_over_devices(
  function: Callable,
  devices: Sequence[jax.Device],
  num_mapped: int,
  donate: int | tuple[int, ...] = (),
  compiler_options: Mapping[str, str] | None = None,
) -> Callable:
  """`jax.pmap`, its last `num_mapped` arguments split over devices, the others not."""
  num_replicated = len(inspect.signature(function).parameters) - num_mapped
  if not compiler_options:
    return jax.pmap(
      function,
      axis_name=AXIS,
      in_axes=(None,) * num_replicated + (0,) * num_mapped,
      out_axes=None,
      devices=devices,
      donate_argnums=donate,
    )

  # `jax.pmap` takes no options for the compiler. This is the same, and takes them.
  def of_one_device(*arguments):
    pieces = (piece[0] for piece in arguments[num_replicated:])
    return function(*arguments[:num_replicated], *pieces)

  compiled = jax.jit(
    jax.shard_map(
      of_one_device,
      mesh=_mesh(devices),
      in_specs=(jax.P(),) * num_replicated + (jax.P(AXIS),) * num_mapped,
      out_specs=jax.P(),
      check_vma=False,
    ),
    donate_argnums=donate,
    compiler_options=dict(compiler_options),
  )
  if jax.process_count() == 1:
    return compiled
  # It also wants whole arrays, where `jax.pmap` takes this process's part of them.
  split = jax.NamedSharding(_mesh(devices), jax.P(AXIS))

  def call(*arguments):
    pieces = (
      jax.make_array_from_process_local_data(split, piece)
      for piece in arguments[num_replicated:]
    )
    return compiled(*arguments[:num_replicated], *pieces)

  return call


def _mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
  return jax.sharding.Mesh(np.asarray(devices), (AXIS,))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
  """Puts the same arrays on every device, as `map_over_devices` returns them."""
  return jax.device_put(tree, jax.NamedSharding(_mesh(devices), jax.P()))


class Program:
  """What a config makes of the devices: the network, the optimizer, two functions.

  Attributes:
    network, tx, schedule: from the config.
    steps_per_epoch: updates an epoch.
    train_steps: (state, images, labels, num_steps, indices) -> state, donating it;
      indices [devices, steps, batch per device], of which `num_steps` steps are made.
      The number is an argument of one compiled loop, so that cutting an epoch
      differently compiles nothing again and changes no bit.
    eval_steps: (sums, variables, images, labels, num_steps, indices, mask) -> sums, of
      `Metrics`.
    flip_eval_steps: the same, each image with its mirror image.
  """

  def __init__(
    self,
    config: Config,
    devices: Sequence[jax.Device],
    num_classes: int,
    num_examples: int,
  ):
    self.network = models.create(config.model, num_classes, AXIS)
    self.steps_per_epoch = num_examples // config.batch_size
    self.schedule = optimizer.create_schedule(config, self.steps_per_epoch)
    self.tx = optimizer.create_optimizer(config, self.schedule)
    train_step = make_train_step(config, self.network, self.tx, self.steps_per_epoch)

    def train_steps(state, images, labels, num_steps, indices):
      def body(i, state):
        return train_step(state, images, labels, indices[i])

      return jax.lax.fori_loop(0, num_steps, body, state)

    def make_eval_steps(flip: bool):
      eval_step = make_eval_step(config, self.network, flip)

      def eval_steps(sums, variables, images, labels, num_steps, indices, mask):
        def body(i, sums):
          return sums.merge(eval_step(variables, images, labels, indices[i], mask[i]))

        return jax.lax.fori_loop(0, num_steps, body, sums)

      return map_over_devices(eval_steps, devices, 2, (), options)

    options = ops.select(config.model.ops).compiler_options
    self.train_steps = map_over_devices(train_steps, devices, 1, (0,), options)
    self.eval_steps = make_eval_steps(flip=False)
    self.flip_eval_steps = make_eval_steps(flip=True)
