"""A real Slurm cluster for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import SlurmCluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes of a Slurm cluster on this machine, for the whole session."""
    absent = missing()
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed (Debian: slurmctld slurmd slurm-client munge)")
    its = SlurmCluster()
    try:
        yield its.start()
    finally:
        its.stop()
