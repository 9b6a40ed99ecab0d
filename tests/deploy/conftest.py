from __future__ import annotations

import pytest

from tests.deploy.rendered import K8S, Cluster, need_kubectl, render


@pytest.fixture(scope="session", params=["dev", "production"])
def overlay(request: pytest.FixtureRequest) -> str:
    need_kubectl()
    return str(request.param)


@pytest.fixture(scope="session")
def cluster(overlay: str) -> Cluster:
    """What each overlay comes to, one after the other."""
    return Cluster(render(K8S / "overlays" / overlay))


@pytest.fixture(scope="session")
def production() -> Cluster:
    need_kubectl()
    return Cluster(render(K8S / "overlays" / "production"))
