"""Keys of a config that have no effect because of the value of another key.

Each key says so itself: `no_effect_with` in `config`. A key without effect is refused
where a person typed it and reported where a config file sets it; where two configs are
compared, it is ignored.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_flax import config as config_lib
from cifar_flax.config import Config
from cifar_flax.errors import UserError


def without_effect(config: Config) -> dict[str, str]:
  """Returns the keys that have no effect in a config, with the key that is the reason.

  With Adam, for example, `{"optimizer.momentum": "optimizer.name", ...}`.
  """
  known, values = config_lib.fields(), config_lib.flatten(config)
  found = dict[str, str]()
  for name, field in known.items():
    for other, useless in field.metadata["no_effect_with"].items():
      prefix = known[other].metadata["prefix"]
      value = prefix if prefix and values[other].startswith(prefix) else values[other]
      if value in useless:
        found[name] = other
  return found


def explanation(config: Config, name: str) -> str:
  """Returns why a key in `without_effect(config)` has no effect, as a predicate."""
  other = without_effect(config)[name]
  return f"has no effect with config.{other}={config_lib.flatten(config)[other]!r}"


def check(overrides: Mapping[str, str], configs: Sequence[Config]) -> None:
  """Checks that each key that a person has typed has an effect in one of the configs.

  Args:
    overrides: the text of each typed key's value.
    configs: the configs that they were typed for, with all overrides set.

  Raises:
    UserError: names a key that has no effect, the reason and what to do.
  """
  unused = [without_effect(config) for config in configs]
  for name, text in overrides.items():
    if all(name in keys for keys in unused):
      raise UserError(
        f"config.{name}={text}: {explanation(configs[0], name)}; remove it or choose "
        f"another config.{unused[0][name]}"
      )


def effective(config: Config, overrides: Mapping[str, str]) -> dict[str, str]:
  """Returns the overrides that have an effect in `config` once all of them are set.

  Raises:
    UserError: a key or value is wrong.
  """
  unused = without_effect(config_lib.override(copy.deepcopy(config), dict(overrides)))
  return {name: text for name, text in overrides.items() if name not in unused}


def notes(config: Config) -> list[str]:
  """Returns a line for each key whose value may surprise.

  These are the keys that have no effect but are not at their default, and a warm-up
  that takes the whole run.
  """
  values, known = config_lib.flatten(config), config_lib.fields()
  found = []
  if (warmup := config.schedule.warmup_epochs) >= config.num_epochs:
    found.append(
      f"config.schedule.warmup_epochs={warmup:g} is all of config.num_epochs="
      f"{config.num_epochs}: the learning rate rises to the end and never falls"
    )
  return found + [
    f"config.{name}={values[name]!r} {explanation(config, name)}"
    for name in without_effect(config)
    if values[name] != known[name].default
  ]


def differences(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
  """Returns the keys that differ between two configs, with both values.

  Keys that have no effect in either config are left out.
  """
  values = config_lib.flatten(now)
  unused = without_effect(before).keys() & without_effect(now).keys()
  return {
    name: (value, values[name])
    for name, value in config_lib.flatten(before).items()
    if value != values[name] and name not in unused
  }
