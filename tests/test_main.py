"""The command line: what it understands, and the one line it answers mistakes with."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from cifar_flax import config as config_lib
from cifar_flax import main, registry, train
from cifar_flax.errors import Diverged, Stopped, UserError
from cifar_flax.run import lock

ROOT = pathlib.Path(__file__).parents[1]
NET6B = "--config=configs/net6b.py"
FLAGS = ("--config", "--workdir", "--mode", "--checkpoint", "--distributed")

FILES = {
  "syntax.py": "def get_config(:\n",
  "raises.py": "def get_config():\n  raise RuntimeError('first line\\nsecond line')\n",
  "exits.py": "import sys\nsys.exit(0)\n",
  "imports.py": "import no_such_module\n",
  "without.py": "config = 3\n",
  "none.py": "def get_config():\n  pass\n",
  "dictionary.py": "def get_config():\n  return {'seed': 3}\n",
  "arguments.py": "def get_config(kind):\n  return kind\n",
  "typo.py": "c.num_epoch = 3",
  "section_typo.py": "c.model.nmae = 'net6b'",
  "section.py": "c.model = 'net6b'",
  "type.py": "c.batch_size = 64.0",
  "range.py": "c.schedule.learning_rate = -1",
  "choice.py": "c.model.name = 'net6c'",
  "nan.py": "c.label_smoothing = float('nan')",
  "text.txt": "seed = 3",
  "latin.json": b"\xe9",
  "broken.json": '{"seed": 3',
  "list.json": "[1, 2]",
  "deep.json": "[" * 100_000,
  "key.json": '{"sed": 3}',
  "nested_key.json": '{"model": {"nam": "net6b"}}',
  "scalar_section.json": '{"model": "net6b"}',
  "object_value.json": '{"seed": {}}',
  "type.json": '{"num_epochs": "3"}',
  "float.json": '{"num_epochs": 3.0}',
  "bool.json": '{"seed": true}',
  "null.json": '{"data": {"data_dir": null}}',
  "nan.json": '{"schedule": {"learning_rate": NaN}}',
  "huge.json": f'{{"schedule": {{"learning_rate": {10**400}}}}}',
  "choice.json": '{"optimizer": {"name": "keras-adam"}}',
}
PYTHON = "from cifar_flax.config import Config\ndef get_config():\n  c = Config()\n  "


def key(assignment):
  return [NET6B, f"--config.{assignment}"]


def file(name):
  return [f"--config={name}"]


# Each command line, and what its answer must say: field, value, what is allowed, the
# nearest name.
MISTAKES = [
  # A key that does not exist.
  (key("sed=3"), "config.sed='3'", "did you mean 'seed'?"),
  (key("num_epoch=3"), "config.num_epoch='3'", "did you mean 'num_epochs'?"),
  (key("model.nam=net6b"), "config.model.nam='net6b'", "did you mean 'model.name'?"),
  (key("learning_rate=1"), "'1': no such key", "mean 'schedule.learning_rate'?"),
  (key("model=net6b"), "config.model='net6b'", "did you mean 'model.name'?"),
  (key("xyzzy=1"), "config.xyzzy='1': no such key"),
  (key("=1"), "config.='1': no such key"),
  (key("seed.=1"), "config.seed.='1': no such key", "did you mean 'seed'?"),
  (key("a\nb=1"), "config.a b='1': no such key"),
  # No value.
  (key("seed"), "--config.seed: needs a value", "--config.seed=VALUE"),
  (["--config.seed", "--mode=eval", NET6B], "--config.seed: needs a value"),
  (["--config.seed", NET6B], "--config.seed: needs a value"),
  # An integer.
  (key("seed="), "config.seed=''", "an integer >= 0 and <= 2147483647"),
  (key("seed=three"), "config.seed='three'", "an integer >= 0"),
  (key("seed=1.5"), "config.seed='1.5'", "an integer >= 0"),
  (key("seed=-1"), "config.seed=-1", "an integer >= 0"),
  (key("seed=2147483648"), "config.seed=2147483648", "<= 2147483647"),
  (key("seed=" + "9" * 5000), "config.seed=", "an integer"),
  (key("num_epochs=0"), "config.num_epochs=0", "an integer >= 1 and <= 100000"),
  (key("num_epochs=1e2"), "config.num_epochs='1e2'", "an integer >= 1"),
  (key("batch_size=0"), "config.batch_size=0", "an integer >= 1"),
  (key("eval_batch_size=-5"), "config.eval_batch_size=-5", "an integer >= 0"),
  (key("checkpoint.keep=0"), "config.checkpoint.keep=0", "an integer >= 1"),
  (key("augmentation.cutout=33"), "config.augmentation.cutout=33", "<= 32"),
  (key("augmentation.crop_padding=17"), "crop_padding=17", "<= 16"),
  ([NET6B, "--config.steps_per_dispatch", "-1"], "dispatch=-1", "an integer >= 0"),
  # A number.
  (key("schedule.learning_rate="), "learning_rate=''", "a number >= 0.0 and <= 100.0"),
  (key("schedule.learning_rate=fast"), "learning_rate='fast'", "a number >= 0.0"),
  (key("schedule.learning_rate=nan"), "learning_rate=nan", "a number >= 0.0"),
  (key("schedule.learning_rate=inf"), "learning_rate=inf", "a number >= 0.0"),
  (key("schedule.learning_rate=1e999"), "learning_rate=inf", "a number >= 0.0"),
  (key("schedule.learning_rate=-0.1"), "learning_rate=-0.1", "a number >= 0.0"),
  (key("schedule.learning_rate=0,1"), "learning_rate='0,1'", "a number >= 0.0"),
  (key("schedule.warmup_epochs=-inf"), "warmup_epochs=-inf", "a number >= 0.0"),
  (key("model.dropout_rate=1"), "dropout_rate=1.0", "a number >= 0.0 and < 1.0"),
  (key("label_smoothing=1.5"), "label_smoothing=1.5", "a number >= 0.0 and < 1.0"),
  (key("ema_decay=1"), "ema_decay=1.0", "a number >= 0.0 and < 1.0"),
  (key("optimizer.weight_decay=2"), "weight_decay=2.0", "a number >= 0.0 and <= 1.0"),
  # True or false.
  (key("augmentation.flip=yes"), "augmentation.flip='yes'", "true or false"),
  (key("augmentation.flip="), "augmentation.flip=''", "true or false"),
  (key("optimizer.nesterov=2"), "optimizer.nesterov='2'", "true or false"),
  # One of some names.
  (key("model.name=net6c"), "model.name='net6c'", "net6b, uniform; did you mean 'net6"),
  (key("model.name="), "config.model.name=''", "one of net6a_dense, net6a_wide"),
  (key("model.name=Net6B"), "config.model.name='Net6B'", "did you mean 'net6b'?"),
  (key("model.convolution=group"), "='group'", "plain, ", "did you mean 'grouped'?"),
  (key("model.dtype=float16"), "='float16'", "float32, bfloat16", "mean 'bfloat16'?"),
  (key("model.ops=fats"), "model.ops='fats'", "fast, lax", "did you mean 'fast'?"),
  (key("optimizer.name=adamw"), "='adamw'", "adam, sgd", "did you mean 'adam'?"),
  (key("schedule.name=cosin"), "='cosin'", "staircase, ", "did you mean 'cosine'?"),
  (key("data.dataset=cifar20"), "='cifar20'", "folder:PATH", "did you mean 'cifar10'?"),
  # Names of runs and folders.
  (key("name=a/b"), "config.name='a/b'", "a name, not a path"),
  (key("name=.."), "config.name='..'", "a name, not a path"),
  ([NET6B, "--workdir={tmp}/text.txt"], "text.txt'", "is a file; name a folder"),
  ([NET6B, "--workdir={tmp}/text.txt/run"], "text.txt is a file; name a folder"),
  ([NET6B, "--workdir="], "--workdir=''", "must name a folder", "runs/net6b"),
  ([NET6B, "--workdir"], "--workdir", "expected one argument"),
  # Flags.
  ([], "--config=FILE is missing", "--config=configs/net6b.py"),
  (["--mode=train"], "--config=FILE is missing"),
  (["--config"], "--config", "expected one argument"),
  (["--confg=configs/net6b.py"], "--confg=", "did you mean '--config'?"),
  ([NET6B, "--worldir=x"], "--worldir=x", "did you mean '--workdir'?"),
  ([NET6B, "-x"], "-x: no such flag", "--help"),
  ([NET6B, "configs/net6a.py"], "configs/net6a.py: no such flag"),
  ([NET6B, "--seed=3"], "--seed=3: no such flag"),
  ([NET6B, "--mode=evl"], "--mode='evl'", "train, eval", "did you mean 'eval'?"),
  ([NET6B, "--mode="], "--mode=''", "one of train, eval"),
  ([NET6B, "--mode"], "--mode", "expected one argument"),
  ([NET6B, "--mode=eval", "--checkpoint=lst"], "='lst'", "best, last", "mean 'last'?"),
  ([NET6B, "--mode=eval", "--checkpoint=7"], "--checkpoint='7'", "one of best, last"),
  (["--mode=eval", "--workdir={tmp}/run"], "/run': no run here"),
  # Other processes.
  ([NET6B, "--distributed=2"], "--distributed='2'", "auto, or HOST:PORT,NUMBER,ID"),
  ([NET6B, "--distributed=a:1,2,2"], "ID from 0 to NUMBER - 1"),
  ([NET6B, "--distributed=a:x,2,0"], "HOST:PORT", "10.0.0.1:1234,2,0"),
  ([NET6B, "--distributed"], "--distributed", "expected one argument"),
  (key("checkpoint.every_steps=-1"), "every_steps=-1", "an integer >= 0"),
  # Overrides are looked at wherever they stand; the first mistake is answered.
  (["--config.sed=3", NET6B], "config.sed='3'", "did you mean 'seed'?"),
  (["--config.seed=3"], "--config=FILE is missing"),
  # The file itself.
  (file(""), "--config=''", "no such file"),
  (file("configs/net6.py"), "'configs/net6.py': no such file; did you", "net6"),
  (file("nowhere/net6b.py"), "--config='nowhere/net6b.py': no such file"),
  (file("configs"), "--config='configs': is a folder", "configs/net6a.py"),
  (file("a" * 300), "aaa': no such file"),
  (file("{tmp}/text.txt"), "text.txt'", "must end in .py or .json"),
  (file("{tmp}/syntax.py"), "syntax.py': SyntaxError: ", "line 1"),
  (file("{tmp}/raises.py"), "raises.py': RuntimeError: first line"),
  (file("{tmp}/exits.py"), "exits.py': SystemExit: 0"),
  (file("{tmp}/imports.py"), "ModuleNotFoundError: No module named 'no_such_module'"),
  (file("{tmp}/without.py"), "without.py': AttributeError", "get_config"),
  (file("{tmp}/none.py"), "none.py': get_config() must return", "config.Config"),
  (file("{tmp}/dictionary.py"), "get_config() must return cifar_flax.config.Config"),
  (file("{tmp}/arguments.py"), "arguments.py': TypeError: get_config() missing"),
  (file("{tmp}/typo.py"), "config.num_epoch=3: no such key", "mean 'num_epochs'?"),
  (file("{tmp}/section_typo.py"), "model.nmae='net6b': no such key", "mean 'name'?"),
  (file("{tmp}/section.py"), "config.model='net6b': is a section"),
  (file("{tmp}/type.py"), "config.batch_size=64.0", "an integer >= 1"),
  (file("{tmp}/range.py"), "config.schedule.learning_rate=-1", "a number >= 0.0"),
  (file("{tmp}/choice.py"), "config.model.name='net6c'", "did you mean 'net6"),
  (file("{tmp}/nan.py"), "config.label_smoothing=nan", "a number >= 0.0 and < 1.0"),
  (file("{tmp}/latin.json"), "latin.json: not readable as JSON"),
  (file("{tmp}/broken.json"), "broken.json: not readable as JSON", "line 1 column"),
  (file("{tmp}/list.json"), "list.json: must hold an object of config keys"),
  (file("{tmp}/deep.json"), "deep.json: not readable as JSON"),
  (file("{tmp}/key.json"), "key.json: no such key 'sed'", "did you mean 'seed'?"),
  (file("{tmp}/nested_key.json"), "no such key 'model.nam'", "mean 'model.name'?"),
  (file("{tmp}/scalar_section.json"), "no such key 'model'", "mean 'model.name'?"),
  (file("{tmp}/object_value.json"), "config.seed={}", "an integer >= 0"),
  (file("{tmp}/type.json"), "config.num_epochs='3'", "an integer >= 1"),
  (file("{tmp}/float.json"), "config.num_epochs=3.0", "an integer >= 1"),
  (file("{tmp}/bool.json"), "config.seed=True", "an integer >= 0"),
  (file("{tmp}/null.json"), "config.data.data_dir=None", "text"),
  (file("{tmp}/nan.json"), "config.schedule.learning_rate=nan", "a number"),
  (file("{tmp}/huge.json"), "config.schedule.learning_rate=1000", "a number"),
  (file("{tmp}/choice.json"), "name='keras-adam'", "did you mean 'keras_adam'?"),
]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("configs")
  write_files(folder)
  return folder


def write_files(folder):
  for name, content in FILES.items():
    if isinstance(content, bytes):
      (folder / name).write_bytes(content)
    elif content.startswith("c."):
      (folder / name).write_text(f"{PYTHON}{content}\n  return c\n")
    else:
      (folder / name).write_text(content)


@pytest.fixture
def calls(monkeypatch):
  """Runs nothing; what would have run, in order."""
  calls = []
  monkeypatch.setattr(
    train,
    "train_and_evaluate",
    lambda *args, start_time, stop: calls.append(("train", *args)),
  )
  monkeypatch.setattr(
    train,
    "evaluate_checkpoint",
    lambda *args: calls.append(("eval", *args)) or "the result",
  )
  return calls


@pytest.mark.parametrize(
  "mistake",
  MISTAKES,
  ids=lambda mistake: re.sub(r"\W+", "_", " ".join(mistake[0]))[:60],
)
def test_a_mistake_is_answered_in_one_line(mistake, folder, calls, capsys):
  argv, *fragments = mistake
  code = main.main([argument.replace("{tmp}", str(folder)) for argument in argv])
  out, error = capsys.readouterr()
  assert (code, out, calls) == (2, "", [])
  assert error.startswith("error: ") and error.count("\n") == 1, error
  for fragment in fragments:
    assert fragment in error, error


def test_every_file_is_a_mistake_that_is_tried():
  used = " ".join(argument for argv, *_ in MISTAKES for argument in argv)
  assert [name for name in FILES if f"{{tmp}}/{name}" not in used] == []
  assert len(MISTAKES) >= 80


def test_a_value_that_is_refused_is_refused_from_a_file_and_a_program_too():
  config = config_lib.Config()
  config.batch_size = 0
  with pytest.raises(UserError, match="config.batch_size=0: must be an integer >= 1"):
    config_lib.validate(config)


def test_mistakes_are_answered_before_jax_is_imported(folder):
  # One process for all, timed with its start.
  lines = [[a.replace("{tmp}", str(folder)) for a in argv] for argv, *_ in MISTAKES]
  program = textwrap.dedent("""
    import json, resource, sys
    from cifar_flax import main
    codes = {main.main(argv) for argv in json.loads(sys.argv[1])}
    loaded = {"jax", "flax", "numpy", "tensorflow_datasets"} & set(sys.modules)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(codes, loaded, usage.ru_utime + usage.ru_stime)
  """)
  done = subprocess.run(
    [sys.executable, "-c", program, json.dumps(lines)], capture_output=True, text=True
  )
  *found, seconds = done.stdout.split()  # of the processor: others may be using it
  assert found == ["{2}", "set()"], done.stderr
  assert len(done.stderr.splitlines()) == len(lines)
  assert "Traceback" not in done.stderr
  assert float(seconds) < 1


def test_the_start_is_timed_from_the_command_on(monkeypatch):
  parsed, parse = [], main.parse
  monkeypatch.setattr(
    main, "parse", lambda argv: parsed.append(time.monotonic()) or parse(argv)
  )
  monkeypatch.setattr(
    train, "train_and_evaluate", lambda *_, start_time, stop: times.append(start_time)
  )
  times = [time.monotonic()]
  assert main.main([NET6B]) == 0
  assert times[0] <= times[1] <= parsed[0]


def test_the_module_is_a_program_with_an_exit_code():
  command = [sys.executable, "-m", "cifar_flax.main", NET6B, "--config.seed=x"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith("error: config.seed='x'")


def test_help_lists_every_flag_key_and_name(capsys):
  with pytest.raises(SystemExit) as stopped:
    main.main(["--help"])
  assert stopped.value.code == 0
  text = capsys.readouterr().out
  for word in (*FLAGS, *config_lib.fields(), *registry.NETWORKS):
    assert word in text, word
  for word in (*registry.CONVOLUTIONS, *config_lib.OPTIMIZERS, *config_lib.SCHEDULES):
    assert word in text, word


@pytest.mark.parametrize(
  "argv",
  [
    [NET6B, "--config.seed=3", "--config.model.ops=lax"],
    ["--config.seed=3", "--config.model.ops=lax", "--config", "configs/net6b.py"],
    ["--config.seed", "3", NET6B, "--config.model.ops", "lax", "--mode", "train"],
    ["--config.seed=1", "--config.seed=3", NET6B, "--config.model.ops=lax"],
    ["--config=configs/net6a.py", NET6B, "--config.seed=3", "--config.model.ops=lax"],
  ],
)
def test_all_forms_of_an_override(argv, calls):
  assert main.main(argv) == 0
  [(mode, config, workdir)] = calls
  expected = config_lib.load("configs/net6b.py")
  expected.seed, expected.model.ops = 3, "lax"
  assert (mode, config, workdir) == ("train", expected, pathlib.Path("runs/net6b"))


def test_a_value_may_hold_an_equals_sign_or_be_negative_or_empty(calls):
  assert main.main([NET6B, "--config.name=a=b", "--config.data.data_dir="]) == 0
  [(_, config, workdir)] = calls
  assert config.name == "a=b" and workdir == pathlib.Path("runs/a=b")
  assert config.data.data_dir == ""


def test_the_run_directory(calls, tmp_path):
  for argv, expected in [
    ([f"--workdir={tmp_path}"], tmp_path),
    ([f"--workdir={tmp_path}/not/there/yet"], tmp_path / "not/there/yet"),
    (["--config.name=mine"], pathlib.Path("runs/mine")),
    (["--config.name="], pathlib.Path("runs/net6b")),
  ]:
    assert main.main([NET6B, *argv]) == 0
    assert calls.pop()[2] == expected
  assert list(tmp_path.iterdir()) == []  # looking at a command line makes nothing


def test_evaluation_takes_the_config_of_its_run_directory(calls, tmp_path, capsys):
  config = config_lib.load("configs/net6a.py")
  config.seed = 11
  (tmp_path / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
  argv = ["--mode=eval", f"--workdir={tmp_path}", "--config.eval_batch_size=7"]
  assert main.main(argv) == 0
  assert main.main([*argv, "--checkpoint=last"]) == 0
  config.eval_batch_size = 7
  expected = [("eval", config, tmp_path, which) for which in ("best", "last")]
  assert calls == expected
  assert capsys.readouterr().out == "the result\n" * 2


def test_mistakes_found_while_running_are_answered_alike(monkeypatch, capsys):
  def refuse(config, workdir, start_time, stop):
    raise UserError("config.batch_size=12: must be divisible\nby the 8 devices")

  monkeypatch.setattr(train, "train_and_evaluate", refuse)
  assert main.main([NET6B]) == 2
  expected = "error: config.batch_size=12: must be divisible by the 8 devices\n"
  assert capsys.readouterr().err == expected


def test_our_own_bugs_are_not_hidden(monkeypatch):
  def fail(config, workdir, start_time, stop):
    raise RuntimeError("a bug")

  monkeypatch.setattr(train, "train_and_evaluate", fail)
  with pytest.raises(RuntimeError, match="a bug"):
    main.main([NET6B])


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM; everything is saved: rerun"),
    (Stopped(signal.SIGINT), 130, "stopped by SIGINT; everything is saved: rerun"),
    (Diverged("diverged: step 3"), 1, "error: diverged: step 3"),
    (OSError(28, "No space left on device", "/a/b"), 1, "error: /a/b: No space left"),
  ],
)
def test_what_ends_a_run_is_said_in_a_line(error, code, line, monkeypatch, capsys):
  def end(config, workdir, start_time, stop):
    raise error

  monkeypatch.setattr(train, "train_and_evaluate", end)
  assert main.main([NET6B]) == code
  said = capsys.readouterr().err
  assert said.startswith(line) and said.count("\n") == 1


def test_an_occupied_run_directory_is_refused_before_jax(tmp_path):
  with lock.hold(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "cifar_flax.main", NET6B]
    command += [f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2
  assert f"process {os.getpid()} on {socket.gethostname()}" in done.stderr
  assert "| jax\n" not in done.stderr


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
  def interrupt(config, workdir, start_time, stop):
    raise KeyboardInterrupt

  monkeypatch.setattr(train, "train_and_evaluate", interrupt)
  assert main.main([NET6B]) == 130
  assert "rerun the same command to resume" in capsys.readouterr().err
