"""The table of `make reproduce`: published | ours, with what made each number."""

import collections
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from cifar_flax import published
from cifar_flax.config import Config
from cifar_flax.run.files import write_atomically

TRAIN_EXAMPLES, TEST_EXAMPLES = 50_000, 10_000  # of CIFAR-10

Summary = dict[str, Any]
HEAD = """\
| config | parameters | epochs | n | test acc., %: published | ours | \
max train acc., %: published | ours | gap, points: published | ours | \
seconds: published | ours |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def write(
  output: pathlib.Path,
  runs: Sequence[tuple[Config, Summary | None]],
  failures: dict[str, int],
  command: str,
) -> None:
  """Writes results.md and results.json.

  Args:
    output: the folder.
    runs: every run that was asked for, and the summary of those that are finished.
    failures: exit code by run directory.
    command: that asked for them.
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
  """All that the table says, as plain values; arguments as `write` has them."""
  by_config: dict[str, list[tuple[Config, Summary | None]]] = {}
  for config, summary in runs:
    by_config.setdefault(config.name, []).append((config, summary))
  done = [summary for _, summary in runs if summary]
  return {
    "command": command,
    "runs_asked_for": len(runs),
    "runs_finished": len(done),
    "failures": failures,
    "configs": [_entry(group) for group in by_config.values()],
    "devices": dict(collections.Counter(s["device"] for s in done)),
    "versions": _distinct(s["versions"] for s in done),
    "data": _distinct(s["data"] for s in done),
  }


def _distinct(items) -> list[Any]:
  found: list[Any] = []
  for item in items:
    if item not in found:
      found.append(item)
  return found


def _entry(group: Sequence[tuple[Config, Summary | None]]) -> dict[str, Any]:
  """One config: what was published, and its runs with their mean and spread."""
  config = group[0][0]
  done = [summary for _, summary in group if summary]
  comparable = config.data.dataset == published.DATASET
  known = published.lookup(config.name) if comparable else None
  then = end = None
  if known:
    then = published.after(config.name, min(config.num_epochs, known.epochs))
    end = published.after(config.name, known.epochs)
  return {
    "config": config.name,
    "comparable": comparable,
    "epochs": config.num_epochs,
    "published_epochs": known.epochs if known else None,
    "published": _figures(then),
    "published_at_its_end": _figures(end),
    "parameters": done[0]["parameters"] if done else None,
    "n": len(done),
    "n_asked_for": len(group),
    "ours": _ours(done),
    "runs": done,
  }


def _figures(outcome: published.Outcome | None) -> dict[str, float] | None:
  if outcome is None:
    return None
  test, train = outcome.test_accuracy, outcome.max_train_accuracy
  return {
    "test_accuracy": test,
    "max_train_accuracy": train,
    "gap": train - test,
    "seconds": outcome.seconds,
  }


def _ours(
  done: Sequence[Summary],
) -> dict[str, dict[str, float | None] | None] | None:
  """Mean and standard deviation (n - 1) of each figure over finished runs."""
  if not done:
    return None
  test = [s["final_eval_accuracy"] for s in done]
  train = [s["max_train_accuracy"] for s in done]
  figures = {
    "test_accuracy": test,
    "max_train_accuracy": train,
    "gap": [b - a for a, b in zip(test, train, strict=True)],
    "seconds": [s["seconds"] for s in done],
  }
  flipped = [s.get("flip_eval_accuracy") for s in done]
  if None not in flipped:
    figures["flip_test_accuracy"] = flipped
  known: dict[str, dict[str, float | None] | None] = {"flip_test_accuracy": None}
  return known | {
    name: {
      "mean": statistics.fmean(values),
      "std": statistics.stdev(values) if len(values) > 1 else None,
    }
    for name, values in figures.items()
  }


def markdown(results: dict[str, Any]) -> str:
  """The table and, below it, what it was made with."""
  lines = ["# Published and ours", "", HEAD]
  lines += [_row(entry) for entry in results["configs"]]
  lines += [*_tuned(results), "", *_notes(results)]
  return "\n".join(lines) + "\n"


def _percent(fraction: float) -> str:
  return f"{100 * fraction:.2f}"


def _seconds(seconds: float) -> str:
  return f"{seconds:,.0f}"


