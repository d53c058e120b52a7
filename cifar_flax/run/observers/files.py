"""The files of a run directory, beside its checkpoints.

All but TensorBoard's are replaced whole. The checkpoints are the truth about a run: on
resuming, the files that list epochs are written anew from the checkpoint's rows.
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
from cifar_flax import published
from cifar_flax.run.files import naming, write_atomically
from cifar_flax.run.observers.base import Observer, Run

if TYPE_CHECKING:
  import numpy as np


class ConfigFile(Observer):
  """`config.json`: every number of the run, in a form that `--config` takes."""

  def start(self, run: Run) -> None:
    """Writes it."""
    _write_json(run.workdir / "config.json", config_lib.to_dict(run.config))


class SummaryFile(Observer):
  """`summary.json`: there once a run has reached its last epoch, and only then."""

  def start(self, run: Run) -> None:
    """Takes away the one of a shorter run that now goes on."""
    self._file = run.workdir / "summary.json"
    self._file.unlink(missing_ok=True)

  def finish(self, summary: dict[str, Any]) -> None:
    """Writes it."""
    _write_json(self._file, summary)


def _write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
  write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


class MetricsFile(Observer):
  """`metrics.jsonl`: a line an epoch, complete as soon as the epoch is."""

  def start(self, run: Run) -> None:
    """Writes the epochs of before, and nothing that the checkpoint does not know."""
    self._path = run.workdir / "metrics.jsonl"
    lines = "".join(json.dumps(row) + "\n" for row in run.history)
    write_atomically(self._path, lines.encode())

  def epoch(self, row: dict[str, Any]) -> None:
    """Adds a line."""
    with naming(self._path), open(self._path, "a") as file:
      file.write(json.dumps(row) + "\n")


class TensorBoard(Observer):
  """`events.out.tfevents.*`: accuracy/train, accuracy/eval, loss/train, ... by step.

  The tab "Custom Scalars" shows training and evaluation in one chart, "HParams" the
  config, "Images" the data after the first epoch that is made. On resuming, one new
  file with the epochs of before takes the place of the old ones: nothing doubles.
  tensorboardX's SummaryWriter would hand its events to a thread, and a run would hang
  once that thread met a full disk; its file format alone is what is used here.
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
    """Writes the config, the layout of the charts and the epochs of before."""
    self._workdir, self._samples = run.workdir, run.samples
    with naming(run.workdir):
      self._start(run)

  def _start(self, run: Run) -> None:
    with _without_pytorch():
      from tensorboardX import event_file_writer, summary
      from tensorboardX.proto import event_pb2

      config = config_lib.flatten(run.config)
      experiment, begin, self._end = summary.hparams(config, dict.fromkeys(self.TAGS))
    self._event, self._tensorboard = event_pb2.Event, summary
    for old in run.workdir.glob("events.out.tfevents.*"):
      old.unlink()
    self._writer = event_file_writer.EventsWriter(str(run.workdir / "events"))
    wall_time = time.time() - sum(row["seconds"] for row in run.history)
    # A TensorBoard that is looking on forgets what it has read before this event.
    restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(0, wall_time, session_log=restart)
    text = json.dumps(config_lib.to_dict(run.config), indent=2).replace("\n", "\n    ")
    self._add(0, wall_time, summary=summary.text("config", "    " + text))
    pairs = {
      k: ["Multiline", [f"{k}/train", f"{k}/eval"]] for k in ("accuracy", "loss")
    }
    self._add(0, wall_time, summary=summary.custom_scalars({"train and eval": pairs}))
    for part in (experiment, begin):
      self._add(0, wall_time, summary=part)
    for row in run.history:
      wall_time += row["seconds"]
      self._add_row(row, wall_time)
    self._writer.flush()

  def _add(self, step: int, wall_time: float, **what) -> None:
    assert self._writer, "epoch before start"
    self._writer.write_event(self._event(step=step, wall_time=wall_time, **what))

  def _add_row(self, row: dict[str, Any], wall_time: float) -> None:
    for tag, name in self.TAGS.items():
      if row[name] is None:  # an epoch without evaluation
        continue
      scalar = self._tensorboard.scalar(tag, row[name])
      self._add(row["step"], wall_time, summary=scalar)

  def epoch(self, row: dict[str, Any]) -> None:
    """Adds a point to every curve, and the images to the first one."""
    with naming(self._workdir):
      self._add_row(row, time.time())
      self._add_samples()
      self._writer.flush()  # type: ignore[union-attr]

  def finish(self, summary: dict[str, Any]) -> None:
    """Marks the run as finished."""
    with naming(self._workdir):
      self._add_samples()
      self._add(0, time.time(), summary=self._end)

  def _add_samples(self) -> None:
    draw, self._samples = self._samples, None
    if draw is None:
      return
    try:
      picture = _encoded("samples", draw(), self._tensorboard.Summary)
    except Exception as error:  # a picture is not worth a run
      logging.warning("no samples for TensorBoard: %s", str(error).split("\n")[0])
      return
    self._add(0, time.time(), summary=picture)

  def close(self) -> None:
    """Closes the file."""
    writer, self._writer = self._writer, None
    if writer:
      with naming(self._workdir):
        writer.close()


def _encoded(tag: str, pixels: "np.ndarray", kind: Any) -> Any:
  """Pixels [height, width, 3] as a summary of TensorBoard."""
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
  """Hides PyTorch: tensorboardX imports it where it is installed, which takes 1 s."""
  modules: dict[str, Any] = sys.modules
  if "torch" in modules:
    yield
    return
  modules["torch"] = None  # an import of it fails
  try:
    yield
  finally:
    del modules["torch"]


class Curves(Observer):
  """`curves.png`, drawn by a thread, at most every `interval` seconds and at the end.

  Args:
    interval: seconds from the end of one drawing to the beginning of the next.
  """

  def __init__(self, interval: float = 5.0):
    self._interval = interval
    self._fresh, self._ended = threading.Event(), threading.Event()
    self._thread: threading.Thread | None = None

  def start(self, run: Run) -> None:
    """Starts the thread."""
    self._run, self._rows = run, list(run.history)
    self._thread = threading.Thread(target=self._work, name="curves", daemon=True)
    self._thread.start()
    if self._rows:
      self._fresh.set()

  def epoch(self, row: dict[str, Any]) -> None:
    """Asks for a new picture."""
    self._rows.append(row)
    self._fresh.set()

  def close(self) -> None:
    """Waits for the last picture."""
    self._ended.set()
    self._fresh.set()
    if self._thread:
      self._thread.join()

  def _work(self) -> None:
    drawn, ended = 0, False
    while not ended:
      self._fresh.wait()
      self._fresh.clear()
      ended = self._ended.is_set()  # set before _fresh: the last picture has all rows
      if len(self._rows) > drawn:
        drawn = len(self._rows)
        try:
          self._draw(self._rows[:drawn])
        except Exception as error:  # a picture is not worth a run
          logging.warning("curves.png is not drawn: %s", str(error).split("\n")[0])
          return
      self._ended.wait(self._interval)

  def _draw(self, rows: list[dict[str, Any]]) -> None:
    from cifar_flax.run.observers import curves

    config = self._run.config
    title = "   ".join(
      [
        config.name,
        f"{self._run.parameters:,} parameters",
        config.data.dataset,
        f"epoch {rows[-1]['epoch']} of {config.num_epochs}",
      ]
    )
    comparable = config.data.dataset == published.DATASET
    behind = published.curves(config.name) if comparable else None
    picture = curves.render(rows, title, behind, config.data.eval_split)
    write_atomically(self._run.workdir / "curves.png", picture)
