"""Twins by a real (tiny, random) diffusion pipeline: what is made, what is recorded, and what cannot change it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import pixels
from PIL import Image
from tiny_pipeline import save_tiny_pipeline, save_tiny_sdxl, save_tiny_transformers
from torch import Tensor

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.sample import Sample, View
from datamodules.synthesis import GeneratorSettings, Part, PromptSettings, TwinJob, TwinSettings, make_writer
from datamodules.synthesis import job as job_module
from datamodules.synthesis.candidates import candidate_seed
from datamodules.synthesis.pipelines import Drawn, Generator, Request
from datamodules.synthesis.selection import choose, similarities
from datamodules.synthesis.vision import VisionTower
from datamodules.synthesis.work import FOLDER
from datamodules.writer import ShardWriter

CAPTIONS = ("a red dog runs on grass", "the dog with a ball", "a photo of a dog and a cat")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Seven photos of two aspects in three shards, one of them with an older twin."""
    folder = tmp_path_factory.mktemp("photos")
    with ShardWriter(folder, samples_per_shard=3) as writer:
        for i in range(7):
            size = (30, 40) if i % 2 else (36, 36)
            old = {"sd-1.4": View("sd-1.4")} if i == 1 else {}
            captions = (f"{CAPTIONS[0]} {i}", *CAPTIONS[1:])
            writer.write(Sample(f"k{i}", captions, views=old), pixels(i, *size), {view: pixels(50) for view in old})
    return ShardIndex.load(folder)


def tiny(pipeline: Path, name: str = "tiny", **options: Any) -> GeneratorSettings:
    return GeneratorSettings(name, str(pipeline), steps=2, **options)


def encoder(images: Sequence[Image.Image]) -> Tensor:
    """Colours of a coarse grid, as a stand-in for a tower."""
    return torch.stack([torch.tensor(np.asarray(image.resize((4, 4)), dtype=np.float32)).flatten() for image in images])


def job(photos: ShardIndex, out: Path, settings: TwinSettings, kind: Any = Generator, **options: Any) -> TwinJob:
    if settings.encoder is not None:
        options["encoder"] = encoder
    return TwinJob(
        photos,
        out,
        settings,
        make_writer=lambda: make_writer(settings.prompts),
        make_generator=kind,
        **options,
    )


