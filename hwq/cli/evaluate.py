"""`hwq evaluate`: accuracy of a trained network as training computes it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path())
@click.option("--data", help="Other data than the run's own: digits, cifar10, folder:/path.")
@click.option("--images", type=click.IntRange(min=1), help="A sample of this many test images.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
def command(run: str, data: str | None, images: int | None, device: str, threads: int | None) -> None:
    """Test accuracy of RUN (a run folder or a checkpoint file), fake-quantised as in training."""
    import torch

    from hwq.data import DataSpec, load_split
    from hwq.errors import InputError
    from hwq.train import evaluate, restore

    if threads is not None:
        torch.set_num_threads(threads)
    model, meta = restore(Path(run))
    split = load_split(DataSpec.parse(data, like=meta.data) if data else meta.data, "test")
    if split.shape != meta.image_shape:
        raise InputError(f"the images are {split.shape}, the network takes {meta.image_shape}")
    if len(split.classes) != len(meta.classes):
        raise InputError(f"the data has {len(split.classes)} classes, the network {len(meta.classes)}")
    sample = split.head(images) if images else split
    accuracy = evaluate(model.to(device), sample, meta.mean, meta.std)
    click.echo(f"{run}: {accuracy:.2f}% of {len(sample)} test images (epoch {meta.epoch})")
