"""What several files of tests share: it takes seconds to make."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from input_scenes import backdoored, cohort
from service_scenes import Nursery, gate_of_files

import leadapron as la


@pytest.fixture(scope="session")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    gate_of_files(folder)
    return folder


@pytest.fixture
def gate(model, tmp_path):
    shutil.copytree(model, tmp_path / "service")
    return tmp_path / "service" / "gate.json"


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """A gate whose file is a stand-in, for engines of this process."""
    file = tmp_path_factory.mktemp("gate") / "gate.json"
    file.write_text("{}")
    made = la.calibrate(backdoored(), cohort(), false_alarm=0.02, pictures=True)
    return replace(made.gate, file=file)