TUNED_HEAD = """\
| network | parameters | epochs: faithful | tuned | test acc., %: published | faithful \
| tuned | tuned, with mirror images | gap, points: published | faithful | tuned | \
seconds: faithful | tuned |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def _tuned(results: dict[str, Any]) -> list[str]:
  """The second table: the tuned configs beside what they are tuned from."""
  entries = {entry["config"]: entry for entry in results["configs"]}
  rows = []
  for name in (name for name in published.TUNED if name in entries):
    tuned, base = entries[name], entries.get(published.TUNED[name])
    known = published.lookup(published.TUNED[name])
    theirs = None
    if known and tuned["comparable"]:
      epochs = min(base["epochs"], known.epochs) if base else known.epochs
      theirs = _figures(published.after(known.config, epochs))

    def shown(entry: dict[str, Any] | None, figure: str) -> str:
      show = _seconds if figure == "seconds" else _percent
      return _spread(entry["ours"] if entry else None, figure, show)

    rows.append(
      [
        f"`{published.TUNED[name]}`",
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
  lines = [f"| {' | '.join(cells)} |" for cells in rows]
  return ["", "## Faithful and tuned", "", TUNED_HEAD, *lines]


def _spread(ours: dict[str, Any] | None, figure: str, show: Callable) -> str:
  """A mean and its deviation, or "-"."""
  found = ours[figure] if ours else None
  if found is None:
    return "-"
  spread = "" if found["std"] is None else f" ± {show(found['std'])}"
  return show(found["mean"]) + spread


def _row(entry: dict[str, Any]) -> str:
  """A line of the table."""
  epochs, whole = entry["epochs"], entry["published_epochs"]
  short = whole is not None and epochs < whole
  cells = [
    f"`{entry['config']}`",
    f"{entry['parameters']:,}" if entry["parameters"] else "-",
    f"**{epochs} of {whole}**" if short else f"{epochs}",
    f"{entry['n']}",
  ]
  for name in ("test_accuracy", "max_train_accuracy", "gap", "seconds"):
    show = _seconds if name == "seconds" else _percent
    theirs = show(entry["published"][name]) if entry["published"] else "-"
    if short and entry["published_at_its_end"]:
      theirs += f" (at {whole}: {show(entry['published_at_its_end'][name])})"
    cells += [theirs, _spread(entry["ours"], name, show)]
  return "| " + " | ".join(cells) + " |"


def _notes(results: dict[str, Any]) -> list[str]:
  """What the numbers are, and hardware, versions, data and command behind them."""
  notes = [
    "Ours: mean ± standard deviation (n - 1) over n seeds; no deviation for n = 1. "
    "Published: n = 1, one GPU of 2019. Test accuracy after the last epoch, training "
    "accuracy of the best epoch, gap between the two; seconds of one run's epochs, "
    "evaluation included.",
  ]
  if any(e["published"] and e["epochs"] < e["published_epochs"]
         for e in results["configs"]):  # fmt: skip
    notes.append(
      "**Fewer epochs than published** where the column says `of`: the published "
      "figures there are those after as many epochs, its end in brackets."
    )
  if any(e["config"] == "net6a" for e in results["configs"]):
    notes.append(
      "`net6a` is the network as it was written up, with a falling learning rate; what "
      "ran and was published is `net6a_constant`."
    )
  if any(e["config"] in published.TUNED for e in results["configs"]):
    notes.append(
      "Tuned: the same networks and parameters, another recipe, chosen without the "
      "test images. With mirror images: probabilities are the mean of those of an "
      "image and of its mirror image."
    )
  done, asked = results["runs_finished"], results["runs_asked_for"]
  if done < asked:
    notes.append(f"**{done} of {asked} runs are finished.**")
  for folder, code in results["failures"].items():
    notes.append(f"**Failed**: {folder}, exit code {code}.")
  for device, count in results["devices"].items():
    notes.append(f"Trained on {device} ({count} runs).")
  for versions in results["versions"]:
    notes.append("Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()))
  notes += [_describe_data(data) for data in results["data"]]
  return [f"- {note}" for note in notes] + ["", f"    {results['command']}"]


def _describe_data(data: dict[str, Any]) -> str:
  """Which images, and in which way they are not those of the published runs."""
  train, test = data["train_examples"], data["eval_examples"]
  text = (
    f"Data: {data['name']} {data['version']}, trained on `{data['train_split']}` "
    f"({train:,} images), evaluated on `{data['eval_split']}` ({test:,} images), "
    f"fingerprint {data['fingerprint']}, "
  )
  if data["download_size"]:
    text += f"download size {data['download_size']:,} bytes."
  else:
    text += "no download size: **not made from the original files**."
  if data["name"] != published.DATASET:
    text += f" **Not {published.DATASET}: nothing published compares.**"
  elif (train, test) != (TRAIN_EXAMPLES, TEST_EXAMPLES):
    text += (
      f" **Not all images**: the published runs trained on {TRAIN_EXAMPLES:,} and were "
      f"tested on {TEST_EXAMPLES:,}."
    )
  elif data["eval_split"] != "test":
    text += " **Not the test images.**"
  return text
