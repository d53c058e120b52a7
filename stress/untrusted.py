"""Experiments with hostile files: nothing in them is executed or written elsewhere.

Each file would create the folder `mark` if anything in it were executed or followed.
"""

import hashlib
import io
import json
import os
import pathlib
import pickle
import tarfile
from collections.abc import Callable

import msgpack
import numpy as np

from cifar_flax.run.checkpoints import MAGIC
from stress.lab import ROOT, Lab, Row, checkpoints


class Touch:
  """An object that creates a folder when it is unpickled."""

  def __init__(self, path: pathlib.Path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def _sealed(payload: bytes) -> bytes:
  """Returns a checkpoint file's bytes with the right checksum for `payload`."""
  return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def _objects(mark: pathlib.Path) -> bytes:
  """Returns an array of Python objects, encoded as Flax encodes arrays of numbers."""
  inner = msgpack.packb(((1,), "object", pickle.dumps(Touch(mark))))
  leaf = msgpack.ExtType(1, inner)
  return msgpack.packb({"state": {"params": leaf}, "run": "{}"})


CHECKPOINTS: dict[str, Callable[[pathlib.Path], bytes]] = {
  "a pickle": lambda mark: pickle.dumps(Touch(mark)),
  "a pickle with a checksum": lambda mark: _sealed(pickle.dumps(Touch(mark))),
  "an array of objects": lambda mark: _sealed(_objects(mark)),
  "a list": lambda mark: _sealed(msgpack.packb([1, 2])),
  "code instead of a config": lambda mark: _sealed(
    msgpack.packb({"state": {}, "run": f"__import__('os').mkdir('{mark}')"})
  ),
}


def untrusted(lab: Lab) -> list[Row]:
  """Checks hostile checkpoints, configs, an archive and an image cache."""
  lab.complete(workdir := lab.new("trusting"))
  mark = lab.folder / "mark"
  found = []
  for name, make in CHECKPOINTS.items():
    for path in checkpoints(workdir):
      path.write_bytes(make(mark))
    (workdir / "summary.json").unlink(missing_ok=True)
    found.append(_refused(lab, f"checkpoint: {name}", lab.command(workdir), mark))
  config = lab.folder / "config.json"
  config.write_text(f'{{"seed": "__import__(\\"os\\").mkdir(\\"{mark}\\")"}}')
  command = [*lab.command(lab.new("new"))[:3], "--config", str(config)]
  found.append(_refused(lab, "config.json: code instead of a number", command, mark))
  config.write_text(json.dumps({"name": os.path.relpath(mark, ROOT / "runs")}))
  found.append(_refused(lab, "config.json: a path instead of a name", command, mark))
  found.append(_refused(lab, "archive: ../, / and links", _archive(lab, mark), mark))
  found.append(_cache(lab, mark))
  return found


def _refused(lab: Lab, what: str, command: list[str], mark: pathlib.Path) -> Row:
  code, error = lab.finish(command)
  last = (error.strip().splitlines() or [""])[-1]
  good = code == 2 and last.startswith("error:") and "Traceback" not in error
  return Row(what, 1, f"exit code {code}: {last[:90]}", good and not mark.exists())


def _archive(lab: Lab, mark: pathlib.Path) -> list[str]:
  path = lab.folder / "cifar-10-python.tar.gz"
  with tarfile.open(path, "w:gz") as archive:
    data = pickle.dumps(Touch(mark))
    inside = ["batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))]
    for name in ("../mark", str(mark), *(f"cifar-10-batches-py/{n}" for n in inside)):
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
    link = tarfile.TarInfo("cifar-10-batches-py/data_batch_6")
    link.type, link.linkname = tarfile.SYMTYPE, str(mark)
    archive.addfile(link)
  changed = {"data__dataset": "cifar10", "data__archive": str(path)}
  changed["data__data_dir"] = str(lab.folder)
  command = lab.command(lab.new("unpacked"), **changed)
  return [command[0], "-c", _BELIEVE.format(path=path), *command[3:]]


# Registers the checksum of the archive as an official one: an archive with an unknown
# checksum is refused before anything in it is read.
_BELIEVE = """
import hashlib, sys
from cifar_flax import main
from cifar_flax.data.sources import archives
data = open("{path}", "rb").read()
digest = hashlib.md5(data).hexdigest()
archives.PUBLISHED["it"] = archives.Published(
  "cifar10", "python", len(data), "md5", digest)
sys.exit(main.main(sys.argv[1:]))
"""


def _cache(lab: Lab, mark: pathlib.Path) -> Row:
  """Checks that a run ignores a hostile image cache, with a warning."""
  for path in (lab.folder / "cache" / "cifar_flax" / "data").glob("*.npz"):
    objects = np.array([Touch(mark)], object)
    np.savez(path, fingerprint=objects)
  code, error = lab.finish(lab.command(lab.new("cached"), num_epochs="1"))
  warnings = [line for line in error.splitlines() if ".npz" in line]
  good = code == 0 and len(warnings) == 1 and not mark.exists()
  text = f"exit code {code}: {warnings[0][:60] if warnings else 'no warning'}..."
  return Row("image cache: an array of objects", 1, text, good)
