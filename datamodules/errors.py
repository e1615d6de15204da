"""The one error that bad data or bad data options end in."""


class DataError(ValueError):
    """Names the file, key or option that is wrong and what to do about it."""
