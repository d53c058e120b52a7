"""The one exception a user is meant to read."""


class UserError(ValueError):
  """Something the user can put right: `main` prints its one line and exits with 2.

  The message names the field or file, its value, what is allowed and what to do next.
  """
