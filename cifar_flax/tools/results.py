"""The tables of `make reproduce`: published and our results, with their provenance."""

import collections
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cifar_flax import published, tables
from cifar_flax import text as text_lib
from cifar_flax.config import Config
from cifar_flax.run import evaluation
from cifar_flax.run.files import write_atomically
from cifar_flax.tables import Number
from cifar_flax.text import shown

Summary = dict[str, Any]
COLUMNS = (
  "config",
  "parameters",
  "epochs",
  "n",
  "test acc., %: published",
  "ours",
  "max train acc., %: published",
  "ours",
  "gap, points: published",
  "ours",
  "seconds: published",
  "ours",
)
TUNED_COLUMNS = (
  "network",
  "parameters",
  "epochs: faithful",
  "tuned",
  "test acc., %: published",
  "faithful",
  "tuned",
  "tuned, with mirror images",
  "gap, points: published",
  "faithful",
  "tuned",
  "seconds: faithful",
  "tuned",
)


def write(
  output: pathlib.Path,
  runs: Sequence[tuple[Config, Summary | None]],
  failures: dict[str, int],
  command: str,
) -> None:
  """Writes results.md and results.json.

  Args:
    output: the folder to write to.
    runs: the config of every planned run, and its summary if it is finished.
    failures: the exit code of each failed run, by run directory.
    command: the command line that trained the runs.
  """
  results = collect(runs, failures, command)
  write_atomically(output / "results.md", markdown(results).encode())
  text = json.dumps(results, indent=2) + "\n"
  write_atomically(output / "results.json", text.encode())


def collect(
  runs: Sequence[tuple[Config, Summary | None]],
  failures: dict[str, int],
  command: str,
) -> dict[str, Any]:
  """Returns the contents of results.json; arguments as for `write`."""
  by_config: dict[str, list[tuple[Config, Summary | None]]] = {}
  for config, summary in runs:
    by_config.setdefault(config.name, []).append((config, summary))
  done = [summary for _, summary in runs if summary]
  return {
    "command": command,
    "runs_asked_for": len(runs),
    "runs_finished": len(done),
    "failures": failures,
    "configs": [entry for group in by_config.values() for entry in _entries(group)],
    "devices": dict(collections.Counter(s["device"] for s in done)),
    "versions": distinct(s["versions"] for s in done),
    "data": distinct(s["data"] for s in done),
  }


def distinct(items: Iterable[Any]) -> list[Any]:
  """Returns the items without repetitions, in order; they need not be hashable."""
  found: list[Any] = []
  for item in items:
    if item not in found:
      found.append(item)
  return found


def _entries(group: Sequence[tuple[Config, Summary | None]]) -> list[dict[str, Any]]:
  """Returns an entry for each kind of data and NUMERICS of a config's finished runs.

  There is one without a run if none is finished.
  """
  kinds: list[list[Summary]] = []
  for _, summary in group:
    if not summary:
      continue
    for kind in kinds:
      if evaluation.identity(kind[0]) == evaluation.identity(summary):
        kind.append(summary)
        break
    else:
      kinds.append([summary])
  first = [evaluation.identity(kind[0]) for kind in kinds]
  differ = [k for k in (first or [{}])[0] if any(o[k] != first[0][k] for o in first)]
  entries = []
  for done in kinds or [[]]:
    of_kind = evaluation.identity(done[0]) if done else {}
    words = [f"{k}={str(of_kind[k])[:12]}" for k in differ]
    entries.append(_entry(group[0][0], done, len(group), ", ".join(words)))
  return entries


def _entry(
  config: Config, done: Sequence[Summary], asked_for: int, differs: str
) -> dict[str, Any]:
  """Returns a config's published metrics, its runs, and their means and deviations.

  Args:
    config: the config.
    done: its finished runs, all with the same data and NUMERICS.
    asked_for: the number of planned runs.
    differs: what distinguishes their data or NUMERICS from those of its other runs.
  """
  data: dict[str, Any] = {
    "name": config.data.dataset,
    "train_split": config.data.train_split,
    "eval_split": config.data.eval_split,
  }
  if done:
    data = done[0]["data"] | {"name": config.data.dataset}
  obstacle = published.obstacle(data)
  known = published.lookup(config.name) if not obstacle else None
  same_epoch = last_epoch = None
  if known:
    same_epoch = published.after(config.name, min(config.num_epochs, known.epochs))
    last_epoch = published.after(config.name, known.epochs)
  return {
    "config": config.name,
    "differs": differs,
    "comparable": not obstacle,
    "not_comparable_because": obstacle,
    "epochs": config.num_epochs,
    "published_epochs": known.epochs if known else None,
    "published": _published_metrics(same_epoch),
    "published_at_its_end": _published_metrics(last_epoch),
    "parameters": done[0]["parameters"] if done else None,
    "n": len(done),
    "n_asked_for": asked_for,
    "ours": _ours(done),
    "runs": list(done),
  }


