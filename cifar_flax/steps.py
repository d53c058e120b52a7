"""The training step, and a loop that makes many of them in one call to the devices.

One call to the devices is many steps: `jax.pmap` around a loop over the steps, with
the images resident. The state is the same on every device and is donated; the one
mapped argument is which images each device takes.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics

from cifar_flax import config as config_lib
from cifar_flax import models, ops, optimizer
from cifar_flax.config import Config
from cifar_flax.data import augmentation
from cifar_flax.data.records import IMAGE_SHAPE
from cifar_flax.ops import compiler

AXIS = "devices"
PROGRAMS = 16  # how many are kept, for later runs of this process
# Keys and sections of the config that no compiled program depends on, except for the
# shapes of its arguments. Runs that differ in nothing else share a `Program`.
INDIVIDUAL = (
  "name",
  "seed",
  "num_epochs",
  "eval_batch_size",
  "eval_every",
  "eval_flip",
  "steps_per_dispatch",
  "data",
  "schedule",
  "checkpoint",
)


@flax.struct.dataclass
class Metrics(clu_metrics.Collection):
  """Sums of loss and accuracy over the images seen so far, with their number."""

  loss: clu_metrics.Average.from_output("losses")  # type: ignore[valid-type]
  accuracy: clu_metrics.Accuracy

  def means(self) -> dict[str, float]:
    """Returns the means as Python floats; waits for the devices."""
    sums: dict[str, Any] = {"loss": self.loss, "accuracy": self.accuracy}
    return {name: float(s.total) / float(s.count) for name, s in sums.items()}


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes. Config and state together determine a run.

  Attributes:
    step: updates made, int32.
    params: the network's parameters.
    batch_stats: BatchNorm's moving averages.
    opt_state: the optimizer's state.
    ema: moving averages of `params` and `batch_stats`, or {} without them.
    metrics: sums over the epoch so far.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState
  ema: Any
  metrics: Metrics


@flax.struct.dataclass
class Health:
  """Which numbers are finite after one call to the devices.

  Attributes:
    finite_step: updates made up to the last one before the first loss that is not
      finite; all updates if every loss of the call is. int32.
    params: whether all parameters are finite after the call's last update, bool.
    averages: the same for BatchNorm's, the optimizer's and the weights' averages.
  """

  finite_step: jax.Array
  params: jax.Array
  averages: jax.Array


def parameter_dtype(config: Config):
  """Returns the type of parameters, pixels and sums: the config's, at least float32."""
  return jnp.promote_types(config.model.dtype, jnp.float32)


def create_state(
  config: Config,
  network: models.Network,
  tx: optax.GradientTransformation,
  image_shape: tuple[int, ...],
) -> TrainState:
  """Returns the state before the first step, in host memory.

  It is a function of the config, `config.seed` included.
  """
  dtype = parameter_dtype(config)
  initial_state = _initialise(network, tx, image_shape, dtype, config.ema_decay > 0)
  # The seed is an argument, so that all seeds share one compiled program. No two arrays
  # may share a buffer, since the state is donated; zeros may share one.
  return jax.tree.map(np.array, initial_state(np.int32(config.seed)))


