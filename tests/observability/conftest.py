from __future__ import annotations

from tests.chaos.conftest import cluster

__all__ = ["cluster"]
