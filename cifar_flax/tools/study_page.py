"""Writes what a study found: conclusions, tables, figures, and study.json."""

import json
import statistics
from collections.abc import Mapping
from typing import Any

from cifar_flax import figures, published
from cifar_flax.errors import UserError
from cifar_flax.run import evaluation
from cifar_flax.run.files import write_atomically
from cifar_flax.tables import spread
from cifar_flax.tools import comparison, jobs, plots, report, results
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.study import BASE, Study, network_name, show_width

OPENINGS = {
  "slots": "In the same slots",
  "multiply_adds": "At the same multiply-adds",
  "parameters": "At the same parameters",
}
COLUMNS = (
  "type",
  "n",
  "accuracy on {}, %",
  "difference to plain, points",
  "parameters",
  "multiply-adds",
  "peak memory, MiB",
  "images/s, training",
  "images/s, inference",
  "width",
  "deviation, %",
)
NOTES = (
  "Accuracies are those after the last epoch: mean ± standard deviation (n - 1) over n "
  "seeds. Differences are taken seed by seed, with their 95 % interval (Student's t), "
  "which is not corrected for the number of comparisons. Parameters include "
  "BatchNorm's moving averages; multiply-adds are per image. The deviation is that of "
  "the count that was to be equal from that of plain. Peak memory is that of a "
  "training step on one batch, as compiled.",
  "In the figures, bars are standard deviations. The line is the Pareto front: it "
  "joins types of which each is clearly more accurate than the one before it, seed by "
  "seed.",
)


def write(study: Study) -> str:
  """Writes study.md, study.html, study.json and the pictures.

  Returns:
    The conclusions and the path of the page, for the terminal.

  Raises:
    UserError: two runs were made with different data or other numerics.
  """
  summaries = _summaries(study)
  entries = {name: _entries(study, name, summaries) for name in study.compared}
  conclusions = [line for name in entries for line in _sentences(entries, name)]
  parts = _compose(study, entries, conclusions, summaries)
  files = {
    "study.json": _json(study, entries, conclusions, summaries),
    "study.md": report.markdown(parts).encode(),
    "study.html": report.page(parts).encode(),
  }
  files |= dict(part for part in parts if isinstance(part, tuple))
  for name, data in files.items():
    write_atomically(study.output / name, data)
  return "\n".join([*conclusions, str(study.output / "study.html")])


def _summaries(study: Study) -> dict[str, dict[str, Any]]:
  """Returns the summary of each finished run that is compared, by run directory."""
  found = {}
  for job in study.runs():
    if summary := jobs.finished_summary(job):
      found[str(job.workdir)] = summary
  _check_alike({name: results.identity(each) for name, each in found.items()})
  # The runs that chose the learning rates read other splits of the same data.
  same = ("fingerprint", "numerics")
  searched = {
    str(job.workdir): results.identity(summary)
    for kind, tried in study.search.items()
    for job in (study.search_job(kind, rate) for rate in tried)
    if (summary := jobs.finished_summary(job))
  }
  every = {name: results.identity(each) for name, each in found.items()} | searched
  _check_alike({name: {k: each[k] for k in same} for name, each in every.items()})
  _check_alike(searched)
  return found


def _check_alike(identities: Mapping[str, dict[str, Any]]) -> None:
  """Raises UserError, with the folders of two runs, unless all identities are equal."""
  for folder, identity in identities.items():
    first, expected = next(iter(identities.items()))
    if identity != expected:
      raise UserError(f"{first} and {folder} have different data or numerics")


def _entries(
  study: Study, name: str, summaries: Mapping[str, dict[str, Any]]
) -> list[Entry]:
  """Returns the results of a comparison: an entry per type with a finished run."""
  found = []
  for kind, width in study.widths[name].items():
    accuracies = {}
    for seed in range(study.seeds):
      job = study.job(kind, name, seed)
      if job and (summary := summaries.get(str(job.workdir))):
        accuracies[seed] = 100 * summary["final_eval_accuracy"]
    costs: dict[str, float | None] = {
      "parameters": width.parameters,
      "multiply-adds": width.multiply_adds,
      **_measured_costs(study, network_name(kind, width.width)),
    }
    if accuracies:
      found.append(Entry(kind, accuracies, costs, OPENINGS[name].lower()))
  return found


def _measured_costs(study: Study, network: str) -> dict[str, float]:
  """Returns a network's measured costs; times are medians over the windows."""
  if not (found := study.measured.get("networks", {}).get(network)):
    return {}
  costs = {"peak memory, MiB": found["peak_bytes"] / 2**20}
  for phase in ("training", "inference"):
    costs[f"{phase} time per image, µs"] = 1e6 / statistics.median(found[phase])
  return costs


def _sentences(entries: Mapping[str, list[Entry]], name: str) -> list[str]:
  by_name = {entry.name: entry for entry in entries[name]}
  base = by_name.pop(BASE, None)
  others = list(by_name.values())
  return comparison.sentences(others, base, OPENINGS[name]) if base else []


