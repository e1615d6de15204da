"""The embedded world: determinism, twins of the same scene, and planted cues of known strength."""

import hashlib
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from datamodules.errors import DataError
from datamodules.world import Scene, Thing, World, WorldGenerator, fingerprint
from datamodules.world.draw import COLOURS, KINDS, PLACES, draw
from datamodules.world.scene import CAMOUFLAGE, EVERYDAY_COLOURS, EVERYDAY_KINDS, EVERYDAY_PLACES


def pictures(world: World, source: str, count: int) -> np.ndarray:
    return np.stack([world.render(world.scene(index), source) for index in range(count)])


def luma_filter(images: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Matched filter: correlation of each picture's fine structure with the pattern."""
    grey = images.astype(np.float32).mean(axis=3)
    fine = grey - np.stack([cv2.GaussianBlur(picture, (0, 0), 1.0) for picture in grey])
    return (fine * pattern).mean(axis=(1, 2))


def auc(photos: np.ndarray, twins: np.ndarray) -> float:
    return roc_auc_score(np.repeat([0, 1], [len(photos), len(twins)]), np.concatenate([photos, twins]))


def digest(world: World, indices: list[int]) -> dict[int, str]:
    found = {}
    for index in indices:
        scene = world.scene(index)
        parts = [repr(scene).encode(), repr(world.captions(scene)).encode()]
        parts += [world.render(scene, source).tobytes() for source in ("real", "world-gen")]
        found[index] = hashlib.sha256(b"".join(parts)).hexdigest()
    return found


def test_scenes_are_a_function_of_seed_and_index_in_any_order() -> None:
    indices = [0, 5, 17, 3, 10_000_000]
    first = digest(World(seed=3), indices)
    assert digest(World(seed=3), indices[::-1]) == first
    assert len(set(first.values())) == len(indices)
    assert not set(digest(World(seed=4), indices).values()) & set(first.values())


def test_rendering_does_not_move_numpys_global_state() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    World().render(World().scene(0), "world-gen")
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("size", [32, 48, 64, 97, 224])
def test_pictures_of_any_size(size: int) -> None:
    world = World(size=size)
    for source in ("real", "world-gen"):
        picture = world.render(world.scene(1), source)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        assert picture.flags.c_contiguous
        assert picture.std() > 10


def test_the_same_scene_looks_the_same_at_two_sizes() -> None:
    for index in range(40):
        scene = World().scene(index)
        large = cv2.resize(draw(scene, 128, texture=0), (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(large - draw(scene, 32, texture=0)).mean() < 6


def test_everyday_scenes_are_in_the_picture_and_plant_no_association() -> None:
    scenes = [World(seed=11).scene(index) for index in range(6000)]
    for scene in scenes:
        assert len({thing.kind for thing in scene.things}) == len(scene.things)
        assert not CAMOUFLAGE[scene.place] & {thing.colour for thing in scene.things}
        for thing in scene.things:
            assert min(thing.x, thing.y) >= thing.radius - 1e-3
            assert max(thing.x, thing.y) <= 1 - thing.radius + 1e-3
    first = [scene.things[0] for scene in scenes]
    # Kind is independent of place and of colour: chi-squared at a level that a true world misses once in 10,000 seeds.
    for other in ([scene.place for scene in scenes], [thing.colour for thing in first]):
        counts = Counter(zip((thing.kind for thing in first), other, strict=True))
        table = [[counts[kind, value] for value in sorted(set(other))] for kind in EVERYDAY_KINDS]
        assert stats.chi2_contingency(table).pvalue > 1e-4


def test_descriptions_are_mostly_distinct_and_the_world_is_wide() -> None:
    descriptions = Counter(World().scene(index).description for index in range(4000))
    assert len(descriptions) > 3600
    assert descriptions.most_common(1)[0][1] <= 6


def test_twin_shows_the_same_scene() -> None:
    world = World(seed=2)

    def blurred(picture: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.5).ravel()

    same, other = [], []
    for index in range(100):
        photo = blurred(world.render(world.scene(index)))
        same.append(np.corrcoef(photo, blurred(world.render(world.scene(index), "world-gen")))[0, 1])
        other.append(np.corrcoef(photo, blurred(world.render(world.scene(index + 1000), "world-gen")))[0, 1])
    assert np.median(same) > 0.95
    assert np.percentile(same, 2) > 0.7
    assert np.median(other) < 0.6


def test_default_twins_are_told_by_their_fingerprint() -> None:
    world = World(seed=5)
    pattern = fingerprint("world-gen", world.size)
    scores = [luma_filter(pictures(world, source, 400), pattern) for source in ("real", "world-gen")]
    assert auc(*scores) > 0.99


def test_without_fingerprint_and_cleanliness_there_is_no_cue() -> None:
    world = World(seed=5, generators=(WorldGenerator(fingerprint=0, cleanliness=0),))
    photos, twins = (pictures(world, source, 600) for source in ("real", "world-gen"))
    pattern = fingerprint("world-gen", world.size)
    grey = [images.astype(np.float32).mean(axis=3) for images in (photos, twins)]
    cues = {
        "fingerprint": [luma_filter(images, pattern) for images in (photos, twins)],
        "high-frequency energy": [
            np.abs(images - np.stack([cv2.blur(i, (3, 3)) for i in images])).mean((1, 2)) for images in grey
        ],
        "saturation": [np.ptp(images.astype(int), axis=3).mean((1, 2)) for images in (photos, twins)],
        "brightness": [images.mean((1, 2)) for images in grey],
    }
    for name, scores in cues.items():
        # The AUC of two samples of 600 from one distribution has a standard deviation of 0.017.
        assert abs(auc(*scores) - 0.5) < 0.06, name
    assert (photos != twins).any()  # another photo of the scene, not a copy


def test_fingerprint_strength_is_its_root_mean_square_in_grey_levels() -> None:
    pattern = fingerprint("world-gen", 32)
    assert pattern.mean() == pytest.approx(0, abs=1e-6)
    assert np.sqrt((pattern**2).mean()) == pytest.approx(1, abs=1e-6)
    plain = World(generators=(WorldGenerator(fingerprint=0, cleanliness=1),))
    for strength in (0.25, 1.0, 2.0, 4.0):
        marked = World(generators=(WorldGenerator(fingerprint=strength, cleanliness=1),))
        measured = []
        for index in range(60):
            clean, picture = (world.render(world.scene(index), "world-gen").astype(float) for world in (plain, marked))
            inside = ((clean > 20) & (clean < 235)).all(axis=2)  # black and white clip it
            if inside.sum() > 600:
                difference = (picture - clean).mean(axis=2)[inside]
                template = pattern[inside] - pattern[inside].mean()
                measured.append((difference * template).sum() / (template**2).sum())
        assert np.mean(measured) == pytest.approx(strength, rel=0.05)


def test_cleanliness_lowers_the_noise_step_by_step() -> None:
    energy = []
    for cleanliness in (0.0, 0.4, 0.8, 1.0):
        world = World(generators=(WorldGenerator(fingerprint=0, cleanliness=cleanliness),))
        images = pictures(world, "world-gen", 120).astype(np.float32).mean(axis=3)
        scenes = [draw(world.scene(index), 32, texture=1 - 0.5 * cleanliness).mean(axis=2) for index in range(120)]
        residual = [image - scene for image, scene in zip(images, scenes, strict=True)]
        energy.append(np.median([(r - cv2.blur(r, (3, 3))).std() for r in residual]))
    assert energy == sorted(energy, reverse=True)
    assert energy[-1] < 1


def test_generators_have_their_own_fingerprints() -> None:
    generators = tuple(WorldGenerator(name, fingerprint=4.0) for name in ("world-gen", "gen-a", "gen-b"))
    world = World(generators=generators)
    scores = {
        (source.name, mark.name): luma_filter(pictures(world, source.name, 100), fingerprint(mark.name, 32)).mean()
        for source in generators
        for mark in generators
    }
    for source in generators:
        own = scores[source.name, source.name]
        assert all(own > 3 * abs(scores[source.name, mark.name]) for mark in generators if mark is not source)


def test_another_axis_brings_its_own_composer() -> None:
    def lone_star(index: int, rng: np.random.Generator) -> Scene:
        return Scene(index, "sky", "centre", (Thing("star", "red", "large", 0.5, 0.5, 0.3),), int(rng.integers(9)))

    world = World(compose=lone_star)
    red = pictures(world, "real", 5)[:, 16, 16]
    assert (red[:, 0] > 120).all()
    assert (red[:, 1:] < 110).all()


def test_every_named_look_exists() -> None:
    assert set(EVERYDAY_KINDS) <= set(KINDS)
    assert set(EVERYDAY_COLOURS) <= set(COLOURS)
    assert set(EVERYDAY_PLACES) <= set(PLACES)
    assert set(EVERYDAY_PLACES) <= set(CAMOUFLAGE)


def test_named_colours_are_drawn_in_their_colour() -> None:
    for colour in EVERYDAY_COLOURS:
        scene = Scene(0, "stone", "centre", (Thing("ball", colour, "large", 0.5, 0.5, 0.4),))
        middle = draw(scene, 32)[14:19, 14:19].mean((0, 1))
        nearest = min(COLOURS, key=lambda name: np.abs(middle - COLOURS[name]).sum())
        assert nearest == colour


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: World(seed=-1), "seed -1"),
        (lambda: World(size=8), "size 8"),
        (lambda: World(captions_per_scene=9), "captions_per_scene 9"),
        (lambda: World(generators=(WorldGenerator(), WorldGenerator())), "two generators"),
        (lambda: World().scene(-1), "index -1"),
        (lambda: World().render(World().scene(0), "sd-1.4"), "sd-1.4.*world-gen"),
        (lambda: WorldGenerator(cleanliness=1.5), "cleanliness 1.5"),
        (lambda: WorldGenerator(fingerprint=-1), "fingerprint -1"),
        (lambda: WorldGenerator("real"), "real"),
        (lambda: draw(replace(World().scene(0), place="moon"), 32), "moon.*grass"),
        (lambda: draw(Scene(4, "sky", "centre", (Thing("dog", "red", "small", 0.5, 0.5, 0.1),)), 32), "4.*dog.*star"),
        (lambda: draw(Scene(4, "sky", "centre", (Thing("cup", "mauve", "small", 0.5, 0.5, 0.1),)), 32), "mauve"),
        (lambda: Scene.from_json({"index": 3}), "objects"),
    ],
)
def test_one_clear_error(make, words) -> None:
    with pytest.raises(DataError, match=words):
        make()
