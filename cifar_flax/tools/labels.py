"""Places the labels of points so that nothing crosses them.

All positions are in pixels. A box is (left, bottom, right, top); a segment is
(x0, y0, x1, y1).
"""

import dataclasses

import numpy as np

DISTANCES = (4, 9, 15, 22, 30, 40, 52, 66, 82, 100, 125, 155, 190, 235, 290, 360)
DIRECTIONS = 24
NEAR = 12.0  # pixels; a label further from its point needs a leader line
PADDING = 1.5  # pixels around a label
PASSES = 6
FORBIDDEN = 1000.0  # the cost of something that crosses a label


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
  """Returns a box for each label.

  Each label takes its best position given the others, in several passes.

  Args:
    points: what the labels belong to, `[points, 2]`.
    sizes: width and height of the labels, `[points, 2]`.
    obstacles: what labels must not cover.
  """
  number = len(points)
  boxes = np.full((number, 4), np.nan)
  leaders = np.full((number, 4), np.nan)
  gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
  crowded_first = np.argsort(-(gaps < 60).sum(1), kind="stable")
  options = [_candidates(*pair) for pair in zip(points, sizes, strict=True)]
  for _ in range(PASSES):
    before = boxes.copy()
    for i in crowded_first:
      others = np.arange(number) != i
      placed = others & ~np.isnan(boxes[:, 0])
      tried = leader(points[i], options[i])
      cost = _cost(i, options[i], tried, obstacles, boxes[placed], leaders[placed])
      best = int(cost.argmin())
      boxes[i], leaders[i] = options[i][best], tried[best]
    if np.array_equal(before, boxes):
      break
  return boxes


def leader(point: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """Returns the segment from a point to the nearest point of each box."""
  nearest = np.clip(point, boxes[..., :2], boxes[..., 2:])
  return np.concatenate([np.broadcast_to(point, nearest.shape), nearest], -1)


def length(segments: np.ndarray) -> np.ndarray:
  """Returns the length of each segment."""
  return np.hypot(
    segments[..., 2] - segments[..., 0], segments[..., 3] - segments[..., 1]
  )


def _candidates(point: np.ndarray, size: np.ndarray) -> np.ndarray:
  """Returns boxes around a point, the preferred ones first: right, then above."""
  angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
  unit = np.stack([np.cos(angles), np.sin(angles)], -1)
  aside = np.clip(1.6 * unit, -1, 1) * size / 2
  start = 5.0  # the radius of a marker, and a little
  centers = [point + (start + distance) * unit + aside for distance in DISTANCES]
  center = np.concatenate(centers)
  return np.concatenate([center - size / 2, center + size / 2], -1)


def _cost(
  own: int,
  boxes: np.ndarray,
  tried: np.ndarray,
  obstacles: Obstacles,
  labels: np.ndarray,
  leaders: np.ndarray,
) -> np.ndarray:
  """Returns the cost of each candidate box of the label of point `own`."""
  padded = boxes + PADDING * np.array([-1, -1, 1, 1])
  solid = np.concatenate([obstacles.markers, obstacles.bars, labels])
  lines = np.concatenate([obstacles.lines, leaders])
  low, high = np.tile(obstacles.frame[:2], 2), np.tile(obstacles.frame[2:], 2)
  outside = ((padded < low) | (padded > high)).any(1)
  crossings = _overlap(padded, solid).sum(1) + _cross(lines, padded).sum(0)
  crossings += _cross(tried, labels).sum(1) + 100 * outside
  foreign = np.delete(obstacles.markers, own, 0)
  far = length(tried)
  cost = FORBIDDEN * crossings + far
  cost += 15 * (far > NEAR)
  cost += 25 * _cross(tried, foreign).sum(1) + 8 * _cross(tried, obstacles.bars).sum(1)
  cost += 25 * _meet(tried, leaders).sum(1) + 4 * _meet(tried, obstacles.lines).sum(1)
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
