import dataclasses
import io
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time

import numpy as np
import PIL.Image
import pytest
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from cifar_flax import config as config_lib
from cifar_flax import published, text
from cifar_flax.run import observers
from cifar_flax.run.observers import Progress, Run, curves, files, pace, terminal


def make_run(workdir, name="net6b", num_epochs=50, history=(), **data):
  config = config_lib.Config(name=name, num_epochs=num_epochs)
  config.model.name = "net6b"
  facts = {"train_examples": 50_000, "eval_examples": 10_000}
  for key, value in data.items():
    if hasattr(config.data, key):
      setattr(config.data, key, value)
    else:
      facts[key] = value
  facts |= {"name": config.data.dataset, "train_split": config.data.train_split}
  facts |= {"eval_split": config.data.eval_split}
  return Run(config, workdir, tuple(history), 390, 151_404, "1 x cpu", facts)


def make_rows(first, last):
  """Rows with values that differ in every field and epoch."""
  return [
    {
      "epoch": epoch,
      "step": 390 * epoch,
      "lr": 0.003 / epoch,
      "train_loss": 1.5 / epoch,
      "train_accuracy": 1 - 0.6 / epoch,
      "eval_loss": 1.75 / epoch,
      "eval_accuracy": 1 - 0.7 / epoch,
      "images_per_second": 1000.0 + epoch,
      "seconds": 40.0 + epoch,
    }
    for epoch in range(first, last + 1)
  ]


def summary_of(rows):
  return {
    "parameters": 151_404,
    "num_epochs": rows[-1]["epoch"],
    "final_eval_accuracy": 0.7,
    "best_eval_accuracy": 0.71,
    "best_epoch": 2,
    "flip_eval_accuracy": None,
    "max_train_accuracy": 0.8,
    "seconds": 123.4,
  }


def drive(observer, run, rows, summary=None):
  observer.start(run)
  for row in rows:
    observer.epoch(row)
  if summary:
    observer.finish(summary)
  observer.close()


def read_lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  assert text.endswith("\n")
  return [json.loads(line) for line in text.splitlines()]


def read_events(workdir):
  """All events of a folder, by the TFRecord format: length, crc, bytes, crc."""
  events = []
  for file in workdir.glob("events.out.tfevents.*"):
    data = file.read_bytes()
    while data:
      (length,) = struct.unpack_from("<Q", data)
      events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return events


def read_scalars(workdir):
  points = []
  for event in read_events(workdir):
    for value in event.summary.value:
      if value.HasField("simple_value"):
        points.append((value.tag, event.step, value.simple_value))
  return points


def read_picture(path):
  with PIL.Image.open(path) as image:
    return np.asarray(image.convert("RGB"))


def count_color(picture, color):
  wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
  return int((picture == wanted).all(-1).sum())


def test_config_json_is_a_config_again(tmp_path):
  run = make_run(tmp_path, train_split="train[:1000]")
  drive(files.ConfigFile(), run, [])
  assert config_lib.load(str(tmp_path / "config.json")) == run.config


def test_a_metrics_line_is_there_as_soon_as_its_epoch_is(tmp_path):
  rows = make_rows(1, 3)
  observer = files.MetricsFile()
  observer.start(make_run(tmp_path))
  for i, row in enumerate(rows):
    observer.epoch(row)
    assert read_lines(tmp_path) == rows[: i + 1]
    assert list(read_lines(tmp_path)[0]) == list(rows[0])


def test_metrics_on_resuming_are_what_the_checkpoint_knows(tmp_path):
  rows = make_rows(1, 5)
  drive(files.MetricsFile(), make_run(tmp_path), rows[:4])
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"epoch": 5, "ste')  # killed while writing
  drive(files.MetricsFile(), make_run(tmp_path, history=rows[:3]), rows[3:])
  assert read_lines(tmp_path) == rows


