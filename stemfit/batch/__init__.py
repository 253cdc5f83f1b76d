"""Many images: each in isolation, one result each, resumed by construction; local processes or a Dask cluster.

Truth is what stands on disk (`store`); tables, index and gallery are made from it (`derive`).
"""

from stemfit.batch.plan import Plan, Request
from stemfit.batch.run import Ended, Watch, look, run

__all__ = ["Ended", "Plan", "Request", "Watch", "look", "run"]
