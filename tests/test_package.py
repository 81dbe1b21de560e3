"What is published: an sdist and a wheel that hold the package and nothing else, and that work alone."
import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="no git")
MODULES = {f"pfgm/{path.name}" for path in (ROOT / "pfgm").iterdir() if path.suffix == ".py" or path.name == "py.typed"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "Both, built from what git tracks, the wheel from the sdist, as `python -m build` does."
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        if not name.startswith(("nbs/", "results/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    done = subprocess.run([sys.executable, "-m", "build", "-o", out, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_they_hold_the_package_and_nothing_superfluous(built):
    with tarfile.open(built[0]) as sdist, zipfile.ZipFile(built[1]) as wheel:
        source = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
        installed = set(wheel.namelist())
    source = {name for name in source if not name.startswith("pfgm.egg-info") and name != "pfgm"}
    assert source == MODULES | {"CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml",
                                "settings.ini", "setup.cfg", "setup.py"}
    assert {name for name in installed if ".dist-info/" not in name} == MODULES
    assert any(name.endswith("licenses/LICENSE") for name in installed)


def test_their_metadata_are_in_order(built):
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_alone_fits_a_table_and_samples(built, tmp_path):
    "In a fresh environment outside the clone, with the core requirements only."
    python = tmp_path / "venv" / "bin" / "python"
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", built[1], "-c", ROOT / "constraints.txt"], check=True,
                   env=alone)
    program = ("import pfgm, numpy as np; x = np.random.default_rng(0).normal(size=(50, 3)) * 9 + 100;"
               "print(pfgm.__file__, pfgm.fit(x, steps=20, progress=False).sample(4).shape)")
    done = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=alone)
    assert done.returncode == 0 and f"{tmp_path}/venv" in done.stdout and "[4, 3]" in done.stdout, done.stdout + done.stderr
    shutil.rmtree(tmp_path / "venv")


def pins(name: str) -> dict:
    "Package -> version in a file of constraints."
    return dict(line.split("==") for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if "==" in line)


def test_requirements_are_pinned_as_tested_and_their_lower_bounds_too():
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    groups = {name: value.split() for name, value in settings["DEFAULT"].items() if name.endswith("requirements")}
    words = [word for group in groups.values() for word in group]
    assert {re.split("[<>=]", word)[0] for word in words} <= pins("constraints.txt").keys()
    bounds, lowest = dict(word.split(">=") for word in words if ">=" in word), pins("constraints-lowest.txt")
    assert {word.split(">=")[0] for word in groups["requirements"]} <= lowest.keys()
    assert all((version + ".0").startswith(bounds[name] + ".") for name, version in lowest.items())
