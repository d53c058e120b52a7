"""Writes what a study found: conclusions, tables, figures, and study.json."""

import json
import statistics
from collections.abc import Mapping
from typing import Any

from cifar_flax import published
from cifar_flax.errors import UserError
from cifar_flax.run import evaluation, provenance
from cifar_flax.run.files import write_atomically
from cifar_flax.tables import Cell, Number, Table, mean_and_deviation
from cifar_flax.tools import comparison, jobs, plots
from cifar_flax.tools.comparison import Entry
from cifar_flax.tools.document import Document, Picture, Section, origin
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
  "training step on one batch, as compiled. Images/s are the median of the windows "
  "that were measured ± their standard deviation.",
  "In the figures, bars are standard deviations. The line is the Pareto front: it "
  "joins types of which each is clearly more accurate than the one before it, seed by "
  "seed.",
)


def write(study: Study) -> str:
  """Writes study.md, study.html, study.json, and the files of tables and pictures.

  Returns:
    The conclusions and the path of the page, for the terminal.

  Raises:
    UserError: two runs were made with different data or other numerics.
  """
  summaries = _summaries(study)
  entries = {name: _entries(study, name, summaries) for name in study.compared}
  conclusions = [line for name in entries for line in _sentences(entries, name)]
  document = _compose(study, entries, conclusions, summaries)
  document.write(study.output, "study")
  content = _json(study, entries, conclusions, summaries)
  write_atomically(study.output / "study.json", content)
  return "\n".join([*conclusions, str(study.output / "study.html")])


def _summaries(study: Study) -> dict[str, dict[str, Any]]:
  """Returns the summary of each finished run that is compared, by run directory."""
  found = {}
  for job in study.runs():
    if summary := jobs.finished_summary(job):
      found[str(job.workdir)] = summary
  _check_alike({name: evaluation.identity(each) for name, each in found.items()})
  # The runs that chose the learning rates read other splits of the same data.
  same = ("fingerprint", "numerics")
  searched = {
    str(job.workdir): evaluation.identity(summary)
    for kind, tried in study.search.items()
    for job in (study.search_job(kind, rate) for rate in tried)
    if (summary := jobs.finished_summary(job))
  }
  every = {name: evaluation.identity(each) for name, each in found.items()} | searched
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
) -> Document:
  facts = next(iter(summaries.values()), None)
  planned = len(study.runs())
  missing = planned - len(summaries)
  unfinished = f"{missing} of {planned} runs are not finished."
  nothing = f"No conclusions: they need {comparison.LEAST_SEEDS} seeds of each type."
  sections = [
    Section("Conclusions", conclusions or [nothing]),
    Section("Warnings", _warnings(facts) + ([unfinished] if missing else [])),
    *(
      Section(OPENINGS[name], [_table(study, name, of_name)])
      for name, of_name in entries.items()
      if of_name
    ),
    Section("Costs", _figures(entries, facts)),
    Section("How to read this", NOTES),
    Section("Peak learning rates", [_search_table(study)]),
  ]
  return Document(
    "What a type of convolution costs and gains", _facts(study, facts), sections
  )


def _facts(study: Study, facts: dict[str, Any] | None) -> dict[str, list[str]]:
  """Returns what is said on top: how the page was made, and of which data."""
  found = origin(study.command)
  if facts:
    commit = provenance.describe_commit(facts.get("commit"), facts.get("modified"))
    found |= {
      "trained at commit": [commit],
      "trained on": [facts["device"]],
      "data": [evaluation.describe_data(facts["data"], plain=True)],
    }
  if where := study.measured:
    found["speed and memory"] = [
      f"{where['hardware']}, {where['date']}, medians of {_windows(study)} windows "
      f"measured in turn; load of the machine before: {where['load']:g}"
    ]
  return found


def _warnings(facts: dict[str, Any] | None) -> list[str]:
  return [f"{each}." for each in evaluation.cautions(facts["data"])] if facts else []


def _windows(study: Study) -> int:
  return len(next(iter(study.measured["networks"].values()))["training"])


