"""Schedules and optimizers against the published values and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_flax import config as config_lib
from cifar_flax import optimizer

# The published run's learning rates, epochs 1 to 50, as Keras logged them.
NET6B_RATES = (
  [0.003] * 2
  + [0.0027, 0.0027000001]
  + [0.0024300001] * 2
  + [0.0021870001] * 2
  + [0.0019683001, 0.0019683002]
  + [0.0017714702] * 2
  + [0.0015943232] * 2
  + [0.0014348909] * 2
  + [0.0012914018] * 2
  + [0.0011622616] * 2
  + [0.0010460354] * 2
  + [0.0009414319] * 2
  + [0.0008472887] * 2
  + [0.0007625598] * 2
  + [0.0006863038] * 2
  + [0.0006176734] * 2
  + [0.000555906] * 2
  + [0.0005003154] * 2
  + [0.0005] * 14
)


def make_config(**assignments):
  config = config_lib.Config()
  return config_lib.override(config, {k: str(v) for k, v in assignments.items()})


def test_staircase_gives_the_published_rates():
  rates = optimizer.keras_staircase(0.003, 0.9, 2, 0.0005, 50)
  assert rates.tolist() == NET6B_RATES


def test_staircase_agrees_with_its_closed_form():
  rates = optimizer.keras_staircase(0.003, 0.9, 3, 0.0005, 100)
  closed = np.maximum(0.003 * 0.9 ** (np.arange(100) // 3), 0.0005)
  np.testing.assert_allclose(rates, closed, atol=2e-9)


def test_net6b_uses_the_staircase_step_by_step():
  config = config_lib.load("configs/net6b.py")
  schedule = optimizer.create_schedule(config, steps_per_epoch=390)
  steps = np.arange(50 * 390)
  expected = np.repeat(np.float32(NET6B_RATES), 390)
  np.testing.assert_array_equal(jax.vmap(schedule)(steps), expected)


def test_constant_does_not_move():
  config = make_config(**{"schedule.learning_rate": 0.25})
  schedule = optimizer.create_schedule(config, 10)
  assert {float(schedule(step)) for step in (0, 1, 500, 999)} == {0.25}


def test_cosine_rises_in_a_line_and_falls_as_a_cosine():
  config = make_config(
    num_epochs=10,
    **{
      "schedule.name": "cosine",
      "schedule.learning_rate": 0.5,
      "schedule.warmup_epochs": 2,
      "schedule.minimum": 0.1,
    },
  )
  schedule = optimizer.create_schedule(config, steps_per_epoch=5)
  warmup = [0.5 * (step + 1) / 10 for step in range(10)]
  cosine = [0.1 + 0.4 * (1 + np.cos(np.pi * step / 40)) / 2 for step in range(41)]
  rates = [float(schedule(step)) for step in range(51)]
  np.testing.assert_allclose(rates, warmup + cosine, rtol=1e-5)


def test_one_cycle_rises_to_the_peak_once_and_falls_to_the_minimum():
  config = make_config(
    num_epochs=10,
    **{
      "schedule.name": "one_cycle",
      "schedule.learning_rate": 0.5,
      "schedule.warmup_epochs": 3,
      "schedule.minimum": 0.01,
    },
  )
  schedule = optimizer.create_schedule(config, steps_per_epoch=10)
  rates = np.array([float(schedule(step)) for step in range(101)])
  rising = [0.5 * (step + 1) / 30 for step in range(30)]
  falling = [0.5 - 0.49 * step / 70 for step in range(71)]
  np.testing.assert_allclose(rates, rising + falling, rtol=1e-5)


@pytest.mark.parametrize("name", config_lib.SCHEDULES)
def test_the_first_of_n_warm_up_steps_has_an_nth_of_the_peak(name):
  values = {"schedule.name": name, "schedule.learning_rate": 0.5}
  values |= {"schedule.decay_rate": 1.0, "schedule.warmup_epochs": 0.7}
  config = make_config(num_epochs=3, **values)
  schedule = optimizer.create_schedule(config, steps_per_epoch=10)
  rates = [float(schedule(step)) for step in range(8)]
  np.testing.assert_allclose(rates[:7], 0.5 * np.arange(1, 8) / 7, rtol=1e-6)
  assert rates[7] == 0.5


@pytest.mark.parametrize("name", config_lib.SCHEDULES)
def test_without_warm_up_the_first_step_has_the_peak(name):
  config = make_config(**{"schedule.name": name, "schedule.learning_rate": 0.5})
  assert float(optimizer.create_schedule(config, 10)(0)) == 0.5


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_a_run_that_is_all_warm_up_still_has_a_schedule(name):
  values = {"schedule.name": name, "schedule.warmup_epochs": 1}
  config = make_config(num_epochs=1, **values)
  for steps_per_epoch in (1, 2, 10):
    schedule = optimizer.create_schedule(config, steps_per_epoch)
    rates = [float(schedule(step)) for step in range(steps_per_epoch)]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(0.001)


def adam_by_hand(gradients, learning_rate, b1, b2, epsilon, keras):
  """The positions of Kingma and Ba's algorithm 1, from 1.0, in float64."""
  position, m, v, positions = np.ones_like(gradients[0]), 0.0, 0.0, []
  for t, gradient in enumerate(gradients, start=1):
    m = b1 * m + (1 - b1) * gradient
    v = b2 * v + (1 - b2) * gradient**2
    if keras:
      rate = learning_rate * np.sqrt(1 - b2**t) / (1 - b1**t)
      position = position - rate * m / (np.sqrt(v) + epsilon)
    else:
      m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
      position = position - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)
    positions.append(position)
  return np.array(positions)