def test_summary_json_is_there_only_at_the_end(tmp_path):
  rows = make_rows(1, 2)
  drive(files.SummaryFile(), make_run(tmp_path), rows, summary_of(rows))
  assert json.loads((tmp_path / "summary.json").read_text()) == summary_of(rows)
  drive(files.SummaryFile(), make_run(tmp_path, history=rows), [])
  assert not (tmp_path / "summary.json").exists()


def test_tensorboard_has_every_value_by_step(tmp_path):
  rows = make_rows(1, 3)
  observer = files.TensorBoard()
  observer.start(make_run(tmp_path))
  for row in rows:
    observer.epoch(row)
  points = read_scalars(tmp_path)  # before it is closed
  observer.close()
  for row in rows:
    for tag, value in [
      ("accuracy/train", row["train_accuracy"]),
      ("accuracy/eval", row["eval_accuracy"]),
      ("loss/train", row["train_loss"]),
      ("loss/eval", row["eval_loss"]),
      ("schedule/learning_rate", row["lr"]),
    ]:
      found = [p[2] for p in points if p[:2] == (tag, row["step"])]
      assert found == pytest.approx([value], rel=1e-6), (tag, row["step"])


def test_tensorboard_on_resuming_doubles_and_loses_nothing(tmp_path):
  rows = make_rows(1, 5)
  drive(files.TensorBoard(), make_run(tmp_path), rows[:4])
  (old,) = tmp_path.iterdir()
  old.rename(tmp_path / "events.out.tfevents.1000000000.another-host")
  drive(files.TensorBoard(), make_run(tmp_path, history=rows[:3]), rows[3:])
  points = [p[:2] for p in read_scalars(tmp_path)]
  assert len(points) == len(set(points))
  assert {step for _, step in points} == {row["step"] for row in rows}
  times = [e.wall_time for e in read_events(tmp_path) if e.step == 390]
  assert time.time() - max(times) >= sum(row["seconds"] for row in rows[1:3])


def test_tensorboard_knows_the_config_and_forgets_what_it_had_read(tmp_path):
  drive(files.TensorBoard(), make_run(tmp_path), make_rows(1, 1))
  events = read_events(tmp_path)
  texts = [v.tensor.string_val for e in events for v in e.summary.value]
  assert any(b'"num_epochs": 50' in t for text in texts for t in text)
  restarts = [e for e in events if e.HasField("session_log")]
  assert [(e.step, e.session_log.status) for e in restarts] == [
    (0, event_pb2.SessionLog.START)
  ]


def test_tensorboard_has_the_config_as_hyperparameters(tmp_path):
  run = make_run(tmp_path)
  drive(files.TensorBoard(), run, make_rows(1, 1), {"num_epochs": 50})
  values = {v.tag: v for e in read_events(tmp_path) for v in e.summary.value}

  def plugin(name):
    metadata = values[f"_hparams_/{name}"].metadata.plugin_data
    assert metadata.plugin_name == "hparams"
    return plugin_hparams_pb2.HParamsPluginData.FromString(metadata.content)

  given = plugin("session_start_info").session_start_info.hparams
  assert given["num_epochs"].number_value == 50
  assert given["model.name"].string_value == run.config.model.name
  assert given["augmentation.flip"].bool_value == run.config.augmentation.flip
  assert set(given) == set(config_lib.flatten(run.config))
  metrics = {m.name.tag for m in plugin("experiment").experiment.metric_infos}
  assert metrics <= set(values) and "accuracy/eval" in metrics
  assert plugin("session_end_info").HasField("session_end_info")


