"""Makes sure that JAX computes on the devices that were asked for.

JAX itself ends with a stack trace if `JAX_PLATFORMS` names a device that it cannot use.
If the driver of an installed GPU or TPU plugin is broken, it uses the CPU instead.
"""

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Iterator

from cifar_flax import hints
from cifar_flax.errors import UserError

PLATFORMS = ("cpu", "cuda", "gpu", "rocm", "tpu")
# Distributions that let JAX use a GPU or a TPU.
_PLUGIN = re.compile(r"jax-(cuda|rocm)\d*-(plugin|pjrt)|libtpu(-nightly)?|jax-metal")
_JAX_LOGGER = "jax._src.xla_bridge"
_USE_CPU = "or set JAX_PLATFORMS=cpu to use the CPU"
_MAX_REASON = 200  # characters


def check() -> None:
  """Initialises JAX's devices, unless that has been done.

  Raises:
    UserError: JAX cannot use the devices that `JAX_PLATFORMS` names, or uses the CPU
      although a plugin for a GPU or TPU is installed and the CPU was not asked for:
      neither by `JAX_PLATFORMS` nor by hiding all GPUs (`CUDA_VISIBLE_DEVICES=`).
  """
  import jax

  said = _initialise()
  hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
  asked_for_cpu = hidden or "cpu" in _asked().split(",")
  falls_back = jax.default_backend() == "cpu" and not asked_for_cpu
  if falls_back and (plugins := installed()):
    reason = _reason(said) or "it finds no such device"
    raise UserError(
      f"JAX uses the CPU although {', '.join(plugins)} is installed ({reason}); "
      f"repair the driver or remove the plugin, {_USE_CPU} anyway"
    )
  for record in said:
    record.exc_info = None  # a line is enough for what is no error here
    logging.getLogger(_JAX_LOGGER).handle(record)


def refusal(error: BaseException) -> UserError | None:
  """Returns the one-line error if JAX, which raised `error`, cannot use its devices.

  Returns None for any other error. JAX removes its own frames from tracebacks, so they
  do not tell where it failed.
  """
  if "jax" not in sys.modules:
    return None
  if isinstance(error, RuntimeError) and str(error).startswith("Unable to initialize"):
    return _unusable(error, [])
  if isinstance(error, AssertionError) and not str(error):
    try:
      _initialise()
    except UserError as refused:
      return refused
  return None


def _initialise() -> list[logging.LogRecord]:
  """Initialises JAX's devices; returns what it logged meanwhile.

  Raises:
    UserError: JAX cannot use the devices that `JAX_PLATFORMS` names.
  """
  import jax

  with _captured() as said:
    try:
      jax.devices()
    except Exception as error:  # JAX raises RuntimeError, AssertionError and others
      raise _unusable(error, said) from None
  return said


def installed() -> list[str]:
  """Returns the names of the installed plugins that let JAX use a GPU or a TPU."""
  found = set()
  for distribution in importlib.metadata.distributions():
    name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
    if _PLUGIN.fullmatch(name):
      found.add(name)
  for entry in importlib.metadata.entry_points(group="jax_plugins"):
    found.add(entry.value)
  with contextlib.suppress(ImportError):
    import jax_plugins  # type: ignore[import-not-found]

    path = jax_plugins.__path__
    found |= {m.name for m in pkgutil.iter_modules(path, "jax_plugins.")}
  if not found and importlib.util.find_spec("libtpu"):
    found.add("libtpu")
  return sorted(found)


def _asked() -> str:
  """Returns the platforms that JAX was told to use, separated by commas."""
  import jax

  return jax.config.jax_platforms or ""  # type: ignore[attr-defined]


def _unusable(error: BaseException, said: list[logging.LogRecord]) -> UserError:
  """Returns the error for devices that JAX cannot initialise."""
  text = " ".join(str(error).split("\n")[0].split())
  text = re.sub(r" \((set JAX_PLATFORMS=|you may need to uninstall).*", "", text)
  reason = _shortened(text) or _reason(said) or "it finds no such device"
  asked = _asked()
  if not asked:
    return UserError(f"JAX cannot use its devices ({reason}); repair them, {_USE_CPU}")
  nearest = [
    hints.nearest(name, PLATFORMS) for name in asked.split(",") if name not in PLATFORMS
  ]
  return UserError(
    f"JAX_PLATFORMS={asked!r}: JAX cannot use it ({reason}){''.join(nearest)}; check "
    "the driver, install JAX for this device (ACCELERATOR=cuda or tpu with make), "
    f"{_USE_CPU}"
  )


def _reason(said: list[logging.LogRecord]) -> str:
  """Returns the last message that JAX logged, with the exception that it names."""
  if not said:
    return ""
  record = said[-1]
  try:
    text = record.getMessage()
  except TypeError:  # JAX forgets an argument of one of its messages
    text = str(record.msg)
  if record.exc_info and record.exc_info[1]:
    error = record.exc_info[1]
    text += f" {type(error).__name__}: {error}"
  return _shortened(text)


def _shortened(text: str) -> str:
  text = " ".join(text.split())
  return text.rstrip(".") if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."


class _Recorder(logging.Handler):
  """Collects log records."""

  def __init__(self) -> None:
    super().__init__(logging.WARNING)
    self.records: list[logging.LogRecord] = []

  def emit(self, record: logging.LogRecord) -> None:
    self.records.append(record)


@contextlib.contextmanager
def _captured() -> Iterator[list[logging.LogRecord]]:
  """Collects what JAX logs about its devices instead of printing it."""
  logger, recorder = logging.getLogger(_JAX_LOGGER), _Recorder()
  before = logger.handlers, logger.propagate
  logger.handlers, logger.propagate = [recorder], False
  try:
    yield recorder.records
  finally:
    logger.handlers, logger.propagate = before
