"""A wheel holds the released weights, and an installed package finds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import ROOT

from . import places

SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "src")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sources as they stand, with a tiny release in place of the real one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name, **({"ignore": shutil.ignore_patterns("*.egg-info")} if source.is_dir() else {}))
    (folder / "made").mkdir()
    places.make(folder / "made")
    shutil.move(folder / "made/weights", folder / "weights")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", "out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next((folder / "out").glob("*.whl"))


def test_an_installed_package_restores_without_a_clone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site/instruct_ipt/weights/backbone.safetensors").is_file()
    code = (
        "import numpy as np, instruct_ipt\n"
        "from instruct_ipt.restoration import Restorer\n"
        "from instruct_ipt.restoration.weights import find_weights\n"
        "print(find_weights())\n"
        "np.save('out.npy', Restorer.load(device='cpu').restore(np.load('in.npy'), 'derain'))\n"
    )
    image = np.random.default_rng(0).random((40, 48, 3), dtype=np.float32)
    np.save(tmp_path / "in.npy", image)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "site/instruct_ipt/weights")
    assert np.load(tmp_path / "out.npy").shape == image.shape
