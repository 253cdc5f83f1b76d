"""What each process of a test with several does: train, and write down the weights that it ends with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from relaxations import SMALL, some

from definet.train import joined, provenance, train

# SOAP's eigenvectors of equal eigenvalues hang on rounding, which differs between one sum and two.
CONFIG = replace(SMALL, steps=6, batch=4, validate_every=3, lr=1e-4, optimizer="adamw")

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with joined(torch.device("cpu")) as (processes, device):
        best = train(
            some(), some()[:3], CONFIG, folder / "two", provenance(some(), "hash"), device=device, processes=processes
        )
        torch.save(dict(best.weights), folder / f"rank{processes.rank}.pt")
