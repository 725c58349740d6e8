"""Where things lie: in a clone, and where the library is installed without one."""

import pytest

from robust_stitching.basics import root as basics_root
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.origin import commit
from robust_stitching.basics.root import checkout, root
from robust_stitching.command_line import collect_results, compare_nets, find_transform, train
from robust_stitching.data import config

INSIDE = "robust_stitching/basics/root.py"


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An empty working directory and an empty home, with nothing set."""
    for name in ("ROBUST_STITCHING_CONFIG", "DATASET_ROOT_PYTORCH", "DATASET_ROOT_CELEBA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def installed(bare, monkeypatch):
    """The same, and the library as if it stood among the packages of a Python."""
    monkeypatch.setattr(basics_root, "__file__", str(bare / "site-packages" / INSIDE))
    return bare


@pytest.fixture
def cloned(bare, monkeypatch):
    """The same, and the library as if it stood in a clone at this place, which is returned."""
    clone = bare / "clone"
    (clone / "src" / "bin").mkdir(parents=True)
    (clone / "pyproject.toml").touch()
    monkeypatch.setattr(basics_root, "__file__", str(clone / "src" / INSIDE))
    return clone


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# The root


def test_the_checkout_is_the_root(cloned):
    assert checkout() == root() == cloned


def test_without_a_checkout_the_working_directory_is_the_root(installed):
    assert checkout() is None
    assert root().resolve() == installed / "work"


@pytest.mark.parametrize("missing", ["pyproject.toml", "src/bin"])
def test_half_a_checkout_is_none(cloned, missing):
    path = cloned / missing
    path.rmdir() if path.is_dir() else path.unlink()
    assert checkout() is None


def test_a_library_at_the_top_of_the_file_system(monkeypatch):
    monkeypatch.setattr(basics_root, "__file__", f"/{INSIDE}")
    assert checkout() is None


DEFAULTS = {
    train: ("snapshots", []),
    find_transform: ("results", ["front.pt", "end.pt", "conv1", "conv1", "digits"]),
    compare_nets: ("results", ["one.pt", "other.pt", "digits"]),
}


@pytest.mark.parametrize("command", DEFAULTS)
def test_what_a_command_leaves_lies_in_the_root(command, installed, monkeypatch):
    folder, arguments = DEFAULTS[command]
    given = command.parser().parse_args(arguments).out_dir
    assert given.resolve() == installed / "work" / folder


def test_runs_are_collected_from_the_root(installed):
    assert collect_results.parser().parse_args([]).folder.resolve() == installed / "work/results"


def test_there_is_no_commit_without_a_checkout(installed):
    assert commit() is None


def test_a_repository_around_a_checkout_is_not_ours(cloned):
    """As where someone unpacks an archive of the project into a repository."""
    assert commit() is None


# The file of settings


def test_the_first_file_of_settings_is_taken(installed, monkeypatch):
    personal = installed / "home/.config/robust-stitching/default.env"
    assert config.config_file() == personal  # for a user to write
    write(personal, "workers = 1")
    assert config.config_file() == personal
    write(installed / "work/config/default.env", "workers = 2")
    assert config.config_file().resolve() == installed / "work/config/default.env"
    named = write(installed / "named.env", "workers = 3")
    monkeypatch.setenv("ROBUST_STITCHING_CONFIG", str(named))
    assert config.config_file() == named


def test_the_file_of_settings_of_a_checkout(cloned, bare):
    personal = write(bare / "home/.config/robust-stitching/default.env", "workers = 1")
    write(bare / "work/config/default.env", "workers = 2")  # where one works is nothing special
    assert config.config_file() == personal
    own = write(cloned / "config/default.env", "workers = 3")
    assert config.config_file() == own
    assert config.dataset_workers() == 3


@pytest.mark.parametrize("named", ["nowhere.env", "~/nowhere.env", "."])
def test_a_named_file_of_settings_has_to_be_there(named, installed, monkeypatch):
    write(installed / "work/config/default.env", "pytorch = /data")
    monkeypatch.setenv("ROBUST_STITCHING_CONFIG", named)
    with pytest.raises(UserError, match=f"ROBUST_STITCHING_CONFIG names '{named}'"):
        config.dataset_root("pytorch")


def test_a_file_of_settings_that_is_no_text(installed, monkeypatch):
    (installed / "x.env").write_bytes(b"pytorch = '\xff\xfe'\n")
    monkeypatch.setenv("ROBUST_STITCHING_CONFIG", str(installed / "x.env"))
    with pytest.raises(UserError, match=r"x\.env is no text in UTF-8"):
        config.dataset_root("pytorch")


def test_a_setting_that_nobody_made_names_the_file_to_write(installed):
    with pytest.raises(UserError) as error:
        config.dataset_root("pytorch")
    assert str(installed / "home/.config/robust-stitching/default.env") in str(error.value)
    assert "DATASET_ROOT_PYTORCH" in str(error.value)


RELATIVE = "[dataset_root]\npytorch = 'sets' # torchvision\nceleba = '/data/celeba'\n"


@pytest.mark.parametrize(
    ("file", "counts_from"),
    [
        ("work/config/default.env", "work"),
        ("home/.config/robust-stitching/default.env", "home/.config/robust-stitching"),
        ("elsewhere/named.env", "elsewhere"),
    ],
)
def test_where_a_relative_path_counts_from(file, counts_from, installed, monkeypatch):
    file = write(installed / file, RELATIVE)
    if file.name == "named.env":
        monkeypatch.setenv("ROBUST_STITCHING_CONFIG", str(file))
    assert config.dataset_root("pytorch").resolve() == installed / counts_from / "sets"
    assert str(config.dataset_root("celeba")) == "/data/celeba"
    monkeypatch.setenv("DATASET_ROOT_PYTORCH", "mine")
    assert config.dataset_root("pytorch").resolve() == installed / "work/mine"


def test_a_file_that_is_named_without_need_counts_from_where_it_does(installed, monkeypatch):
    file = write(installed / "work/config/default.env", RELATIVE)
    monkeypatch.setenv("ROBUST_STITCHING_CONFIG", str(file))
    assert config.dataset_root("pytorch").resolve() == installed / "work/sets"


@pytest.mark.parametrize("named", [False, True])
def test_in_a_checkout_a_relative_path_counts_from_it(named, cloned, bare, monkeypatch):
    file = write((bare / "named.env") if named else (cloned / "config/default.env"), RELATIVE)
    if named:
        monkeypatch.setenv("ROBUST_STITCHING_CONFIG", str(file))
    assert config.dataset_root("pytorch") == cloned / "sets"
    monkeypatch.setenv("DATASET_ROOT_PYTORCH", "mine")
    assert config.dataset_root("pytorch") == cloned / "mine"