def _published_metrics(
  outcome: published.Outcome | None,
) -> dict[str, float] | None:
  """Returns a published outcome under the names of our metrics."""
  if outcome is None:
    return None
  test, train = outcome.test_accuracy, outcome.max_train_accuracy
  return {
    "test_accuracy": test,
    "max_train_accuracy": train,
    "gap": outcome.gap,
    "seconds": outcome.seconds,
  }


def _ours(
  done: Sequence[Summary],
) -> dict[str, dict[str, float | None] | None] | None:
  """Returns the mean and standard deviation (n - 1) of each metric over the runs."""
  if not done:
    return None
  test = [s["final_eval_accuracy"] for s in done]
  train = [s["max_train_accuracy"] for s in done]
  metrics = {
    "test_accuracy": test,
    "max_train_accuracy": train,
    "gap": [published.gap(b, a) for a, b in zip(test, train, strict=True)],
    "seconds": [s["seconds"] for s in done],
  }
  flipped = [s.get("flip_eval_accuracy") for s in done]
  if None not in flipped:
    metrics["flip_test_accuracy"] = flipped
  known: dict[str, dict[str, float | None] | None] = {"flip_test_accuracy": None}
  return known | {
    name: dict(zip(("mean", "std"), tables.mean_and_deviation(values), strict=True))
    for name, values in metrics.items()
  }


def markdown(results: dict[str, Any]) -> str:
  """Returns the tables and, below them, the notes on their provenance."""
  rows = [_row(entry) for entry in results["configs"]]
  lines = ["# Published and ours", "", *tables.markdown(COLUMNS, rows)]
  lines += [*_tuned(results), "", *_notes(results)]
  return "\n".join(lines) + "\n"


def _percent(fraction: float, deviation: float | None = None) -> str:
  return str(Number(100 * fraction, deviation and 100 * deviation))


def _seconds(seconds: float, deviation: float | None = None) -> str:
  return str(Number(seconds, deviation, digits=0))


def _tuned(results: dict[str, Any]) -> list[str]:
  """Returns the table that compares the tuned configs with the faithful ones."""
  entries, rows = results["configs"], []
  for tuned in (entry for entry in entries if entry["config"] in published.TUNED):
    name = tuned["config"]
    bases = [entry for entry in entries if entry["config"] == published.TUNED[name]]
    base = next((entry for entry in bases if _same_data(entry, tuned)), None)
    known = published.lookup(published.TUNED[name])
    theirs = None
    if known and tuned["comparable"]:
      epochs = min(base["epochs"], known.epochs) if base else known.epochs
      theirs = _published_metrics(published.after(known.config, epochs))

    def shown(entry: dict[str, Any] | None, metric: str) -> str:
      show = _seconds if metric == "seconds" else _percent
      return _mean_and_std(entry["ours"] if entry else None, metric, show)

    rows.append(
      [
        _name(published.TUNED[name], tuned["differs"]),
        f"{tuned['parameters']:,}" if tuned["parameters"] else "-",
        f"{base['epochs']}" if base else "-",
        f"{tuned['epochs']}",
        _percent(theirs["test_accuracy"]) if theirs else "-",
        *(shown(entry, "test_accuracy") for entry in (base, tuned)),
        shown(tuned, "flip_test_accuracy"),
        _percent(theirs["gap"]) if theirs else "-",
        *(shown(entry, "gap") for entry in (base, tuned)),
        *(shown(entry, "seconds") for entry in (base, tuned)),
      ]
    )
  if not rows:
    return []
  return ["", "## Faithful and tuned", "", *tables.markdown(TUNED_COLUMNS, rows)]


