"""Hints for names that do not exist: of keys, flags and files."""

import difflib
import os
import pathlib

# What people and other libraries call the keys, as `_plain` writes it.
SYNONYMS = {
  "arch architecture model net network": "model.name",
  "amp bf16 fp16 half mixed_precision precision": "model.dtype",
  "conv conv_type": "model.convolution",
  "drop drop_rate dropout dropout_p dropout_prob p_drop": "model.dropout_rate",
  "widen_factor width_mult width_multiplier": "model.width",
  "bn_momentum": "model.batch_norm_momentum",
  "bn_eps bn_epsilon": "model.batch_norm_epsilon",
  "opt optim optimiser": "optimizer.name",
  "beta1 beta_1 betas": "optimizer.b1",
  "beta2 beta_2": "optimizer.b2",
  "adam_eps eps": "optimizer.epsilon",
  "decay l2 regularization wd": "optimizer.weight_decay",
  "lr_schedule lr_scheduler sched scheduler": "schedule.name",
  "base_lr initial_lr learning_rate lr max_lr peak_lr": "schedule.learning_rate",
  "eta_min lr_min min_lr": "schedule.minimum",
  "gamma lr_decay lr_gamma": "schedule.decay_rate",
  "lr_step lr_step_size step_size": "schedule.epochs_per_decay",
  "warmup warmup_steps": "schedule.warmup_epochs",
  "epoch epochs max_epochs n_epochs num_train_epochs train_epochs": "num_epochs",
  "b batch bs mini_batch_size minibatch_size train_batch_size": "batch_size",
  "eval_bs test_batch_size val_batch_size": "eval_batch_size",
  "eval_freq eval_frequency eval_interval val_every": "eval_every",
  "tta": "eval_flip",
  "random_seed random_state rng_seed": "seed",
  "ls smoothing": "label_smoothing",
  "ema ema_rate polyak": "ema_decay",
  "ds": "data.dataset",
  "data data_folder data_path data_root dataroot root tfds_data_dir": "data.data_dir",
  "hflip horizontal_flip mirror random_flip": "augmentation.flip",
  "crop pad padding random_crop": "augmentation.crop_padding",
  "test_split val_split validation_split": "data.eval_split",
  "exp exp_name experiment run_name": "name",
  "ckpt_every save_every save_freq save_steps": "checkpoint.every_steps",
  "keep_checkpoints max_to_keep": "checkpoint.keep",
}
_KEY_OF = {word: key for words, key in SYNONYMS.items() for word in words.split()}


def _plain(name: str) -> str:
  """Returns a name of a flag or key in lower case, with underscores."""
  return name.lstrip("-").replace("-", "_").casefold()


def nearest(name: str, known) -> str:
  """Returns "; did you mean 'x'?" for the closest of `known`, or ""."""
  found = _nearest(name, known)
  return f"; did you mean {found!r}?" if found else ""


def _nearest(name: str, known) -> str | None:
  known, plain = list(known), _plain(name)
  if plain in known:
    return plain
  # Then `augmentation.zoom` for `zoom`, `schedule.name` for `schedule`.
  close = [_KEY_OF.get(plain)]
  close += [k for k in known if k.endswith(f".{plain}") or k.startswith(f"{plain}.")]
  close += [_KEY_OF.get(plain.rpartition(".")[2])]
  close = [key for key in close if key in known]
  close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  return close[0] if close else None


# What other programs call flags, and what there is instead.
_FLAGS = {
  "log_dir logdir model_dir out out_dir outdir output output_dir o save_dir": "workdir",
  "folder job_dir path run rundir run_dir work_dir": "workdir",
  "out out_dir outdir output_dir output_file o save save_dir workdir": "output",
  "cfg conf config_file config_path c": "config",
  "ckpt checkpoint_path weights": "checkpoint",
}
_DEVICES = "device devices gpu gpu_ids gpus n_gpus ngpus num_devices num_gpus tpu cuda"
_NO_FLAGS = dict.fromkeys(
  _DEVICES.split(),
  "; all devices are used; CUDA_VISIBLE_DEVICES=0,1 or JAX_PLATFORMS=cpu limits them",
) | dict.fromkeys(
  ("continue", "restart", "restore", "resume", "resume_from"),
  "; rerun the same command to resume a run",
)


def nearest_flag(argument: str, flags: list[str], keys: list[str]) -> str:
  """Returns a hint for an argument that a command does not know, or "".

  Args:
    argument: as it was typed: `--lr=0.1`.
    flags: the flags of the command: `["--config", "--workdir", ...]`.
    keys: what `--config.KEY=VALUE` can set; none if the command does not take it.
  """
  typed, equals, value = argument.partition("=")
  value = value if equals else "VALUE"
  names, plain = [flag.lstrip("-") for flag in flags], _plain(typed)
  if not typed.startswith("-"):
    if "workdir" in names and os.path.isfile(os.path.join(typed, "config.json")):
      return f"; did you mean '--workdir={typed}'?"
    file = typed if os.path.isfile(typed) else nearest_file(typed)
    is_config = "config" in names and file and file.endswith((".py", ".json"))
    return f"; did you mean '--config={file}'?" if is_config else ""
  other = [name for words, name in _FLAGS.items() if plain in words.split()]
  for name in (plain, f"{plain}s", *other):
    if name in names:
      return f"; did you mean '--{name}'?"
  if plain in _NO_FLAGS:
    return _NO_FLAGS[plain]
  exact = (
    plain in keys or plain in _KEY_OF or any(k.endswith(f".{plain}") for k in keys)
  )
  close = [] if exact else difflib.get_close_matches(plain, names, n=1, cutoff=0.6)
  if close:
    return f"; did you mean '--{close[0]}'?"
  key = _nearest(plain, keys)
  return f"; did you mean '--config.{key}={value}'?" if key else ""


def nearest_file(path: str) -> str | None:
  """Returns the config whose name is most like that of a file that does not exist."""
  file = pathlib.Path(path)
  project = pathlib.Path(__file__).parents[1] / "configs"
  files: dict[str, str] = {}
  for folder in (file.parent, pathlib.Path("configs"), project):
    for each in sorted(folder.glob("*.py")):
      if each.stem != "__init__":
        files.setdefault(each.stem, str(each))
  stem = file.stem if file.suffix in (".py", ".json") else file.name
  close = difflib.get_close_matches(stem, list(files), n=1, cutoff=0.5)
  return files[close[0]] if close else None
