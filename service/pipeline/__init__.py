"""The story of a message: accept -> deliver (screen, route, submit) -> receive -> notify. Read deliver.py first."""
