"""Observers that write the files of a run directory, except for its checkpoints.

Files are replaced atomically, except that `metrics.jsonl` and TensorBoard's events are
appended to after each epoch. The checkpoint determines the state of a run: on resume,
the files that list epochs are rewritten from the rows in the checkpoint.
"""

import contextlib
import io
import json
import logging
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cifar_flax import config as config_lib
from cifar_flax import published, text
from cifar_flax.run.files import name_in_errors, write_atomically
from cifar_flax.run.observers.base import Observer, Run

if TYPE_CHECKING:
  import numpy as np


class ConfigFile(Observer):
  """Writes `config.json`: the complete config, in the form that `--config` accepts."""

  def start(self, run: Run) -> None:
    """Writes the file."""
    _write_json(run.workdir / "config.json", config_lib.to_dict(run.config))


class SummaryFile(Observer):
  """Writes `summary.json`, which exists only if the run has finished its last epoch."""

  def start(self, run: Run) -> None:
    """Deletes the file of a finished run that is resumed with more epochs."""
    self._file = run.workdir / "summary.json"
    self._file.unlink(missing_ok=True)

  def finish(self, summary: dict[str, Any]) -> None:
    """Writes the file."""
    _write_json(self._file, summary)


def _write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
  write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


class MetricsFile(Observer):
  """Writes `metrics.jsonl`: one line per epoch, appended when the epoch is finished."""

  def start(self, run: Run) -> None:
    """Writes the rows in the checkpoint, and drops those of later epochs."""
    self._path = run.workdir / "metrics.jsonl"
    lines = "".join(json.dumps(row) + "\n" for row in run.history)
    write_atomically(self._path, lines.encode())

  def epoch(self, row: dict[str, Any]) -> None:
    """Appends a line."""
    with name_in_errors(self._path), open(self._path, "a") as file:
      file.write(json.dumps(row) + "\n")


class TensorBoard(Observer):
  """Writes `events.out.tfevents.*` for TensorBoard: the curves, by step.

  The tab "Custom Scalars" shows training and evaluation in one chart, "HParams" shows
  the config, and "Images" training images, once the first epoch is finished.
  On resume, one new file with the earlier epochs replaces the old files, so that no
  point appears twice. This class uses tensorboardX only for its file format: its
  SummaryWriter writes in a thread, and a run would hang when the disk is full.
  """

  TAGS = {
    "accuracy/train": "train_accuracy",
    "accuracy/eval": "eval_accuracy",
    "loss/train": "train_loss",
    "loss/eval": "eval_loss",
    "schedule/learning_rate": "lr",
    "schedule/epoch": "epoch",
    "speed/images_per_second": "images_per_second",
    "speed/seconds_per_epoch": "seconds",
  }

  def __init__(self):
    self._writer = None

  def start(self, run: Run) -> None:
    """Writes the config, the layout of the charts and the earlier epochs."""
    self._workdir, self._samples = run.workdir, run.samples
    for old in run.workdir.glob("events.out.tfevents.*"):
      old.unlink()
    with name_in_errors(run.workdir):
      self._start(run)

  def _start(self, run: Run) -> None:
    with _without_pytorch():
      from tensorboardX import event_file_writer, summary
      from tensorboardX.proto import event_pb2

      config = config_lib.flatten(run.config)
      experiment, begin, self._end = summary.hparams(config, dict.fromkeys(self.TAGS))
    self._event, self._tensorboard = event_pb2.Event, summary
    self._writer = event_file_writer.EventsWriter(str(run.workdir / "events"))
    wall_time = time.time() - sum(row["seconds"] for row in run.history)
    # A TensorBoard that is already open discards all events before this one.
    restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(0, wall_time, session_log=restart)
    lines = json.dumps(config_lib.to_dict(run.config), indent=2).splitlines()
    block = "\n".join(f"    {line}" for line in lines)
    self._add(0, wall_time, summary=summary.text("config", block))
    pairs = {
      k: ["Multiline", [f"{k}/train", f"{k}/eval"]] for k in ("accuracy", "loss")
    }
    self._add(0, wall_time, summary=summary.custom_scalars({"train and eval": pairs}))
    for hparams in (experiment, begin):
      self._add(0, wall_time, summary=hparams)
    for row in run.history:
      wall_time += row["seconds"]
      self._add_row(row, wall_time)
    self._writer.flush()

  def _add(self, step: int, wall_time: float, **content) -> None:
    assert self._writer, "start() must be called before epoch()"
    self._writer.write_event(self._event(step=step, wall_time=wall_time, **content))

  def _add_row(self, row: dict[str, Any], wall_time: float) -> None:
    for tag, name in self.TAGS.items():
      if row[name] is None:  # an epoch without evaluation
        continue
      scalar = self._tensorboard.scalar(tag, row[name])
      self._add(row["step"], wall_time, summary=scalar)

  def epoch(self, row: dict[str, Any]) -> None:
    """Adds a point to every curve, and the images after the first epoch."""
    with name_in_errors(self._workdir):
      self._add_row(row, time.time())
      self._add_samples()
      self._writer.flush()  # type: ignore[union-attr]

  def finish(self, summary: dict[str, Any]) -> None:
    """Marks the run as finished."""
    with name_in_errors(self._workdir):
      self._add_samples()
      self._add(0, time.time(), summary=self._end)

  def _add_samples(self) -> None:
    draw, self._samples = self._samples, None
    if draw is None:
      return
    try:
      picture = _encoded("samples", draw(), self._tensorboard.Summary)
    except Exception as error:  # a missing picture must not end the run
      reason = str(error).split("\n")[0]
      logging.warning("could not draw samples for TensorBoard: %s", reason)
      return
    self._add(0, time.time(), summary=picture)

  def close(self) -> None:
    """Closes the event file."""
    writer, self._writer = self._writer, None
    if writer:
      with name_in_errors(self._workdir):
        writer.close()


