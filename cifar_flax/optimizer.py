"""Makes schedules and optimizers from a config: Optax's, and Keras' Adam."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cifar_flax.config import Config


def keras_staircase(
  learning_rate: float,
  decay_rate: float,
  epochs_per_decay: int,
  minimum: float,
  num_epochs: int,
) -> np.ndarray:
  """Returns the learning rate of each epoch, as the published callback set it.

  At the beginning of epoch 1 + k * epochs_per_decay, k >= 1, the rate becomes
  round(max(decay_rate * float32(rate), minimum), 10), at any other epoch
  round(float32(rate), 10): Keras keeps the rate in a float32 variable that the
  callback reads and sets each time.

  Returns:
    float64 [num_epochs].
  """
  rate, rates = learning_rate, []
  for epoch in range(num_epochs):
    rate = float(np.float32(rate))
    if epoch > 0 and epoch % epochs_per_decay == 0:
      rate = max(decay_rate * rate, minimum)
    rate = round(rate, 10)
    rates.append(rate)
  return np.asarray(rates)


def create_schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
  """Returns the learning rate as a function of the number of updates made.

  After n steps of warm-up, `constant` stays at the peak, `staircase` is
  `keras_staircase`, `cosine` and `one_cycle` (Smith and Topin 2018,
  "Super-convergence", without its cyclic momentum) fall to `minimum` along half a
  cosine or a line, which they reach one step after the run's last. The first step of
  the warm-up has the rate peak / n and its last one the peak. The warm-up of a schedule
  that ends with the run is at most as long as the run.
  """
  schedule = config.schedule
  peak, num_steps = schedule.learning_rate, config.num_epochs * steps_per_epoch
  warmup = round(schedule.warmup_epochs * steps_per_epoch)
  if schedule.name == "constant":
    return _warmed_up(optax.constant_schedule(peak), warmup)
  if schedule.name == "staircase":
    rates = keras_staircase(
      peak,
      schedule.decay_rate,
      schedule.epochs_per_decay,
      schedule.minimum,
      config.num_epochs,
    )
    table = jnp.asarray(rates, jnp.float32)
    return _warmed_up(
      lambda step: table[jnp.minimum(step // steps_per_epoch, len(rates) - 1)], warmup
    )
  warmup = min(warmup, num_steps)
  falling, minimum = max(num_steps - warmup, 1), min(schedule.minimum, peak)
  if schedule.name == "cosine":
    decay = optax.cosine_decay_schedule(peak, falling, minimum / peak if peak else 0.0)
  else:
    assert schedule.name == "one_cycle", schedule.name
    decay = optax.linear_schedule(peak, minimum, falling)
  return _warmed_up(lambda step: decay(jnp.maximum(step - warmup, 0)), warmup)


def _warmed_up(schedule: optax.Schedule, num_steps: int) -> optax.Schedule:
  """Multiplies the first n = `num_steps` rates of a schedule by 1/n, 2/n, ... 1."""
  if not num_steps:
    return schedule
  return lambda step: schedule(step) * jnp.minimum((step + 1) / num_steps, 1.0)


class KerasAdamState(NamedTuple):
  """The number of updates made, and the moving averages of gradient and square."""

  step: jax.Array
  mu: optax.Updates
  nu: optax.Updates


def scale_by_keras_adam(
  b1: float, b2: float, epsilon: float
) -> optax.GradientTransformation:
  """Adam with epsilon outside the bias correction, as Keras writes it.

  sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon); Kingma and Ba 2015, the
  remark at the end of section 2. Optax adds epsilon after the correction of v,
  which makes it larger by 1 / sqrt(1 - b2^t): 31.6 times at the first update.
  """

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return KerasAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

  def update(updates, state, params=None):
    del params
    step = optax.safe_increment(state.step)
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)

    def scaled(m, v):
      t = step.astype(m.dtype)
      correction = jnp.sqrt(1 - b2**t) / (1 - b1**t)
      return correction * m / (jnp.sqrt(v) + epsilon)

    return jax.tree.map(scaled, mu, nu), KerasAdamState(step, mu, nu)

  return optax.GradientTransformation(init, update)


def decayed(params):
  """Returns which parameters weight decay applies to: kernels, not vectors."""
  return jax.tree.map(lambda parameter: parameter.ndim > 1, params)


def create_optimizer(
  config: Config, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Makes `keras_adam`, `adam` or `sgd`, with decoupled weight decay (AdamW, SGDW)."""
  optimizer = config.optimizer
  if optimizer.name == "keras_adam":
    scale = scale_by_keras_adam(optimizer.b1, optimizer.b2, optimizer.epsilon)
  elif optimizer.name == "adam":
    scale = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.epsilon)
  else:
    assert optimizer.name == "sgd", optimizer.name
    scale = optax.trace(optimizer.momentum, nesterov=optimizer.nesterov)
  steps = [scale]
  if optimizer.weight_decay > 0:
    steps.append(optax.add_decayed_weights(optimizer.weight_decay, mask=decayed))
  return optax.chain(*steps, optax.scale_by_learning_rate(schedule))