@functools.lru_cache(maxsize=PROGRAMS)
def _initialise(
  network: models.Network,
  tx: optax.GradientTransformation,
  image_shape: tuple[int, ...],
  dtype: Any,
  has_ema: bool,
) -> Callable:
  """Returns a compiled function from the seed to the state before the first step."""

  def initial_state(seed) -> TrainState:
    images = jnp.zeros((1, *image_shape), dtype)
    variables = network.init(jax.random.key(seed), images, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    # Flax makes float32 averages even where the parameters are float64.
    batch_stats = jax.tree.map(lambda average: average.astype(dtype), batch_stats)
    averages = {"params": params, "batch_stats": batch_stats}
    return TrainState(
      step=jnp.zeros([], jnp.int32),
      params=params,
      batch_stats=batch_stats,
      opt_state=tx.init(params),
      ema=averages if has_ema else {},
      metrics=Metrics.empty(),
    )

  options: Mapping[str, str] = {}
  if jax.default_backend() == "cpu":  # the same bits, compiled in a fifth of the time
    options = compiler.supported({"xla_backend_optimization_level": "0"})
  return jax.jit(initial_state, compiler_options=dict(options))


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
  """Returns the cross-entropy of each example, [batch], in at least float32.

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


def _images(images: jax.Array) -> jax.Array:
  """Reshapes images that are stored one per row; returns others as they are."""
  return images.reshape(len(images), *IMAGE_SHAPE) if images.ndim == 2 else images


def _metrics(logits, labels, losses, mask=None) -> Metrics:
  """Returns the sums over all devices; `mask` [batch] is 0 for examples to ignore."""
  sums = Metrics.single_from_model_output(
    logits=logits, labels=labels, losses=losses, mask=mask
  )
  # clu counts merges; that count must not depend on the number of devices.
  sums = jax.lax.psum(sums, AXIS).replace(_reduction_counter=sums._reduction_counter)
  return jax.tree.map(lambda s, zero: s.astype(zero.dtype), sums, Metrics.empty())


def _all_finite(tree: Any) -> jax.Array:
  finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
  return jnp.all(jnp.stack([jnp.asarray(True), *finite]))


def make_train_step(
  config: Config,
  network: models.Network,
  tx: optax.GradientTransformation,
  steps_per_epoch: int,
  seed: Any,
) -> Callable:
  """Makes the training step of one device.

  Args:
    config: of the run.
    network: from `config.model`.
    tx: the optimizer.
    steps_per_epoch: updates per epoch.
    seed: of the run, which may be traced.

  Returns:
    `train_step(state, images, labels, indices) -> (state, finite)`; `finite` is
    whether the step's loss is, on any device.
  """
  apply: Callable = network.apply
  dtype = parameter_dtype(config)  # wider than bfloat16, for augmentation's sake

  def train_step(state: TrainState, images, labels, indices):
    example_keys = ops.example_keys(seed, state.step, indices)
    x = augmentation.training_view(
      _images(images[indices]), example_keys, config.augmentation, dtype
    )
    y = labels[indices]

    def loss_fn(params):
      variables = {"params": params, "batch_stats": state.batch_stats}
      logits, updated = apply(
        variables,
        x,
        train=True,
        example_keys=example_keys,
        mutable=["batch_stats"],
      )
      losses = cross_entropy(logits, y, config.label_smoothing)
      return losses.mean(), (logits, losses, updated.get("batch_stats", {}))

    grads, (logits, losses, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = tx.update(
      jax.lax.pmean(grads, AXIS), state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    ema = state.ema
    if config.ema_decay:
      new = {"params": params, "batch_stats": batch_stats}
      ema = optax.incremental_update(new, ema, ema_weight(step, config.ema_decay))
    new_epoch = state.step % steps_per_epoch == 0
    sums = jax.tree.map(lambda m: jnp.where(new_epoch, 0, m), state.metrics)
    batch_sums = _metrics(logits, y, losses)
    state = TrainState(
      step=step,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      ema=ema,
      metrics=sums.merge(batch_sums),
    )
    return state, jnp.isfinite(batch_sums.loss.total)

  return train_step


def ema_weight(step: jax.Array, decay: float) -> jax.Array:
  """Returns the weight of the newest value in a debiased moving average.

  With w = (1 - decay) / (1 - decay^t), the average e += w (x - e) is the mean of
  x_1 ... x_t in which x_i weighs decay^(t - i): the initial value has no weight.
  This is Adam's bias correction (Kingma and Ba 2015, section 3), made at each update.

  Args:
    step: t, updates made, this one included; int32.
    decay: in (0, 1).

  Returns:
    w, float of shape [].
  """
  return -(1 - decay) / jnp.expm1(step * math.log(decay))


def make_eval_step(config: Config, network: models.Network, flip: bool) -> Callable:
  """Makes the evaluation step of one device.

  With `flip`, it averages the probabilities of an image and of its mirror image.

  Returns:
    `eval_step(variables, images, labels, indices, mask) -> Metrics`.
  """
  apply: Callable = network.apply
  dtype = parameter_dtype(config)

  def eval_step(variables, images, labels, indices, mask) -> Metrics:
    x = augmentation.pixels(_images(images[indices]), dtype)
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
  donate: int | tuple[int, ...],
  compiler_options: Mapping[str, str] | None,
) -> Callable:
  """Maps a function over devices with `jax.pmap`.

  Args:
    function: takes arrays; its results must be the same on all devices.
    devices: to map over, of all processes.
    num_mapped: how many of the last arguments are split over the devices along their
      first axis; the others are replicated.
    donate: positions of arguments whose buffers the result may reuse.
    compiler_options: of XLA; `jax.pmap` takes none, so `jax.jit` and `jax.shard_map`
      do the same if some are given.
  """
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
  # A jitted function takes global arrays; `jax.pmap` takes this process's part of them.
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
  """Copies arrays to every device, with the sharding `map_over_devices` returns."""
  return jax.device_put(tree, jax.NamedSharding(_mesh(devices), jax.P()))


def shared_program(
  config: Config,
  devices: Sequence[jax.Device],
  num_classes: int,
  num_examples: int,
) -> "Program":
  """Returns the `Program` of a run: that of an earlier run, if it fits both.

  Arguments as for `Program`.
  """
  return program_of(program_key(config), tuple(devices), num_classes, num_examples)


def program_key(config: Config) -> tuple[tuple[str, Any], ...]:
  """Returns the keys and values that the program of a run depends on."""
  values = config_lib.flatten(config).items()
  return tuple(pair for pair in values if pair[0].partition(".")[0] not in INDIVIDUAL)


@functools.lru_cache(maxsize=PROGRAMS)
def program_of(
  key: tuple[tuple[str, Any], ...],
  devices: tuple[jax.Device, ...],
  num_classes: int,
  num_examples: int,
) -> "Program":
  """Makes the `Program` of a `program_key`; other keys of its config have no effect."""
  config = config_lib.from_dict(dict(key), "config")
  return Program(config, devices, num_classes, num_examples)


class Program:
  """A network with its compiled steps, which all runs of the same shapes can share.

  A run's seed and learning rates are arguments, so that runs that differ only in them
  compile nothing again.

  Attributes:
    network: from the config.
    tx: an optimizer that makes the state of `config`'s.
    steps_per_epoch: updates per epoch.
    train_steps: (state, images, labels, seed, num_steps, rates, indices) ->
      (state, health), donating the state; indices [devices, steps, batch per device],
      of which `num_steps` steps are made; rates [steps], the learning rate of each;
      health is a `Health`. The number is an argument of one compiled loop, so that
      cutting an epoch differently compiles nothing again and changes no bit.
    eval_steps: (sums, variables, images, labels, num_steps, indices, mask) -> sums, of
      `Metrics`.
    flip_eval_steps: the same with the mirror image of each image, as `make_eval_step`.
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
    # The rates are those of `train_steps`; these zeros only complete the state.
    self.tx = optimizer.create_optimizer(config, optax.constant_schedule(0.0))

    def train_steps(state, images, labels, seed, num_steps, rates, indices):
      def body(i, carry):
        before, finite_step = carry
        tx = optimizer.create_optimizer(config, lambda _: rates[i])
        train_step = make_train_step(
          config, self.network, tx, self.steps_per_epoch, seed
        )
        state, finite = train_step(before, images, labels, indices[i])
        finite &= finite_step == before.step
        return state, jnp.where(finite, state.step, finite_step)

      carry = state, state.step
      state, finite_step = jax.lax.fori_loop(0, num_steps, body, carry)
      averages = state.batch_stats, state.opt_state, state.ema
      health = Health(finite_step, _all_finite(state.params), _all_finite(averages))
      return state, health

    def make_eval_steps(flip: bool):
      eval_step = make_eval_step(config, self.network, flip)

      def eval_steps(sums, variables, images, labels, num_steps, indices, mask):
        def body(i, sums):
          return sums.merge(eval_step(variables, images, labels, indices[i], mask[i]))

        return jax.lax.fori_loop(0, num_steps, body, sums)

      return map_over_devices(eval_steps, devices, 2, (), options)

    options = ops.select(config.model.ops, config.model.dtype).compiler_options
    self.train_steps = map_over_devices(train_steps, devices, 1, (0,), options)
    self.eval_steps = make_eval_steps(flip=False)
    self.flip_eval_steps = make_eval_steps(flip=True)
