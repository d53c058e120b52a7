"""Places the labels of points so that nothing crosses them.

All positions are in pixels. A box is (left, bottom, right, top); a segment is
(x0, y0, x1, y1). A leader is the segment from a point to the nearest point of its
label's box.
"""

import dataclasses

import numpy as np

DISTANCES = (4, 9, 15, 22, 30, 40, 52, 66, 82, 100, 125, 155, 190, 235, 290, 360)
DIRECTIONS = 24
NEAR = 12.0  # pixels; a label further from its point needs a leader
PADDING = 1.5  # pixels around a label
FORBIDDEN = 1000.0  # the cost of something that crosses a label
# Temperatures of the annealing, in units of cost, which are about pixels.
TEMPERATURES = np.geomspace(100, 3, 24)
GREEDY_PASSES = 4
ATTEMPTS = 4  # at an arrangement in which nothing crosses a label


@dataclasses.dataclass(frozen=True)
class Obstacles:
  """What labels must not cover.

  Attributes:
    markers: the box of each point's marker, `[points, 4]`.
    bars: the boxes of error bars, `[bars, 4]`.
    lines: segments, `[lines, 4]`.
    frame: the box that labels must not leave.
  """

  markers: np.ndarray
  bars: np.ndarray
  lines: np.ndarray
  frame: tuple[float, float, float, float]


def place(points: np.ndarray, sizes: np.ndarray, obstacles: Obstacles) -> np.ndarray:
  """Returns a box for each label; the same for the same arguments.

  Each label takes the best of its candidate boxes, given the others. If some are still
  far from their points, simulated annealing looks for a better arrangement.

  Args:
    points: what the labels belong to, `[points, 2]`.
    sizes: width and height of the labels, `[points, 2]`.
    obstacles: what labels must not cover.
  """
  search = _Search(points, sizes, obstacles)
  for _ in range(GREEDY_PASSES):
    search.sweep()
  costs, boxes = search.costs(), search.boxes.copy()
  if (length(search.leaders) <= NEAR).all():
    return boxes
  for _ in range(ATTEMPTS):
    for temperature in [*TEMPERATURES, *[0.0] * GREEDY_PASSES]:
      search.sweep(temperature)
    if (found := search.costs()).sum() < costs.sum():
      costs, boxes = found, search.boxes.copy()
    if (costs < FORBIDDEN).all():
      break
  return boxes


