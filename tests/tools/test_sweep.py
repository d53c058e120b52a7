"""Sweeps: planning, training, resuming, and several runs at once."""

import contextlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from cifar_flax import __main__ as commands
from cifar_flax import config as config_lib
from cifar_flax import main, registry
from cifar_flax.errors import UserError
from cifar_flax.run import signals
from cifar_flax.tools import jobs, sweep
from cifar_flax.tools import worker as worker_lib
from tests.tools.test_reproduce import FakeMain

ROOT = pathlib.Path(__file__).parents[2]
QUICK = "configs/quickstart.py"


def plan(*flags, config=QUICK):
  planned, output, _ = sweep.plan([f"--config={config}", *flags])
  return [str(job.workdir.relative_to(output)) for job in planned], planned, output


def test_every_combination_with_the_first_seed_then_with_the_second():
  folders, planned, output = plan(
    "--seeds=2",
    "--vary=model.convolution=plain,grouped",
    "--vary",
    "schedule.learning_rate=0.1,0.2",
    "--config.batch_size=64",
  )
  settings = [
    f"convolution={kind},learning_rate={rate}"
    for kind in ("plain", "grouped")
    for rate in (0.1, 0.2)
  ]
  assert folders == [f"{s}/seed{k}" for k in (0, 1) for s in settings]
  assert str(output) == "runs/quickstart-sweep"
  for job in planned:
    config, workdir, _ = main.parse(job.command[3:])
    assert (config, workdir) == (job.config, job.workdir)
    assert config.batch_size == 64
  assert planned[-1].config.model.convolution == "grouped"
  assert planned[-1].config.schedule.learning_rate == 0.2
  assert planned[-1].config.seed == 1


def test_a_key_without_values_takes_every_name_there_is():
  folders, _, _ = plan("--vary=model.convolution")
  assert folders == [f"convolution={kind}/seed0" for kind in registry.CONVOLUTIONS]
  assert plan("--seeds=2")[0] == ["seed0", "seed1"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--vary=model.convolutoin=plain"], "no such key.*model.convolution"),
    (["--vary=seed=1,2"], "use --seeds"),
    (["--vary=name=a,b"], "does not affect the result"),
    (["--vary=eval_every=1,2"], "does not affect the result"),
    (["--vary=augmentation.flip=true,1"], "two of the runs would be identical"),
    (["--vary=schedule.learning_rate=0.1,0.10"], "two of the runs would be identical"),
    (["--vary=batch_size"], "needs values"),
    (["--vary=batch_size=64,64"], "two of the runs would be identical"),
    (["--vary=batch_size=64,"], "a value is empty"),
    (["--vary=batch_size=many"], "batch_size='many'"),
    (["--vary=model.convolution=plain,gruoped"], "gruoped.*grouped"),
    (["--vary=batch_size=1", "--vary=batch_size=2"], "each key once"),
    (["--vary=batch_size=1", "--config.batch_size=2"], "the sweep sets this key"),
    (["--config.seed=1"], "the sweep sets this key"),
    (["--seeds=0"], "--seeds=0.*>= 1"),
    (["--at_once=0"], "--at_once=0.*>= 1"),
    (["--frobnicate"], "frobnicate"),
  ],
)
def test_a_mistake_prints_one_line_and_returns_2(flags, message, capsys):
  assert commands.main(["sweep", f"--config={QUICK}", *flags]) == 2
  error = capsys.readouterr().err
  assert re.search(message, error) and error.count("\n") == 1


def test_mistakes_are_reported_before_jax_is_imported():
  program = (
    "import sys; from cifar_flax import __main__ as commands;"
    "code = commands.main(['sweep', *sys.argv[1:]]);"
    "print(code, {'jax', 'numpy'} & set(sys.modules))"
  )
  command = [sys.executable, "-c", program, f"--config={QUICK}", "--vary=x=1"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.stdout == "2 set()\n" and done.stderr.startswith("error: ")
  done = subprocess.run(command[:3], capture_output=True, text=True)
  assert "--config=FILE is missing" in done.stderr


def test_finished_runs_are_skipped_and_different_runs_not_overwritten(tmp_path):
  flags = ("--vary=model.convolution=plain,grouped", f"--output={tmp_path}")
  _, planned, _ = plan(*flags)
  first, second = FakeMain(), FakeMain()
  assert jobs.train_all(planned[:1], start=first) == 0
  assert jobs.train_all(planned, start=second) == 0
  assert first.workdirs == ["convolution=plain/seed0"]
  assert second.workdirs == ["convolution=grouped/seed0"]
  with pytest.raises(UserError, match=r"batch_size=64.*convolution=plain.*128"):
    plan(*flags, "--config.batch_size=64")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"sed": 8}'])
