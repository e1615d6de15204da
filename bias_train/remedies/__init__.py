"""Remedies against social bias side by side: what each takes away, and what it costs."""