def _table(study: Study, name: str, of_name: list[Entry]) -> Table:
  """Returns the table of a comparison, the best accuracy, memory and speeds marked."""
  columns = [column.format(study.config.data.eval_split) for column in COLUMNS]
  best = {columns[2]: max, "peak memory, MiB": min}
  best |= {"images/s, training": max, "images/s, inference": max}
  rows = [_row(study, name, entry, of_name) for entry in of_name]
  title = f"Types of convolution {OPENINGS[name].lower()}"
  found = Table(title, columns, rows, name=name, best=best)
  found.note("The best mean of a column is marked; its lead may be due to chance.")
  return found.without_empty_columns()


def _row(study: Study, name: str, entry: Entry, of_name: list[Entry]) -> list[Cell]:
  """Returns a type's row in the table of a comparison."""
  base = next((other for other in of_name if other.name == BASE), None)
  gap = comparison.difference(entry, base) if base and entry is not base else None
  width = study.widths[name][entry.name]
  measured = study.measured.get("networks", {}).get(
    network_name(entry.name, width.width)
  )

  def speed(phase: str) -> Number | None:
    if not measured:
      return None
    _, deviation = mean_and_deviation(measured[phase])
    return Number(statistics.median(measured[phase]), deviation, digits=0)

  memory = entry.costs.get("peak memory, MiB")
  deviation = Number(100 * width.deviation, digits=1, sign="+")
  return [
    entry.name,
    Number(len(entry.accuracies), digits=0),
    Number.of(list(entry.accuracies.values())),
    gap.text() if gap else None,
    Number(width.parameters, digits=0),
    Number(width.multiply_adds, digits=0),
    Number(memory, digits=1) if memory else None,
    speed("training"),
    speed("inference"),
    show_width(width.width),
    deviation if name != "slots" else None,
  ]


def _figures(
  entries: Mapping[str, list[Entry]], facts: dict[str, Any] | None
) -> list[Picture]:
  """Returns a picture of accuracy against each known cost."""
  every = [entry for of_name in entries.values() for entry in of_name]
  if not every or not facts:
    return []
  data = facts["data"]
  n = sorted({len(entry.accuracies) for entry in every})
  is_copy = data["name"] == published.DATASET and not data["download_size"]
  subtitle = (
    f"{data['name']}{' (a copy)' if is_copy else ''}, "
    f"{data['train_examples']:,} training images, "
    f"{facts['num_epochs']} epochs, n = {'-'.join(map(str, n))}"
  )
  found = []
  for number, cost in enumerate(every[0].costs):
    picture = plots.cost(every, cost, f"accuracy on {data['eval_split']}, %", subtitle)
    name, _, _ = cost.partition(",")
    found.append(Picture(f"cost_{number}", f"accuracy against {name}", picture))
  return found


def _search_table(study: Study) -> Table:
  """Returns the accuracies of the search; the best rate of a type is chosen."""
  job = study.search_job(study.types[0], 0.01)
  data, epochs = job.config.data, job.config.num_epochs
  rates = sorted({rate for tried in study.search.values() for rate in tried})
  rows: list[list[Cell]] = []
  for kind, tried in study.search.items():
    found = [tried.get(rate) for rate in rates]
    cells = [None if accuracy is None else Number(accuracy) for accuracy in found]
    chosen = study.rate(kind)
    rows.append([kind, *cells, f"{chosen:g}" if chosen else None])
  note = (
    f"One seed, width {show_width(job.config.model.width)}. A type's best rate is used "
    "in all of its runs; the rates next to it were tried, too. A dash is a rate that "
    "was not tried, or a run that did not finish."
  )
  return Table(
    f"Accuracy in percent on {data.eval_split} after {epochs} epochs on "
    f"{data.train_split}, by peak learning rate",
    ["type", *(f"{rate:g}" for rate in rates), "chosen"],
    rows,
    [note],
    "rates",
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
      kind: {"accuracies": dict(sorted(tried.items())), "chosen": study.rate(kind)}
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