def test_tensorboard_has_the_samples_once(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
  run = dataclasses.replace(make_run(tmp_path), samples=lambda: pixels)
  drive(files.TensorBoard(), run, make_rows(1, 3))
  values = [v for e in read_events(tmp_path) for v in e.summary.value]
  (image,) = [v.image for v in values if v.HasField("image")]
  assert (image.height, image.width) == (6, 9)
  with PIL.Image.open(io.BytesIO(image.encoded_image_string)) as picture:
    np.testing.assert_array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize("epochs", [1, 2, 100])
def test_a_picture_shows_training_and_evaluation(tmp_path, caplog, epochs):
  drive(files.Curves(), make_run(tmp_path), make_rows(1, epochs))
  picture = read_picture(tmp_path / "curves.png")
  assert picture.shape == (495, 1210, 3)
  assert count_color(picture, curves.TRAIN) > 20
  assert count_color(picture, curves.EVAL) > 20
  assert not caplog.records


def test_a_picture_shows_published_curves_where_they_say_something(tmp_path):
  def grey(**changes):
    drive(files.Curves(), make_run(tmp_path, **changes), make_rows(1, 10))
    return count_color(read_picture(tmp_path / "curves.png"), curves.PUBLISHED)

  assert grey() > 300  # antialiased text has a few grey pixels of its own
  assert grey(name="quickstart") < 100
  assert grey(dataset="shapes10") < 100


def test_a_picture_rises_where_accuracy_does(tmp_path):
  def height_of_eval(accuracy):
    rows = [{**row, "train_accuracy": 0.5} for row in make_rows(1, 20)]
    for row in rows:
      row["eval_accuracy"] = accuracy
    drive(files.Curves(), make_run(tmp_path, name="quickstart"), rows)
    left = read_picture(tmp_path / "curves.png")[90:, :550]
    wanted = [int(curves.EVAL[i : i + 2], 16) for i in (1, 3, 5)]
    return np.nonzero((left == wanted).all(-1))[0].mean()

  assert height_of_eval(0.9) < 250 < height_of_eval(0.1)  # row 0 is at the top


def test_drawing_never_holds_up_a_run_and_ends_with_every_epoch(tmp_path, monkeypatch):
  drawn, begun, go_on = [], threading.Event(), threading.Event()

  def slow_render(rows, *_):
    drawn.append([row["epoch"] for row in rows])
    begun.set()
    assert go_on.wait(10)
    return b"picture"

  monkeypatch.setattr(curves, "render", slow_render)
  observer = files.Curves(interval=60)
  rows = make_rows(1, 100)
  observer.start(make_run(tmp_path))
  observer.epoch(rows[0])
  assert begun.wait(10)
  start = time.monotonic()
  for row in rows[1:]:
    observer.epoch(row)
  assert time.monotonic() - start < 1
  go_on.set()
  observer.close()
  assert drawn == [[1], list(range(1, 101))]
  assert (tmp_path / "curves.png").read_bytes() == b"picture"


def test_a_picture_is_redrawn_while_the_run_goes_on_but_not_always(
  tmp_path, monkeypatch
):
  times = []

  def render(*_):
    times.append(time.monotonic())
    return b"picture"

  monkeypatch.setattr(curves, "render", render)
  observer = files.Curves(interval=0.2)
  observer.start(make_run(tmp_path))
  epochs, deadline = 0, time.monotonic() + 10
  while len(times) < 3 and time.monotonic() < deadline:
    observer.epoch(make_rows(1, 1)[0])
    epochs += 1
    time.sleep(0.01)
  seen = list(times)
  observer.close()
  assert len(seen) == 3 < epochs
  assert min(np.diff(seen)) >= 0.2


def test_a_picture_that_fails_is_one_warning(tmp_path, monkeypatch, caplog):
  def render(*_):
    raise RuntimeError("no fonts\nat all")

  monkeypatch.setattr(curves, "render", render)
  observer = files.Curves(interval=0)
  observer.start(make_run(tmp_path))
  rows, deadline = make_rows(1, 5), time.monotonic() + 10
  observer.epoch(rows[0])
  while not caplog.records and time.monotonic() < deadline:
    time.sleep(0.01)
  for row in rows[1:]:  # a thread that had gone on would draw these, and fail again
    observer.epoch(row)
  observer.close()
  assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
    (logging.WARNING, "could not draw curves.png: no fonts")
  ]


def test_matplotlib_is_not_imported_before_there_is_something_to_draw():
  code = (
    "import io, sys; from cifar_flax.run import observers;"
    "observers.create(io.StringIO()); print('matplotlib' in sys.modules)"
  )
  command = [sys.executable, "-c", code]
  assert subprocess.check_output(command, text=True).strip() == "False"


