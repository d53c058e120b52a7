"""Pictures as they are found in real life: every mode, format and kind of damage."""

import io
import os
import pathlib
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from stand_ins import make_config

from cifar_flax import __main__ as commands
from cifar_flax.data import datasets, pictures
from cifar_flax.errors import UserError
from cifar_flax.tools import trained

RAMP = np.uint8(np.add.outer(np.arange(48), np.arange(48)) * 255 // 94)
PICTURE = Image.fromarray(np.stack([RAMP, RAMP[::-1], RAMP.T // 2], -1))


def in_mode(mode):
  if mode == "I;16":
    return Image.fromarray(np.uint16(RAMP) * 257)
  if mode == "PA":
    return PICTURE.convert("RGBA").convert("PA")
  if mode == "LAB":
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.applyTransform(
      PICTURE, ImageCms.buildTransform(*profiles, "RGB", "LAB")
    )
  return PICTURE.convert(mode)


def encoded(suffix, image=PICTURE, **values):
  file = io.BytesIO()
  image.save(file, Image.EXTENSION[suffix], **values)
  return file.getvalue()


def oriented(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif


def after_start(jpeg, marker, content):
  """Inserts a segment into a JPEG."""
  segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
  return jpeg[:2] + segment + jpeg[2:]


def with_chunk(png, name, content, checksum=None):
  """Inserts a chunk into a PNG after its header."""
  checksum = zlib.crc32(name + content) if checksum is None else checksum
  chunk = struct.pack(">L", len(content)) + name + content + struct.pack(">L", checksum)
  return png[:33] + chunk + png[33:]


MODES = {
  ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
  ".tiff": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I")
  + ("I;16", "F"),
  ".jpg": ("L", "RGB", "CMYK", "YCbCr"),
  ".webp": ("RGB", "RGBA"),
  ".gif": ("L", "P", "RGB"),
  ".bmp": ("1", "L", "RGB"),
}
OTHERS = (".jfif", ".jpeg", ".JPG", ".tif", ".ico", ".ppm", ".pgm", ".jp2", ".tga")
OTHERS += (".pcx", ".avif", ".apng", ".qoi", ".dds", ".sgi", ".icns", ".mpo")


def good():
  """Returns pictures with undamaged pixels, by file name."""
  files = {}
  for suffix, modes in MODES.items():
    for mode in modes:
      files[f"{mode.replace(';', '-')}{suffix}"] = encoded(suffix, in_mode(mode))
  for suffix in OTHERS:
    files[f"other{suffix}"] = encoded(suffix.lower())
  for orientation in range(1, 9):
    files[f"turned{orientation}.jpg"] = encoded(".jpg", exif=oriented(orientation))
  jpeg, png = encoded(".jpg"), encoded(".png")
  long = zlib.compress(b"a" * 2_000_000)
  files |= {
    "wrong suffix.png": jpeg,
    "wrong suffix.jpg": png,
    "exif.jpg": after_start(jpeg, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xffrubbish"),
    "exif.png": with_chunk(png, b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
    "exif checksum.png": with_chunk(png, b"eXIf", b"MM\0*\0\0\0\x08", checksum=5),
    "several.jpg": after_start(
      jpeg, 0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHLL", 0xB001, 4, 1, 9)
    ),
    "text.png": with_chunk(png, b"zTXt", b"k\0\0" + long),
    "text checksum.png": with_chunk(png, b"tEXt", b"k\0text", checksum=5),
    "profile.png": with_chunk(png, b"iCCP", b"k\0\0" + long),
    "header.jpg": after_start(jpeg[:2] + jpeg[20:], 0xE0, b"JFIF"),
    "end.png": png[:-12],
  }
  return files


def bad():
  """Returns files that are no pictures, or damaged ones, with a part of the reason."""
  png, gif = encoded(".png"), encoded(".gif")
  flipped = bytearray(png)
  flipped[png.index(b"IDAT") + 40] ^= 4
  bomb = with_chunk(png[:8] + png[33:], b"", b"")[:8] + png[8:16]
  bomb += struct.pack(">LL", 50_000, 50_000) + png[24:29]
  bomb += struct.pack(">L", zlib.crc32(bomb[12:])) + png[33:]
  return {
    "cut.png": (png[: len(png) // 2], "truncated"),
    "cut.jpg": (encoded(".jpg")[:-60], "truncated"),
    "cut.gif": (gif[: len(gif) // 2], "truncated"),
    "cut.tif": (encoded(".tif")[:3000], "truncated"),
    "cut.webp": (encoded(".webp")[:150], "damaged"),
    "flipped.png": (bytes(flipped), "checksum"),
    "empty.png": (b"", "is empty"),
    "zeros.png": (b"\0" * 5000, "not a picture"),
    "text.jpg": (b"This is a text.\n" * 30, "not a picture"),
    "bomb.png": (bomb, "decompression bomb"),
    "page.gif": (encoded(".eps"), "not a picture"),
  }


class Colours:
  """Stands in for a trained network: its logits are the mean colours."""

  class_names = ("r$x_1$", "g|<b>", "b\tlue")

  def __init__(self, workdir, which):
    pass

  def logits(self, images):
    return np.float32(images).mean((1, 2)) / 255


@pytest.fixture
def predicted(tmp_path, monkeypatch, capsys):
  """Runs `predict` on files with a stand-in; returns code, lines and errors."""
  monkeypatch.setattr(trained, "Trained", Colours)
  run = tmp_path / "run"
  run.mkdir()
  (run / "config.json").write_text("{}")

  def call(*arguments):
    flags = [f"--workdir={run}", "--checkpoint=last"]
    code = commands.main(["predict", *flags, *map(str, arguments)])
    out, error = capsys.readouterr()
    return code, out.splitlines(), error.splitlines()

  return call


def write(folder, files):
  for name, data in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_every_picture_is_a_line_or_an_error_alone_and_in_a_dataset(
  tmp_path, predicted
):
  fine, broken = good(), bad()
  assert len(fine) + len(broken) >= 60
  root = tmp_path / "pictures"
  write(root / "train" / "a" / "deep" / "er", fine)
  write(root / "train" / "b", {"x.png": encoded(".png")})
  write(root / "test" / "a", {name: data for name, (data, _) in broken.items()})
  code, lines, errors = predicted(root)
  found = {line.partition(": ")[0] for line in lines}
  assert code == 1 and len(lines) == len(found) == len(fine) + 1
  assert found >= {f"{root}/train/a/deep/er/{name}" for name in fine}
  assert len(errors) == len(broken)
  for name, (_, reason) in broken.items():
    (line,) = [line for line in errors if f"/test/a/{name}: " in line]
    assert line.startswith("error: ") and reason in line

  config = make_config(dataset=f"folder:{root}")
  with pytest.raises(UserError) as error:  # all of them at once
    datasets.load(config)
  assert f"{len(broken)} of {len(fine) + len(broken) + 1} pictures" in str(error.value)
  for name, (_, reason) in broken.items():
    assert f"/test/a/{name}: " in str(error.value) and reason in str(error.value)
  for path in (root / "test" / "a").iterdir():
    path.unlink()
  write(root / "test" / "b", {"x.png": encoded(".png")})
  dataset = datasets.load(config)
  assert len(dataset.train.labels) == len(fine) + 1 and len(dataset.eval.labels) == 1
  files = sorted((root / "train").rglob("*.*"), key=lambda p: os.fsencode(p))
  expected = np.stack([pictures.read(path) for path in files])
  np.testing.assert_array_equal(dataset.train.images, expected)


def test_trouble_in_metadata_leaves_the_pixels_as_they_are(tmp_path):
  write(tmp_path, good())
  for kind in ("jpg", "png"):
    (tmp_path / f"plain.{kind}").write_bytes(encoded(f".{kind}"))
  exact = pictures.read(tmp_path / "plain.png")
  coded = pictures.read(tmp_path / "plain.jpg")
  names = ["exif.png", "exif checksum.png", "text.png", "text checksum.png"]
  names += ["profile.png", "end.png", "wrong suffix.jpg", "RGB.tiff", "RGB.bmp"]
  for name in names:
    np.testing.assert_array_equal(pictures.read(tmp_path / name), exact, name)
  for name in ("exif.jpg", "several.jpg", "header.jpg", "wrong suffix.png"):
    np.testing.assert_array_equal(pictures.read(tmp_path / name), coded, name)


def test_orientation_survives_corrupt_metadata_beside_it(tmp_path):
  jpeg = after_start(encoded(".jpg", exif=oriented(3)), 0xE0, b"JFIF")
  write(tmp_path, {"a.jpg": jpeg, "b.jpg": encoded(".jpg")})
  turned = pictures.read(tmp_path / "b.jpg")[::-1, ::-1]
  assert np.abs(np.int32(pictures.read(tmp_path / "a.jpg")) - turned).max() <= 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_all_orientations(suffix, tmp_path):
  plain = np.int32(PICTURE.resize((32, 32), Image.Resampling.LANCZOS))
  ways = [plain, plain[:, ::-1], plain[::-1, ::-1], plain[::-1]]
  ways += [way.swapaxes(0, 1) for way in (plain, plain[::-1], plain[::-1, ::-1])]
  ways += [plain[:, ::-1].swapaxes(0, 1)]
  for orientation, wanted in enumerate(ways, 1):
    data = encoded(suffix, quality=98, exif=oriented(orientation))
    write(tmp_path, {f"x{suffix}": data})
    found = pictures.read(tmp_path / f"x{suffix}")
    assert np.abs(found - wanted).mean() < 4, orientation


def test_colours_are_those_of_every_mode(tmp_path):
  write(tmp_path, good())
  size = ((32, 32), Image.Resampling.LANCZOS)
  colour = np.int32(PICTURE.resize(*size))
  grey = np.int32(PICTURE.convert("L").convert("RGB").resize(*size))
  ramp = np.int32(Image.fromarray(RAMP).convert("RGB").resize(*size))
  for names, wanted, limit in (
    ("RGB.png RGBA.png RGB.tiff YCbCr.tiff LAB.tiff CMYK.tiff CMYK.jpg", colour, 3),
    ("P.png PA.tiff RGB.webp RGBA.webp RGB.gif other.jp2 other.avif", colour, 12),
    ("L.png LA.png L.tiff L.jpg L.gif L.bmp I.tiff F.tiff", grey, 3),
    ("I-16.png I-16.tiff", ramp, 1),
  ):
    for name in names.split():
      found = pictures.read(tmp_path / name)
      assert np.abs(found - wanted).mean() <= limit, name


def test_grey_without_a_white_of_its_own(tmp_path):
  unit = np.float32(RAMP) / 255
  path, wanted = tmp_path / "x.tif", np.int32(Image.fromarray(RAMP).resize((32, 32), 1))
  for values in (unit, unit * 255, unit * 65535, unit * 1e6, np.int32(unit * 65535)):
    Image.fromarray(values).save(path)
    assert np.abs(pictures.read(path)[..., 0] - wanted).max() <= 3
  unit[0, 0] = np.nan
  Image.fromarray(unit).save(path)
  assert pictures.read(path).max() > 200


def test_adobes_segment_says_which_colours_a_jpeg_has(tmp_path):
  """Pillow writes CMYK as Photoshop does, inverted, and RGB with that segment."""
  cmyk = encoded(".jpg", Image.new("CMYK", (32, 32), (0, 255, 255, 0)), quality=98)
  rgb = encoded(".jpg", Image.new("RGB", (32, 32), "red"), quality=98, keep_rgb=True)
  for jpeg in (cmyk, rgb):
    assert b"Adobe" in jpeg
    # With trouble in another segment, Adobe's is still obeyed.
    for data in (jpeg, after_start(jpeg, 0xE0, b"JFIF")):
      write(tmp_path, {"red.jpg": data})
      found = pictures.read(tmp_path / "red.jpg")
      np.testing.assert_allclose(found[9, 9], (255, 0, 0), atol=4)
  ycck = bytearray(cmyk)
  ycck[cmyk.index(b"Adobe") + 11] = 2
  read = []
  for data in (bytes(ycck), after_start(bytes(ycck), 0xE0, b"JFIF"), cmyk):
    write(tmp_path, {"ycck.jpg": data})
    read.append(pictures.read(tmp_path / "ycck.jpg"))
  np.testing.assert_array_equal(read[0], read[1])
  assert not np.array_equal(read[0], read[2])


def test_transparency_becomes_white_in_every_mode(tmp_path):
  for mode, clear in (("L", 7), ("RGB", (7, 7, 7)), ("P", 0), ("1", 0), ("I;16", 1799)):
    image = Image.new(mode, (32, 32), clear)
    image.save(tmp_path / "x.png", transparency=clear)
    assert (pictures.read(tmp_path / "x.png") == 255).all(), mode


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_the_first_frame_is_used_and_it_is_said(suffix, tmp_path, predicted):
  red, blue = (Image.new("RGB", (32, 32), color) for color in ("red", "blue"))
  data = encoded(suffix, red, save_all=True, append_images=[blue, blue])
  write(tmp_path, {f"x{suffix}": data, "y.png": encoded(".png")})
  code, lines, errors = predicted(tmp_path / f"x{suffix}", tmp_path / "y.png")
  assert code == 0 and ": r$x_1$ " in lines[0]
  note = "has several frames or pages; the first one is used"
  assert errors == [f"note: {tmp_path}/x{suffix}: {note}"]


def test_pictures_of_telephones_are_no_bombs(tmp_path):
  for size in ((12_000, 9_000), (16_320, 12_240)):
    Image.new("L", size, 200).save(tmp_path / "x.jpg")
    assert (np.abs(np.int32(pictures.read(tmp_path / "x.jpg")) - 200) <= 1).all()


def test_hidden_and_special_files_are_not_pictures(tmp_path, predicted):
  root, png = tmp_path / "all", encoded(".png")
  names = ["a.png", "-b.PNG", "._a.png", ".hidden/c.png", "__MACOSX/d.png"]
  write(root, dict.fromkeys([*names, "@eaDir/e.jpg", "in/._f.png"], png))
  write(root, {"Thumbs.db": b"", ".DS_Store": b"", "desktop.ini": b"", "g.heic": b""})
  os.mkfifo(root / "pipe.png")
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(os.path.relpath(root / "socket.png"))
  (root / "broken.png").symlink_to(root / "nowhere.png")
  (root / "self.png").symlink_to(root / "self.png")
  (root / "loop").symlink_to(root)
  code, lines, errors = predicted(root)
  assert [line.partition(": ")[0] for line in lines] == [
    f"{root}/-b.PNG",
    f"{root}/a.png",
  ]
  assert code == 0 and errors == [
    f"note: {root}: 2 pictures; passed over 2 broken links,"
    " 2 special files, 1 .heic, 1 repeated folder"
  ]
  code, lines, errors = predicted(root / "pipe.png", "/dev/zero", root / "broken.png")
  assert code == 1 and not lines and len(errors) == 3
  assert all("is a pipe, a socket or a device" in line for line in errors[:2])


def test_nothing_found_is_an_error(tmp_path, predicted, monkeypatch):
  (tmp_path / "empty").mkdir()
  write(tmp_path / "notes", {"a.txt": b"", "b.txt": b"", "in/c.heic": b"", "d": b""})
  code, lines, errors = predicted(tmp_path / "empty", tmp_path / "notes")
  assert (code, lines) == (2, [])
  assert errors == [
    f"error: {tmp_path}/empty: no picture in this folder or below it; it is empty",
    f"error: {tmp_path}/notes: no picture in this folder or below it; passed over"
    " 2 .txt, 1 .heic, 1 suffixless file",
  ]
  monkeypatch.setattr("sys.stdin", io.StringIO("\n \r\n"))
  assert predicted("-") == (2, [], ["error: -: standard input names no file"])
  write(tmp_path / "full", {"a.png": encoded(".png")})
  code, lines, errors = predicted(tmp_path / "empty", tmp_path / "full")
  assert code == 1 and len(lines) == len(errors) == 1


def test_names_of_all_kinds(tmp_path, predicted, monkeypatch):
  names = ["a$x_1$.png", "a|<b>&.png", "new\nline\t.png", "-dash.png", " space .png"]
  names += [
    "return\r.png",
    "café.png",
    "猫.png",
    os.fsdecode(b"latin\xe9.png"),
    "r.png\r",
  ]
  png = encoded(".png")
  monkeypatch.chdir(tmp_path)
  write(pathlib.Path(), dict.fromkeys(names, png))
  shown = [pictures.shown(name) for name in names]
  assert shown[2] == "new\\nline\\t.png" and shown[8] == "latin\\xe9.png"
  assert shown[:2] == names[:2] and shown[6:8] == names[6:8]
  code, lines, errors = predicted(*names)
  assert (code, errors) == (0, [])
  shown[3] = "./-dash.png" if lines[3].startswith("./") else shown[3]
  assert [line.partition(": ")[0] for line in lines] == shown
  assert all("|<b> " in line and "b\\tlue " in line for line in lines)
  for end in ("\r\n", "\n", "\0"):
    listed = [name for name in names if "\n" not in name or end == "\0"]
    stream = io.TextIOWrapper(io.BytesIO(os.fsencode(end.join(listed) + end)))
    monkeypatch.setattr("sys.stdin", stream)
    code, lines, errors = predicted("-")
    assert (code, len(lines), errors) == (0, len(listed), [])
  monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffcafé.png\r\nabsent\r\n.\r\n"))
  code, lines, errors = predicted("-")
  assert code == 1 and errors == [
    "error: absent: No such file or directory",
    "note: .: 9 pictures; passed over 1 .json, 1 .png\\r",
  ]
  assert len(lines) == len(
    names
  )  # "r.png\r" has no suffix of a picture, and café.png occurs twice


def test_names_beyond_the_encoding_of_the_terminal(tmp_path, predicted, monkeypatch):
  write(tmp_path, {"猫.png": encoded(".png")})
  file = io.BytesIO()
  monkeypatch.setattr(
    "sys.stdout", io.TextIOWrapper(file, "latin-1", write_through=True)
  )
  assert predicted(tmp_path / "猫.png")[0] == 0
  assert b"\\u732b.png: " in file.getvalue()


def test_a_folder_of_many_files_takes_seconds(tmp_path):
  for i in range(20_000):
    (tmp_path / f"{i}.png").touch()
  found = pictures.walk(tmp_path)
  assert len(found.files) == 20_000 and found.files == sorted(found.files)
