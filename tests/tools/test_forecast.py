"""How long the rest of many runs will take, by hand."""

import json

import pytest

from cifar_flax import config as config_lib
from cifar_flax.tools import forecast
from cifar_flax.tools.jobs import Job


def job(folder, name, epochs, seconds=(), convolution="plain"):
  config = config_lib.Config(num_epochs=epochs)
  config.model.convolution = convolution
  workdir = folder / name
  workdir.mkdir()
  lines = [json.dumps({"epoch": i, "seconds": s}) for i, s in enumerate(seconds, 1)]
  (workdir / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
  return Job(config, workdir, [])


def test_epochs_last_as_long_as_those_of_the_same_network(tmp_path):
  plain = job(tmp_path, "a", 3, [30, 10, 10])  # compiled in the first
  grouped = job(tmp_path, "b", 4, [4], "grouped")
  again = job(tmp_path, "c", 5)
  unknown = job(tmp_path, "d", 2, (), "depthwise_separable")
  jobs = [plain, grouped, again, unknown]
  left = jobs[1:]
  # 3 epochs of 4 s, 5 of 10 s, and 2 of the median of 4, 10, 10 and 30 s.
  assert forecast.seconds_left(jobs, left) == 12 + 50 + 20
  assert forecast.seconds_left(jobs, left, at_once=2) == 41
  assert forecast.seconds_left(jobs, left, at_once=8) == pytest.approx(82 / 3)
  assert forecast.seconds_left(jobs, []) is None
  assert forecast.seconds_left([again], [again]) is None


def test_it_is_said_after_the_first_epoch_and_after_each_run(tmp_path, capsys):
  jobs, now = [job(tmp_path, str(i), 3) for i in range(3)], [0.0]
  said = forecast.Forecast(jobs, clock=lambda: now[0])

  def heard():
    now[0] += 2
    said.say(jobs)
    return capsys.readouterr().out

  assert heard() == ""
  (jobs[0].workdir / "metrics.jsonl").write_text('{"seconds": 60.0}\n')
  assert heard() == "3 runs are left, about 08:00\n"
  assert heard() == ""
  said.renew()
  assert heard() == "3 runs are left, about 08:00\n"
  said.renew()
  said.say(jobs[:1])
  assert capsys.readouterr().out == "1 run is left, about 02:00\n"


@pytest.mark.parametrize("content", ["{", "[1]\n", '{"seconds": "x"}\n', "{}\n"])
def test_damaged_metrics_are_none(tmp_path, content):
  jobs = [job(tmp_path, "a", 3), job(tmp_path, "b", 3)]
  (jobs[0].workdir / "metrics.jsonl").write_text(content)
  assert forecast.seconds_left(jobs, jobs) is None