def test_the_first_step_is_timed_once_and_before_anything_else_about_it():
  now, stream = [100.0], io.StringIO()
  observer = terminal.FirstStep(stream, start_time=95.5, clock=lambda: now[0])
  for step in range(1, 4):
    now[0] += 1.25
    observer.progress(Progress("train", 1, step, 390, 128, 1.25, 0.5))
  assert stream.getvalue() == "first step after 5.75 s\n"
  kinds = [type(observer) for observer in observers.create(stream, start_time=95.5)]
  assert kinds[-2:] == [terminal.FirstStep, terminal.PlainLines]
  kinds = [type(observer) for observer in observers.create(stream)]
  assert terminal.FirstStep not in kinds


def test_tensorboard_files_need_no_pytorch(tmp_path):
  (tmp_path / "torch.py").write_text("raise SystemExit('imported')\n")
  code = (
    "import importlib.util, pathlib, sys\n"
    "from cifar_flax import config\n"
    "from cifar_flax.run.observers import Run, files\n"
    "run = Run(config.Config(), pathlib.Path(sys.argv[1]), (), 1, 1, 'cpu', {})\n"
    "files.TensorBoard().start(run)\n"
    "assert 'torch' not in sys.modules and importlib.util.find_spec('torch')\n"
  )
  command = [sys.executable, "-c", code, str(tmp_path)]
  environment = os.environ | {"PYTHONPATH": str(tmp_path)}
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert list(tmp_path.glob("events.out.tfevents.*"))


def test_plain_lines_are_one_an_epoch_and_one_in_thirty_seconds(tmp_path):
  now, stream = [0.0], io.StringIO()
  observer = terminal.PlainLines(stream, clock=lambda: now[0])
  rows = make_rows(1, 2)
  observer.start(make_run(tmp_path, num_epochs=3))
  now[0] += 25  # compiles
  for row in rows:
    for step in range(10, 391, 10):  # two seconds each, 78 an epoch
      now[0] += 2
      observer.progress(Progress("train", row["epoch"], step, 390, 128, 1.25, 0.5))
    observer.epoch(row)
  observer.close()
  *first, compiling = stream.getvalue().splitlines()[:6]
  lines = stream.getvalue().splitlines()[6:]
  for what, line in zip(
    ("net6b: 151,404", "cifar10", "3 epochs of 390 steps", str(tmp_path), "1 x cpu"),
    first,
    strict=True,
  ):
    assert what in line
  assert compiling == "compiling ..."
  assert [line.split("  ")[1].split(" accuracy")[0] for line in lines] == [
    "train step 30/390",
    "train step 180/390",
    "train step 330/390",
    "train loss 1.5000",
    "train step 150/390",
    "train step 300/390",
    "train loss 0.7500",
  ]
  # 360 steps of 128 images at 640 a second, then two epochs of 78 s; and 210 steps.
  ends = ["640 img/s 01:12 left, run 03:48", "640 img/s 00:42 left, run 03:18"]
  for line, end in zip(lines, ends, strict=False):
    assert line.endswith(f"loss 1.2500 acc 50.00% {end}")
  assert lines[3].endswith("41.0 s, 02:36 left")
  assert lines[4].endswith("00:48 left, run 02:06")
  assert lines[6].endswith("42.0 s, 01:18 left")