def _encoded(tag: str, pixels: "np.ndarray", kind: Any) -> Any:
  """Encodes pixels [height, width, 3] as a TensorBoard image summary."""
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "png")
  height, width, channels = pixels.shape
  image = kind.Image(
    height=height,
    width=width,
    colorspace=channels,
    encoded_image_string=file.getvalue(),
  )
  return kind(value=[kind.Value(tag=tag, image=image)])


@contextlib.contextmanager
def _without_pytorch() -> Iterator[None]:
  """Hides PyTorch from tensorboardX, which would import it if installed (1 s)."""
  modules: dict[str, Any] = sys.modules
  if "torch" in modules:
    yield
    return
  modules["torch"] = None  # makes `import torch` fail
  try:
    yield
  finally:
    del modules["torch"]


class Curves(Observer):
  """Draws `curves.png` in a thread, at most every `interval` seconds and at the end.

  Args:
    interval: minimum seconds from the end of one drawing to the start of the next.
  """

  def __init__(self, interval: float = 5.0):
    self._interval = interval
    self._requested, self._ended = threading.Event(), threading.Event()
    self._thread: threading.Thread | None = None

  def start(self, run: Run) -> None:
    """Starts the thread."""
    self._run, self._rows = run, list(run.history)
    self._thread = threading.Thread(target=self._work, name="curves", daemon=True)
    self._thread.start()
    if self._rows:
      self._requested.set()

  def epoch(self, row: dict[str, Any]) -> None:
    """Requests a new picture."""
    self._rows.append(row)
    self._requested.set()

  def close(self) -> None:
    """Waits for the last picture."""
    self._ended.set()
    self._requested.set()
    if self._thread:
      self._thread.join()

  def _work(self) -> None:
    drawn, ended = 0, False
    while not ended:
      self._requested.wait()
      self._requested.clear()
      # `close` sets _ended before _requested, so that the last picture has all rows.
      ended = self._ended.is_set()
      if len(self._rows) > drawn:
        drawn = len(self._rows)
        try:
          self._draw(self._rows[:drawn])
        except Exception as error:  # a missing picture must not end the run
          logging.warning("could not draw curves.png: %s", str(error).split("\n")[0])
          return
      self._ended.wait(self._interval)

  def _draw(self, rows: list[dict[str, Any]]) -> None:
    from cifar_flax.run.observers import curves

    config = self._run.config
    title = "   ".join(
      [
        text.shortened(config.name, 50),
        f"{self._run.parameters:,} parameters",
        text.shortened(config.data.dataset, 40),
        f"epoch {rows[-1]['epoch']} of {config.num_epochs}",
      ]
    )
    comparable = not published.obstacle(self._run.data)
    reference = published.curves(config.name) if comparable else None
    split = config.data.eval_split
    picture = curves.render(rows, title, reference, split)
    write_atomically(self._run.workdir / "curves.png", picture)