def updated(config, gradients):
  tx = optimizer.create_optimizer(config, optimizer.create_schedule(config, 1))
  params = {"kernel": jnp.ones(gradients.shape[1])}
  state, positions = tx.init(params), []
  for gradient in gradients:
    updates, state = tx.update({"kernel": jnp.asarray(gradient)}, state, params)
    params = optax.apply_updates(params, updates)
    positions.append(params["kernel"])
  return np.array(positions)


@pytest.mark.parametrize("name", ["keras_adam", "adam"])
@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e-8])
def test_adam_is_kingmas_in_two_forms(name, scale):
  gradients = scale * np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
  config = make_config(**{"optimizer.name": name, "schedule.learning_rate": 0.01})
  expected = adam_by_hand(gradients, 0.01, 0.9, 0.999, 1e-7, name == "keras_adam")
  # Adam's cube is invariant to scale until epsilon matters, which 1e-8 makes it do.
  np.testing.assert_allclose(updated(config, gradients), expected, rtol=1e-5, atol=1e-6)


def test_keras_epsilon_weighs_31_times_more_at_the_first_step():
  gradients = np.full((1, 1), 1e-7, np.float32)
  steps = {}
  for name in ("keras_adam", "adam"):
    config = make_config(**{"optimizer.name": name, "schedule.learning_rate": 1.0})
    steps[name] = 1 - updated(config, gradients).item()
  # sqrt(v) = 1e-7 sqrt(0.001) = 3.16e-9: 3.16e-9 / (3.16e-9 + 1e-7), and 1 / 2
  assert steps["keras_adam"] == pytest.approx(0.03065, rel=1e-3)
  assert steps["adam"] == pytest.approx(0.5, rel=1e-3)


def test_sgd_with_nesterov_by_hand():
  gradients = np.array([[1.0], [-2.0], [0.5]], np.float32)
  config = make_config(
    **{
      "optimizer.name": "sgd",
      "optimizer.momentum": 0.5,
      "schedule.learning_rate": 0.1,
    }
  )
  # velocity: 1, -1.5, -0.25; step: g + 0.5 velocity = 1.5, -2.75, 0.375
  expected = 1 - 0.1 * np.cumsum([[1.5], [-2.75], [0.375]], axis=0)
  np.testing.assert_allclose(updated(config, gradients), expected, rtol=1e-6)


def test_sgd_without_nesterov_by_hand():
  gradients = np.array([[1.0], [-2.0], [0.5]], np.float32)
  values = {"optimizer.name": "sgd", "optimizer.momentum": 0.5}
  values |= {"optimizer.nesterov": False, "schedule.learning_rate": 0.1}
  # velocity: 1, -1.5, -0.25
  expected = 1 - 0.1 * np.cumsum([[1.0], [-1.5], [-0.25]], axis=0)
  updates = updated(make_config(**values), gradients)
  np.testing.assert_allclose(updates, expected, rtol=1e-6)


def test_weight_decay_leaves_biases_and_batch_norm_alone():
  config = make_config(
    **{
      "optimizer.name": "sgd",
      "optimizer.weight_decay": 0.1,
      "schedule.learning_rate": 0.5,
    }
  )
  params = {
    "Conv_0": {"kernel": jnp.full((2, 2), 4.0), "bias": jnp.full(2, 4.0)},
    "norm": {"scale": jnp.full(2, 4.0), "bias": jnp.full(2, 4.0)},
  }
  tx = optimizer.create_optimizer(config, optimizer.create_schedule(config, 1))
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  np.testing.assert_allclose(updates["Conv_0"]["kernel"], -0.5 * 0.1 * 4.0)
  for kept in (updates["Conv_0"]["bias"], *updates["norm"].values()):
    np.testing.assert_array_equal(kept, 0)


def test_weight_decay_takes_kernels_whatever_their_names():
  params = {"kernel": jnp.ones((3, 3, 2, 4)), "basis": jnp.ones((18, 2))}
  params |= {"bias": jnp.ones(4), "scale": jnp.ones(4)}
  wanted = {"kernel": True, "basis": True, "bias": False, "scale": False}
  assert optimizer.decayed(params) == wanted
