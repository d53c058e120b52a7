"""The same networks in PyTorch, eager or compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import networks
from benchmarks.peers import Peer, Workload, fixed_batch, load_config
from cifar_flax.config import Model


class Branches(nn.ModuleList):
  """Parallel convolutions of one input; their outputs are concatenated."""

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Returns all outputs, concatenated along the channels, [batch, c, h, w]."""
    return torch.cat([branch(x) for branch in self], dim=1)


def build(layers: Sequence[networks.Layer], shape: tuple[int, int, int]) -> nn.Module:
  """Builds a network for images of `shape` (channels, height, width)."""
  net = nn.Sequential(*map(_module, layers))
  with torch.no_grad():
    net.eval()(torch.zeros(1, *shape))  # lazy modules take their input's size
  return net.train()


def _module(layer: networks.Layer) -> nn.Module:
  match layer:
    case networks.Conv(features, size, _, bias, groups, dilation):
      options: dict[str, Any] = {"dilation": dilation, "groups": groups, "bias": bias}
      return nn.LazyConv2d(features, size, padding=_padding(layer), **options)
    case networks.Branches(convolutions):
      return Branches(map(_module, convolutions))
    case networks.Dense(features):
      return nn.LazyLinear(features)
    case networks.BatchNorm(momentum, epsilon):
      return nn.LazyBatchNorm2d(eps=epsilon, momentum=1 - momentum)
    case networks.Dropout(rate):
      return nn.Dropout(rate)
    case networks.ReLU():
      return nn.ReLU(inplace=True)
    case networks.MaxPool():
      return nn.MaxPool2d(2)
    case networks.Flatten():
      return nn.Flatten()
  raise AssertionError(layer)


class PyTorch(Peer):
  """PyTorch, on the GPU if there is one, in TF32 or under autocast to bfloat16.

  Attributes:
    layout: memory format of images and kernels.
    compiled: whether `torch.compile` compiles the forward pass and the loss.
  """

  def __init__(self, channels_last: bool = True, compiled: bool = False):
    self.layout = torch.channels_last if channels_last else torch.contiguous_format
    self.compiled = compiled
    self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_flush_denormal(True)  # as XLA does
    torch.backends.cudnn.benchmark = True
    if self.device.type == "cuda":
      torch.set_float32_matmul_precision("high")  # TF32, XLA's default
      torch.backends.cudnn.allow_tf32 = True

  def describe(self) -> str:
    """Returns version, device and threads, in one line."""
    name = f"{torch.get_num_threads()} threads"
    if self.device.type == "cuda":
      name = torch.cuda.get_device_name()
    layout = str(self.layout).removeprefix("torch.")
    how = f"torch.compile, mode {self._mode()}" if self.compiled else "eager"
    return f"torch {torch.__version__} on {name}, {layout}, {how}"

  def train(self, net: str, batch: int, dtype: str) -> Workload:
    """Prepares the training step on one batch."""
    module = self._network(net)
    x, y = self._batch(batch)
    # foreach=True and the default both take 1.1 times as long (`net6b`, two cores).
    rate = load_config(net).schedule.learning_rate
    adam = torch.optim.Adam(module.parameters(), rate, eps=1e-7, fused=True)

    def loss_fn() -> torch.Tensor:
      with self._autocast(dtype):
        logits = module(x.float() / 255)
      return F.cross_entropy(logits.float(), y)

    loss_fn = self._compile(loss_fn)

    def step() -> None:
      adam.zero_grad(set_to_none=True)
      loss_fn().backward()
      adam.step()

    tensors = [*module.parameters(), *module.buffers()]
    parameters = sum(t.numel() for t in tensors if t.is_floating_point())
    return Workload(self._repeat(step), facts={"parameters": parameters})

  def infer(self, net: str, batch: int, dtype: str) -> Workload:
    """Prepares the forward pass; it counts the correct predictions."""
    module = self._network(net).eval()
    x, y = self._batch(batch)

    def count_correct() -> torch.Tensor:
      with self._autocast(dtype):
        return (module(x.float() / 255).argmax(1) == y).sum()

    return Workload(torch.inference_mode()(self._repeat(self._compile(count_correct))))

  def convolution(
    self, conv: dict[str, Any], shape: Sequence[int], product: str, dtype: str
  ) -> Workload:
    """Prepares one product of a convolution, as autograd computes it."""
    layer = networks.Conv(**conv)
    batch, height, width, channels = shape
    rows, columns = layer.size
    x = self._random((batch, channels, height, width), dtype)
    kernel_shape = (layer.features, channels // layer.groups, rows, columns)
    kernel = self._random(kernel_shape, dtype)
    padding, dilation = _padding(layer), [layer.dilation, layer.dilation]
    numbers = ([1, 1], padding, dilation, False, [0, 0], layer.groups)
    convolve, backward = torch.ops.aten.convolution, torch.ops.aten.convolution_backward
    dy = self._random(convolve(x, kernel, None, *numbers).shape, dtype)
    mask = [product == "input gradient", product == "filter gradient", False]

    def step() -> None:
      if product == "forward":
        convolve(x, kernel, None, *numbers)
      else:
        backward(dy, x, kernel, None, *numbers, mask)

    return Workload(self._repeat(step))

  def block(self, kind: str, batch: int, dtype: str) -> Workload:
    """Prepares output and gradients of a convolution type, BatchNorm and ReLU."""
    slot = networks.convolution_types(Model())[kind]
    shape = (slot.channels, slot.height, slot.height)
    module: Any = build(slot.layers, shape)
    module = module.to(self.device, memory_format=self.layout)
    x = self._random((batch, *shape), "float32").requires_grad_()
    inputs = [x, *module.parameters()]

    def forward() -> torch.Tensor:
      with self._autocast(dtype):
        return module(x)

    dy = torch.rand_like(forward())
    forward = self._compile(forward)
    return Workload(self._repeat(lambda: torch.autograd.grad(forward(), inputs, dy)))

  def _mode(self) -> str:
    # On a GPU, max-autotune selects kernels by their time and captures CUDA graphs. On
    # a CPU, neither it nor freezing the weights made inference with `net6b` faster.
    return "max-autotune" if self.device.type == "cuda" else "default"

  def _compile(self, function):
    return torch.compile(function, mode=self._mode()) if self.compiled else function

  def _network(self, net: str) -> nn.Module:
    layers = networks.LAYERS[net](load_config(net).model)
    module: Any = build(layers, (3, 32, 32))  # Any: mypy rejects memory_format
    return module.to(self.device, memory_format=self.layout)

  def _batch(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = map(torch.from_numpy, fixed_batch(batch))
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
    return images.to(self.device), labels.long().to(self.device)

  def _random(self, shape: Sequence[int], dtype: str) -> Any:
    x = torch.rand(shape, dtype=getattr(torch, dtype), device=self.device) * 2 - 1
    return x.contiguous(memory_format=self.layout)

  def _autocast(self, dtype: str) -> torch.autocast:
    return torch.autocast(self.device.type, torch.bfloat16, dtype == "bfloat16")

  def _repeat(self, step: Callable[[], Any]) -> Callable[[int], None]:
    def run(num_steps: int) -> None:
      for _ in range(num_steps):
        step()
      if self.device.type == "cuda":
        torch.cuda.synchronize()

    return run


def _padding(layer: networks.Conv) -> tuple[int, int]:
  same, (rows, columns) = layer.padding == "SAME", layer.size
  return (
    layer.dilation * (rows - 1) // 2 * same,
    layer.dilation * (columns - 1) // 2 * same,
  )