def test_a_run_whose_files_are_damaged_is_trained_again(tmp_path, content, capsys):
  """What is damaged is written again by the run, from its checkpoint."""
  _, planned, _ = plan("--seeds=2", f"--output={tmp_path}")
  assert jobs.train_all(planned, start=FakeMain()) == 0
  for name in ("summary.json", "config.json", "metrics.jsonl"):
    (tmp_path / "seed1" / name).write_bytes(content)
  _, planned, _ = plan("--seeds=2", f"--output={tmp_path}")
  again = FakeMain()
  assert jobs.train_all(planned, start=again) == 0
  assert [name.split("/")[1] for name in again.workdirs] == ["seed1"]
  assert jobs.finished_summary(planned[1])


def test_a_failed_run_does_not_stop_the_others(tmp_path, capsys):
  _, planned, _ = plan("--seeds=3", f"--output={tmp_path}")
  run = FakeMain({f"{tmp_path.name}/seed0": 2})
  assert jobs.train_all(planned, start=run) == 1
  assert [name.split("/")[1] for name in run.workdirs] == ["seed0", "seed1", "seed2"]
  assert "seed0: failed with exit code 2" in capsys.readouterr().err
  run = FakeMain({f"{tmp_path.name}/seed0": 143})  # a terminated run does
  assert jobs.train_all(planned, start=run) == 143
  assert len(run.workdirs) == 1


@pytest.mark.parametrize(
  ("config", "changes", "words"),
  [
    ("quickstart", {"num_epochs": 4}, "config.num_epochs=8: .* trained with 4"),
    ("net6b", {"num_epochs": 50}, "config.num_epochs=3: .* has finished 4 epochs"),
  ],
)
def test_another_number_of_epochs_is_refused_if_main_would_refuse_it(
  config, changes, words, tmp_path
):
  """quickstart's schedule depends on the number of epochs, net6b's does not."""
  flags = [f"--output={tmp_path}"] + ["--config.num_epochs=3"] * (config == "net6b")
  before = config_lib.load(f"configs/{config}.py")
  before.num_epochs = changes["num_epochs"]
  folder = tmp_path / "seed0"
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(config_lib.to_dict(before)))
  (folder / "metrics.jsonl").write_text("{}\n" * 4)
  with pytest.raises(UserError, match=words):
    plan(*flags, config=f"configs/{config}.py")


class CountedStarts:
  """Starts fake processes and records how many of them run at a time.

  A fake process ends when it is polled for the third time.
  """

  def __init__(self):
    self.running, self.slots, self.most = 0, [], 0

  def __call__(self, job, slot):
    self.slots.append(slot)
    FakeMain()(job, None)
    self.running += 1
    self.most = max(self.most, self.running)
    return FakeProcess(self)


class FakeProcess:
  def __init__(self, starts):
    self.starts, self.polls = starts, 0

  def poll(self):
    self.polls += 1
    if self.polls < 3:
      return None
    self.starts.running -= 1
    return 0


def test_as_many_runs_as_asked_for_are_trained_at_once(tmp_path):
  _, planned, _ = plan("--seeds=5", f"--output={tmp_path}")
  start = CountedStarts()
  assert jobs.train_all(planned, at_once=3, start=start) == 0
  assert start.most == 3 and len(start.slots) == 5
  assert start.slots[:3] == [0, 1, 2] and set(start.slots) == {0, 1, 2}


class StoppedStarts(CountedStarts):
  """The first run has trained an epoch and is stopped; the others go on for a while."""

  def __call__(self, job, slot):
    process = super().__call__(job, slot)
    (job.workdir / "metrics.jsonl").write_text('{"seconds": 60.0}\n')
    if len(self.slots) == 1:
      process.poll = lambda: 143
    return process


