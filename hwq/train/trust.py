"""Whether the model file that a checkpoint names may be run: it is code, and may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwq.errors import InputError
from hwq.models import MODELS, PREFIX, VISION, code_of, located, split


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the user said. model: the network to build instead of the one that a checkpoint names; everything:
    run whatever file it names.
    """

    model: str | None = None
    everything: bool = False

    @property
    def others(self) -> Trust:
        """The same about other checkpoints than the one that the user named a network for."""
        return Trust(everything=self.everything)


def allowed(name: str, code: Mapping[str, str], source: Path | str, trust: Trust | None = None) -> str:
    """The name of the network to build for a checkpoint that names `name`.

    code: the digests of model files that it records. A file runs unasked only where it is the one that
    trained the network: of the same path and content. Raises InputError.
    """
    trust = trust or Trust()
    if trust.model is not None:
        return located(trust.model)
    parts = split(name)
    if parts is None or trust.everything:
        return name
    path, factory = parts
    if str(path) not in code:
        why = "is not recorded as the file that trained it"
    elif str(path) != str(path.resolve()):
        why = "is no plain absolute path, so any file could lie there"
    elif not path.is_file():
        raise InputError(
            f"{source}: its network is code, {path}, and no such file is there; name it with "
            f"--model FILE.py:{factory}"
        )
    elif code_of(name)[str(path)] != code[str(path)]:
        why = "is not the file that trained it: its SHA-256 differs"
    else:
        return name
    raise InputError(
        f"{source}: its network is code, and {path} {why}; to run it, name it with --model {name}, "
        "or say --trust"
    )


def built_in(name: str) -> bool:
    """Whether building the network runs no file, so that it can be built to be looked at."""
    return name in MODELS or name in VISION or name.startswith(PREFIX)
