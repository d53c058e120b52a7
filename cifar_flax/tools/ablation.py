"""Ablation: measures the effect of each change between two configs, for `sweep`."""

from collections.abc import Collection, Sequence

from cifar_flax import config as config_lib
from cifar_flax import effects
from cifar_flax.config import Config
from cifar_flax.errors import UserError
from cifar_flax.run import directory, evaluation
from cifar_flax.tables import Number, Table
from cifar_flax.tools import jobs, results

# Sections whose keys are set back together, because they depend on each other.
JOINT_SECTIONS = ("augmentation", "optimizer", "schedule")
# Keys that must be equal in both configs, or else accuracies are not comparable.
EVALUATION_KEYS = ("data.dataset", "data.eval_split")


def changes(
  config: Config, base: Config, overridden: Collection[str]
) -> dict[str, dict[str, str]]:
  """Returns the changes from `base` to `config`: by name, each key's value in `base`.

  All keys of `augmentation` that differ are one change, as are those of `optimizer` and
  of `schedule`; every other key is a change of its own. A key without effect in either
  config is no change. One that has an effect only in `base` belongs to the change that
  gives it this effect: `dense_dropout_rate`, for example, to "network".

  Args:
    config: the config with all changes.
    base: the config without them.
    overridden: keys that the command line sets in every run, these two included.

  Raises:
    UserError: there is no change, or the configs are evaluated on different images.
  """
  unused, found = effects.without_effect(config), dict[str, dict[str, str]]()
  for key, (before, _) in effects.differences(base, config).items():
    if key in {"seed", *directory.FREE_KEYS}:
      continue
    if key in EVALUATION_KEYS:
      raise UserError(f"--ablate: config.{key} differs; set it with --config.{key}=")
    change = _change_of(unused.get(key, key))
    found.setdefault(change, {})[key] = str(before)
  if not found:
    ignored = ", ignoring the keys that --config.KEY sets" if overridden else ""
    raise UserError(
      f"--ablate: {base.name} and {config.name} have no differences{ignored}"
    )
  return found


def _change_of(key: str) -> str:
  """Returns the name of the change that a key belongs to."""
  section, _, name = key.rpartition(".")
  if key == "model.name":
    return "network"
  return section if section in JOINT_SECTIONS else name


def settings(
  config: Config, base: Config, overridden: Collection[str]
) -> list[tuple[str, dict[str, str]]]:
  """Returns each run's name and overrides.

  The first run has all changes; then each run lacks one of them, and the last run lacks
  all of them. Arguments as for `changes`.

  Raises:
    UserError: as for `changes`, or the config has the name of one of the other runs.
  """
  found = changes(config, base, overridden)
  back = {f"without_{change}": values for change, values in found.items()}
  if len(found) > 1:
    back["without_all"] = {
      key: value for values in found.values() for key, value in values.items()
    }
  if config.name in back:
    raise UserError(
      f"--ablate: the config has the name of one of the runs, {config.name}; rename it"
    )
  runs = {config.name: dict[str, str](), **back}
  return [(name, {**values, "name": name}) for name, values in runs.items()]


def table(planned: Sequence[jobs.Job]) -> Table:
  """Returns the table of accuracies and of each change's gain.

  A gain is the accuracy with all changes minus that without the change, seed by seed.
  Unfinished runs are ignored, and so are runs without a change for whose seed the run
  with all changes is not finished. Only runs that were evaluated on the same data, with
  the same NUMERICS, are averaged and compared; what differs is in the name of a row.

  Args:
    planned: the runs; the first has all changes.
  """
  summaries = [(job.config, jobs.finished_summary(job)) for job in planned]
  kinds = results.distinct(evaluation.eval_identity(s) for _, s in summaries if s)
  differ = [
    key for key in (kinds or [{}])[0] if any(k[key] != kinds[0][key] for k in kinds)
  ]
  first = planned[0].config
  splits = list(dict.fromkeys(kind["eval_split"] for kind in kinds))
  on = f" on {splits[0]}" if len(splits) == 1 else ""
  result = Table(
    f"Gain of each change in {first.name}",
    ("run", "n", f"accuracy{on}, %", "gain of the change, points"),
  )
  for kind in kinds or [{}]:
    words = ", ".join(f"{key}={str(kind[key])[:12]}" for key in differ)
    accuracies: dict[str, dict[int, float]] = {job.config.name: {} for job in planned}
    for config, summary in summaries:
      if summary and evaluation.eval_identity(summary) == kind:
        accuracies[config.name][config.seed] = 100 * summary["final_eval_accuracy"]
    _add_rows(result, accuracies, f" ({words})" if words else "", first.name)
  if differ:
    result.note("runs with other data or NUMERICS are neither averaged nor compared")
  data = results.distinct(summary["data"] for _, summary in summaries if summary)
  result.note(*(f"data: {evaluation.describe_data(each, plain=True)}" for each in data))
  for each in data:
    result.note(*(f"warning: {caution}" for caution in evaluation.cautions(each)))
  result.note("mean ± standard deviation (n - 1) over n seeds; after the last epoch")
  if missing := sum(not summary for _, summary in summaries):
    result.note(f"{missing} of {len(planned)} runs are not finished")
  for job in planned:
    result.note(*_differences(job.config, first), row=job.config.name)
  return result


def _add_rows(
  result: Table, accuracies: dict[str, dict[int, float]], suffix: str, first: str
) -> None:
  """Adds a row for each run to the table.

  Args:
    result: the table.
    accuracies: of each run, in percent by seed.
    suffix: of the runs' names.
    first: the run with all changes.
  """
  complete = accuracies.pop(first)
  with_all = _mean(list(complete.values()))
  result.rows.append([first + suffix, str(len(complete)), with_all, None])
  for name, of_seed in accuracies.items():
    pairs = [(of_seed[seed], complete[seed]) for seed in of_seed if seed in complete]
    accuracy = _mean([without for without, _ in pairs])
    gain = _mean([with_it - without for without, with_it in pairs], "+")
    result.rows.append([name + suffix, str(len(pairs)), accuracy, gain])


def _mean(values: list[float], sign: str = "") -> Number | None:
  return Number.of(values, sign=sign) if values else None


def _differences(config: Config, first: Config) -> list[str]:
  """Returns a note on the keys that differ from the first run's; [] if none do."""
  values, ignored = config_lib.flatten(first), {"name", "seed"}
  words = [
    f"{key}={value}, not {values[key]}"
    for key, value in config_lib.flatten(config).items()
    if key not in ignored and value != values[key]
  ]
  return ["; ".join(words)] if words else []
