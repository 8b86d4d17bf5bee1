"""CODA-19 read from its released layout: a few made-up papers, as a folder and as an archive."""

import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest

from randout.core.config import Config
from randout.core.errors import UserError
from randout.data import coda19, named_datasets
from randout.data import dataset as data
from randout.experiments.run import planning
from support.tables import load


def zipped(root, path, prefix="CODA19_v1_20200504/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*"), reverse=True):  # another order than the names'
            if file.is_file():
                archive.write(file, f"{prefix}{file.relative_to(root)}")
        archive.writestr(f"__MACOSX/{prefix}human_label/train/._train00.json", b"\x00\x05")
    return path


def test_segments_are_rows_grouped_by_paper_and_split_as_released(coda19_folder):
    dataset = load(f"coda19:{coda19_folder}")
    assert dataset.name == "coda19"
    assert dataset.report.sizes == {"train": 84, "validation": 21, "test": 21}
    assert list(dataset.id2label.values()) == ["background", "purpose", "method", "finding", "other"]
    assert dataset.texts[:2] == ["train 0 says the 0th thing ,", "train 0 says the 1th thing ,"]
    assert dataset.labels[:7].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert [dataset.row_ids[i] for i in (0, 84, 125)] == ["1", "validation#1", "test#21"]
    assert len(np.unique(dataset.groups)) == 18
    assert dataset.report.shared_groups == {"validation": 0, "test": 0}
    assert dataset.columns == {"text": "segment_text", "label": "crowd_label", "group": "paper_id", "split": None}
    assert dataset.max_length == 100
    other = "18 papers (released: 10,966), 84 train segments (released: 137,171)"
    assert any(f"counts differ from the released CODA-19: {other}" in note for note in dataset.report.notes)
    shown = data.describe(dataset)
    assert shown[0] == "data        coda19: 126 labelled rows, 5 classes"
    assert "10,966 abstracts" in shown[1]


@pytest.mark.parametrize("prefix", ["CODA19_v1_20200504/", "", "a/b/"])
def test_an_archive_is_read_in_memory_and_is_the_same_rows(coda19_folder, tmp_path, prefix):
    path = zipped(coda19_folder, tmp_path / "some.zip", prefix)
    before = {p.name for p in tmp_path.iterdir()}
    packed, unpacked = load(f"coda19:{path}"), load(f"coda19:{coda19_folder}")
    assert packed.texts == unpacked.texts
    assert packed.row_ids == unpacked.row_ids
    assert np.array_equal(packed.labels, unpacked.labels)
    assert np.array_equal(packed.groups, unpacked.groups)
    assert packed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert any(f"{packed.sha256}, not the released archive" in note for note in packed.report.notes)
    assert {p.name for p in tmp_path.iterdir()} == before


def test_a_folder_is_known_by_its_content(coda19_folder, tmp_path):
    before = load(f"coda19:{coda19_folder}").sha256
    shutil.copytree(coda19_folder, tmp_path / "deep" / "er")
    for place in (tmp_path / "deep", tmp_path / "deep" / "er", tmp_path / "deep" / "er" / "human_label"):
        assert load(f"coda19:{place}").sha256 == before
    changed = coda19_folder / "human_label" / "dev" / "dev00.json"
    changed.write_text(changed.read_text().replace("0th", "zeroth"))
    assert load(f"coda19:{coda19_folder}").sha256 != before


def test_released_counts_are_not_commented_on(coda19_folder, monkeypatch):
    counts = {"papers": 18, "train segments": 84, "dev segments": 21, "test segments": 21}
    monkeypatch.setattr(coda19, "RELEASED", counts)
    assert not any("the released CODA-19" in note for note in load(f"coda19:{coda19_folder}").report.notes)


def edit(folder, file, change):
    path = folder / "human_label" / file
    document = json.loads(path.read_text())
    changed = change(document)
    document = changed if isinstance(changed, list) and changed[0] is document else document
    path.write_text(json.dumps(document))
    return path


def test_papers_without_an_id_and_segments_without_a_text(coda19_folder):
    edit(coda19_folder, "train/train00.json", lambda d: d.update(paper_id=""))
    edit(coda19_folder, "train/train01.json", lambda d: d.update(paper_id=None, metadata={}))
    edit(coda19_folder, "test/test00.json", lambda d: d["abstract"][0]["sentences"][0][0].update(segment_text=" "))
    notes = []
    tables = coda19.read(coda19_folder, notes)
    assert tables["main"].columns["paper_id"][:14] == ["0"] * 7 + ["train01"] * 7
    assert len(tables["test"]) == 20
    assert notes[0] == "1 segment of test has no text and is left out"
    assert "21 test segments (released: 15,475)" in notes[1]  # the blank one is counted


def first_segment(**values):
    return lambda d: d["abstract"][0]["sentences"][1][0].update(values)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (first_segment(crowd_label="backgroud"), ["abstract[0].sentences[1][0]", "'backgroud'", "'background'?"]),
        (first_segment(crowd_label=None), ["abstract[0].sentences[1][0]", "expected segment_text and"]),
        (first_segment(segment_text=3), ["abstract[0].sentences[1][0]", "expected segment_text and"]),
        (lambda d: d["abstract"][1].pop("sentences"), ["abstract[1]", "a list 'sentences'"]),
        (lambda d: d["abstract"][1].update(sentences=["x"]), ["abstract[1].sentences[0]", "a list of segments"]),
        (lambda d: d.pop("abstract"), ["a list 'abstract'"]),
        (lambda d: [d], ["expected an object", "found a list"]),
        (lambda d: d.update(paper_id="train03"), ["'train03'", "train03.json: the paper", "in dev and in train"]),
        (first_segment(segment_text="\ud83d"), ["unreadable", "surrogates"]),
    ],
)  # fmt: skip
def test_a_paper_that_cannot_be_read_is_named_with_its_place(coda19_folder, tmp_path, form, change, parts):
    edit(coda19_folder, "dev/dev01.json", change)
    source = coda19_folder if form == "folder" else zipped(coda19_folder, tmp_path / "c.zip")
    with pytest.raises(UserError) as caught:
        load(f"coda19:{source}")
    for part in ("human_label/dev/dev01.json", *parts):
        assert part in str(caught.value)


