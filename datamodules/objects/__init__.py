"""Objects in pictures and captions: what a caption mentions, where an object lies, which objects come together."""

from datamodules.objects.mentions import Mentions
from datamodules.objects.vocabulary import Vocabulary, load_vocabulary, slug

__all__ = ["Mentions", "Vocabulary", "load_vocabulary", "slug"]
