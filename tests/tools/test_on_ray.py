"""Runs on a Ray cluster of two nodes, one of which is killed, end as on one machine."""

import hashlib
import os
import threading
import time

import pytest

from cifar_flax import __main__ as commands
from cifar_flax.run import checkpoints
from cifar_flax.tools import jobs, on_ray, sweep

ray = pytest.importorskip("ray", reason="Ray is not installed: extra 'ray'")
pytestmark = pytest.mark.full

FLAGS = (
  "--config=configs/quickstart.py",
  "--seeds=3",
  "--config.data.train_split=train[:640]",
  "--config.data.eval_split=test[:100]",
  "--config.num_epochs=6",
  "--config.batch_size=64",
  "--config.checkpoint.min_seconds=0",
)


@pytest.fixture
def cluster(monkeypatch):
  from ray.cluster_utils import Cluster

  # The nodes are processes of this machine.
  monkeypatch.setenv("PYTHONPATH", os.getcwd())
  monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
  made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
  yield made
  made.shutdown()


def hashes(planned):
  """The bytes of each run's last parameters."""
  found = {}
  for job in planned:
    content = checkpoints.restore(job.workdir / "checkpoints", "last")
    data = checkpoints.encode({"state": content["state"]["params"], "run": ""})
    found[job.workdir.name] = hashlib.sha256(data).hexdigest()
  return found


def epochs(job):
  file = job.workdir / "metrics.jsonl"
  return file.read_text().count("\n") if file.exists() else 0


def test_a_node_that_is_killed_loses_nothing(cluster, tmp_path, capsys):
  other = cluster.add_node(num_cpus=1)
  planned = sweep.plan([*FLAGS, f"--output={tmp_path / 'ray'}"])[0]
  killed = []

  def kill():
    while len([job for job in planned if epochs(job) >= 2]) < 2:
      time.sleep(0.2)
    cluster.remove_node(other, allow_graceful=False)
    killed.append([epochs(job) for job in planned])

  thread = threading.Thread(target=kill)
  with on_ray.cluster(cluster.address) as places:
    assert places.number == 2
    thread.start()
    assert jobs.train_all(planned, at_once=places.number, start=places) == 0
  thread.join()
  out = capsys.readouterr().out
  assert out.count("its machine is lost; it goes on elsewhere") == 1
  assert min(epochs(job) for job in planned) == 6 and min(killed[0]) < 6
  alone = sweep.plan([*FLAGS, f"--output={tmp_path / 'alone'}"])[0]
  assert jobs.train_all(alone) == 0
  assert hashes(planned) == hashes(alone)


def test_a_sweep_starts_a_cluster_and_reports(tmp_path, capfd):
  flags = [flag for flag in FLAGS if "num_epochs" not in flag]
  flags += ["--config.num_epochs=1", f"--output={tmp_path}", "--on=ray"]
  assert commands.main(["sweep", *flags]) == 0
  assert (tmp_path / "report" / "report.html").is_file()


def test_a_cluster_that_is_not_there_is_one_line(capsys):
  code = commands.main(["sweep", FLAGS[0], "--seeds=2", "--on=ray:127.0.0.1:1"])
  error = capsys.readouterr().err
  assert code == 2 and "--on=ray:127.0.0.1:1: cannot be joined" in error
  assert error.count("\n") == 1
