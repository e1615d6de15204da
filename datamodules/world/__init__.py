"""The embedded world: small rendered pictures whose biases are planted, so that metrics can be checked against truth.

`scene` says what is there, `draw` rasterises it, `photo` and `generator` turn it into a photo or a generated twin,
`captions` finds the words, `world` numbers and seeds it all, `write` makes shards of it. `people`, `objects` and `text`
bring their own scenes and words.
"""

from datamodules.world.generator import WorldGenerator, fingerprint
from datamodules.world.objects import WorldObjects, write_objects_world
from datamodules.world.people import WorldPeople, planted_strengths, read_strengths, write_people_world
from datamodules.world.scene import Composer, Scene, Thing, Writing, compose_everyday
from datamodules.world.text import WorldText, write_text_world
from datamodules.world.world import World
from datamodules.world.write import ViewMaker, WorldTruth, twins, write_world

__all__ = [
    "Composer",
    "Scene",
    "Thing",
    "ViewMaker",
    "World",
    "WorldGenerator",
    "WorldObjects",
    "WorldPeople",
    "WorldText",
    "WorldTruth",
    "Writing",
    "compose_everyday",
    "fingerprint",
    "planted_strengths",
    "read_strengths",
    "twins",
    "write_objects_world",
    "write_people_world",
    "write_text_world",
    "write_world",
]
