"""The one error that a report raises for what its user can put right."""


class ReportError(ValueError):
    """A report was asked for something that its run folders do not hold; the message says what they hold."""