def pictures(index: ShardIndex, row: int) -> dict[str, bytes]:
    found = {}
    for at in range(int(index.view_start[row]), int(index.view_start[row + 1])):
        name = index.view_names[int(index.view_name[at])]
        found[name] = index.read_picture(
            int(index.shard[row]), int(index.offset[at]), int(index.size[at]), int(index.crc[at])
        )
    return found


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def files(folder: Path) -> dict[str, bytes]:
    """The set itself, without the work folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_twins_become_views_with_their_whole_history(pipeline: Path, photos: ShardIndex, tmp_path: Path) -> None:
    settings = TwinSettings((tiny(pipeline, negative_prompt="cat", guidance=4.0),), seed=7)
    outcome = job(photos, tmp_path / "out", settings).run()
    index = ShardIndex.load(tmp_path / "out", verify=True)
    assert list(index.keys) == list(photos.keys)
    assert [info.name for info in index.shards] == [info.name for info in photos.shards]
    assert index.sources == ("real", "sd-1.4", "tiny")
    assert outcome.counts.made == outcome.counts.samples == 7
    for row, key in enumerate(index.keys):
        sample = index.sample(row)
        assert sample.captions == photos.sample(row).captions
        assert set(sample.views) == {"tiny"} | ({"sd-1.4"} if key == "k1" else set())
        made = sample.views["tiny"].meta["synthesis"]
        assert made["seed"] == candidate_seed(key, "tiny", 0, 0, 7)
        assert made["prompt"].startswith(f"a red dog runs on grass {row}")
        for name, value in {
            "model": str(pipeline), "steps": 2, "guidance": 4.0, "negative_prompt": "cat", "scheduler": "PNDMScheduler",
            "strength": None, "precision": "float32", "similarity": None, "candidate_similarities": [None],
        }.items():  # fmt: skip
            assert made[name] == value, name
        assert made["revision"].startswith("blake2b:")
        assert {"torch", "diffusers", "transformers"} <= made["versions"].keys()
        # Matched geometry and codec: nothing but the pixels tells photo and twin apart.
        forms = {(opened(data).format, opened(data).size) for data in pictures(index, row).values()}
        tables = {str(opened(data).quantization) for data in pictures(index, row).values()}  # type: ignore[attr-defined]
        assert len(forms) == len(tables) == 1
        (form,) = forms
        width, height = form[1]
        assert width / height == pytest.approx(4 / 3 if row % 2 else 1, abs=0.05)


@pytest.mark.parametrize("strength", [None, 0.6])
def test_a_picture_is_what_diffusers_draws_with_the_recorded_seed(
    strength: float | None, pipeline: Path, photos: ShardIndex, tmp_path: Path
) -> None:
    settings = TwinSettings((tiny(pipeline, strength=strength),), geometry="original", codec="original", limit=2)
    job(photos, tmp_path, settings, batch_size=2).run()
    index = ShardIndex.load(tmp_path)
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

    kind = StableDiffusionPipeline if strength is None else StableDiffusionImg2ImgPipeline
    oracle = kind.from_pretrained(pipeline)
    oracle.set_progress_bar_config(disable=True)
    for row in range(2):
        found = pictures(index, row)
        assert found[""] == pictures(photos, row)[""]  # byte for byte
        made = index.sample(row).views["tiny"].meta["synthesis"]
        options: dict[str, Any] = {"width": 32, "height": 32}
        if strength is not None:
            photo = opened(found[""]).convert("RGB")
            side = min(photo.size)
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            square = photo.crop((left, top, left + side, top + side)).resize((32, 32), Image.Resampling.BICUBIC)
            options = {"image": square, "strength": strength}
        noise = torch.Generator("cpu").manual_seed(made["seed"])
        want = oracle(made["prompt"], num_inference_steps=2, generator=noise, **options).images[0]
        got = opened(found["tiny"])
        assert got.format == "PNG"
        assert np.abs(np.asarray(got).astype(int) - np.asarray(want)).max() <= 2


def test_neither_parts_nor_batches_change_the_data(pipeline: Path, photos: ShardIndex, tmp_path: Path) -> None:
    settings = TwinSettings((tiny(pipeline), tiny(pipeline, "rewritten", strength=0.5)))
    job(photos, tmp_path / "one", settings, batch_size=2).run()
    whole = files(tmp_path / "one")
    assert len(whole) == 4
    for number in (2, 1):
        outcome = job(photos, tmp_path / "two", settings, batch_size=2, part=Part(number, 2)).run()
        assert (outcome.index is None) == (number == 2)
    assert files(tmp_path / "two") == whole
    # Another batch size: the same noise, and the same pictures but for rounding.
    job(photos, tmp_path / "three", settings, batch_size=5).run()
    one, three = ShardIndex.load(tmp_path / "one"), ShardIndex.load(tmp_path / "three")
    for row in range(7):
        assert one.sample(row) == three.sample(row)
        for name, data in pictures(one, row).items():
            difference = np.asarray(opened(data)).astype(int) - np.asarray(opened(pictures(three, row)[name]))
            assert np.abs(difference).max() <= 4


def test_what_a_kill_leaves_is_gone_on_from(pipeline: Path, photos: ShardIndex, tmp_path: Path) -> None:
    settings = TwinSettings((tiny(pipeline),))
    job(photos, tmp_path / "whole", settings).run()

    class Killed(BaseException):
        pass

    drawn: list[str] = []

    class Mortal(Generator):
        def draw(self, requests: Sequence[Request]) -> list[Drawn]:
            if len(drawn) == 4:
                raise Killed
            drawn.extend(request.prompt for request in requests)
            return super().draw(requests)

    out = tmp_path / "out"
    with pytest.raises(Killed):
        job(photos, out, settings, Mortal).run()
    assert (out / "shard-000000.tar").exists() is False  # pictures first, then shards
    shard = out / FOLDER / "shard-000001"
    (shard / "tiny" / ".0.zip.host.1.partial").write_bytes(b"PK")  # killed while it wrote
    plans = shard / "prompts.jsonl"
    plans.write_bytes(plans.read_bytes()[:-30])
    before = len(drawn)

    class Counted(Generator):
        def draw(self, requests: Sequence[Request]) -> list[Drawn]:
            drawn.extend(request.prompt for request in requests)
            return super().draw(requests)

    job(photos, out, settings, Counted).run()
    assert len(drawn) == len(set(drawn)) == 7
    assert before == 4
    assert files(out) == files(tmp_path / "whole")
    # And once more there is nothing to do.
    job(photos, out, settings, Counted).run()
    assert len(drawn) == 7
    assert not list((out / FOLDER).rglob("*.zip"))


def test_what_another_did_while_we_waited_is_not_done_again(
    pipeline: Path, photos: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, real, others = TwinSettings((tiny(pipeline),)), job_module.claimed, iter([True])

    @contextmanager
    def late(path: Path, *, wait: bool = False) -> Iterator[bool]:
        if next(others, False):
            job(photos, tmp_path, settings).run()
        with real(path, wait=wait) as mine:
            yield mine

    class Idle(Generator):
        def draw(self, requests: Sequence[Request]) -> list[Drawn]:
            raise AssertionError("drawn again")

    monkeypatch.setattr(job_module, "claimed", late)
    outcome = job(photos, tmp_path, settings, Idle).run()
    assert outcome.counts.made == 7
    assert not list((tmp_path / FOLDER).rglob("*.zip"))


def test_the_best_candidate_is_the_one_with_the_largest_cosine(
    pipeline: Path, photos: ShardIndex, tmp_path: Path
) -> None:
    one = tiny(pipeline)
    arms = {how: TwinSettings((one,), candidates=4, selection=how, encoder="grid", limit=3) for how in ("all", "best")}
    for how, settings in arms.items():
        job(photos, tmp_path / how, settings, batch_size=3).run()
    every, best = (ShardIndex.load(tmp_path / how) for how in ("all", "best"))
    chosen = []
    for row in range(3):
        views = every.sample(row).views
        assert [name for name in views if name != "sd-1.4"] == [f"tiny-{n}" for n in range(4)]
        kept = best.sample(row).views["tiny"].meta["synthesis"]
        # Brute force over the candidates as they were drawn.
        generator = Generator(one)
        photo = opened(pictures(photos, row)[""]).convert("RGB")
        size = generator.size_for(photo.size)
        cosines = []
        for n in range(4):
            made = views[f"tiny-{n}"].meta["synthesis"]
            image = generator.draw([Request(made["prompt"], made["seed"], size)])[0].image
            assert image is not None
            a, b = (encoder([its])[0].double().numpy() for its in (photo, image))
            cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        np.testing.assert_allclose(kept["candidate_similarities"], cosines, atol=1e-3)
        np.testing.assert_allclose(
            [views[f"tiny-{n}"].meta["synthesis"]["similarity"] for n in range(4)], cosines, atol=1e-3
        )
        assert kept["candidate"] == int(np.argmax(kept["candidate_similarities"]))
        assert kept["similarity"] == max(kept["candidate_similarities"])
        assert kept["candidate_seeds"] == [candidate_seed(f"k{row}", "tiny", 0, n, 0) for n in range(4)]
        assert len(set(kept["candidate_seeds"])) == 4
        chosen.append(kept["candidate"])
    assert photos.sample(0).key == "k0"


def test_choices_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for trial in range(200):
        found = [None if rng.random() < 0.2 else float(rng.integers(0, 3)) for _ in range(5)]
        made = [value is not None for value in found]
        present = [n for n in range(5) if made[n]]
        best = choose("best", found, made, "k", 0, trial)
        assert best == ([min(present, key=lambda n: (-(found[n] or 0.0), n))] if present else [])
        assert choose("first", found, made, "k", 0, trial) == present[:1]
        assert choose("all", found, made, "k", 0, trial) == present
        assert set(choose("random", found, made, "k", 0, trial)) <= set(present)
    drawn = [choose("random", [None] * 4, [True] * 4, f"k{n}", 0, 1)[0] for n in range(400)]
    assert np.bincount(drawn).min() > 60
    black = Image.new("RGB", (4, 4))
    with pytest.raises(DataError, match="zero or non-finite"):
        similarities(encoder, black, [black])


def test_a_held_out_caption_is_queried_with_and_in_no_prompt(
    pipeline: Path, photos: ShardIndex, tmp_path: Path
) -> None:
    prompts = PromptSettings(hold_out="random", queries="held-out")
    job(photos, tmp_path / "a", TwinSettings((tiny(pipeline),), prompts=prompts, limit=5)).run()
    index = ShardIndex.load(tmp_path / "a")
    slots = set()
    for row in range(len(index)):
        captions, sample = photos.sample(row).captions, index.sample(row)
        held = sample.meta["held_out"]
        slots.add(held["slot"])
        assert sample.captions == (captions[held["slot"]],) == (held["caption"],)
        assert held["prompt_captions"] == [c for n, c in enumerate(captions) if n != held["slot"]]
        merged = make_writer(PromptSettings())([held["prompt_captions"]])[0][0]
        assert sample.views["tiny"].meta["synthesis"]["prompt"] == merged
    assert len(slots) > 1
    # Another generator, over these: the query stays out of its prompts too, asked or not.
    job(index, tmp_path / "b", TwinSettings((tiny(pipeline, "other"),))).run()
    again = ShardIndex.load(tmp_path / "b")
    for row in range(len(index)):
        views = again.sample(row).views
        assert {"tiny", "other"} <= views.keys()
        assert views["other"].meta["synthesis"]["prompt"] == views["tiny"].meta["synthesis"]["prompt"]
        assert again.sample(row).captions == index.sample(row).captions


def test_twins_of_each_caption_say_what_is_true_of_them(pipeline: Path, photos: ShardIndex, tmp_path: Path) -> None:
    job(photos, tmp_path, TwinSettings((tiny(pipeline),), prompts=PromptSettings("each"), limit=1)).run()
    sample = ShardIndex.load(tmp_path).sample(0)
    assert [sample.views[f"tiny-{n}"].captions for n in range(3)] == [(caption,) for caption in sample.captions]
    assert {view.source for view in sample.views.values()} == {"tiny"}


class Faulty(Generator):
    """Fails at some prompts, and has others blanked."""

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        if any(" 2" in request.prompt or "every" in request.prompt for request in requests):
            raise RuntimeError("no such tensor")
        drawn = super().draw(requests)
        return [
            Drawn(None) if " 4" in request.prompt else one for request, one in zip(requests, drawn, strict=True)
        ]  # fmt: skip


def test_a_bad_picture_takes_no_others_with_it(
    pipeline: Path, photos: ShardIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = job(photos, tmp_path, TwinSettings((tiny(pipeline),)), Faulty, batch_size=4).run()
    index = ShardIndex.load(tmp_path)
    without = {key for row, key in enumerate(index.keys) if "tiny" not in index.sample(row).views}
    assert without == {"k2", "k4"}
    assert (outcome.counts.failed, outcome.counts.blanked, outcome.counts.skipped) == (1, 1, {"no twin by tiny": 2})
    assert "k2 by tiny: a picture failed: RuntimeError: no such tensor" in caplog.text


def test_when_everything_fails_it_stops_and_can_go_on(pipeline: Path, photos: ShardIndex, tmp_path: Path) -> None:
    class Broken(Generator):
        def draw(self, requests: Sequence[Request]) -> list[Drawn]:
            raise RuntimeError("driver gone")

    settings = TwinSettings((tiny(pipeline),))
    with pytest.raises(DataError, match="5 samples in a row failed, the last with: RuntimeError: driver gone"):
        job(photos, tmp_path, settings, Broken).run()
    outcome = job(photos, tmp_path, settings).run()
    assert (outcome.counts.made, outcome.counts.failed) == (7, 0)


def test_a_checkers_verdict_and_an_overflow_are_seen(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(tiny(pipeline))
    real = generator._pipeline
    requests = [Request("a dog", n, (32, 32)) for n in range(3)]

    def checked(**call: Any) -> Any:
        made = real(**call)
        made.nsfw_content_detected = [False, True, False]
        made.images[2] = Image.new("RGB", (32, 32))
        return made

    monkeypatch.setattr(generator, "_pipeline", checked)
    assert [drawn.image is None for drawn in generator.draw(requests)] == [False, True, True]


def test_the_refiner_takes_over_the_bases_latents(tmp_path: Path) -> None:
    base, refiner = save_tiny_sdxl(tmp_path)
    settings = GeneratorSettings(
        "sdxl", str(base), refiner=str(refiner), steps=5, refiner_split=0.6, negative_prompt="cat"
    )
    got = Generator(settings).draw([Request("a red dog", 3, (32, 32)), Request("a cat", 4, (32, 32))])
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    first = StableDiffusionXLPipeline.from_pretrained(base)
    second = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        refiner, text_encoder_2=first.text_encoder_2, vae=first.vae
    )
    noise = torch.Generator("cpu").manual_seed(3)
    latents = first(
        "a red dog", negative_prompt="cat", width=32, height=32, num_inference_steps=5, denoising_end=0.6,
        generator=noise, output_type="latent",
    ).images  # fmt: skip
    want = second(
        "a red dog", image=latents, num_inference_steps=5, denoising_start=0.6, generator=noise
    ).images[0]  # fmt: skip
    assert got[0].image is not None
    assert np.abs(np.asarray(got[0].image).astype(int) - np.asarray(want)).max() <= 2
    assert Generator(settings).describe()["refiner"]["split"] == 0.6


def test_pipelines_of_other_families(tmp_path: Path) -> None:
    photo = Image.fromarray(pixels(0, 32, 48))
    requests = [Request("a red dog", seed, (48, 32), photo) for seed in (5, 6)]
    for name, folder in save_tiny_transformers(tmp_path).items():
        for strength in (None, 0.6):
            if name == "pixart" and strength is not None:
                with pytest.raises(DataError, match=r"--strength: PixArtAlphaPipeline .* has no image-to-image form"):
                    Generator(tiny(folder, strength=strength))
                continue
            generator = Generator(tiny(folder, strength=strength))
            drawn, again = generator.draw(requests), generator.draw(requests[:1])
            first, second = (one.image for one in drawn)
            assert first is not None
            assert second is not None
            assert first.size == second.size == (48, 32)
            assert np.asarray(first).std() > 1
            assert np.abs(np.asarray(first).astype(int) - np.asarray(second)).max() > 2
            assert np.abs(np.asarray(first).astype(int) - np.asarray(again[0].image)).max() <= 2
            width, height = generator.size_for((40, 30))
            assert width % 8 == height % 8 == 0


def test_geometry_and_codec_arms(pipeline: Path, photos: ShardIndex, tmp_path: Path) -> None:
    seen = {}
    for geometry in ("matched", "original"):
        for codec in ("matched", "original"):
            out = tmp_path / f"{geometry}-{codec}"
            settings = TwinSettings((tiny(pipeline),), geometry=geometry, codec=codec, limit=2)  # type: ignore[arg-type]
            job(photos, out, settings).run()
            found = pictures(ShardIndex.load(out), 1)
            seen[geometry, codec] = {
                name: (opened(data).format, opened(data).size) for name, data in found.items() if name != "sd-1.4"
            }
    # The photo is 40 x 30 and its twin was drawn at 40 x 24: the largest size at 4:3 that neither is enlarged to.
    assert seen["matched", "matched"] == {"": ("JPEG", (32, 24)), "tiny": ("JPEG", (32, 24))}
    assert seen["matched", "original"] == {"": ("JPEG", (40, 30)), "tiny": ("PNG", (40, 30))}
    assert seen["original", "matched"] == {"": ("JPEG", (40, 30)), "tiny": ("JPEG", (32, 32))}
    assert seen["original", "original"] == {"": ("JPEG", (40, 30)), "tiny": ("PNG", (32, 32))}
    job(photos, tmp_path / "square", TwinSettings((tiny(pipeline),), size=24, limit=2)).run()
    assert {opened(data).size for data in pictures(ShardIndex.load(tmp_path / "square"), 1).values()} == {(24, 24)}


def test_weights_that_are_pickles_are_refused(pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(pipeline, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    Generator(tiny(folder))  # beside safetensors, nobody reads it
    weights.unlink()
    with pytest.raises(DataError, match=r"unet/diffusion_pytorch_model\.bin is a pickle"):
        Generator(tiny(folder))
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(DataError, match="cannot be loaded"):
        Generator(tiny(folder))


def test_code_in_a_pipelines_folder_does_not_run(pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "coded"
    shutil.copytree(pipeline, folder)
    document = json.loads((folder / "model_index.json").read_text())
    document["_class_name"] = ["evil", "EvilPipeline"]
    (folder / "model_index.json").write_text(json.dumps(document))
    (folder / "evil.py").write_text(
        "from diffusers import StableDiffusionPipeline\n"
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "class EvilPipeline(StableDiffusionPipeline):\n    pass\n"
    )
    with pytest.raises(DataError, match="cannot be loaded"):
        Generator(tiny(folder))
    assert not (tmp_path / "ran").exists()


def test_wrong_options_are_named(pipeline: Path, photos: ShardIndex, tmp_path: Path) -> None:
    for options, said in (
        ({"scheduler": "NoScheduler"}, "--scheduler NoScheduler: diffusers has no such scheduler; this pipeline goes"),
        ({"refiner": "nowhere/at/all"}, "there is no such folder, and no such name on the hub"),
    ):
        with pytest.raises(DataError, match=said):
            Generator(tiny(pipeline, **options))
    with pytest.raises(DataError, match=r"has no model_index\.json"):
        Generator(tiny(tmp_path))
    with pytest.raises(DataError, match="needs an encoder"):
        TwinSettings((tiny(pipeline),), candidates=2)
    with pytest.raises(DataError, match="has views of that name already"):
        job(photos, tmp_path / "out", TwinSettings((tiny(pipeline, "sd-1.4"),)))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        job(photos, tmp_path / "file" / "out", TwinSettings((tiny(pipeline),))).run()
    with pytest.raises(DataError, match="holds the photos"):
        job(photos, photos.folder, TwinSettings((tiny(pipeline),))).run()


def test_going_on_with_other_options_is_refused(pipeline: Path, photos: ShardIndex, tmp_path: Path) -> None:
    job(photos, tmp_path, TwinSettings((tiny(pipeline),), limit=1)).run()
    with pytest.raises(DataError, match=r"was begun with seed: 0, now 3"):
        job(photos, tmp_path, TwinSettings((tiny(pipeline),), seed=3, limit=1)).run()
    with pytest.raises(DataError, match=r"was begun with limit: 1, now 2"):
        job(photos, tmp_path, TwinSettings((tiny(pipeline),), limit=2)).run()


def test_a_mistyped_option_can_be_mended_before_anything_is_drawn(
    pipeline: Path, photos: ShardIndex, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no such scheduler"):
        job(photos, tmp_path, TwinSettings((tiny(pipeline, scheduler="NoScheduler"),))).run()
    prompts = tmp_path / FOLDER / "shard-000000" / "prompts.jsonl"
    worded = prompts.stat().st_mtime_ns
    assert job(photos, tmp_path, TwinSettings((tiny(pipeline),))).run().counts.made == 7
    assert prompts.stat().st_mtime_ns == worded  # they may have been paid for


def test_pictures_that_need_captions_say_so(pipeline: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "bare") as writer:
        writer.write(Sample("k", ()), pixels(0))
    with pytest.raises(DataError, match="none of the samples has a caption"):
        job(ShardIndex.load(tmp_path / "bare"), tmp_path / "out", TwinSettings((tiny(pipeline),))).run()
    with ShardWriter(tmp_path / "one") as writer:
        writer.write(Sample("k", ("a dog",)), pixels(0))
    settings = TwinSettings((tiny(pipeline),), prompts=PromptSettings(hold_out=-1))
    with pytest.raises(DataError, match="so none can be held out"):
        job(ShardIndex.load(tmp_path / "one"), tmp_path / "out", settings).run()


def test_samples_without_a_twin_are_kept_and_counted(pipeline: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "in") as writer:
        writer.write(Sample("a", ("a dog",)), pixels(0, 32, 32))
        writer.write(Sample("b", ()), pixels(1, 32, 32))
        writer.write(Sample("c", ("a cat",), source="sd-1.4"), pixels(2, 32, 32))
    outcome = job(ShardIndex.load(tmp_path / "in"), tmp_path / "out", TwinSettings((tiny(pipeline),))).run()
    assert outcome.counts.skipped == {"no caption": 1, "not a photo": 1}
    index = ShardIndex.load(tmp_path / "out")
    assert [set(index.sample(row).views) for row in range(3)] == [{"tiny"}, set(), set()]
    assert index.sample(2).source == "sd-1.4"


def test_parts() -> None:
    shards = [f"s{n}" for n in range(7)]
    for total in range(1, 10):
        parts = [Part(number, total).of(shards) for number in range(1, total + 1)]
        assert sorted(name for part in parts for name in part) == shards
    array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "4"}
    task = array | {"SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_ID": "7"}
    assert Part.of_slurm(task) == Part(2, 2)
    with pytest.raises(DataError, match="have gaps"):
        Part.of_slurm(task | {"SLURM_ARRAY_TASK_MAX": "11"})
    for text in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(DataError, match="write NUMBER/COUNT"):
            Part.parse(text)


def test_a_vision_tower_measures_likeness(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    ViTModel(ViTConfig(image_size=16, patch_size=8, **size)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    tower = VisionTower(str(tmp_path))
    photo, other = (Image.fromarray(pixels(n)) for n in (0, 1))
    found = similarities(tower, photo, [photo, None, other])
    assert found[0] == pytest.approx(1.0, abs=1e-5)
    assert found[1] is None
    assert found[2] is not None
    assert found[2] < found[0]
    with pytest.raises(DataError, match="--select-vision"):
        VisionTower(str(tmp_path / "none"))


def test_seeds_do_not_collide() -> None:
    seeds = {
        candidate_seed(f"k{key}", generator, prompt, candidate, seed)
        for key, generator, prompt, candidate, seed in product(range(50), ("a", "b"), range(3), range(5), (0, 1))
    }
    assert len(seeds) == 50 * 2 * 3 * 5 * 2
    assert max(seeds) < 2**53
