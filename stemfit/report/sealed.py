"""Pages that load nothing: styles and scripts stand in them, and a policy that holds their hashes forbids all else."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

ASSETS = Path(__file__).parent / "assets"

POLICY = (
    "default-src 'none'; img-src {images}; script-src {scripts}; style-src {styles}; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)


def policy(scripts: list[str], styles: list[str], images: str = "data:") -> str:
    """Content-Security-Policy of a page with these scripts and style sheets, and images from there."""
    scripts_known, styles_known = (" ".join(map(fingerprint, some)) for some in (scripts, styles))
    return POLICY.format(images=images, scripts=scripts_known, styles=styles_known)


def environment(package: str) -> Environment:
    """Templates of a package; everything is escaped unless it says itself that it is safe."""
    return Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


@cache
def asset(name: str, folder: Path = ASSETS) -> str:
    """A file that stands in the page as it is."""
    return (folder / name).read_text(encoding="utf-8")


def fingerprint(text: str) -> str:
    """How a Content-Security-Policy names a script or a style sheet."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def json_block(values: Any) -> str:
    """JSON that may stand in a script element: no text can close it, whatever it says."""
    import json

    text = json.dumps(values, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