def test_the_time_left_has_evaluations_and_no_compilation():
  config, now = config_lib.Config(num_epochs=6, eval_every=3), [0.0]
  measured = pace.Pace(config, clock=lambda: now[0])

  def go(phase, epoch, steps, seconds, total):
    now[0] += seconds
    size = {"train": 64, "evaluate": 100}[phase]
    measured.record(Progress(phase, epoch, steps, total, size, 1.0, 0.5))

  go("train", 3, 100, 500, 400)  # resumed within epoch 3, and compiled
  assert measured.seconds_left() is None
  assert measured.images_per_second("train") is None
  go("train", 3, 200, 50, 400)
  assert measured.images_per_second("train") == 128  # 100 steps of 64 in 50 s
  assert measured.seconds_left() == (100, 100 + 3 * 200)
  go("train", 3, 400, 100, 400)
  assert not measured.has_met("evaluate")
  go("evaluate", 3, 4, 30, 10)  # compiled
  go("evaluate", 3, 10, 12, 10)  # 2 s a step
  assert measured.images_per_second("evaluate") == 50
  assert measured.seconds_left() == (0, 3 * 200 + 1 * 20)
  # Saved meanwhile: it counts, as it takes its time in each epoch. 300 steps in 150 s
  # weigh half after an epoch: 150 in 75 s, and 100 in 85 s.
  go("train", 4, 100, 85, 400)
  step = (75 + 85) / 250
  assert measured.seconds_left() == pytest.approx((300 * step, 1100 * step + 20))


@pytest.mark.parametrize(
  ("momentum", "step", "evaluated", "says"),
  [
    (0.99, 20, 0.09, True),
    (0.99, 20, 0.32, False),  # near training
    (0.99, 390, 0.09, False),  # by then the averages have followed
    (0.9, 25, 0.09, False),
    (0.99, 20, None, False),
  ],
)
def test_averages_that_lag_get_a_line(tmp_path, momentum, step, evaluated, says):
  run, stream = make_run(tmp_path), io.StringIO()
  run.config.model.batch_norm_momentum = momentum
  row = make_rows(1, 1)[0] | {"train_accuracy": 0.36, "step": step}
  row |= {"eval_accuracy": evaluated, "eval_loss": evaluated}
  drive(terminal.PlainLines(stream), run, [row, row | {"epoch": 2}])
  assert stream.getvalue().count("reach back about 100 steps") == says


def test_no_averages_no_lag(tmp_path):
  run, stream = make_run(tmp_path), io.StringIO()
  run.config.model.name = "net6a_dense"  # has no BatchNorm
  row = make_rows(1, 1)[0] | {"train_accuracy": 0.36, "step": 20, "eval_accuracy": 0.09}
  drive(terminal.PlainLines(stream), run, [row])
  assert "reach back" not in stream.getvalue()


def test_plain_lines_go_on_after_the_epochs_of_before(tmp_path):
  stream = io.StringIO()
  terminal.PlainLines(stream).start(make_run(tmp_path, history=make_rows(1, 7)))
  assert "after epoch 7" in stream.getvalue()


def in_a_terminal(tmp_path, rows, columns=120):
  """What a run of `rows` sends to a terminal."""
  master, slave = pty.openpty()
  termios.tcsetwinsize(slave, (24, columns))
  received = []

  def receive():
    try:
      while data := os.read(master, 4096):
        received.append(data)
    except OSError:  # Linux says so when the other side is closed
      pass

  reader = threading.Thread(target=receive)
  reader.start()
  now = [0.0]
  with open(slave, "w") as stream:
    assert isinstance(observers.create(stream)[-1], terminal.ProgressBar)
    bar = terminal.ProgressBar(stream, clock=lambda: now[0])
    bar.start(make_run(tmp_path, num_epochs=len(rows)))
    for row in rows:
      for phase, steps in (("train", 390), ("evaluate", 20)):
        for step in range(1, steps + 1):
          now[0] += 0.2
          bar.progress(Progress(phase, row["epoch"], step, steps, 128, 1.25, 0.5))
      bar.epoch(row)
    bar.finish(summary_of(rows))
    bar.close()
  reader.join()
  os.close(master)
  return b"".join(received).decode()


