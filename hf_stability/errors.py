"""The one exception a user's bad input raises: the command line prints it as a single line and exits with 2."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names the flag or key, the value, and the way out."""
