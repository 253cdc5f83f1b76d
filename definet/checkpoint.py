"""Weights that explain themselves: one safetensors file with architecture, cutoff, units, training range and scores."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from definet.exceptions import ModelError, OutputError
from definet.model import DefiNet, ModelConfig

FloatArray = NDArray[np.float64]

FORMAT = "definet.checkpoint/3"
IMPORT = "stemfit model import FILE --out M.safetensors"
_KEY = "definet"
_MOST = 10_000
"""Bound of all counts of an architecture: what exceeds it is damage, not a network."""
_SHIPPED = Path(__file__).parent / "weights" / "definet.safetensors"


@dataclass(frozen=True)
class HostRange:
    """What the network saw of one host.

    Attributes
    ----------
    a_A : float
        In-plane lattice constant of the training structures, Angstrom.
    elements : tuple of str
        Every element on any node, vacancy nodes included.
    kinds : tuple of str
        Kinds of defects, as `kinds_of` names them; empty: not known.
    structures : int
        Training structures of this host; 0: not known.
    density : float
        Largest share of nodes that were exchanged, added or empty, lines and trefoils aside; 0: not known.
    narrowest : float
        Least distance between opposite sides of a supercell, in lattice constants; 0: not known.
    sizes : mapping of str to int
        Largest of each kind that comes in sizes: sites of a line, metals of a trefoil, {"SVL": 8, "T": 3}.
    """

    a_A: float
    elements: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    structures: int = 0
    density: float = 0.0
    narrowest: float = 0.0
    sizes: Mapping[str, int] = field(default_factory=dict)


def kinds_of(label: str) -> frozenset[str]:
    """Kinds of defects in a label, sizes aside: "V_S+V_S" -> {"V_S"}, "SVL-4" -> {"SVL"}, "T2-484" -> {"T-484"}."""
    parts = (re.sub(r"(?<=VL)-\d+$|^\d+(?=[A-Z])", "", part) for part in label.split("+"))
    return frozenset(re.sub(r"^T\d+", "T", part) for part in parts) - {"pristine"}


def width_A(cell: FloatArray) -> float:
    """Least distance between opposite sides, in plane, of a cell (3, 3), rows, Angstrom."""
    a, b, _ = cell
    return float(np.linalg.norm(np.cross(a, b)) / max(np.linalg.norm(a), np.linalg.norm(b)))


def sizes_of(label: str) -> dict[str, int]:
    """Sizes of what comes in sizes: "SVL-4+T2-484+SVL-3" -> {"SVL": 4, "T-484": 2}."""
    found: dict[str, int] = {}
    for part in label.split("+"):
        match = re.fullmatch(r"([SDC]VL)-(\d+)|T(\d+)(-484)?", part)
        if match is not None:
            kind = match[1] or "T" + (match[4] or "")
            found[kind] = max(found.get(kind, 0), int(match[2] or match[3]))
    return found


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    Attributes
    ----------
    hosts : mapping of host name to HostRange
        Empty: not known.
    teacher : str
        Who relaxed the training structures; "not known".
    data_sha256 : str
        Hash of the training set, or of each folder of it; empty: not known.
    version : str
        Release that trained them; empty: another program.
    start_sha256 : str
        Hash of the weights that training began with; empty: random ones, or not known.
    """

    hosts: Mapping[str, HostRange]
    teacher: str
    data_sha256: str = ""
    version: str = ""
    start_sha256: str = ""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and what must be known to use it.

    Attributes
    ----------
    config : ModelConfig
    weights : mapping of parameter name to float32 tensor
    provenance : Provenance
    scores : mapping
        Errors on held-out configurations, see `definet.evaluate`, and `validation_A`, by which training chose.
    sha256 : str
        Hash of the file that was read; empty: not read from one.
    """

    config: ModelConfig
    weights: Mapping[str, Tensor]
    provenance: Provenance
    scores: Mapping[str, float] = field(default_factory=dict)
    sha256: str = ""

    @property
    def hosts(self) -> Mapping[str, HostRange]:
        """What it saw of each host."""
        return self.provenance.hosts

    def network(self, device: torch.device | str = "cpu") -> DefiNet:
        """Build the network with these weights, ready to predict.

        Raises
        ------
        ModelError
            If the weights do not fit the architecture.
        """
        net = DefiNet(self.config)
        try:
            net.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise ModelError(f"weights and architecture do not belong together: {_one_line(error)}") from error
        return net.eval().requires_grad_(False).to(device)


PUBLISHED_HOSTS: Mapping[str, HostRange] = {
    "MoS2": HostRange(3.19032, ("Mo", "S", "Se", "W"), density=0.125),
    "WSe2": HostRange(3.32707, ("Mo", "S", "Se", "W"), density=0.125),
    "hBN": HostRange(2.51243, ("B", "C", "N"), density=0.125),
    "GaSe": HostRange(3.81907, ("Ga", "In", "S", "Se"), density=0.125),
    "InSe": HostRange(4.09647, ("Ga", "In", "S", "Se"), density=0.125),
    "blackP": HostRange(3.29992, ("N", "P"), density=0.125),
}
"""Range of the published training set (2DMD, Zenodo 14027373): PBE lattice constants, substitutes of each host, at most
12.5 % of the sites changed."""
PUBLISHED = Provenance(PUBLISHED_HOSTS, "PBE")
"""Of weights that are said to be the authors' own; no file shows it."""
NOT_KNOWN = "not known"
UNKNOWN = Provenance({}, NOT_KNOWN)


