"""Words and prompts with which pictures of people are asked for: neutral ones, and such as name a group.

`words` reads lists of words, `prompt_sets` names the lists that come along, `prompts` writes them out as queries,
`group_prompts` names groups of people.
"""

from datamodules.taxonomy.group_prompts import GroupPrompt, attribute_prompts, group_prompts, load_group_prompts
from datamodules.taxonomy.prompt_sets import PROMPT_SETS, prompt_set
from datamodules.taxonomy.prompts import MODES, Mode, Prompt, with_article, word_prompts
from datamodules.taxonomy.words import Entry, Taxonomy, load_taxonomy

__all__ = [
    "MODES",
    "PROMPT_SETS",
    "Entry",
    "GroupPrompt",
    "Mode",
    "Prompt",
    "Taxonomy",
    "attribute_prompts",
    "group_prompts",
    "load_group_prompts",
    "load_taxonomy",
    "prompt_set",
    "with_article",
    "word_prompts",
]
