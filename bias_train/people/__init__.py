"""Pictures of people, neutral words and prompts that name groups, as vectors."""
