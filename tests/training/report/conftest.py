"""A project of one record, whose tables are written."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from arn_purify import models
from arn_purify.models import Card

from ..subjects import measure, subject

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path, split):
    """A copy of what the tables are made of, with one record."""
    shutil.copytree(ROOT / "results" / "paper", tmp_path / "results" / "paper")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copy(ROOT / "docs" / "choosing.md", tmp_path / "docs")
    chosen = subject(models.Identity(), Card("identity", "purifier", "x", {}, "", (0, 0, 0)))
    record = dataclasses.replace(measure(chosen, split, tmp_path), dataset="mnist")
    return tmp_path, record.write(tmp_path / "results")
