"""Which run directories count as finished."""

import json

import pytest

from cifar_flax import config as config_lib
from cifar_flax.run import directory


@pytest.mark.parametrize(
  ("num_epochs", "eval_flip", "flipped", "finished"),
  [
    (3, False, None, True),
    (3, False, 0.5, True),
    (3, True, 0.5, True),
    (3, True, 0.0, True),
    (3, True, None, False),  # not yet evaluated with mirror images
    (4, False, None, False),  # one more epoch to train
    (2, False, None, False),
  ],
)
def test_a_summary_counts_if_it_covers_the_config(
  tmp_path, num_epochs, eval_flip, flipped, finished
):
  config = config_lib.Config(num_epochs=num_epochs, eval_flip=eval_flip)
  assert directory.finished_summary(tmp_path, config) is None
  summary = {"num_epochs": 3, "flip_eval_accuracy": flipped}
  (tmp_path / "summary.json").write_text(json.dumps(summary))
  found = directory.finished_summary(tmp_path, config)
  assert found == (summary if finished else None)


def test_a_summary_of_before_eval_flip_existed_has_no_flipped_accuracy(tmp_path):
  (tmp_path / "summary.json").write_text('{"num_epochs": 3}')
  config = config_lib.Config(num_epochs=3)
  assert directory.finished_summary(tmp_path, config) == {"num_epochs": 3}
  config.eval_flip = True
  assert directory.finished_summary(tmp_path, config) is None
