"""Object bias: whether a retriever recalls objects that are not in the picture, because they often are in such ones."""
