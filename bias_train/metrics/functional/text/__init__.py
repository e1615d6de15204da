"""How far a retriever reads the words in a picture instead of seeing it."""
