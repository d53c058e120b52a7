"""Draws the images of shapes10: one of ten shapes over a textured background.

Every image is a function of its split and index alone. It is the same on every machine
and with every library version, because drawing uses only these operations:

- PCG64's raw stream, which NumPy promises never to change;
- sines and cosines rounded to 6 decimals, far coarser than their error;
- additions, multiplications, divisions and comparisons of float32, which IEEE 754
  defines exactly.
"""

import math
from collections.abc import Callable

import numpy as np

SIZE = 32
_SAMPLES = 3  # per pixel and axis; a pixel is the mean of its samples
_SEED = 20261122
_NUM_SPECKS = 3


class _Numbers:
  """A stream of random numbers that depends on its key alone."""

  def __init__(self, *key: int):
    self._bits = np.random.PCG64(np.random.SeedSequence((_SEED, *key)))

  def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
    """Returns float32 numbers in [low, high)."""
    raw = self._bits.random_raw(math.prod(shape))
    unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return (np.float32(low) + np.float32(high - low) * unit).reshape(shape)

  def number(self, low: float, high: float) -> np.float32:
    """Returns one float32 number in [low, high)."""
    return self.uniform(low, high, 1)[0]


def _cosine_sine(turns: float) -> tuple[np.float32, np.float32]:
  angle = 2 * math.pi * turns
  return np.float32(round(math.cos(angle), 6)), np.float32(round(math.sin(angle), 6))


def _regular(points: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
  """Returns corners at equal angles, starting at the top and cycling through radii."""
  corners = []
  for index in range(points):
    cosine, sine = _cosine_sine(index / points - 0.25)
    radius = np.float32(radii[index % len(radii)])
    corners.append((float(radius * cosine), float(radius * sine)))
  return corners


_Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _polygon(corners: list[tuple[float, float]]) -> _Inside:
  """Returns a function that tests by the even-odd rule if points are in a polygon."""
  edges = [
    tuple(np.float32(value) for value in (*start, *end))
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True)
  ]

  def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    odd = np.zeros(x.shape, bool)
    for start_x, start_y, end_x, end_y in edges:
      if start_y == end_y:
        continue  # the test rays are horizontal and never cross a horizontal edge
      slope = (end_x - start_x) / (end_y - start_y)
      crosses = (start_y > y) != (end_y > y)
      odd ^= crosses & (x < start_x + slope * (y - start_y))
    return odd

  return inside