def test_no_more_is_forecast_once_a_run_was_stopped(tmp_path, capsys):
  _, planned, _ = plan("--seeds=3", f"--output={tmp_path}")
  assert jobs.train_all(planned, at_once=2, start=StoppedStarts()) == 143
  out, err = capsys.readouterr()
  assert "stopped by SIGTERM" in err and "left" not in out


# Stand-ins for `cifar_flax.tools.worker`: they read orders and answer with exit codes.
PREAMBLE = """
import json, os, signal, sys, time
answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
orders = map(json.loads, iter(sys.stdin.readline, ""))
"""


@pytest.fixture
def worker(monkeypatch):
  """Makes every worker execute this Python code."""

  def use(code):
    command = [sys.executable, "-c", PREAMBLE + code]
    monkeypatch.setattr(jobs, "WORKER", command)

  return use


def job_in(workdir):
  return jobs.plan(QUICK, {}, workdir)


def test_each_run_has_its_own_accelerator_and_log(tmp_path, monkeypatch, worker):
  names = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")
  worker(
    "for order in orders:\n"
    f"  print([os.environ.get(n) for n in {names}], file=open(order['log'], 'a'))\n"
    "  print(0, file=answers)\n"
  )
  job = job_in(tmp_path / "run")
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  with contextlib.closing(jobs.Workers(2)) as workers:
    assert workers(job, 1).wait() == 0
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
  with contextlib.closing(jobs.Workers(2)) as workers:
    assert workers(job, 1).wait() == 0
  assert (job.workdir / "log.txt").read_text() == "['1', '1']\n['7', '1']\n"


@pytest.mark.skipif(
  not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
  reason="needs two cores that can be chosen",
)
def test_runs_at_once_have_cores_of_their_own(tmp_path, monkeypatch, worker):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  worker(
    "for order in orders:\n"
    "  print(*os.sched_getaffinity(0), file=open(order['log'], 'a'))\n"
    "  print(0, file=answers)\n"
  )
  job = job_in(tmp_path / "run")
  with contextlib.closing(jobs.Workers(2)) as workers:
    assert [workers(job, slot).wait() for slot in (0, 1)] == [0, 0]
  first, second = (job.workdir / "log.txt").read_text().splitlines()
  assert {*first.split(), *second.split()} == {str(n) for n in os.sched_getaffinity(0)}
  assert not {*first.split()} & {*second.split()}


def test_without_slots_a_run_prints_here_and_sees_all_devices(
  tmp_path, monkeypatch, worker
):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
  worker(
    "for order in orders:\n"
    "  good = order['log'] is None and os.environ['CUDA_VISIBLE_DEVICES'] == '4,7'\n"
    "  print(0 if good else 9, file=answers)\n"
  )
  with contextlib.closing(jobs.Workers()) as workers:
    assert workers(job_in(tmp_path), None).wait() == 0


def test_one_process_trains_a_slots_runs_until_it_dies(tmp_path, worker):
  """The first run diverges, which the process survives; the third kills it."""
  pids = tmp_path / "pids"
  worker(
    "for order in orders:\n"
    f"  print(os.getpid(), file=open({str(pids)!r}, 'a'))\n"
    "  seed = int(order['arguments'][-1].rpartition('=')[2])\n"
    "  if seed == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
    "  print([1, 0, None, 0, 143, 0][seed], file=answers)\n"
    "  if seed == 4: time.sleep(60)\n"
  )
  planned = plan("--seeds=6", f"--output={tmp_path / 'out'}")[1]
  codes = []
  with contextlib.closing(jobs.Workers()) as workers:
    for job in planned:
      process = workers(job, None)
      codes.append(process.wait())
      assert process.poll() == codes[-1]
      if codes[-1] == 143:
        process.send_signal(signal.SIGTERM)  # ends its sleep
  assert codes == [1, 0, -signal.SIGKILL, 0, 143, 0]
  first, second, third, fourth, fifth, sixth = pids.read_text().split()
  assert first == second == third != fourth == fifth != sixth


def test_a_failed_run_and_a_dead_process_do_not_stop_the_others(tmp_path, worker):
  worker("next(orders)\nos._exit(7)\n")
  planned = plan("--seeds=2", f"--output={tmp_path}")[1]
  failed = []
  assert jobs.train_all(planned, lambda failures: failed.append(dict(failures))) == 1
  assert [list(failures.values()) for failures in failed] == [[7], [7, 7]]