def _same_data(one: dict[str, Any], other: dict[str, Any]) -> bool:
  """Returns whether the runs of two entries have the same data, if both have runs."""
  known = [entry["runs"][0] for entry in (one, other) if entry["runs"]]
  found = [evaluation.identity(summary) for summary in known]
  return len(found) < 2 or found[0] == found[1]


def _name(config: str, differs: str) -> str:
  """Returns the first cell of a row."""
  return text_lib.code(config) + (f" ({text_lib.markdown(differs)})" if differs else "")


def _mean_and_std(ours: dict[str, Any] | None, metric: str, show: Callable) -> str:
  """Returns "mean ± standard deviation" of a metric, or "-" if it is unknown."""
  found = ours[metric] if ours else None
  return "-" if found is None else show(found["mean"], found["std"])


def _row(entry: dict[str, Any]) -> list[str]:
  """Returns a config's row in the first table."""
  epochs, full_length = entry["epochs"], entry["published_epochs"]
  short = full_length is not None and epochs < full_length
  cells = [
    _name(entry["config"], entry["differs"]),
    f"{entry['parameters']:,}" if entry["parameters"] else "-",
    f"**{epochs} of {full_length}**" if short else f"{epochs}",
    f"{entry['n']}",
  ]
  for name in ("test_accuracy", "max_train_accuracy", "gap", "seconds"):
    show = _seconds if name == "seconds" else _percent
    theirs = show(entry["published"][name]) if entry["published"] else "-"
    if short and entry["published_at_its_end"]:
      theirs += f" (at {full_length}: {show(entry['published_at_its_end'][name])})"
    cells += [theirs, _mean_and_std(entry["ours"], name, show)]
  return cells


def _notes(results: dict[str, Any]) -> list[str]:
  """Returns notes on what was measured: hardware, versions, data and command."""
  notes = [
    "Ours: mean ± standard deviation (n - 1) over n seeds; no deviation for n = 1. "
    "Published: n = 1, one GPU of 2019. Test accuracy is that after the last epoch, "
    f"training accuracy that of the best epoch. {published.GAP} Seconds are those of "
    "all epochs of one run, evaluation included.",
  ]
  for entry in results["configs"]:
    if (reason := entry["not_comparable_because"]) and published.curves(
      published.TUNED.get(entry["config"], entry["config"])
    ):
      name = _name(entry["config"], entry["differs"])
      notes.append(f"Published: - for {name}, because {text_lib.markdown(reason)}.")
  if any(entry["differs"] for entry in results["configs"]):
    notes.append(
      "**Different data or NUMERICS**: a config has a row for each; their accuracies "
      "are not comparable."
    )
  splits = {run["data"]["eval_split"] for e in results["configs"] for run in e["runs"]}
  if splits - {"test"}:
    read = ", ".join(text_lib.code(split) for split in sorted(splits))
    notes.append(f"**Test accuracy of ours is that on {read}.**")
  if any(
    e["published"] and e["epochs"] < e["published_epochs"] for e in results["configs"]
  ):
    notes.append(
      "**Fewer epochs than published** where the column says `of`: the published "
      "figures are those after the same number of epochs, followed in brackets by "
      "those after the last epoch."
    )
  if any(e["config"] == "net6a" for e in results["configs"]):
    notes.append(
      "`net6a` follows the published description, which has a falling learning rate. "
      "The published results were obtained with the constant rate of `net6a_constant`."
    )
  if any(e["config"] in published.TUNED for e in results["configs"]):
    notes.append(
      "Tuned: the same networks with as many parameters, trained with another recipe, "
      "which was chosen without the test images. With mirror images: probabilities are "
      "averaged over an image and its mirror image."
    )
  done, asked = results["runs_finished"], results["runs_asked_for"]
  if done < asked:
    notes.append(f"**{done} of {asked} runs are finished.**")
  for folder, code in results["failures"].items():
    notes.append(f"**Failed**: {text_lib.markdown(folder)}, exit code {code}.")
  for device, count in results["devices"].items():
    notes.append(f"Trained on {device} ({count} runs).")
  for versions in results["versions"]:
    notes.append("Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()))
  data_sets = [evaluation.describe_data(data) for data in results["data"]]
  notes += dict.fromkeys(f"Data: {words}" for words in data_sets)
  for data in results["data"]:
    cautions = evaluation.cautions(data)
    notes += [f"**Warning**: {text_lib.markdown(each)}." for each in cautions]
  return [f"- {note}" for note in notes] + ["", f"    {shown(results['command'])}"]
