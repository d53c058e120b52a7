"""Compiled programs outlive their process: the same bits, sooner, and nobody else's."""

import logging
import os
import pathlib
import re
import stat
import subprocess
import sys
import zlib

import jax
import pytest

from cifar_flax import caches

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
KEYS = (
  "jax_compilation_cache_dir",
  "jax_enable_compilation_cache",
  "jax_persistent_cache_min_compile_time_secs",
)
MIN_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


@pytest.fixture(autouse=True)
def as_nobody_has_decided(tmp_path, monkeypatch):
  """No setting of the tests', nor what a test sets, reaches another one."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.delenv(MIN_SECONDS, raising=False)
  before = {key: getattr(jax.config, key) for key in KEYS}
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  for key, value in before.items():
    jax.config.update(key, value)


def run(program, *arguments, **environment):
  """Runs Python as a user would: one CPU device, nothing of the tests' own settings."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
  done = subprocess.run(
    [sys.executable, "-c", program, *map(str, arguments)],
    env=kept | environment | {"JAX_PLATFORMS": "cpu"},
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return done


def test_it_is_on_in_a_private_folder(tmp_path):
  caches.keep_compiled_programs()
  folder = tmp_path / "cifar_flax" / "compiled"
  assert jax.config.jax_compilation_cache_dir == str(folder)
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700
  assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.1


def test_a_folder_that_the_user_names_is_used_as_it_is(tmp_path):
  for theirs in (str(tmp_path / "theirs"), ""):
    jax.config.update("jax_compilation_cache_dir", theirs)
    caches.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == theirs
  assert list(tmp_path.iterdir()) == []


def test_it_can_be_switched_off(tmp_path):
  jax.config.update("jax_enable_compilation_cache", False)
  caches.keep_compiled_programs()
  assert jax.config.jax_compilation_cache_dir is None
  assert list(tmp_path.iterdir()) == []


def test_a_time_that_the_user_sets_stays(monkeypatch):
  monkeypatch.setenv(MIN_SECONDS, "7")
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
  caches.keep_compiled_programs()
  assert jax.config.jax_persistent_cache_min_compile_time_secs == 7


def give_to_everyone(tmp_path):
  caches.private_folder("compiled").chmod(0o777)


def let_everyone_replace(tmp_path):
  tmp_path.chmod(0o777)


def put_a_file_there(tmp_path):
  (tmp_path / "cifar_flax").write_text("in the way")


def link_it_to_nowhere(tmp_path):
  (tmp_path / "cifar_flax").symlink_to(tmp_path / "nowhere")


@pytest.mark.parametrize(
  "spoil",
  [give_to_everyone, let_everyone_replace, put_a_file_there, link_it_to_nowhere],
)
def test_a_folder_that_is_no_good_costs_one_line(spoil, tmp_path, caplog):
  spoil(tmp_path)
  caches.keep_compiled_programs()
  assert jax.config.jax_compilation_cache_dir is None
  [record] = caplog.records
  assert record.levelno == logging.WARNING
  message = record.getMessage()
  assert message.startswith("Continuing without a cache of compiled programs (")
  assert str(tmp_path) in message and "\n" not in message


def test_what_was_used_longest_ago_goes_first(tmp_path):
  names = ("newest-cache", "newer-cache", "tuning/old", "oldest-cache")
  paths = newest, newer, old, oldest = [tmp_path / name for name in names]
  old.parent.mkdir()
  for path in paths:
    path.write_bytes(zlib.compress(os.urandom(1000)))
  size = newest.stat().st_size
  caches.evict(tmp_path, 4 * size)  # reads them: this is a use as well
  for age, path in enumerate(paths):
    os.utime(path, (10**9 - age, 10**9 - age))
  caches.evict(tmp_path, 4 * size)
  assert all(path.exists() for path in paths)
  os.utime(oldest, (10**9 + 1, 10**9 - 3))  # read since it was written
  caches.evict(tmp_path, 4 * size - 1)
  assert [path for path in paths if path.exists()] == [newest, newer, oldest]
  caches.evict(tmp_path, size)
  assert [path for path in paths if path.exists()] == [oldest]


def test_a_damaged_program_is_deleted_before_it_is_stumbled_over(tmp_path):
  whole = zlib.compress(os.urandom(5000))
  kept = {
    "whole-cache": whole,
    "zstandard-cache": b"\x28\xb5\x2f\xfd" + b"whatever",
    "of XLA": b"not compressed",
  }
  flipped = bytearray(whole)
  flipped[2500] ^= 1
  damaged = {"cut-cache": whole[:-1], "flipped-cache": flipped, "empty-cache": b""}
  for name, content in (kept | damaged).items():
    (tmp_path / name).write_bytes(content)
  for _ in range(2):
    caches.evict(tmp_path, 10**6)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_a_program_is_read_through_once(tmp_path, monkeypatch):
  (tmp_path / "x-cache").write_bytes(zlib.compress(b"x"))
  reads, read = [], pathlib.Path.read_bytes
  monkeypatch.setattr(
    pathlib.Path, "read_bytes", lambda path: reads.append(path) or read(path)
  )
  for _ in range(3):
    caches.evict(tmp_path, 10**6)
  assert len(reads) == 1


# A run of the command line on a few random images; says what it ended in.
TRAIN = """
import hashlib, pathlib, sys
import jax, numpy as np
from flax import serialization
sys.path.insert(0, sys.argv[1])
from cifar_flax import main, registry
from cifar_flax.run import checkpoints
from cifar_flax.data import datasets

def split(n):
  rng = np.random.default_rng(n)
  images = rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)
  return datasets.Split(images, rng.integers(0, 10, n).astype(np.int32))

info = datasets.Info("cifar10", "3.0.2", 0, "fingerprint", tuple("0123456789"))
datasets.load = lambda config: datasets.Dataset(split(80), split(40), info)
registry.NETWORKS["tiny"] = "tiny:Tiny"
hits = []
jax.monitoring.register_event_listener(
  lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
)
workdir = pathlib.Path(sys.argv[2])
assert main.main([
  "--config=configs/quickstart.py", f"--workdir={workdir}", "--config.model.name=tiny",
  "--config.model.dropout_rate=0.2", "--config.batch_size=16", "--config.num_epochs=1",
  "--config.eval_batch_size=20", "--config.augmentation.zoom=0.1",
]) == 0
state = checkpoints.restore(workdir / "checkpoints", "last")["state"]
assert state["step"] == 5
print(hashlib.sha256(serialization.msgpack_serialize(state)).hexdigest(), len(hits))
"""


def test_a_cached_run_ends_in_the_same_bits(tmp_path):
  always = {MIN_SECONDS: "0"}  # however fast the machine is
  started = [run(TRAIN, TESTS, tmp_path / n, **always) for n in ("cold", "warm")]
  (cold, no_hits), (warm, hits) = (done.stdout.split() for done in started)
  assert cold == warm
  # Initialisation, training, evaluation.
  assert (no_hits, int(hits) >= 3) == ("0", True)
  folder = tmp_path / "cifar_flax" / "compiled"
  assert len(list(folder.glob("*-cache"))) >= 3
  for done in started:
    assert len(re.findall(r"^first step after \d+\.\d\d s$", done.stderr, re.M)) == 1
    # Nothing that would alarm, about the processor's instructions or anything else.
    assert not re.search("warning|error|feature|SIG|cpu_aot", done.stderr, re.I)


# A program that takes a while to compile, where files may not grow.
COMPILE = """
import resource, sys
from cifar_flax import caches
import jax, jax.numpy as jnp
caches.keep_compiled_programs()
limit = int(sys.argv[1])
if limit:
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def f(x):
  for i in range(40):
    x = jnp.tanh(jnp.sort(x * i) @ x + jnp.cumsum(x, axis=i % 2))
  return x
print(float(jax.jit(f)(jnp.eye(8))[0, 0]))
"""


def test_a_full_disk_costs_a_warning_and_leaves_nothing_behind(tmp_path):
  full, again, warm = (run(COMPILE, limit) for limit in (1000, 0, 0))
  assert full.stdout == again.stdout == warm.stdout != "nan\n"
  assert "Error writing persistent compilation cache entry" in full.stderr
  assert (again.stderr, warm.stderr) == ("", "")
  assert len(list((tmp_path / "cifar_flax" / "compiled").glob("jit_f-*"))) == 1