def _compose(
  study: Study,
  entries: Mapping[str, list[Entry]],
  conclusions: list[str],
  summaries: Mapping[str, dict[str, Any]],
) -> list[Any]:
  """Returns the parts of the page, as `report.compose` does."""
  parts: list[Any] = ["# What a type of convolution costs and gains"]
  facts = next(iter(summaries.values()), None)
  parts += conclusions or [
    f"No conclusions: they need {comparison.LEAST_SEEDS} seeds of each type."
  ]
  split = study.config.data.eval_split or "test"
  for name, of_name in entries.items():
    rows = [_row(study, name, entry, of_name) for entry in of_name]
    parts += [
      f"## {OPENINGS[name]}",
      [[column.format(split) for column in COLUMNS], *rows],
    ]
  parts += ["## Costs", *_figures(study, entries, facts), *NOTES]
  if study.measured:
    where = study.measured
    parts += [
      f"Speed and memory: {where['hardware']}, {where['date']}, medians of "
      f"{_windows(study)} windows measured in turn; load of the machine before: "
      f"{where['load']:g}."
    ]
  parts += ["## Peak learning rates", _search_table(study)]
  parts += [_search_note(study)]
  if facts:
    parts += [results.describe_data(facts["data"], plain=True)]
    parts += [f"Warning: {each}." for each in evaluation.cautions(facts["data"])]
    parts += [f"Trained on {facts['device']}."]
  missing = len(study.runs()) - len(summaries)
  if missing:
    parts += [f"{missing} of {len(study.runs())} runs are not finished."]
  return [*parts, study.command]


def _windows(study: Study) -> int:
  return len(next(iter(study.measured["networks"].values()))["training"])


def _row(study: Study, name: str, entry: Entry, of_name: list[Entry]) -> list[str]:
  """Returns a type's row in the table of a comparison."""
  base = next((other for other in of_name if other.name == BASE), None)
  gap = comparison.difference(entry, base) if base and entry is not base else None
  width = study.widths[name][entry.name]
  measured = study.measured.get("networks", {}).get(
    network_name(entry.name, width.width)
  )

  def speed(phase: str) -> str:
    return spread(measured[phase], digits=0) if measured else "-"

  memory = entry.costs.get("peak memory, MiB")
  return [
    entry.name,
    str(len(entry.accuracies)),
    spread(list(entry.accuracies.values())),
    gap.text() if gap else "-",
    f"{width.parameters:,}",
    f"{width.multiply_adds:,}",
    f"{memory:.1f}" if memory else "-",
    speed("training"),
    speed("inference"),
    show_width(width.width),
    f"{100 * width.deviation:+.1f}" if name != "slots" else "-",
  ]


def _figures(
  study: Study, entries: Mapping[str, list[Entry]], facts: dict[str, Any] | None
) -> list[tuple[str, bytes]]:
  """Returns a picture of accuracy against each known cost."""
  every = [entry for of_name in entries.values() for entry in of_name]
  if not every or not facts:
    return []
  data = facts["data"]
  n = sorted({len(entry.accuracies) for entry in every})
  is_copy = data["name"] == published.DATASET and not data["download_size"]
  subtitle = (
    f"{data['name']}{' (not the official files)' if is_copy else ''}, "
    f"{data['train_examples']:,} training images, "
    f"{facts['num_epochs']} epochs, n = {'-'.join(map(str, n))}"
  )
  found = []
  for number, cost in enumerate(every[0].costs):
    picture = plots.cost(
      every, cost, f"accuracy on {data['eval_split'] or 'test'}, %", subtitle
    )
    found.append((f"cost_{number}.png", figures.png(picture)))
  return found


def _search_table(study: Study) -> list[list[str]]:
  rates = list(next(iter(study.search.values())))
  rows = [["type", *(f"{rate:g}" for rate in rates), "chosen"]]
  for kind, tried in study.search.items():
    cells = [f"{tried[r]:.2f}" if tried[r] is not None else "-" for r in rates]
    chosen = study.rate(kind)
    rows.append([kind, *cells, f"{chosen:g}" if chosen else "-"])
  return rows


def _search_note(study: Study) -> str:
  job = study.search_job(study.types[0], 0.01)
  data, epochs = job.config.data, job.config.num_epochs
  return (
    f"Accuracy in percent on {data.eval_split} after {epochs} epochs on "
    f"{data.train_split}, one seed, width {show_width(job.config.model.width)}. A "
    "type's best rate is used in all of its runs; - is a run that did not finish."
  )


def _json(
  study: Study,
  entries: Mapping[str, list[Entry]],
  conclusions: list[str],
  summaries: Mapping[str, dict[str, Any]],
) -> bytes:
  """Returns the content of study.json: all numbers of the page, and how it was made."""
  content = {
    "command": study.command,
    "conclusions": conclusions,
    "search": {
      kind: {"accuracies": tried, "chosen": study.rate(kind)}
      for kind, tried in study.search.items()
    },
    "comparisons": {
      name: {
        entry.name: {
          "width": study.widths[name][entry.name].width,
          "deviation": study.widths[name][entry.name].deviation,
          "costs": entry.costs,
          "accuracies": entry.accuracies,
        }
        for entry in of_name
      }
      for name, of_name in entries.items()
    },
    "measured": study.measured,
    "runs": dict(summaries),
  }
  return (json.dumps(content, indent=2) + "\n").encode()
