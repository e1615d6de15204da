"""The audit of object bias: what a retriever recalls of objects that were taken out of pictures."""
