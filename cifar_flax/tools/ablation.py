"""What each change from one config to another brings: `sweep --ablate`."""

from collections.abc import Collection, Sequence

from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import directory
from cifar_flax.tables import Table, spread
from cifar_flax.tools import jobs

TOGETHER = ("augmentation", "optimizer", "schedule")  # sections that are one change
SAME = ("data.dataset", "data.eval_split")  # or accuracies do not compare


def changes(
  config: Config, base: Config, kept: Collection[str]
) -> dict[str, dict[str, str]]:
  """The keys that two configs differ in with the values of `base`, by change.

  Keys of `augmentation`, `optimizer` and `schedule` mean something together and are one
  change each; every other key is one by itself.

  Args:
    config: with all changes.
    base: with none.
    kept: keys that are the same in every run, whatever the two have.

  Raises:
    UserError: there is no change, or the two are evaluated on different images.
  """
  before, found = config_lib.flatten(base), dict[str, dict[str, str]]()
  for key, value in config_lib.flatten(config).items():
    if value == before[key] or key in {"seed", *directory.FREE_KEYS, *kept}:
      continue
    if key in SAME:
      raise UserError(f"--ablate: config.{key} differs; set it with --config.{key}=")
    section, _, name = key.rpartition(".")
    change = section if section in TOGETHER else name
    change = "network" if key == "model.name" else change
    found.setdefault(change, {})[key] = str(before[key])
  if not found:
    but = " but what --config.KEY sets" if kept else ""
    raise UserError(f"--ablate: {base.name} and {config.name} differ in nothing{but}")
  return found


def settings(
  config: Config, base: Config, kept: Collection[str]
) -> list[tuple[str, dict[str, str]]]:
  """Each run's name and what to set in it: nothing, each change set back, then all.

  Raises:
    UserError: as `changes`, or the config is called as one of the other runs.
  """
  found = changes(config, base, kept)
  back = {f"without_{change}": values for change, values in found.items()}
  if len(found) > 1:
    back["without_all"] = {
      key: value for values in found.values() for key, value in values.items()
    }
  if config.name in back:
    raise UserError(
      f"--ablate: a run is called {config.name}, as the config; rename it"
    )
  runs = {config.name: dict[str, str](), **back}
  return [(name, {**values, "name": name}) for name, values in runs.items()]


def table(planned: Sequence[jobs.Job]) -> Table:
  """Accuracies, and how much higher they are with all changes than in each run.

  Only the finished runs count, and of those without a change only the ones whose seed
  has finished with all changes too.

  Args:
    planned: the runs; the first has all changes.
  """
  accuracies: dict[str, dict[int, float]] = {}
  for job in planned:
    of_seed = accuracies.setdefault(job.config.name, {})
    if summary := jobs.finished(job):
      of_seed[job.config.seed] = 100 * summary["final_eval_accuracy"]
  first = planned[0].config
  whole = accuracies.pop(first.name)
  made = Table(
    f"What each change brings to {first.name}",
    ("run", "n", "accuracy, %", "the change brings, points"),
    [[first.name, str(len(whole)), _shown(list(whole.values())), "-"]],
  )
  for name, of_seed in accuracies.items():
    pairs = [(of_seed[seed], whole[seed]) for seed in of_seed if seed in whole]
    brings = _shown([with_it - without for without, with_it in pairs], "+")
    cells = [name, str(len(pairs)), _shown([without for without, _ in pairs]), brings]
    made.rows.append(cells)
  made.note("mean ± standard deviation (n - 1) over n seeds; after the last epoch")
  if missing := sum(not jobs.finished(job) for job in planned):
    made.note(f"{missing} of {len(planned)} runs are not finished")
  for job in planned:
    made.note(*_set_back(job.config, first), row=job.config.name)
  return made


def _shown(values: list[float], sign: str = "") -> str:
  return spread(values, sign=sign) if values else "-"


def _set_back(config: Config, first: Config) -> list[str]:
  """What a run has otherwise than the first, as one note."""
  values, own = config_lib.flatten(first), {"name", "seed"}
  words = [
    f"{key}={value}, not {values[key]}"
    for key, value in config_lib.flatten(config).items()
    if key not in own and value != values[key]
  ]
  return ["; ".join(words)] if words else []
