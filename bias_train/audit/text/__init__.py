"""The audit of text spotting: whether a retriever reads the words in a picture instead of seeing it."""
