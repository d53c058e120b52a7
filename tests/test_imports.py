"""Every package that is imported is declared in pyproject.toml, and no other is."""

import ast
import functools
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"benchmarks", "cifar_flax", "configs", "stress"}
EXTRAS = {  # of the optional dependencies, what a folder may import
  "cifar_flax": {"onnx", "ray"},
  "configs": set(),
  "stress": {"dev"},
  "benchmarks": {"bench", "libtpu", "onnx"},
}
# Modules whose distribution may not be installed, or has none of its own.
DISTRIBUTIONS = {"tensorflow": ["tensorflow-cpu"], "jax_plugins": ["jax"]}
# What the packages that we import need and do not declare.
NEEDED_BY_OTHERS = {"flatbuffers", "importlib-resources"}


def names(requirements):
  """Returns the names of distributions, as the package index normalises them."""
  found = (re.match(r"[\w.-]+", each) for each in requirements)
  return {re.sub(r"[-_.]+", "-", each.group()).lower() for each in found if each}


@functools.cache
def distributions():
  return importlib.metadata.packages_distributions()


def distributions_of(module):
  """Returns the names of the distributions with a module, by default its own name."""
  return names(DISTRIBUTIONS.get(module) or distributions().get(module, [module]))


def imported(folder):
  """Returns the top-level modules that a folder imports, with a file for each."""
  found = {}
  for file in sorted((ROOT / folder).rglob("*.py")):
    for node in ast.walk(ast.parse(file.read_text())):
      modules = []
      if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and not node.level:
        modules = [node.module]
      for module in modules:
        found.setdefault(module.partition(".")[0], file)
  return found


@pytest.mark.parametrize("folder", EXTRAS)
def test_every_import_is_a_dependency(folder):
  extras = PROJECT["optional-dependencies"]
  declared = names(PROJECT["dependencies"])
  declared |= {name for extra in EXTRAS[folder] for name in names(extras[extra])}
  for module, file in imported(folder).items():
    if module in sys.stdlib_module_names | OURS:
      continue
    mine = distributions_of(module)
    assert mine & declared, f"{file} imports {module} of {mine}, which is not declared"


def test_every_dependency_is_imported():
  modules = set(imported("cifar_flax"))
  used = set().union(*map(distributions_of, modules))
  unused = names(PROJECT["dependencies"]) - used
  assert unused == NEEDED_BY_OTHERS


def test_every_package_of_ours_is_installed():
  setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
  folders = {
    ".".join(file.parent.relative_to(ROOT).parts)
    for file in (ROOT / "cifar_flax").rglob("__init__.py")
  }
  assert folders == set(setup["packages"])
