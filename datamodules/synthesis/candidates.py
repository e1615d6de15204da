"""Which candidate has which seed: a pure function, so that no batch, shard or kill can change the data."""

from __future__ import annotations

from datamodules.hashing import mix, string_id


def candidate_seed(key: str, generator: str, prompt: int, candidate: int, seed: int) -> int:
    """The seed of one candidate's noise.

    The reference recipe seeds once a pass over the whole list, so that noise depends on a picture's place in it. Ours
    hangs on the names alone.

    Args:
        key: of the sample.
        generator: its name.
        prompt: number of the prompt among the sample's.
        candidate: its number.
        seed: the user's.

    Returns:
        A number in [0, 2**53), which JSON and every tool keep exactly.

    >>> candidate_seed("cat-1", "sd-1.5", 0, 0, 7) == candidate_seed("cat-1", "sd-1.5", 0, 0, 7)
    True
    >>> candidate_seed("cat-1", "sd-1.5", 0, 0, 7) == candidate_seed("cat-1", "sd-1.5", 0, 1, 7)
    False
    """
    return int(mix(seed, string_id(key), string_id(generator), prompt, candidate)) >> 11
