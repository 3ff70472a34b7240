"""A run's network at other bit widths and in any format, for `hwq sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwq.errors import InputError
from hwq.files import digest

if TYPE_CHECKING:
    import torch

    from hwq.data import DataSpec, Images
    from hwq.fixed import LiteralFormat
    from hwq.lower import Lowered
    from hwq.sweep import Candidate, Point
    from hwq.train.checkpoint import Meta
    from hwq.train.trust import Trust

FOLDER = "sweep-bits"
"""Beside the results: run folders of the requantised networks."""
_CALIBRATION_IMAGES = 256


class Networks:
    """Restores RUN, quantises it again where bits are asked for, lowers it. Raises InputError.

    data: other data than the run's own. out: where the results go. code: whether its model file may run.
    """

    def __init__(
        self,
        run: Path,
        edge: LiteralFormat,
        off_bits: int | None,
        data: str | None,
        out: Path,
        code: Trust,
    ) -> None:
        from hwq.data import DataSpec
        from hwq.train.checkpoint import find, load

        self.run, self.edge, self.off_bits, self.out, self.code = run, edge, off_bits, out, code
        self.path = find(run)
        self.meta: Meta = load(self.path).meta
        self.checkpoint = digest(self.path)
        self.spec: DataSpec = DataSpec.parse(data, like=self.meta.data) if data else self.meta.data
        self._models: dict[str, tuple[torch.fx.GraphModule, list[torch.Tensor]]] = {}

    def images(self, count: int | None) -> Images:
        """Test images, or a sample of so many."""
        from hwq.data import load_split

        split = load_split(self.spec, "test")
        if split.shape != self.meta.image_shape:
            sizes = ("x".join(map(str, size)) for size in (self.meta.image_shape, split.shape))
            raise InputError("the network takes images of {}, the data holds {}".format(*sizes))
        return split.head(count) if count else split.head(len(split))

    def folder(self, bits: str) -> Path:
        """The run that holds the network of these bits."""
        if not bits:
            return self.run
        return self.out / FOLDER / f"w{bits.replace('/', 'a')}-{self.checkpoint[:12]}"

    def model(self, bits: str) -> tuple[torch.fx.GraphModule, list[torch.Tensor]]:
        """The network, and images for ranges of tensors that were off."""
        if bits not in self._models:
            model = self._restored(bits)
            self._models[bits] = model, self._calibration(model)
        return self._models[bits]

    def _restored(self, bits: str) -> torch.fx.GraphModule:
        from hwq.train.checkpoint import LAST, save_checkpoint
        from hwq.train.posttraining import requantise
        from hwq.train.restore import restore

        if not bits:
            return restore(self.path, self.code)[0]
        folder = self.folder(bits)
        if not (folder / LAST).is_file():
            weights, acts = map(int, bits.split("/"))
            model, meta = requantise(self.path, weights, acts, trust=self.code)
            folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(folder / LAST, meta, model, {})
        return restore(folder, self.code)[0]

    def _calibration(self, model: torch.fx.GraphModule) -> list[torch.Tensor]:
        import torch

        from hwq.data import load_split
        from hwq.quant import off_tensors
        from hwq.train.restore import Normalise

        if self.off_bits is None or not off_tensors(model):
            return []
        pixels = load_split(self.spec, "train").head(_CALIBRATION_IMAGES).pixels
        return [Normalise(self.meta.mean, self.meta.std, "cpu")(torch.from_numpy(pixels))]

    def lowered(self, point: Point) -> Lowered:
        from hwq.lower import lower

        model, batches = self.model(point.bits)
        height, width, channels = self.meta.image_shape
        return lower(
            model,
            shape=(channels, height, width),
            mean=self.meta.mean,
            std=self.meta.std,
            formats=point.formats(self.edge),
            off_bits=self.off_bits,
            batches=batches,
            allow_lossy=True,
            name=Path(self.meta.model).stem,
        )

    def candidate(self, point: Point) -> Candidate:
        """What a sweep measures."""
        from collections import Counter

        from hwq.sweep import Candidate

        done = self.lowered(point)
        return Candidate(
            graph=done.graph,
            real=done.report.real,
            saturated=len(done.report.saturated),
            vanished=len(done.report.vanished),
            harmful=Counter(issue.op for issue in done.report.harmful),
        )
