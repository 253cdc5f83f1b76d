"""From an atomic-resolution STEM image of a 2D material to its defects, their structures and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemfit.analysis import Analysis
    from stemfit.api import analyze, open

__all__ = ["Analysis", "analyze", "open"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for: `stemfit --help` and every submodule stay light."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("stemfit.analysis" if name == "Analysis" else "stemfit.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names of the package, those that load late included."""
    return sorted({*globals(), *__all__})
