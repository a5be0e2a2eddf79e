"""Errors that blame what was given: data, options or the installation, never this code.

A caller that speaks to a user may show their messages as they are. Any other error that a scorer raises is a bug, of
the scorer or of the code that called it, and should be seen as one.
"""


class Unsuitable(ValueError):
    """What was given cannot be used by this method: the message is for who gave it."""


class MissingPackage(ImportError):
    """The method needs a package that is not installed: the message says how to install it."""