def shipped() -> Path:
    """Path of the weights that come with the package; see MODEL_CARD.md beside them."""
    return _SHIPPED


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write one safetensors file; weights as float32, units Angstrom.

    Raises
    ------
    OutputError
    """
    about = {
        "format": FORMAT,
        "units": "angstrom",
        "config": asdict(checkpoint.config),
        "provenance": asdict(checkpoint.provenance),
        "scores": dict(checkpoint.scores),
    }
    tensors = {name: value.detach().cpu().float().contiguous() for name, value in checkpoint.weights.items()}
    staged = path.with_name(f".tmp-{path.name}")
    try:
        staged.write_bytes(serialize(tensors, metadata={_KEY: json.dumps(about)}))
        os.replace(staged, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot be written: {_one_line(error)}", subject=path) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file written by `save_checkpoint`.

    Raises
    ------
    ModelError
        If the file is missing, damaged, of another kind, or holds weights that are not finite.
    """
    tensors, about = _read(path)
    try:
        source = about["provenance"]
        seen = {name: _host_range(values) for name, values in source["hosts"].items()}
        told = {name: str(source[name]) for name in ("teacher", "data_sha256", "version")}
        checkpoint = Checkpoint(
            _config(about["config"]),
            tensors,
            Provenance(seen, **told, start_sha256=str(source.get("start_sha256", ""))),
            {str(name): float(value) for name, value in about["scores"].items()},
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"metadata are incomplete: {_one_line(error)}", subject=path) from error
    return _checked(checkpoint, path)


