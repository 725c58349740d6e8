"""What is said of the project to other programs, and the packages that are built from it."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import import_module
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from conftest import REPOSITORY
from robust_stitching import __version__
from robust_stitching.command_line.calling import CONSOLE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = REPOSITORY / "src"


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


# What other programs read


def requirements(name):
    """The lines of a file of requirements, by the names of the packages."""
    lines = (line.split("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines())
    wanted = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    return {requirement.name: requirement for requirement in wanted}


def test_what_is_installed_is_what_the_clone_has(pyproject):
    """Where the clone has one version alone, it is one that the package takes."""
    package = {r.name: r for r in map(Requirement, pyproject["project"]["dependencies"])}
    clone = requirements("requirements.txt")
    assert list(package) == list(clone)
    for name, requirement in clone.items():
        pins = [part.version for part in requirement.specifier if part.operator == "=="]
        assert all(pin in package[name].specifier for pin in pins)
        assert pins or requirement.specifier == package[name].specifier


def test_every_extra_is_a_file_of_requirements(pyproject):
    assert "optional-dependencies" in pyproject["project"]["dynamic"]
    extras = pyproject["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    files = {path.name for path in REPOSITORY.glob("requirements-*.txt")} - {"requirements-dev.txt"}
    assert {f"requirements-{name}.txt" for name in extras} == files
    assert all(of == {"file": [f"requirements-{name}.txt"]} for name, of in extras.items())


def test_the_command_that_is_installed(pyproject):
    ((name, place),) = pyproject["project"]["scripts"].items()
    module, function = place.split(":")
    assert callable(getattr(import_module(module), function))
    assert name == CONSOLE


def test_the_version_stands_once(pyproject):
    assert "version" in pyproject["project"]["dynamic"]
    named = pyproject["tool"]["setuptools"]["dynamic"]["version"]
    assert named == {"attr": "robust_stitching.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert not re.search(r"^version:", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)


def test_the_pythons_are_the_same_everywhere(pyproject):
    kind = "Programming Language :: Python :: 3."
    classifiers = pyproject["project"]["classifiers"]
    minors = [int(name.removeprefix(kind)) for name in classifiers if name.startswith(kind)]
    first, last = minors[0], minors[-1]
    assert minors == list(range(first, last + 1))
    assert pyproject["project"]["requires-python"] == f">=3.{first}"
    assert pyproject["tool"]["ruff"]["target-version"] == f"py3{first}"
    workflow = (REPOSITORY / ".github/workflows/tests.yml").read_text()
    assert json.loads(re.search(r"python: (\[.*\])", workflow)[1]) == [f"3.{m}" for m in minors]
    assert f"python>=3.{first},<3.{last + 1}\n" in (REPOSITORY / "environment.yml").read_text()
    assert f"Python 3.{first} to 3.{last}" in (REPOSITORY / "README.md").read_text()


def test_the_citation():
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the format wants
    assert cited["authors"] == [{"name": "The robust-stitching authors"}]
    (paper,) = cited["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Balogh", "Jelasity"]
    assert paper["title"] in " ".join((REPOSITORY / "README.md").read_text().split())


@pytest.mark.parametrize("name", [".github/workflows/tests.yml", ".pre-commit-config.yaml"])
def test_files_of_yaml_are_well_formed(name):
    yaml = pytest.importorskip("yaml")
    assert isinstance(yaml.safe_load((REPOSITORY / name).read_text()), dict)


# What is built


def run(*command, cwd, **environment):
    """The output of a command that has to succeed, without our paths in its environment."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The project as a clone has it, in a folder of its own: a build leaves things behind."""
    folder = tmp_path_factory.mktemp("tree") / "clone"
    folder.mkdir()
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    for path in REPOSITORY.glob("requirements*.txt"):
        shutil.copy(path, folder)
    for name in ("src", "tests", "config"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def wheel(tree):
    run(*PIP, "wheel", ".", "--no-deps", "-w", "wheels", cwd=tree)
    (path,) = (tree / "wheels").iterdir()
    return path


@pytest.fixture
def environment(tmp_path):
    """A new environment, in which the packages that the tests run with can be imported, too."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=True, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return SimpleNamespace(bin=folder / "bin", packages=packages)


def contents(wheel):
    """What is in a wheel: name to checksum."""
    with zipfile.ZipFile(wheel) as file:
        return {info.filename: info.CRC for info in file.infolist()}


@pytest.mark.slow
def test_a_wheel_has_the_library_and_nothing_else(wheel):
    names = set(contents(wheel))
    about = {name for name in names if name.startswith(f"robust_stitching-{__version__}.dist-info")}
    package = SOURCE / "robust_stitching"
    library = [*package.rglob("*.py"), package / "report/grid/page.html"]
    assert names - about == {str(path.relative_to(SOURCE)) for path in library}
    assert any(name.endswith("/licenses/LICENSE") for name in about)


@pytest.mark.slow
def test_an_sdist_makes_the_same_wheel(wheel, tree, environment, tmp_path, pyproject):
    run(environment.bin / "pip", "install", *pyproject["build-system"]["requires"], cwd=tmp_path)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    run(environment.bin / "python", "-c", build, cwd=tree)
    (sdist,) = tmp_path.glob("*.tar.gz")
    run(*PIP, "wheel", sdist, "--no-deps", "-w", tmp_path / "wheels", cwd=tmp_path)
    (again,) = (tmp_path / "wheels").iterdir()
    assert contents(again) == contents(wheel)


IMPORTED = """
from importlib.metadata import version
import robust_stitching
print(robust_stitching.__file__, robust_stitching.__version__, version("robust-stitching"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True])
def test_an_installation_works_from_anywhere(editable, wheel, tree, environment, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    package = ("-e", tree) if editable else (wheel,)
    run(environment.bin / "pip", "install", "--no-deps", *package, cwd=tmp_path)
    imported = run(environment.bin / "python", "-c", IMPORTED, cwd=work).split()
    place = tree / "src" if editable else environment.packages
    assert imported == [str(place / "robust_stitching/__init__.py"), __version__, __version__]

    def call(*args):
        return run(environment.bin / CONSOLE, *args, cwd=work, HOME=str(tmp_path))

    root = tree if editable else work
    network = root / "snapshots/tiny10/Digits/in0-gn0/model.pt"
    assert "eval-net-robustness" in call()
    call("train", "-d", "digits", "-m", "tiny10", "-e", "1")
    call("eval-net", network, "--json", "told.json")
    assert 0 < json.loads((work / "told.json").read_text())["accuracy"] <= 1
    stitch = ["find-transform", network, network, "bn3", "bn3", "digits", "--run-name", "x"]
    call(*stitch, "-e", "1", "--no-robustness")
    (report,) = (root / "results/x/json").iterdir()
    record = json.loads(report.read_text())
    assert record["command"].startswith(f"robust-stitching find-transform {network} ")
    assert record["commit"] is None  # neither of the two lies in a repository
    assert record["versions"]["robust_stitching"] == __version__
    left = {"told.json"} if editable else {"told.json", "snapshots", "results"}
    assert {path.name for path in work.iterdir()} == left
