"""The exceptions that a user is meant to read."""


class UserError(ValueError):
  """A mistake that the user can correct: commands print its one line and exit with 2.

  The message names the field or file, its value, what is allowed and what to do next.
  """


class Diverged(ArithmeticError):
  """A number of the run is not finite: commands print one line and exit with 1."""


class Stopped(Exception):
  """A signal asked a command to stop, and what it was training has ended.

  Attributes:
    signal: number of the signal that asked.
    saved: whether it is certain that everything is saved.
  """

  def __init__(self, signal: int, saved: bool = True):
    super().__init__(f"stopped by signal {signal}")
    self.signal, self.saved = signal, saved
