"""Fixture of the grading tests: the data folder beside the checkout."""

import json
import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("SRT_JAX_TEST_DATA") or Path(__file__).resolve().parents[2] / ".." / "shared" / "data")


@pytest.fixture
def rows():
    """Returns a function: file name -> rows of that JSONL file. It skips the test if the file is missing."""

    def load(name: str) -> list[dict]:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not in {DATA}; set SRT_JAX_TEST_DATA to the folder that has it")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return load
