"""The exceptions that a user is meant to read."""


class UserError(ValueError):
  """Something the user can put right: `main` prints its one line and exits with 2.

  The message names the field or file, its value, what is allowed and what to do next.
  """


class Diverged(ArithmeticError):
  """A loss or a parameter is not finite: `main` prints one line and exits with 1."""


class Stopped(Exception):
  """A run has been asked to stop, and has saved what it had.

  Attributes:
    signal: number of the one that asked.
  """

  def __init__(self, signal: int):
    super().__init__(f"stopped by signal {signal}")
    self.signal = signal