def leader(point: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """Returns the leader from a point to each box."""
  nearest = np.clip(point, boxes[..., :2], boxes[..., 2:])
  return np.concatenate([np.broadcast_to(point, nearest.shape), nearest], -1)


def length(segments: np.ndarray) -> np.ndarray:
  """Returns the length of each segment."""
  return np.hypot(
    segments[..., 2] - segments[..., 0], segments[..., 3] - segments[..., 1]
  )


class _Search:
  """An arrangement of labels, and how it is improved.

  Attributes:
    boxes, leaders: of the current arrangement; NaN for a label not yet placed.
  """

  def __init__(self, points: np.ndarray, sizes: np.ndarray, obstacles: Obstacles):
    self.boxes = np.full((len(points), 4), np.nan)
    self.leaders = np.full((len(points), 4), np.nan)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    self._crowded_first = np.argsort(-(gaps < 60).sum(1), kind="stable")
    self._rng = np.random.default_rng(0)
    # Per label: its candidate boxes, their leaders, and their costs apart from labels.
    self._options: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for i, (point, size) in enumerate(zip(points, sizes, strict=True)):
      boxes = _candidates(point, size)
      leaders = leader(point, boxes)
      cost = _fixed_cost(i, boxes, leaders, obstacles)
      enough = max(FORBIDDEN, np.sort(cost)[20])
      kept = cost <= enough
      self._options.append((boxes[kept], leaders[kept], cost[kept]))

  def sweep(self, temperature: float = 0.0) -> None:
    """Chooses each label's box anew, given the others.

    Args:
      temperature: of the Gibbs distribution that a box is drawn from; 0 takes the best.
    """
    for i in self._crowded_first:
      boxes, leaders, fixed = self._options[i]
      cost = fixed + self._cost_of_others(i, boxes, leaders)
      if temperature:
        cost = cost - temperature * self._rng.gumbel(size=len(cost))
      best = int(cost.argmin())
      self.boxes[i], self.leaders[i] = boxes[best], leaders[best]

  def costs(self) -> np.ndarray:
    """Returns the cost of each label; what two labels share counts for both."""
    found = []
    for i, (boxes, leaders, fixed) in enumerate(self._options):
      own = np.flatnonzero((boxes == self.boxes[i]).all(1))[:1]
      found.append(fixed[own] + self._cost_of_others(i, boxes[own], leaders[own]))
    return np.concatenate(found)

  def _cost_of_others(
    self, own: int, boxes: np.ndarray, leaders: np.ndarray
  ) -> np.ndarray:
    """Returns what the other labels add to the cost of each candidate."""
    placed = ~np.isnan(self.boxes[:, 0])
    placed[own] = False
    others, lines = self.boxes[placed], self.leaders[placed]
    padded = boxes + PADDING * np.array([-1, -1, 1, 1])
    crossings = _overlap(padded, others).sum(1) + _cross(lines, padded).sum(0)
    crossings += _cross(leaders, others).sum(1)
    return FORBIDDEN * crossings + 25 * _meet(leaders, lines).sum(1)


def _candidates(point: np.ndarray, size: np.ndarray) -> np.ndarray:
  """Returns boxes around a point, the preferred ones first: near, right of it."""
  angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
  unit = np.stack([np.cos(angles), np.sin(angles)], -1)
  aside = np.clip(1.6 * unit, -1, 1) * size / 2
  marker = 5.0  # its radius, and a little
  center = np.concatenate([point + (marker + d) * unit + aside for d in DISTANCES])
  return np.concatenate([center - size / 2, center + size / 2], -1)


def _fixed_cost(
  own: int, boxes: np.ndarray, leaders: np.ndarray, obstacles: Obstacles
) -> np.ndarray:
  """Returns the cost of candidate boxes of point `own`, apart from other labels."""
  padded = boxes + PADDING * np.array([-1, -1, 1, 1])
  low, high = np.tile(obstacles.frame[:2], 2), np.tile(obstacles.frame[2:], 2)
  outside = ((padded < low) | (padded > high)).any(1)
  covered = _overlap(padded, np.concatenate([obstacles.markers, obstacles.bars])).sum(1)
  covered += _cross(obstacles.lines, padded).sum(0) + 100 * outside
  foreign = np.delete(obstacles.markers, own, 0)
  far = length(leaders)
  cost = FORBIDDEN * covered + far + 15 * (far > NEAR)
  steep = 5 * np.abs(leaders[:, 2] - leaders[:, 0]) < far  # seems to be an error bar
  cost += 25 * (steep & (far > NEAR)) + 50 * _cross(leaders, foreign).sum(1)
  cost += 8 * _cross(leaders, obstacles.bars).sum(1)
  cost += 4 * _meet(leaders, obstacles.lines).sum(1)
  # A label without a leader must not seem to belong to another point.
  wide = boxes + 7 * np.array([-1, -1, 1, 1])
  return cost + 10 * _overlap(wide, foreign).sum(1)


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns which boxes overlap, `[a, b]`."""
  a, b = a[:, None], b[None]
  apart = (a[..., :2] >= b[..., 2:]) | (b[..., :2] >= a[..., 2:])
  return ~np.any(apart, axis=-1)


def _cross(segments: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """Returns which segments cross which boxes, `[segments, boxes]` (Liang-Barsky)."""
  start, step = segments[:, None, :2], (segments[:, 2:] - segments[:, :2])[:, None]
  step = np.where(step == 0, 1e-9, step)
  one, two = (boxes[None, :, :2] - start) / step, (boxes[None, :, 2:] - start) / step
  enter = np.minimum(one, two).max(-1)
  leave = np.maximum(one, two).min(-1)
  return np.maximum(enter, 0) < np.minimum(leave, 1)


def _meet(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns which segments cross each other, `[a, b]`."""

  def side(line: np.ndarray, point: np.ndarray) -> np.ndarray:
    along, to = line[..., 2:] - line[..., :2], point - line[..., :2]
    return np.sign(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0])

  a, b = a[:, None], b[None]
  apart = side(a, b[..., :2]) * side(a, b[..., 2:]) < 0
  return apart & (side(b, a[..., :2]) * side(b, a[..., 2:]) < 0)
