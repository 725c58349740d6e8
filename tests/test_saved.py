"""Activations in files: what is written is what the network makes, and compares as it does."""

import io
import json
import re
import warnings
import zipfile

import numpy as np
import pytest
import torch

import robust_stitching as rs
from conftest import REPOSITORY
from left_behind import only
from robust_stitching.basics.errors import UserError
from robust_stitching.graphs.graph import features, graph_of
from robust_stitching.similarity.compare import compare, compare_saved
from robust_stitching.similarity.deciding import clean_cuts
from robust_stitching.similarity.extract import extract
from robust_stitching.similarity.saved import read

LAYERS = ["relu2", "relu7"]
MEASURES = ["debiased-cka", "cka", "svcca", "procrustes", "mutual-knn", "rsa-correlation-spearman"]


@pytest.fixture(scope="module")
def networks(tiny10s):
    return [rs.load(path).network for path in tiny10s]


@pytest.fixture(scope="module")
def images(digits):
    return digits[1].between(0, 90)


@pytest.fixture(scope="module")
def files(networks, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for name, network in zip("ab", networks, strict=True):
        extract(network, images, folder / f"{name}.npz", LAYERS, batch_size=32)
    return [folder / "a.npz", folder / "b.npz"]


def test_a_file_holds_what_the_network_makes_of_each_image(networks, images, files):
    held = np.load(files[0])
    assert set(held) == {*LAYERS, "ids", "labels"}
    assert (
        held["ids"].tolist() == list(range(90)) and (held["labels"] == images.labels.numpy()).all()
    )
    with torch.no_grad():
        seen = features(networks[0].eval(), LAYERS)(next(images.batches(90))[0])
    for name, activations in zip(LAYERS, seen, strict=True):
        assert held[name].dtype == np.float32
        np.testing.assert_allclose(held[name], activations, rtol=1e-5, atol=1e-5)


def test_files_compare_as_their_networks_do(networks, images, files):
    ours = compare_saved(*map(read, files), measures=MEASURES)
    theirs = compare(*networks, images, LAYERS, LAYERS, MEASURES)
    assert (ours.layers1, ours.layers2) == (theirs.layers1, theirs.layers2)
    for name in MEASURES:
        assert torch.allclose(ours.layerwise[name], theirs.layerwise[name], atol=2e-5), name


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_damage_within_an_array_is_seen(tmp_path):
    """One byte of the numbers themselves, in a file that is not compressed."""
    path = tmp_path / "a.npz"
    np.savez(path, layer=np.ones((50, 4), np.float32))
    content = bytearray(path.read_bytes())
    content[content.index(np.ones(4, np.float32).tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is no file of activations .* CRC"):
        read(path)


def test_an_array_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, layer=np.ones((5, 4)))
    content = io.BytesIO()
    np.save(content, np.zeros((5, 4)))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("layer.npy", content.getvalue())
    with pytest.raises(UserError, match=r"it has 'layer\.npy' 2 times"):
        read(path)


def test_rows_are_put_in_one_order_by_their_ids(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    order, names = rng.permutation(50), np.array([f"n{i:02}.png" for i in range(50)])
    one = write(tmp_path / "x.npz", x=x, ids=names)
    as_it_is = write(tmp_path / "y.npz", y=y, ids=names)
    mixed = write(tmp_path / "m.npz", y=y[order], ids=names[order])
    plain, again = (
        compare_saved(read(one), read(other), measures=["cka"]).layerwise["cka"].item()
        for other in (as_it_is, mixed)
    )
    assert plain == pytest.approx(again, abs=1e-12)
    assert plain == pytest.approx(rs.similarity.cka(x, y), abs=1e-6)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64", "int8", "uint8", "bool"])
def test_numbers_of_any_kind_are_read_as_they_are(save, dtype, tmp_path):
    rng = np.random.default_rng(0)
    x = np.asfortranarray(rng.normal(size=(30, 2, 3, 4)).clip(0) * 3).astype(dtype)
    save(tmp_path / "x.npz", x=x, y=rng.normal(size=(30, 5)))
    found = compare_saved(*[read(tmp_path / "x.npz")] * 2, measures=["cka"])
    expected = rs.similarity.cka(x.astype(np.float64), np.load(tmp_path / "x.npz")["y"])
    assert found.layerwise["cka"][0, 1].item() == pytest.approx(expected, abs=1e-5)


def test_what_is_no_layer_is_left_out_and_said(tmp_path):
    file = write(tmp_path / "x.npz", a=np.ones((5, 2)), one=np.ones(5), text=np.array("about"))
    saved = read(file)
    assert list(saved.layers) == ["a"]
    assert len(saved.notes) == 2 and "'one'" in saved.notes[0]


def rows(n=45, seed=0, **others):
    return {"a": np.random.default_rng(seed).normal(size=(n, 3)), **others}


@pytest.mark.parametrize(
    "one, other, told",
    [
        (rows(), rows(44), "45 images and .* 44"),
        (rows(ids=np.arange(45)), rows(ids=np.arange(1, 46)), "1 of 45 images .* id 0"),
        (rows(ids=np.arange(45) // 2), rows(), "the id 0 2 times"),
        (rows(ids=np.arange(40)), rows(), "45 images in 'a' but 40 in 'ids'"),
        (rows(ids=np.arange(45)), rows(ids=np.arange(45).astype(str)), "numbers and those of"),
        (rows(ids=np.arange(45)), rows(ids=np.arange(45).astype("M8[s]")), "datetime64"),
        (rows(b=np.ones((3, 2))), rows(), "45 images in 'a' but 3 in 'b'"),
        ({"t": np.array(["x"])}, rows(), "holds no activations"),
        ({"o": np.array([{}], dtype=object)}, rows(), "objects of Python"),
        (rows() | {"a": np.full((45, 3), np.nan)}, rows(), "layer 'a' of model 1 has values"),
        (rows(), rows() | {"b": np.ones((45, 2))}, None),
    ],
)
def test_files_that_do_not_fit_are_told_in_a_sentence(one, other, told, call_script, tmp_path):
    paths = [write(tmp_path / f"{name}.npz", **side) for name, side in (("x", one), ("y", other))]
    done = call_script(
        *("compare_nets.py", *paths, "--measures", "cka", "mutual-knn", "-o", tmp_path / "out")
    )
    if told is None:
        assert done.status == 0 and "does not vary" in done.out
        return
    assert done.status == 2 and re.search(told, done.err), done.err
    assert "Traceback" not in done.err and not (tmp_path / "out").exists()


def test_other_files_are_refused(tiny10s, call_script, tmp_path):
    good = write(tmp_path / "x.npz", **rows())
    cut = tmp_path / "cut.npz"
    cut.write_bytes(good.read_bytes()[:400])
    short = tmp_path / "short.npz"
    with zipfile.ZipFile(good) as whole, zipfile.ZipFile(short, "w") as archive:
        archive.writestr("a.npy", whole.read("a.npy")[:-8])
    for wrong in (cut, short, tiny10s[0], tmp_path / "none.npz", tmp_path):
        done = call_script("compare_nets.py", good, wrong, "-o", tmp_path / "out")
        assert done.status == 2 and done.err.count("\n") == 1 and str(wrong) in done.err


def test_the_commands_from_network_to_table(tiny10s, call_script, tmp_path):
    for name, path in zip("AB", tiny10s, strict=True):
        done = call_script(
            *("extract_layers.py", path, "digits", "--layers", "relu7", "fc", "--n-images", "60"),
            *("--seed", "3", "-o", tmp_path / f"{name}.npz"),
        )
        assert done.status == 0 and "60×64" in done.out
    assert not list(tmp_path.glob(".tmp*"))
    files = [tmp_path / "A.npz", tmp_path / "B.npz"]
    out = ("-o", tmp_path / "out")
    done = call_script(
        *("compare_nets.py", *files, "--null", "19", *out, "--run-name", "r", "--layers2", "fc")
    )
    assert done.status == 0
    assert "disagreement, jensen-shannon left out" in " ".join(done.out.split())
    report = only(tmp_path / "out/r/json")
    record = json.loads(report.read_text())
    assert record["layers1"] == ["relu7", "fc"] and record["layers2"] == ["fc"]
    assert np.shape(record["measures"]["minibatch-cka"]["p"]) == (2, 1)
    again = call_script("compare_nets.py", "--plan", report, *out, "--run-name", "again")
    assert again.status == 0
    assert (
        json.loads(only(tmp_path / "out/again/json").read_text())["measures"] == record["measures"]
    )
    changed = write(tmp_path / "B.npz", **rows(60))
    refused = call_script("compare_nets.py", "--plan", report, *out, "--run-name", "third")
    assert refused.status == 2 and f"{changed} holds other activations" in refused.err


def test_mistakes_of_an_extraction_leave_nothing(tiny10s, call_script, tmp_path):
    for args, told in (
        (("digits", "-o", tmp_path / "x.pt"), "does not end in .npz"),
        (("digits", "--layers", "relu77", "-o", tmp_path / "x.npz"), "did you mean"),
        (("digits", "-o", tmp_path / "x.npz", "-b", "0"), "at least 1"),
        (("digitz", "-o", tmp_path / "x.npz"), "digits"),
        (("digits", "-o", tmp_path), "npz"),
    ):
        done = call_script("extract_layers.py", tiny10s[0], *args)
        assert done.status == 2 and told in done.err, done.err
    assert not list(tmp_path.iterdir())


def test_by_default_the_clean_cuts_are_extracted(networks, images, tmp_path):
    shapes = extract(networks[0], images.between(0, 3), tmp_path / "x.npz")
    assert list(shapes) == clean_cuts(graph_of(networks[0]))
    with pytest.raises(UserError, match="did you mean relu8"):
        extract(networks[0], images, tmp_path / "y.npz", ["relu9"])


class Tokens(torch.nn.Module):
    """A class token before those of four patches."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Conv2d(1, 6, 4, 4)
        self.token = torch.nn.Parameter(torch.ones(1, 1, 6))
        self.mix = torch.nn.Linear(6, 6)
        self.head = torch.nn.Linear(6, 10)

    def forward(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1)
        return self.head(self.mix(x)[:, 0])


def test_tokens_of_no_position_stay(tmp_path):
    network = rs.network(Tokens(), image_size=8, in_channels=1).network
    _, test = rs.load_data("digits", image_size=8)
    shapes = extract(network, test.between(0, 7), tmp_path / "x.npz", ["mix"])
    assert shapes["mix"] == (7, 6, 5, 1)
    assert read(tmp_path / "x.npz").layers["mix"].shape == (7, 6, 5, 1)


def test_the_plug_in_of_the_docs_is_each_measure():
    page = (REPOSITORY / "docs/measures.md").read_text()
    (code,) = re.findall(r"```python\n(from [^`]*def plug_in[^`]*)```", page)
    names: dict = {}
    exec(code, names)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 5))
    for name in ("debiased-cka", "mutual-knn", "procrustes"):
        score, plain = names["plug_in"](name), getattr(rs.similarity, name.replace("-", "_"))
        assert score(x, y, "nd") == plain(x, y)
        maps = rng.normal(size=(40, 3, 2, 2))
        assert score(torch.from_numpy(maps), maps, "nchw") == plain(maps, maps)
        tokens = maps.reshape(40, 3, 4).transpose(0, 2, 1)
        assert score(tokens, tokens, "ntd") == pytest.approx(plain(maps, maps))
