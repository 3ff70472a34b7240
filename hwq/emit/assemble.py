"""Puts a project together: network, files, manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq import __version__, assets
from hwq.emit.fifo import set_depths
from hwq.emit.folding import Folding, complete
from hwq.emit.kernels import KERNELS
from hwq.emit.names import clean
from hwq.emit.plan import Network, OpHeader, Process, Stream
from hwq.emit.project import GRAPH, MANIFEST, Project, manifest_digest
from hwq.emit.render import environment, render
from hwq.emit.tables import ctype, dat, npy
from hwq.errors import UnsupportedError
from hwq.ir import Conv2d, Graph, Linear, Op, Requantize, verify

ABI = 1
PART = "xc7z020clg484-1"
PERIOD_NS = "5"


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden vectors of a few images for the test bench.

    pixels: (n, H, W, C) uint8. codes: op name -> (n, *shape) integers; the output at least.
    """

    pixels: npt.NDArray[np.uint8]
    codes: Mapping[str, npt.NDArray[Any]]


def emit(
    graph: Graph,
    *,
    folding: Mapping[str, Folding] | None = None,
    golden: Golden | None = None,
    fixed: str = "",
    edge_fixed: str = "",
    round: str = "",
    layers: Sequence[str] = (),
    off_bits: int | None = None,
    data: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | None = None,
    extra: Mapping[str, bytes] | None = None,
    bound: Callable[[str], bytes] | None = None,
    part: str = PART,
    period_ns: str = PERIOD_NS,
) -> Project:
    """The project of a legal graph.

    folding: layers it leaves out get the default. fixed, edge_fixed, round, layers (PATTERN=FORMAT),
    off_bits, data, accuracy: what the manifest says of the export. extra: more files for the project.
    bound: graph.json, from the manifest's digest, which it states. Raises InputError for a folding that does
    not divide, UnsupportedError for codes or sums that no C++ build can hold.
    """
    verify(graph)
    _check_types(graph)
    chosen = complete(graph, folding)
    net = Network(graph, chosen)
    for op in graph:
        KERNELS[type(op)](net, op)
    set_depths(net.processes, net.streams)
    meta = {
        "fixed": fixed,
        "edge_fixed": edge_fixed,
        "round": round,
        "layers": list(layers),
        "off_bits": off_bits,
    }
    return _assemble(net, golden, meta, data or {}, accuracy or {}, extra or {}, bound, (part, period_ns))


def _check_types(graph: Graph) -> None:
    for op in graph:
        if ctype(op.out.type) is None:
            raise UnsupportedError(
                f"op '{op.name}': codes of {op.out.type.bits} bits; the C++ simulation records 64 at most; "
                "choose fewer bits for its inputs or weights"
            )


