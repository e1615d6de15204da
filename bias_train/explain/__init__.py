"""What a source bias is made of: where the sources lie apart in embedding space, and what of it moves the ranking."""
