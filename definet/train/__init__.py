"""Train the network on pairs of unrelaxed and relaxed structures: one loop, resumable, on one or several processes."""

from definet.train.config import TrainConfig, learning_rate
from definet.train.examples import Example, example
from definet.train.loop import train
from definet.train.processes import Processes, joined
from definet.train.run import Progress, provenance

__all__ = [
    "Example",
    "Processes",
    "Progress",
    "TrainConfig",
    "example",
    "joined",
    "learning_rate",
    "provenance",
    "train",
]
