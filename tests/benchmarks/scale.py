"""Where the limits lie from 1 to 1,024 GPUs: a model of throughput, memory, network and storage, written as a page.

    python tests/benchmarks/scale.py [--output tests/benchmarks/scale.md]

Counted here: arithmetic of a step (PyTorch's counter on open_clip's models), parameters, bytes of activations that a
step keeps (autograd's saved tensors). Measured by other benchmarks and given as options: pictures a second that a core
decodes, bytes of a picture. Assumed, since no such cluster was at hand: what a GPU, its network and its storage give.
Nothing on the page was measured on GPUs, and it says so.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from tables import markdown

GPUS = (1, 8, 64, 256, 1024)
MODELS = {"ViT-B-32": 1024, "ViT-B-16": 512, "ViT-L-14": 128}  # batch on a GPU
WIDTH_BYTES = 2  # of an embedding's number on its way through the network


@dataclass(frozen=True)
class Model:
    """What was counted of an architecture.

    Attributes:
        name: open_clip's.
        parameters: of both towers.
        flops: of a step, a pair, with captions of 16 tokens.
        activation_bytes: that a step keeps a pair, in bfloat16.
        width: of the shared embedding.
    """

    name: str
    parameters: int
    flops: float
    activation_bytes: float
    width: int


def count(name: str) -> Model:
    """Count on a step of two pairs."""
    import open_clip
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from models.short_text import encode

    config = open_clip.get_model_config(name)
    size, width = config["vision_cfg"]["image_size"], config["embed_dim"]
    model = open_clip.create_model(name)
    pairs, kept = 2, 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        if not isinstance(tensor, torch.nn.Parameter) and tensor.data_ptr() not in owned:
            kept += tensor.numel() * 2
        return tensor

    owned = {p.data_ptr() for p in model.parameters()}
    tokens = torch.zeros(pairs, 16, dtype=torch.int64)
    tokens[:, 15] = 49407
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            image = model.encode_image(torch.randn(pairs, 3, size, size))
            text = encode(model, tokens)
        (image.sum() + text.sum()).backward()
    parameters = sum(p.numel() for p in model.parameters())
    return Model(name, parameters, counter.get_total_flops() / pairs, kept / pairs, width)


def rows(model: Model, options: argparse.Namespace) -> list[list[str]]:
    """The table of one architecture."""
    batch, found = MODELS[model.name], []
    for gpus in GPUS:
        towers = batch * model.flops / (options.tflops * 1e12)
        # Chunked InfoNCE: a rank scores its rows against all, both ways, and takes both gradients: six products.
        scores = 6 * 2 * batch * (batch * gpus) * model.width / (options.tflops * 1e12)
        link = options.node_gb_s if gpus <= options.gpus_per_node else options.network_gb_s
        share = 2 * (gpus - 1) / gpus
        gradients = share * model.parameters * 4 / (link * 1e9)
        features = share * 2 * batch * gpus * model.width * WIDTH_BYTES / (link * 1e9)
        # Gradients go while the backward pass (two thirds of the towers' time) computes; what is left is waited for.
        waited = max(0.0, gradients - towers * 2 / 3) + features
        step = towers + scores + waited
        rate = batch * gpus / step
        cores = rate / gpus / options.decode_per_core
        read = rate * options.picture_kb / 1e6
        memory = 16 * model.parameters + batch * model.activation_bytes + 2 * batch * gpus * model.width * 4
        limits = {"arithmetic": towers, "scores": scores, "network": waited}
        limit = max(limits, key=limits.__getitem__)
        if cores > options.cores_per_gpu:
            limit = "decoding"
        elif read > options.storage_gb_s:
            limit = "storage"
        found.append(
            [
                f"{gpus:,}", f"{batch * gpus:,}", f"{rate:,.0f}", f"{100 * towers / step:.0f} %",
                f"{1000 * scores:.1f}", f"{1000 * waited:.1f}", f"{memory / 2**30:.0f}", f"{cores:.1f}",
                f"{read:.1f}", limit,
            ]
        )  # fmt: skip
    return found


def page(options: argparse.Namespace) -> str:
    """Write the page."""
    head = ["GPUs", "global batch", "samples/s", "in the towers", "scores, ms", "network, ms", "GB a GPU",
            "cores a GPU", "read, GB/s", "nearest limit"]  # fmt: skip
    parts = [
        "# Scale, on paper",
        "Made by `python tests/benchmarks/scale.py`; nothing here was measured on GPUs. Counted: arithmetic, "
        "parameters and kept activations of open_clip's architectures, captions cut to 16 tokens. Measured once on a "
        f"processor core: {options.decode_per_core:,.0f} pictures/s decoded and resized from 256 px JPEGs of "
        f"{options.picture_kb:g} kB (`tests/benchmarks/stream.py` measures it on yours). Assumed: {options.tflops:g} "
        f"TFLOP/s reached by a GPU in bfloat16, {options.node_gb_s:g} GB/s between GPUs of a node of "
        f"{options.gpus_per_node}, {options.network_gb_s:g} GB/s a GPU between nodes, {options.cores_per_gpu:g} cores "
        f"a GPU, {options.storage_gb_s:g} GB/s of storage in all. Each is an option of the script: put your cluster's "
        "in.",
    ]
    for name in MODELS:
        model = count(name)
        parts.append(
            f"## {name}\n\n{model.parameters / 1e6:.0f} M parameters, {model.flops / 1e9:.1f} GFLOP and "
            f"{model.activation_bytes / 1e6:.0f} MB of activations a pair, {MODELS[name]:,} pairs a GPU."
        )
        parts.append(markdown(head, rows(model, options)))
    parts.append(
        "## Where the limits lie\n\n"
        "- **Decoding.** A small tower takes more pictures than the cores beside a GPU decode: store smaller pictures, "
        "give loaders more cores, or train heads on cached features (`bias-train embed`).\n"
        "- **Scores.** They grow with the square of the number of GPUs, and are cheap until the global batch nears a "
        "million; they are never held (`chunk`).\n"
        "- **Network.** Gradients are summed while the backward pass goes on, and are waited for where a GPU's batch "
        "is small. Embeddings grow with the global batch, and at a million pairs are what is waited for.\n"
        "- **Memory.** Activations, not scores: `model.encode_batch_size` holds a part of the batch at a time, for a "
        "third more arithmetic.\n"
        "- **Storage.** Reads are near-sequential, each shard once an epoch and machine."
    )
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tflops", type=float, default=300.0, help="that a GPU reaches")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--node-gb-s", type=float, default=300.0)
    parser.add_argument("--network-gb-s", type=float, default=40.0)
    parser.add_argument("--cores-per-gpu", type=float, default=12.0)
    parser.add_argument("--storage-gb-s", type=float, default=20.0)
    parser.add_argument("--decode-per-core", type=float, default=1565.0)
    parser.add_argument("--picture-kb", type=float, default=25.0)
    options = parser.parse_args()
    text = page(options)
    if options.output:
        options.output.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
