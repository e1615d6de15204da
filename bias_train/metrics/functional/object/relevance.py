"""Which items are right for a query from which an object was taken away.

The rules are ours (the published ODmAP's are unknown to us), of growing strictness, each containing the next:

- V1, absence: the item does not have the object.
- V2, grounded: V1, and it has at least one of the other objects that the query has.
- V3, strict: V2, and it has no object that the query lacks.

"Has" means that a caption mentions the object or that it is annotated in a picture. The rules are the same in both
directions: a query is a picture among captions, or a caption among pictures. V1 alone rewards a broken retriever, since
nearly every caption lacks any given object: read it beside its floor. V3 among pictures is very strict, since pictures
show many objects that no caption mentions.

Legend of the shapes: c queries of a chunk, M items, C categories of objects.
"""

from __future__ import annotations

import torch
from torch import Tensor

VARIANTS = ("V1", "V2", "V3")
LEVELS = len(VARIANTS) + 1


def strictness(category: Tensor, present: Tensor, gallery_present: Tensor) -> Tensor:
    """How many of the rules each item satisfies.

    Args:
        category: [c] int64, the object that was taken away.
        present: [c, C] bool, objects of the query before that.
        gallery_present: [M, C] bool, objects of the items.

    Returns:
        [c, M] uint8: 0 for an item that has the object, 1 for V1 alone, 2 for V2 as well, 3 for all three.
    """
    others = present.clone()
    others[torch.arange(len(category), device=present.device), category] = False
    # Counts of objects, which float32 holds exactly.
    items = gallery_present.float()
    shared = others.float() @ items.T
    grounded = shared > 0
    strict = grounded & (shared == items.sum(dim=1))
    level = 1 + grounded.to(torch.uint8) + strict.to(torch.uint8)
    return level.masked_fill(gallery_present.T[category], 0)
