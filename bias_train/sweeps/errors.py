"""The one error that a sweep raises for what its user can put right."""


class SweepError(ValueError):
    """A sweep file or a sweep's command is wrong; the message names the file, the key and the remedy."""
