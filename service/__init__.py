"""A self-hosted SMS gateway: accept -> deliver (screen, route, submit) -> receive -> notify."""

__version__ = "0.1.0"
