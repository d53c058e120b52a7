"""Paths as people type them: `~` is a home folder, and a URL is no path."""

import os
import re

from cifar_flax.errors import UserError

# gs:/ as well, which is what is left of gs:// after it has been a `pathlib.Path`.
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|(gs|s3|hdfs|https?|file):/", re.IGNORECASE)


def check(path: str, what: str) -> None:
  """Raises a UserError if a path is a URL.

  Args:
    path: as it was typed.
    what: the flag or key that was set to it, for the message; "" for an argument.
  """
  if _URL.match(path):
    raise UserError(
      f"{_shown(path, what)}: is a URL, but only local files and folders can be used."
      " On a TPU VM, name a local folder and copy it afterwards (gcloud storage cp -r)"
    )


def expanded(path: str, what: str) -> str:
  """Returns a path with `~` and `~user` replaced by the home folder.

  Raises:
    UserError: the path is a URL, or the home folder is not known.
  """
  check(path, what)
  found = os.path.expanduser(path)
  if found == path and path.startswith("~") and not os.path.lexists(path):
    user = path.partition("/")[0]
    raise UserError(
      f"{_shown(path, what)}: the home folder {user} is not known; write a whole path"
    )
  return found


def _shown(path: str, what: str) -> str:
  return f"{what}={path!r}" if what else repr(path)