def _disc(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
  return x * x + y * y < np.float32(radius * radius)


def _box(x: np.ndarray, y: np.ndarray, half: float, other: float = 0) -> np.ndarray:
  return (abs(x) < np.float32(half)) & (abs(y) < np.float32(other or half))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  x, y = x * np.float32(1.15), np.float32(0.1) - y * np.float32(1.15)
  bulge = x * x + y * y - 1
  return bulge * bulge * bulge < x * x * y * y * y


# Each function returns whether points (x to the right, y down) lie in the shape, which
# fills the disc of radius 1. The order of the shapes is the order of the labels.
SHAPES: dict[str, _Inside] = {
  "circle": lambda x, y: _disc(x, y, 0.9),
  "ring": lambda x, y: _disc(x, y, 0.98) & ~_disc(x, y, 0.58),
  "square": lambda x, y: _box(x, y, 0.78),
  "frame": lambda x, y: _box(x, y, 0.86) & ~_box(x, y, 0.48),
  "triangle": _polygon(_regular(3, (1.1,))),
  "star": _polygon(_regular(10, (1.1, 0.46))),
  "cross": lambda x, y: _box(x, y, 1, 0.3) | _box(x, y, 0.3, 1),
  "heart": _heart,
  "crescent": lambda x, y: _disc(x, y, 1) & ~_disc(x - np.float32(0.5), y, 0.82),
  "arrow": _polygon(
    [
      (0, -1.1),
      (0.85, -0.1),
      (0.3, -0.1),
      (0.3, 1),
      (-0.3, 1),
      (-0.3, -0.1),
      (-0.85, -0.1),
    ]
  ),
}
CLASS_NAMES = tuple(SHAPES)

# Sample positions in pixels from the centre of the image: rows `[samples, 1]`, columns
# `[1, samples]`.
_STEPS = np.arange(SIZE * _SAMPLES, dtype=np.float32) + np.float32(0.5)
_STEPS = _STEPS / np.float32(_SAMPLES) - np.float32(SIZE / 2)
_ROWS, _COLUMNS = _STEPS[:, None], _STEPS[None, :]


def _turned(
  numbers: _Numbers, centre: np.ndarray, scale: np.ndarray, turns: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
  """Returns x and y of all samples in a shifted, scaled and randomly rotated frame.

  Args:
    numbers: The random numbers that the angle is drawn from.
    centre: `[column, row]` of the frame's origin, in pixels from the image's centre.
    scale: Pixels per unit of x and of y.
    turns: The largest rotation in either direction, in full turns.
  """
  cosine, sine = _cosine_sine(float(numbers.number(-turns, turns)))
  columns, rows = _COLUMNS - centre[0], _ROWS - centre[1]
  x = (cosine * columns + sine * rows) / scale[0]
  y = (cosine * rows - sine * columns) / scale[1]
  return x, y


def _coverage(mask: np.ndarray) -> np.ndarray:
  """Returns the fraction of each pixel that a mask of samples covers, `[32, 32, 1]`."""
  counts = mask.astype(np.uint8)
  counts = np.add.reduce([counts[start::_SAMPLES] for start in range(_SAMPLES)])
  counts = np.add.reduce([counts[:, start::_SAMPLES] for start in range(_SAMPLES)])
  return (counts.astype(np.float32) / np.float32(_SAMPLES**2))[..., None]


def _at_pixels(samples: np.ndarray) -> np.ndarray:
  """Returns the central sample of each pixel, `[32, 32, 1]`."""
  return samples[_SAMPLES // 2 :: _SAMPLES, _SAMPLES // 2 :: _SAMPLES, None]


def _background(numbers: _Numbers) -> tuple[np.ndarray, np.ndarray]:
  """Returns a canvas `[32, 32, 3]` and three colours of its gradient."""
  first, last = numbers.uniform(0.05, 0.95, 2, 3)
  x, _ = _turned(numbers, np.zeros(2, np.float32), np.full(2, 36, np.float32))
  canvas = first + np.clip(_at_pixels(x) + np.float32(0.5), 0, 1) * (last - first)
  # A faint texture of stripes, or of checks if y is used as well.
  x, y = _turned(numbers, np.zeros(2, np.float32), numbers.uniform(3, 8, 2))
  odd = np.floor(x).astype(np.int32)
  if numbers.number(0, 1) < 0.5:
    odd += np.floor(y).astype(np.int32)
  canvas += _coverage(odd & 1) * numbers.uniform(-0.12, 0.12, 3)
  return canvas, np.stack([first, (first + last) / 2, last])


def _far_from(numbers: _Numbers, colours: np.ndarray) -> np.ndarray:
  """Returns the one of eight random colours that is farthest from the given ones."""
  candidates = numbers.uniform(0, 1, 8, 3)
  difference = candidates[:, None, :] - colours[None, :, :]
  red, green, blue = np.moveaxis(difference * difference, -1, 0)
  return candidates[np.argmax((red + green + blue).min(axis=1))]


def draw(label: int, *key: int) -> np.ndarray:
  """Draws one image.

  Args:
    label: The index of the shape in `CLASS_NAMES`.
    *key: Integers that seed the image's random numbers, together with the label.

  Returns:
    uint8 `[32, 32, 3]`.
  """
  numbers = _Numbers(label, *key)
  canvas, colours = _background(numbers)
  for _ in range(_NUM_SPECKS):
    speck = _turned(numbers, numbers.uniform(-16, 16, 2), numbers.uniform(0.8, 2.2, 2))
    covered = _coverage(_disc(*speck, radius=1))
    canvas += covered * (numbers.uniform(0, 1, 3) - canvas)
  radius = numbers.number(7.5, 12)
  centre = numbers.uniform(-1, 1, 2) * (np.float32(15) - radius)
  x, y = _turned(numbers, centre, radius * numbers.uniform(0.88, 1.12, 2), 1 / 8)
  covered = _coverage(SHAPES[CLASS_NAMES[label]](x, y))
  light = _at_pixels(x) * numbers.uniform(-0.15, 0.15, 3)  # a light from one side
  canvas += covered * (_far_from(numbers, colours) + light - canvas)
  # The sum of two uniform numbers approximates a Gaussian without a logarithm.
  noise = numbers.uniform(-1, 1, 2, SIZE, SIZE, 3)
  canvas += numbers.number(0.02, 0.1) * (noise[0] + noise[1])
  return (np.clip(canvas, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