def test_a_terminal_shows_a_bar_and_keeps_a_line_an_epoch(tmp_path):
  sent = in_a_terminal(tmp_path, make_rows(1, 3))
  # 389 steps of a fifth of a second, then two epochs; evaluations are still unknown.
  assert re.search(
    r"\repoch 1/3 .* 2/390 loss 1\.2500 acc 50\.00% 640 img/s 01:17 left, run 03:53",
    sent,
  )
  assert re.search(r"\reval  2/3 .* 1/20 ", sent)
  assert sent.index("compiling") < sent.index("1/390")
  assert sent.index("389/390") < sent.rindex("compiling") < sent.index("1/20")
  # What stays on a line is what was written after the last return.
  kept = [line.rstrip("\r").rpartition("\r")[2] for line in sent.split("\n")]
  assert [line[:9] for line in kept if line.startswith("epoch")] == [
    "epoch 1/3",
    "epoch 2/3",
    "epoch 3/3",
  ]
  assert not any("left, run" in line or "compiling" in line for line in kept)


@pytest.mark.parametrize(
  ("columns", "end"),
  [
    (0, "loss 1.2500 acc 50.00% 640 img/s run 01:17"),  # taken for 80
    (40, "| run 01:17"),
    (60, "| loss 1.2500 acc 50.00% run 01:17"),
    (80, "| 2/390 loss 1.2500 acc 50.00% 640 img/s run 01:17"),
    (120, "640 img/s 01:17 left, run 01:17"),
  ],
)
def test_a_bar_fits_its_terminal_and_is_one(tmp_path, columns, end):
  sent = in_a_terminal(tmp_path, make_rows(1, 1), columns)
  bars = [part for part in re.split(r"[\r\n]", sent) if part.startswith("epoch 1/1 |")]
  assert any(bar.endswith(end) for bar in bars)
  assert all(len(bar) <= (columns or 80) for bar in bars)
  assert all(len(bar.split("|")[1]) >= 10 for bar in bars)
  assert bars[-1].split("|")[1].count("█") > 5


def test_a_bar_is_not_redrawn_at_every_step(tmp_path):
  now, stream = [0.0], io.StringIO()
  bar = terminal.ProgressBar(stream, clock=lambda: now[0])
  bar.start(make_run(tmp_path))
  for step in range(1, 1001):  # a millisecond each
    bar.progress(Progress("train", 1, step, 1000, 128, 1.25, 0.5))
    now[0] += 0.001
  bar.close()
  assert 9 <= stream.getvalue().count("acc 50") <= 12


def columns_of(text):
  """The table's rows, by label."""
  rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
  return {row[0]: row[1:] for row in rows}


def test_the_end_is_shown_beside_the_published_run(tmp_path):
  rows = make_rows(1, 10)
  text = terminal.table(make_run(tmp_path), summary_of(rows))
  table = columns_of(text)
  assert table["epoch 10"] == ["epoch 10", "epoch 50"]
  assert table["accuracy on test"] == ["70.00%", "78.84%", "85.48%"]
  assert table["max train accuracy"] == ["80.00%", "82.96%", "92.27%"]
  assert table["gap"] == ["10.00 points", "4.12 points", "6.79 points"]
  assert table["parameters"] == ["151,404"] * 3
  assert "n = 1" in text


def test_the_end_of_a_whole_run_has_one_published_column(tmp_path):
  text = terminal.table(make_run(tmp_path), summary_of(make_rows(1, 50)))
  assert columns_of(text)["accuracy on test"] == ["70.00%", "85.48%"]


@pytest.mark.parametrize(
  "changes", [{"name": "quickstart"}, {"dataset": "shapes10"}, {"name": "net6a"}]
)
def test_nothing_published_is_shown_where_nothing_was(tmp_path, changes):
  text = terminal.table(make_run(tmp_path, **changes), summary_of(make_rows(1, 3)))
  assert columns_of(text)["accuracy on test"] == ["70.00%"]
  assert ("no run of this config" in text) == (changes.get("name") == "net6a")


# What cannot be compared with the published runs, and what the end of a run says of it.
OTHER_DATA = [
  ({"dataset": "shapes10"}, "its data set is shapes10, not cifar10"),
  (
    {"train_split": "train[:9000]", "train_examples": 9000},
    "it was trained on 9,000 images of train[:9000], not on all 50,000 images of train",
  ),
  (
    {"eval_split": "test[:500]", "eval_examples": 500},
    "it was evaluated on 500 images of test[:500], not on all 10,000 images of test",
  ),
  ({"eval_split": "train[:10000]"}, "evaluated on 10,000 images of train[:10000]"),
  ({"train_split": "train[:40000]+test"}, "50,000 images of train[:40000]+test"),
  (
    {"train_split": "train[:50%]+train[:50%]", "repeated_images": 25_000},
    "its splits name 25,000 images more than once",
  ),
]


