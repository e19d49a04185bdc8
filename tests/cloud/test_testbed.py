"""lab/testbed/testbed.py: real Keystone and Barbican answer, on both pairs of releases."""

from pathlib import Path

import pytest
import requests

from lab.testbed.testbed import Options, Testbed

BUILD = Path(__file__).parents[2] / "build"


@pytest.mark.parametrize("venv", ["cloud-venv", "cloud-2025.1-venv"])
def test_both_services_answer_and_end(venv: str) -> None:
    """Keystone tells its version, Barbican refuses a caller without a token; at the end both are gone."""
    with Testbed(Options(venv=BUILD / venv)) as testbed:
        places = testbed.places
        assert requests.get(places.auth_url, timeout=10).json()["version"]["id"].startswith("v3")
        assert requests.get(f"{places.barbican_url}/v1/secrets", timeout=10).status_code == 401
    assert not places.directory.exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(places.auth_url, timeout=10)
