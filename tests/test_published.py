import subprocess
import sys

import pytest

from cifar_flax import published

# Accuracy after the last epoch and best training accuracy in %, seconds, epochs.
WRITTEN_UP = {
  "net6a_dense": (83.32, 92.35, 874, 100),
  "net6a_wide": (79.83, 96.47, 2775, 100),
  "net6a_constant": (84.84, 94.00, 2209, 100),
  "net6b": (85.48, 92.27, 1243, 50),
}


@pytest.mark.parametrize("name", WRITTEN_UP)
def test_the_table_says_what_was_written_up(name):
  row = published.lookup(name)
  accuracy, train, seconds, epochs = WRITTEN_UP[name]
  assert row is not None and row.config == name
  assert (row.test_accuracy, row.max_train_accuracy) == pytest.approx(
    (accuracy / 100, train / 100), abs=1e-12
  )
  assert (row.seconds, row.epochs) == (seconds, epochs)


@pytest.mark.parametrize("name", WRITTEN_UP)
def test_curves_end_where_the_table_does(name):
  row, curves = published.lookup(name), published.curves(name)
  assert row is not None and curves is not None
  assert [c["epoch"] for c in curves] == list(range(1, row.epochs + 1))
  assert curves[-1]["test_accuracy"] == pytest.approx(row.test_accuracy, abs=1.01e-4)
  best = max(c["train_accuracy"] for c in curves)
  assert best == pytest.approx(row.max_train_accuracy, abs=1.01e-4)
  assert sum(c["seconds"] for c in curves) == pytest.approx(row.seconds, rel=0.04)


def test_net6a_as_written_up_has_no_result():
  row = published.lookup("net6a")
  assert row is not None and row.parameters == 294_112
  assert (row.test_accuracy, row.max_train_accuracy, row.seconds) == (None,) * 3
  assert published.curves("net6a") is None
  assert published.after("net6a", 3) is None


def test_an_unknown_config_has_nothing():
  assert published.lookup("quickstart") is None
  assert published.curves("quickstart") is None
  assert published.after("quickstart", 1) is None


def test_after_some_epochs_and_after_all():
  # The second, third and first lines of net6b.csv, and the table.
  assert published.after("net6b", 2) == published.Outcome(2, 0.6440, 0.6737, 52)
  assert published.after("net6b", 3) == published.Outcome(3, 0.6791, 0.7282, 77)
  assert published.after("net6b", 50) == published.Outcome(50, 0.8548, 0.9227, 1243)
  assert published.after("net6b", 51) is None
  assert published.after("net6b", 0) is None


def test_a_caller_cannot_change_the_facts():
  curves = published.curves("net6b")
  assert curves is not None
  curves[0]["test_accuracy"] = 1.0
  again = published.curves("net6b")
  assert again is not None and again[0]["test_accuracy"] == 0.4118


def test_importing_it_is_light():
  code = "import sys, cifar_flax.published; print({'jax', 'numpy'} & set(sys.modules))"
  command = [sys.executable, "-c", code]
  assert subprocess.check_output(command, text=True).strip() == "set()"