# A stand-in that needs some seconds to save when a signal stops it, as a real run does:
# it handles signals with the same code.
SAVING = (
  PREAMBLE
  + """
from cifar_flax.run import signals
with signals.Watch() as stop:
  stop.defer()
  next(orders)
  print("training", os.getpid(), flush=True)
  while not stop.signal:
    time.sleep(0.01)
  print("saving", flush=True)
  time.sleep({seconds})
  print("saved", stop.signal, flush=True)
print(128 + stop.signal, file=answers)
"""
)

PARENT = """
import pathlib, signal, sys
from cifar_flax import command_line
from cifar_flax.run import signals
from cifar_flax.tools import jobs
for number in signals.SIGNALS:  # whatever the tests were started with
  signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[1] == "nohup":
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
jobs.SECONDS_BETWEEN_REMINDERS = 0.5
jobs.WORKER = [sys.executable, "-c", sys.argv[3]]
job = jobs.plan(sys.argv[2], {}, pathlib.Path("run"))
sys.exit(command_line.answer(lambda argv: jobs.train_all([job]), []))
"""


class Sweep:
  """A process that trains one run, a stand-in, in a process group of its own."""

  def __init__(self, folder, seconds=2.0, mode="", worker=SAVING):
    worker = worker.replace("{seconds}", str(seconds))
    self.process = subprocess.Popen(
      [sys.executable, "-c", PARENT, mode, str(ROOT / QUICK), worker],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=folder,
      env={**os.environ, "PYTHONPATH": str(ROOT)},
      process_group=0,
    )
    self.child = int(self.read("training").split()[1])

  def read(self, word):
    """Reads lines until one starts with `word`, and returns it."""
    for line in self.process.stdout:
      if line.startswith(word):
        return line
    raise AssertionError(f"no line {word!r}: {self.process.stderr.read()}")

  def to_parent(self, number):
    self.process.send_signal(number)

  def to_child(self, number):
    os.kill(self.child, number)

  def to_group(self, number):
    os.killpg(self.process.pid, number)

  def end(self):
    """Returns the exit code, what else was printed, and the errors."""
    out, error = self.process.communicate(timeout=30)
    return self.process.returncode, out, error


@pytest.mark.parametrize("number", signals.SIGNALS)
@pytest.mark.parametrize("way", ["parent", "group", "both", "again"])
def test_a_signal_lets_the_runs_save_however_it_arrives(number, way, tmp_path):
  """`timeout` signals its child and the process group, a terminal the group alone."""
  sweep = Sweep(tmp_path, seconds=0.5)
  if way != "group":
    sweep.to_parent(number)
  if way in ("group", "both"):
    sweep.to_group(number)
  sweep.read("saving")
  if way == "again":
    for send in (sweep.to_parent, sweep.to_group, sweep.to_child):
      send(number)
  code, out, error = sweep.end()
  assert out.startswith("saved ") and code == 128 + number
  name = signal.Signals(number).name
  last = error.splitlines()[-1]
  assert last == f"stopped by {name}: rerun the same command to resume"


def test_a_late_repeat_does_not_end_a_run_that_saves(tmp_path):
  sweep = Sweep(tmp_path, seconds=3)
  sweep.to_group(signal.SIGINT)
  sweep.read("saving")
  for number in (signal.SIGTERM, signal.SIGHUP):
    time.sleep(0.8)
    sweep.to_group(number)
  code, out, error = sweep.end()
  assert (code, out) == (130, f"saved {int(signal.SIGINT)}\n")
  assert f"run: waiting for process {sweep.child} to save and end" in error


def test_a_second_ctrl_c_in_the_terminal_ends_all_at_once(tmp_path):
  sweep = Sweep(tmp_path, seconds=60)
  sweep.to_group(signal.SIGINT)
  sweep.read("saving")
  time.sleep(1.8)
  sweep.to_group(signal.SIGINT)
  code, out, _ = sweep.end()
  assert (code, out) == (130, "")


def test_a_second_ctrl_c_to_the_parent_alone_leaves_the_run_to_save(tmp_path):
  sweep = Sweep(tmp_path, seconds=5)
  sweep.to_parent(signal.SIGINT)
  sweep.read("saving")
  time.sleep(1.8)
  sweep.to_parent(signal.SIGINT)
  assert sweep.process.wait(timeout=10) == 130
  os.kill(sweep.child, 0)  # it is alive
  _, out, error = sweep.end()
  assert out == f"saved {int(signal.SIGTERM)}\n"
  assert f"process {sweep.child} is still saving and will end by itself" in error


