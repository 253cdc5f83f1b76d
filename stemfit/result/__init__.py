"""All that is said of one image, to and from disk: the result contract.

A result is a folder. `write` makes it as a whole or not at all, `read` gives back its `analysis.json`.
"""

from stemfit.result.document import SCHEMA, agreement, document
from stemfit.result.findings import Findings, HostCall
from stemfit.result.folder import check_place, read, write

__all__ = ["SCHEMA", "Findings", "HostCall", "agreement", "check_place", "document", "read", "write"]