@pytest.mark.parametrize(("changes", "reason"), OTHER_DATA)
def test_published_stands_only_beside_the_same_images(tmp_path, changes, reason):
  run = make_run(tmp_path, **changes)
  text = terminal.table(run, summary_of(make_rows(1, 10)))
  assert columns_of(text)["gap"] == ["10.00 points"]
  assert "published: -, because " in text and reason in text
  drive(files.Curves(), run, make_rows(1, 10))
  picture = read_picture(tmp_path / "curves.png")
  assert count_color(picture, curves.PUBLISHED) < 100


@pytest.mark.parametrize(
  "name", ["$x_{1$", "_a", "two\nlines", "\udcff", "猫", "y" * 500]
)
def test_names_are_shown_as_they_are(tmp_path, caplog, name):
  run = make_run(tmp_path, name=name, num_epochs=3, dataset=f"folder:{name}")
  run.config.data.eval_split = name
  drive(files.Curves(), run, make_rows(1, 3))
  assert not caplog.records
  assert read_picture(tmp_path / "curves.png").shape == (495, 1210, 3)
  stream = io.StringIO()
  terminal.PlainLines(stream).start(run)
  assert stream.getvalue().count("\n") == 6  # none of them from a name
  assert f"network   {text.shown(name)} (net6b)" in stream.getvalue()
  stream.getvalue().encode()
  terminal.table(run, summary_of(make_rows(1, 3))).encode()


def test_splits_that_add_up_to_all_images_are_comparable(tmp_path):
  run = make_run(tmp_path, train_split="train[50%:] + train[:50%]")
  text = terminal.table(run, summary_of(make_rows(1, 50)))
  assert columns_of(text)["accuracy on test"] == ["70.00%", "85.48%"]


def test_evaluating_on_training_images_is_said_at_the_start_and_the_end(tmp_path):
  stream = io.StringIO()
  lines = terminal.PlainLines(stream)
  run = make_run(tmp_path, common_images=200, eval_examples=640)
  lines.start(run)
  warning = "warning: 200 of the 640 evaluated images (test) are training images too"
  assert warning in stream.getvalue()
  assert warning in terminal.table(run, summary_of(make_rows(1, 3)))
  assert "warning" not in terminal.table(
    make_run(tmp_path), summary_of(make_rows(1, 3))
  )


def test_the_best_epoch_names_the_split_that_it_was_chosen_on(tmp_path):
  run = make_run(tmp_path, eval_split="train[45000:]", eval_examples=5000)
  text = terminal.table(run, summary_of(make_rows(1, 3)))
  assert "best epoch: 2, accuracy 71.00%, chosen on train[45000:]" in text


def test_closing_before_starting_is_no_error():
  for observer in observers.create(io.StringIO()):
    observer.close()


def test_an_interrupted_run_leaves_what_it_has(tmp_path):
  rows = make_rows(1, 2)
  watching = observers.create(io.StringIO())
  for observer in watching:
    observer.start(make_run(tmp_path))
    for row in rows:
      observer.epoch(row)
  for observer in watching:
    observer.close()
  assert read_lines(tmp_path) == rows
  assert (tmp_path / "curves.png").exists()
  assert not (tmp_path / "summary.json").exists()
  names = {file.name.split(".")[0] for file in tmp_path.iterdir()}
  assert names == {"config", "metrics", "events", "curves"}


def test_published_rows_are_drawn_up_to_the_epoch_of_the_run():
  rows = make_rows(1, 10)
  whole = published.curves("net6b") or []
  assert curves.render(rows, "", whole) == curves.render(rows, "", whole[:10])
  assert curves.render(rows, "", whole) != curves.render(rows, "", whole[:5])
