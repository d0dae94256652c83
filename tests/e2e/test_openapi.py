"""The service against its own OpenAPI document: schemathesis asks whatever the document allows, and what it forbids."""

import subprocess
import sys

import pytest

from .conftest import serving

pytestmark = pytest.mark.slow
pytest.importorskip("schemathesis", reason="the extra lint is not installed")

# No schema can say which bytes are an image, and a flag may be `1` or empty besides what a boolean is.
SAID_IN_WORDS = "positive_data_acceptance,negative_data_rejection"


def test_nothing_is_answered_that_the_document_does_not_name(tmp_path):
    with serving(tmp_path, "--models", "mnist-transparent,identity", "--max-pixels", "100000") as served:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "--checks", "all"]
        limits = ["--exclude-checks", SAID_IN_WORDS, "--max-examples", "200", "--seed", "1", "--continue-on-failure"]
        done = subprocess.run([*command, *limits, "--no-color"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "POST /purify 200" in served.said
        assert "Traceback" not in served.said
