"""The version, read by the build and sent as part of the User-Agent header."""

__version__ = "0.1.0"