def test_nohup_stays_in_force(tmp_path):
  sweep = Sweep(tmp_path, seconds=0, mode="nohup")
  sweep.to_group(signal.SIGHUP)
  time.sleep(0.3)
  assert sweep.process.poll() is None
  sweep.to_parent(signal.SIGTERM)
  code, out, _ = sweep.end()
  assert (code, out) == (143, f"saving\nsaved {int(signal.SIGTERM)}\n")


def test_a_stopped_run_is_woken_to_save(tmp_path):
  sweep = Sweep(tmp_path, seconds=0)
  sweep.to_child(signal.SIGSTOP)
  sweep.to_parent(signal.SIGTERM)
  code, out, _ = sweep.end()
  assert (code, out) == (143, f"saving\nsaved {int(signal.SIGTERM)}\n")


def test_a_signal_to_the_run_alone_stops_the_sweep(tmp_path):
  sweep = Sweep(tmp_path, seconds=0)
  sweep.to_child(signal.SIGTERM)
  code, _, error = sweep.end()
  assert (code, error) == (143, "[1/1] run: was stopped by SIGTERM\n")


def test_a_run_that_a_signal_ends_before_its_first_step_stops_the_sweep(tmp_path):
  early = PREAMBLE + "next(orders)\nprint('training', os.getpid(), flush=True)\n"
  sweep = Sweep(tmp_path, worker=early + "time.sleep(60)\n")
  sweep.to_child(signal.SIGUSR1)
  code, _, error = sweep.end()
  assert (code, error) == (138, "[1/1] run: was stopped by SIGUSR1\n")


# The real worker, whose run is a stand-in.
ORPHAN = """
import runpy, sys, time
from cifar_flax import main
from cifar_flax.run import signals
def run(arguments):
  with signals.Watch() as stop:
    stop.defer()
    print("training", flush=True)
    while not stop.signal:
      time.sleep(0.01)
  print("saved", stop.signal, flush=True)
  return 128 + stop.signal
main.main = run
runpy.run_module("cifar_flax.tools.worker", run_name="__main__", alter_sys=False)
"""
ORPHANS_PARENT = """
import os, subprocess, sys
reader, writer = os.pipe()
command = [sys.executable, "-c", sys.argv[1], str(writer)]
child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[writer], text=True)
child.stdin.write('{"arguments": [], "log": null}\\n')
child.stdin.flush()
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a child so")
def test_a_run_saves_if_its_sweep_is_killed():
  parent = subprocess.Popen(
    [sys.executable, "-c", ORPHANS_PARENT, ORPHAN],
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
  )
  assert parent.stdout.readline() == "training\n"
  parent.kill()
  out, _ = parent.communicate(timeout=30)  # until the run, which has it too, ends
  assert out == f"saved {int(signal.SIGTERM)}\n"


def test_an_error_of_the_sweep_itself_lets_the_runs_save(tmp_path, worker):
  ready, saved = tmp_path / "ready", tmp_path / "saved"
  worker(
    "def save(*_):\n"
    "  time.sleep(0.7)\n"
    f"  open({str(saved)!r}, 'w')\n"
    "  sys.exit(143)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "if next(orders)['arguments'][-1].endswith('=0'):\n"
    f"  while not os.path.exists({str(ready)!r}): time.sleep(0.01)\n"
    "  print(1, file=answers)\n"
    "else:\n"
    f"  open({str(ready)!r}, 'w')\n"
    "  time.sleep(60)\n"
  )

  def fail(failures):
    raise OSError(28, "No space left on device", "results.md")

  planned = plan("--seeds=2", f"--output={tmp_path / 'out'}")[1]
  with pytest.raises(OSError, match=r"results\.md"):
    jobs.train_all(planned, fail, at_once=2)
  assert saved.exists()


def test_a_log_that_cannot_be_written_is_an_error_of_its_run_alone(tmp_path, capsys):
  order = json.dumps({"arguments": [], "log": str(tmp_path)})
  answers = io.StringIO()
  worker_lib.serve([order, order], answers)
  assert answers.getvalue() == "1\n1\n"
  assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n" * 2
