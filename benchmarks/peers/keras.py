"""The same networks in Keras 3 on TensorFlow."""

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # the peers share a GPU

import keras
import tensorflow as tf
from keras import layers as kl

from benchmarks import networks
from benchmarks.peers import Peer, Workload, fixed_batch, load_config, num_threads


def build(layers: Sequence[networks.Layer], shape: tuple[int, int, int]) -> keras.Model:
  """Builds a network for images of `shape` (height, width, channels)."""
  x = images = keras.Input(shape)
  for layer in layers:
    x = _apply(layer, x)
  return keras.Model(images, x)


def _apply(layer: networks.Layer, x: Any) -> Any:
  match layer:
    case networks.Conv(features, size, padding, bias, groups, dilation):
      options = {"padding": padding.lower(), "use_bias": bias}
      if groups > 1 and groups == x.shape[-1]:
        return kl.DepthwiseConv2D(size, **options)(x)
      options |= {"groups": groups, "dilation_rate": dilation}
      return kl.Conv2D(features, size, **options)(x)
    case networks.Branches(convolutions):
      return kl.Concatenate()([_apply(branch, x) for branch in convolutions])
    case networks.Dense(features):
      return kl.Dense(features)(x)
    case networks.BatchNorm(momentum, epsilon):
      return kl.BatchNormalization(momentum=momentum, epsilon=epsilon)(x)
    case networks.Dropout(rate):
      return kl.Dropout(rate)(x)
    case networks.ReLU():
      return kl.ReLU()(x)
    case networks.MaxPool():
      return kl.MaxPooling2D()(x)
    case networks.Flatten():
      return kl.Flatten()(x)
  raise AssertionError(layer)


class Keras(Peer):
  """Keras on TensorFlow; each step is a call of a `tf.function`, without XLA.

  For `net6b` on two cores, these were not faster: `fit` over a dataset in memory with
  steps_per_execution 1 or 4, and several steps in one `tf.function`. jit_compile=True
  (XLA:CPU) was far slower; "auto" chooses False there.
  """

  def describe(self) -> str:
    """Returns version, device and threads, in one line."""
    gpus = tf.config.list_physical_devices("GPU")
    where = "GPU" if gpus else f"{num_threads()} threads"
    return f"keras {keras.__version__} on tensorflow {tf.__version__} on {where}"

  def train(self, net: str, batch: int, dtype: str) -> Workload:
    """Prepares the training step on one batch."""
    model, x, y = self._prepare(net, batch, dtype)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    adam = keras.optimizers.Adam(load_config(net).schedule.learning_rate)
    adam.build(model.trainable_variables)

    @tf.function
    def step():
      with tf.GradientTape() as tape:
        value = loss(y, model(tf.cast(x, tf.float32) / 255, training=True))
      adam.apply(tape.gradient(value, model.trainable_variables))
      return value

    return Workload(_repeat(step), facts={"parameters": model.count_params()})

  def infer(self, net: str, batch: int, dtype: str) -> Workload:
    """Prepares the forward pass; it counts the correct predictions."""
    model, x, y = self._prepare(net, batch, dtype)

    @tf.function
    def step():
      logits = model(tf.cast(x, tf.float32) / 255, training=False)
      correct = tf.argmax(logits, 1, output_type=tf.int32) == y
      return tf.reduce_sum(tf.cast(correct, tf.int32))

    return Workload(_repeat(step))

  def _prepare(self, net: str, batch: int, dtype: str):
    mixed = "mixed_bfloat16" if dtype == "bfloat16" else dtype
    keras.config.set_dtype_policy(mixed)
    model = build(networks.LAYERS[net](load_config(net).model), (32, 32, 3))
    return model, *map(tf.constant, fixed_batch(batch))


def _repeat(step: Callable) -> Callable[[int], None]:
  def run(num_steps: int) -> None:
    value = None
    for _ in range(num_steps):
      value = step()
    if value is not None:
      value.numpy()  # waits for the last step

  return run
