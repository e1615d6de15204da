"""Remedies against reading instead of seeing, side by side: what each takes away, and what it costs."""
