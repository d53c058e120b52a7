"""Tests of what each of several runs trained at the same time has for itself."""

import contextlib
import os

import pytest

from cifar_flax.errors import UserError
from cifar_flax.tools import slots

TWO = {"CUDA_VISIBLE_DEVICES": "4,7"}


@pytest.fixture(autouse=True)
def devices(tmp_path, monkeypatch):
  """Returns an empty folder that stands for /dev."""
  files = {"GPUs": f"{tmp_path}/nvidia[0-9]*", "TPU chips": f"{tmp_path}/accel[0-9]*"}
  monkeypatch.setattr(slots, "_DEVICE_FILES", files)
  return tmp_path


def test_a_slot_is_one_of_the_visible_devices():
  found = slots.device_variables(1, {})
  assert found["CUDA_VISIBLE_DEVICES"] == found["TPU_VISIBLE_CHIPS"] == "1"
  assert slots.device_variables(1, TWO)["CUDA_VISIBLE_DEVICES"] == "7"


@pytest.mark.parametrize("none", ["", "-1"])
def test_hidden_gpus_stay_hidden(none):
  hidden = {"CUDA_VISIBLE_DEVICES": none}
  slots.check(8, hidden)
  assert slots.device_variables(1, hidden)["CUDA_VISIBLE_DEVICES"] == ""


def test_more_runs_at_once_than_devices_are_refused(devices):
  for number in range(2):
    (devices / f"nvidia{number}").touch()
  (devices / "nvidiactl").touch()
  slots.check(2, {})
  with pytest.raises(UserError, match="--at_once=3: this machine has 2 GPUs"):
    slots.check(3, {})
  slots.check(3, {"JAX_PLATFORMS": "cpu"})
  slots.check(3, {"CUDA_VISIBLE_DEVICES": ""})
  slots.check(3, {"CUDA_VISIBLE_DEVICES": "0,1,0"})
  slots.check(2, TWO)
  with pytest.raises(UserError, match="--at_once=3: CUDA_VISIBLE_DEVICES=4,7 lists 2"):
    slots.check(3, TWO)
  (devices / "accel0").touch()
  with pytest.raises(UserError, match="has 1 TPU chips"):
    slots.check(2, {})


@pytest.mark.parametrize(
  "number, expected",
  [
    (2, [{1, 3}, {4, 8, 9}]),
    (5, [{1}, {3}, {4}, {8}, {9}]),
    (6, [set()] * 6),
  ],
)
def test_the_cores_of_a_cpu_are_divided(monkeypatch, number, expected):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {9, 1, 3, 4, 8})
  assert [slots.cores(slot, number, {}) for slot in range(number)] == expected


def test_runs_with_accelerators_share_all_cores(devices, monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
  assert slots.cores(0, 2, TWO) == set()
  (devices / "accel0").touch()
  assert slots.cores(0, 2, {}) == set()
  assert slots.cores(0, 2, {"JAX_PLATFORMS": "cpu"}) == {0}


def test_where_cores_cannot_be_chosen_they_are_shared(monkeypatch):
  with contextlib.suppress(AttributeError):
    monkeypatch.delattr(os, "sched_getaffinity")
  assert slots.cores(0, 2, {}) == set()
