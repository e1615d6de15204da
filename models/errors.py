"""The one error that a wrongly configured model ends in."""


class ModelError(ValueError):
    """Names the option that is wrong and what to do about it."""
