"""Whose folders the caches are in, and which ones are left alone."""

import os
import pathlib
import stat

import pytest

from cifar_flax import caches


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
  base = tmp_path / "cache"
  monkeypatch.setenv("XDG_CACHE_HOME", str(base))
  return base


def mode(path):
  return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_where_the_user_keeps_caches(base, monkeypatch, tmp_path):
  assert caches.folder("x") == base / "cifar_flax" / "x"
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  home = tmp_path / "home" / ".cache" / "cifar_flax" / "x"
  for nothing in ("", "relative/folder"):
    monkeypatch.setenv("XDG_CACHE_HOME", nothing)
    assert caches.folder("x") == home
  monkeypatch.delenv("XDG_CACHE_HOME")
  assert caches.folder("x") == home


def test_a_user_without_a_home_is_told_so(monkeypatch):
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)
  with pytest.raises(OSError, match="no home folder; set XDG_CACHE_HOME"):
    caches.folder("x")


def test_one_warning_says_that_there_is_no_place_for_any_cache(caplog, base):
  base.write_text("in the way")
  for what in ("compiled programs", "the decoded images"):
    with pytest.raises(caches.Unusable, match="set XDG_CACHE_HOME") as error:
      caches.private_folder("x")
    caches.warn(what, error.value)
  assert caplog.text.count("Continuing without") == len(caplog.records) == 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_new_folder_is_the_users_alone(base, umask):
  base.mkdir()
  before = os.umask(umask)
  try:
    path = caches.private_folder("x")
  finally:
    os.umask(before)
  assert path == base / "cifar_flax" / "x"
  assert (mode(path.parent), mode(path)) == (0o700, 0o700)
  assert caches.private_folder("x") == path


def test_a_folder_that_others_could_read_is_closed_to_them(base):
  path = base / "cifar_flax" / "x"
  path.mkdir(parents=True)
  path.parent.chmod(0o775)
  path.chmod(0o755)
  assert caches.private_folder("x") == path
  assert (mode(path.parent), mode(path)) == (0o700, 0o700)


@pytest.mark.parametrize("writable", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_could_write_to_is_refused(base, writable):
  path = base / "cifar_flax" / "x"
  path.mkdir(parents=True)
  path.chmod(writable)
  with pytest.raises(PermissionError, match="x must be a folder of yours"):
    caches.private_folder("x")
  assert mode(path) == writable


@pytest.mark.parametrize("which", ["cifar_flax", "cifar_flax/x"])
def test_a_link_in_the_place_of_a_folder_is_refused(base, tmp_path, which):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir(mode=0o700)
  (base / which).parent.mkdir(parents=True)
  (base / which).symlink_to(elsewhere)
  with pytest.raises(PermissionError, match="only you can write to; remove it"):
    caches.private_folder("x")
  assert list(elsewhere.iterdir()) == []


def test_a_link_to_the_cache_itself_is_the_users_choice(tmp_path, monkeypatch):
  (tmp_path / "disk").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "disk")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
  expected = tmp_path.resolve() / "disk" / "cifar_flax" / "x"
  assert caches.private_folder("x") == expected


@pytest.mark.parametrize("which", ["cifar_flax", "x"])
def test_a_folder_of_another_user_is_refused(base, monkeypatch, which):
  caches.private_folder("x")
  lstat = pathlib.Path.lstat

  def foreign(path):
    found = lstat(path)
    fields = list(found)
    fields[stat.ST_UID] += path.name == which
    return os.stat_result(fields)

  monkeypatch.setattr(pathlib.Path, "lstat", foreign)
  with pytest.raises(PermissionError, match=f"{which} must be a folder of yours"):
    caches.private_folder("x")


@pytest.mark.parametrize("which", ["", "cifar_flax", "cifar_flax/x"])
def test_a_file_in_the_way_is_refused(base, which):
  (base / which).parent.mkdir(parents=True, exist_ok=True)
  (base / which).write_text("in the way")
  with pytest.raises(OSError):
    caches.private_folder("x")


def test_a_folder_that_cannot_be_written_to_is_refused(monkeypatch):
  caches.private_folder("x")
  monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
  with pytest.raises(PermissionError, match="x cannot be written to"):
    caches.private_folder("x")


def test_a_folder_that_anybody_could_replace_is_seen(tmp_path):
  place = tmp_path / "scratch" / "mine" / "cache"
  place.mkdir(parents=True)
  caches.check_irreplaceable(place)  # pytest's folders are in /tmp
  (tmp_path / "scratch").chmod(0o1777)
  caches.check_irreplaceable(place)
  (tmp_path / "scratch").chmod(0o777)
  with pytest.raises(PermissionError, match=r"everyone can write to .*scratch$"):
    caches.check_irreplaceable(place)
