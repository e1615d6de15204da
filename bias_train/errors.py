"""The error that a wrongly used program ends in, and which errors are the user's to mend."""


class RunError(ValueError):
    """Names the option or file that is wrong and what to do about it."""