def _assemble(
    net: Network,
    golden: Golden | None,
    meta: Mapping[str, Any],
    data: Mapping[str, Any],
    accuracy: Mapping[str, Any],
    extra: Mapping[str, bytes],
    bound: Callable[[str], bytes] | None,
    target: tuple[str, str],
) -> Project:
    graph = net.graph
    top = f"{clean(graph.name)}_top"
    ops = [_describe(net, op) for op in graph]
    ports = _ports(net)
    context = {
        **meta,
        **ports,
        "top": top,
        "version": __version__,
        "ops": ops,
        "headers": [h.cname for h in net.headers],
        "streams": [s for s in net.streams if not s.port],
        "parts": net.parts,
        "macs": f"{sum(op.macs for op in graph if isinstance(op, Conv2d | Linear)):,}",
        "golden": 0 if golden is None else len(golden.pixels),
        "part": target[0],
        "period": target[1],
    }
    env = environment()
    files: dict[str, bytes] = {}
    constants: dict[str, str] = {}
    for name in ("top.h", "top.cpp"):
        files[f"firmware/{name.replace('top', top)}"] = render(env, f"{name}.j2", context)
    files["firmware/project.h"] = render(env, "project.h.j2", context)
    for header in net.headers:
        path = f"firmware/ops/{header.cname}.h"
        files[path] = render(env, header.template, _header_context(header))
        if header.tables:
            constants[path] = header.op
    for name in ("vitis_hls.tcl", "vivado_hls.tcl", "hls_config.cfg", "README.md"):
        files[name] = render(env, f"{name}.j2", context)
    for kind in ("hls", "sim"):
        files |= {f"{kind}/{name}": content for name, content in assets.files(kind).items()}
    files |= _weights(net, constants)
    files |= _golden(net, golden)
    files |= extra
    manifest: dict[str, Any] = {
        "hwq": __version__,
        "abi": ABI,
        "name": graph.name,
        "top": top,
        "sources": ["sim/bridge.cpp", f"firmware/{top}.cpp"],
        "includes": ["firmware", "hls", "sim"],
        "ops": [
            {k: op[k] for k in ("name", "kind", "cname", "shape", "bits", "signed", "ctype")} for op in ops
        ],
        "files": {name: _sha256(files[name]) for name in sorted(files)},
        "constants": constants,
        "folding": {name: [f.pe, f.simd] for name, f in net.folding.items()},
        **meta,
        "data": dict(data),
        "accuracy": dict(accuracy),
    }
    manifest["digest"] = manifest_digest(manifest)
    if bound is not None:
        files[GRAPH] = bound(manifest["digest"])
        manifest["files"][GRAPH] = _sha256(files[GRAPH])
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return Project(files)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _describe(net: Network, op: Op) -> dict[str, Any]:
    spec = op.out
    folding = net.folding.get(op.name)
    held = ctype(spec.type)
    assert held is not None
    return {
        "name": op.name,
        "kind": type(op).__name__,
        "cname": net.cnames[op.name],
        "shape": list(spec.shape),
        "shape_text": " x ".join(map(str, spec.shape)),
        "bits": spec.type.bits,
        "signed": spec.type.signed,
        "ctype": held,
        "bytes": np.dtype(held).itemsize,
        "size": spec.size,
        "type": str(spec.type),
        "folding": "" if folding is None else f"{folding.pe}, {folding.simd}",
    }


def _ports(net: Network) -> dict[str, dict[str, str]]:
    first, last = (stream for stream in net.streams if stream.port)
    if last.name == f"s_{net.cnames[net.graph.input.name]}":
        first, last = last, first
    found = {}
    for key, stream, op in (("input", first, net.graph.input), ("output", last, net.graph.output)):
        shape = " x ".join(map(str, op.out.shape))
        found[key] = {
            "name": stream.name,
            "type": stream.element,
            "lanes": str(stream.lanes),
            "note": f"{shape} codes {op.out.type}, channels last",
        }
    return found


def _header_context(header: OpHeader) -> dict[str, object]:
    return {
        "op": header.op,
        "cname": header.cname,
        "kind": header.kind,
        "includes": header.includes,
        "configs": header.configs,
        "tables": header.tables,
        **header.extra,
    }


def _weights(net: Network, constants: dict[str, str]) -> dict[str, bytes]:
    """The integers once more, for people who want just them."""
    owner = {net.cnames[op.name]: op.name for op in net.graph if isinstance(op, Conv2d | Linear | Requantize)}
    files = {}
    for name, values in net.raw.items():
        for suffix, content in (("npy", npy(values)), ("dat", dat(values))):
            path = f"weights/{name}.{suffix}"
            files[path] = content
            constants[path] = owner[name.partition(".")[0]]
    return files


def _golden(net: Network, golden: Golden | None) -> dict[str, bytes]:
    if golden is None:
        return {}
    files = {"tb_data/pixels.dat": dat(golden.pixels.astype(np.int64))}
    for name, codes in golden.codes.items():
        files[f"tb_data/{net.cnames[name]}.dat"] = dat(codes)
    return files


__all__ = ["ABI", "Golden", "Process", "Stream", "emit"]
