"""The audit of social bias: whom neutral queries retrieve, and what else moves with it."""