def import_published(
    path: Path,
    cutoff: float = 6.0,
    basis_cutoff: float = 30.0,
    source: Provenance = UNKNOWN,
) -> Checkpoint:
    """Read a checkpoint in the layout of the authors' training script: a pickled dict of parameters.

    Width, depth and radial functions follow from the shapes. The two cutoffs leave no trace in the weights: their
    defaults are the published configuration, as are self edges. Nor do they say what they were trained on: whoever
    knows states it as the source (`PUBLISHED` of the authors' own), or predictions come with a warning.

    Raises
    ------
    ModelError
        If the file is missing, is no dict of tensors, or its parameters are not those of the network.
    """
    state = _read_pickle(path)
    try:
        config = ModelConfig(
            channels=state["lin_comb.weight"].shape[0],
            layers=len({name.split(".")[1] for name in state if name.startswith("message_passing_layers.")}),
            gaussians=state["message_passing_layers.0.edge_proj.weight"].shape[1],
            cutoff=cutoff,
            basis_cutoff=basis_cutoff,
            elements=state["atom_emb.embeddings.weight"].shape[0],
            self_edges=True,
            smooth=False,
            elastic=False,
        )
    except (KeyError, IndexError) as error:
        raise ModelError(f"not a published DefiNet checkpoint, {_one_line(error)} is missing", subject=path) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = {name: value.float() for name, value in state.items()}
    return _checked(Checkpoint(config, weights, source, sha256=digest), path)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ModelError("is a folder, not a checkpoint", "Name the file of weights in it.", subject=path)
    if not path.is_file():
        raise ModelError("no such checkpoint", subject=path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        about = json.loads(metadata.get(_KEY, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        what = f"not a readable safetensors file: {_one_line(error)}"
        remedy = f"Choose another checkpoint; one of the authors is imported first: {IMPORT}"
        raise ModelError(what, remedy, subject=path) from error
    kind = about.get("format") if isinstance(about, dict) else None
    if kind != FORMAT:
        remedy = f"Choose another checkpoint, or a release that reads {kind}." if kind else ModelError.remedy
        raise ModelError(f"format {kind!r}, {FORMAT!r} is needed", remedy, subject=path)
    if about.get("units") != "angstrom":
        raise ModelError(f"lengths in {about.get('units')!r}, 'angstrom' is needed", subject=path)
    return tensors, about


def _read_pickle(path: Path) -> dict[str, Tensor]:
    _check_file(path)
    _check_no_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # PyTorch's own words advise to run what is in the file
        what = "not a readable PyTorch file of tensors: damaged, of another kind, or it holds more than tensors"
        remedy = "Save the parameters alone: torch.save(net.state_dict(), FILE)."
        raise ModelError(what, remedy, subject=path) from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise ModelError(f"not a readable PyTorch file of tensors: {_one_line(error)}", subject=path) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError("not a dict of parameters", subject=path)
    return dict(state)


def _check_no_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            ours = _KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return
    if ours:
        raise ModelError("is no checkpoint of others, it needs no import", "Give it to --checkpoint.", subject=path)
    raise ModelError("a safetensors file, not a PyTorch file of tensors", subject=path)


def _checked(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    if not all(bool(value.isfinite().all()) for value in checkpoint.weights.values()):
        raise ModelError("weights are not finite", subject=path)
    try:
        with torch.device("meta"):  # no memory is asked for before the sizes are known to be right
            expected = DefiNet(checkpoint.config).state_dict()
        for name, value in expected.items():
            if name in checkpoint.weights and checkpoint.weights[name].shape != value.shape:
                has = tuple(checkpoint.weights[name].shape)
                raise ModelError(f"{name} has the shape {has}, the architecture wants {tuple(value.shape)}")
        checkpoint.network()
    except (ModelError, RuntimeError) as error:
        raise ModelError(f"{_one_line(error)}", subject=path) from error
    return checkpoint


def _config(stored: Mapping[str, Any]) -> ModelConfig:
    """Architecture with values of the kinds that it has by default."""
    config = ModelConfig(**stored)
    for name, default in asdict(ModelConfig()).items():
        value = getattr(config, name)
        if isinstance(default, bool):
            good = isinstance(value, bool)
        elif isinstance(default, int):
            good = type(value) is int and 0 <= value <= _MOST
        else:
            good = type(value) in (int, float) and 0 < value < math.inf
        if not good:
            raise ValueError(f"{name} = {value!r} in the architecture")
    return config


def _host_range(stored: Mapping[str, Any]) -> HostRange:
    a_A, counts = float(stored["a_A"]), (int(stored.get("structures", 0)), float(stored.get("density", 0.0)))
    sizes = {str(kind): int(size) for kind, size in stored.get("sizes", {}).items()}
    if not 0 < a_A < math.inf:
        raise ValueError(f"a lattice constant of {a_A} A")
    narrowest = float(stored.get("narrowest", 0.0))
    return HostRange(a_A, tuple(stored["elements"]), tuple(stored["kinds"]), *counts, narrowest, sizes)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