def test_broken_and_too_large_papers(coda19_folder, tmp_path, monkeypatch):
    path = coda19_folder / "human_label" / "test" / "test01.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"test01\.json, line 1, column \d+: invalid JSON"):
        load(f"coda19:{coda19_folder}")
    path.write_bytes(b"\xff" + whole)
    with pytest.raises(UserError, match=r"test01\.json: unreadable JSON"):
        load(f"coda19:{coda19_folder}")
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(UserError, match=r"test01\.json: unreadable JSON"):
        load(f"coda19:{coda19_folder}")
    path.write_bytes(whole)
    packed = zipped(coda19_folder, tmp_path / "c.zip")
    monkeypatch.setattr(coda19, "LARGEST_SUM", 10_000)
    with pytest.raises(UserError, match=r"c\.zip: the papers have .* the limit is 10,000"):
        load(f"coda19:{packed}")
    monkeypatch.setattr(coda19, "LARGEST_SUM", 2**30)
    monkeypatch.setattr(coda19, "LARGEST_FILE", 100)
    for source in (coda19_folder, packed):
        with pytest.raises(UserError, match=r"\.json: .* bytes; a paper of CODA-19 has at most 100"):
            load(f"coda19:{source}")


def test_other_folders_and_archives_are_refused(coda19_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("not a zip")
    (tmp_path / "cut.zip").write_bytes(zipped(coda19_folder, tmp_path / "c.zip").read_bytes()[:-30])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("human_label/train/a.txt", "x")
    shutil.copytree(coda19_folder, tmp_path / "two" / "one")
    shutil.copytree(coda19_folder, tmp_path / "two" / "another")
    shutil.rmtree(coda19_folder / "human_label" / "train")
    expected = {
        "empty": "no folder human_label",
        "other.zip": "no folder human_label",
        "text.zip": "not a readable zip archive",
        "cut.zip": "not a readable zip archive",
        "two": "several folders human_label",
        "nowhere": "no such file",
        coda19_folder.name: "no papers in human_label/train",
    }
    for name, part in expected.items():
        with pytest.raises(UserError, match=part):
            load(f"coda19:{tmp_path / name}")


def test_a_damaged_member_is_named(coda19_folder, tmp_path):
    packed = zipped(coda19_folder, tmp_path / "c.zip")
    content = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        member = archive.getinfo("CODA19_v1_20200504/human_label/dev/dev02.json")
    at = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    content[at : at + 20] = b"\x00" * 20
    packed.write_bytes(content)
    with pytest.raises(UserError, match=r"human_label/dev/dev02\.json: cannot be unpacked"):
        load(f"coda19:{packed}")


def test_the_archive_is_fetched_and_checked_by_its_name_in_git(coda19_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANDOUT_CACHE", str(tmp_path / "cache"))
    packed = zipped(coda19_folder, tmp_path / "c.zip")
    named = named_datasets.NAMED["coda19"]
    assert named.url.endswith(f"{named_datasets.CODA19_COMMIT}/data/CODA19_v1_20200504.zip")
    here = vars(named) | {"url": packed.as_uri()}
    monkeypatch.setitem(named_datasets.NAMED, "coda19", named_datasets.NamedDataset(**here))
    with pytest.raises(
        UserError, match=rf"object name in git is git:[0-9a-f]{{40}}, expected {named.digest}.*coda19:PATH"
    ):
        load("coda19")
    content = packed.read_bytes()
    name = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    monkeypatch.setitem(
        named_datasets.NAMED, "coda19", named_datasets.NamedDataset(**(here | {"digest": f"git:{name}"}))
    )
    dataset = load("coda19")
    assert dataset.sha256 == hashlib.sha256(content).hexdigest()
    assert any(f"{dataset.sha256}, the released archive" in note for note in dataset.report.notes)
    assert (tmp_path / "cache" / "CODA19_v1_20200504.zip").read_bytes() == content


def test_the_name_in_git_is_what_git_computes():
    assert named_datasets.digest_like(b"", "git:") == "git:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's empty file
    assert named_datasets.digest_like(b"hello\n", "git:") == "git:ce013625030ba8dba906f756967f9e9ca394464a"


def test_max_length_folds_and_evaluation(coda19_folder, tiny_model):
    config = Config(
        data={"source": f"coda19:{coda19_folder}"}, student={"model": str(tiny_model("bert"))}, teacher={"model": "none"},
        methods={"ce": {}},
    )  # fmt: skip
    plan = planning.make(config)
    assert plan.config.student.max_length == 64  # the tiny model's own limit, below the 100 stated
    assert "max length: 64 tokens, as stated for coda19" in plan.notes
    folded = load(f"coda19:{coda19_folder}", folds=3, fold=2)
    assert folded.report.shared_groups == {"validation": 0, "test": 0}
    assert sum(folded.report.sizes.values()) == 126
    found = data.load_evaluation(f"coda19:{coda19_folder}", dict(enumerate(coda19.LABELS)))
    assert (len(found.texts), len(found.labels), len(np.unique(found.groups))) == (21, 21, 3)
