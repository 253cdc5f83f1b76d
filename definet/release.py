"""Which release this is."""

from importlib import metadata


def version() -> str:
    """Version of the installed package; "unreleased" for a checkout that is not installed."""
    try:
        return metadata.version("stemfit")
    except metadata.PackageNotFoundError:
        return "unreleased"
