"""`randout push`: uploads a finished run's model to the Hugging Face Hub, downloads it again and compares.

Only files that are named here are uploaded: weights, configuration, tokenizer, the model card, and the files of the export.
Training rows, predictions, and the record of the rows that a model has seen stay on this machine.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.wording import plural, verb
from randout.data.composed_text import texts_in
from randout.data.text_fields import FILE as FIELDS
from randout.models.folder_checks import BASELINE, EXPORT, OTHER_WEIGHTS
from randout.models.hub_access import LOGIN, TIMEOUT, explained, is_offline, patiently, progress_bars, token_origin
from randout.models.hub_snapshots import BASELINE_PARTS, HUB_PARTS
from randout.storage.run_folder import ABSTENTION, RunFolder, check_run
from randout.storage.seen_rows import FILE as SEEN_ROWS

from .hub_card import hub_card, stated_licence, usage_replacements

if TYPE_CHECKING:
    from .export import Export
    from .saved_model import LoadedClassifier

Found = TypeVar("Found")
CARD, SCRIPT = "README.md", "predict.py"
EXPORT_PARTS = ["onnx/*.onnx", "model.npz", "vocabulary.json", EXPORT, SCRIPT]
OWN_PARTS = [*HUB_PARTS, *EXPORT_PARTS]  # what may be in a repository from an earlier upload
SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".jinja")  # of files of a model
TEXTS = 8  # texts on which predictions are compared
PLAIN_TEXTS = ("A text to classify.", "Another one, somewhat longer than the first.")  # if the run's data are not here
LONG_TEXT = 40  # characters of a text that is looked for in the files: shorter ones may be there by chance
LONGEST_SCAN = 1_000_000  # bytes of a file that is looked through
NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Push:
    """A request to upload a run.

    repository: USER/NAME. private: of a new repository. revision: branch; empty: main. create_pr: propose the change in a
    pull request. forms: of an export to add. licence: identifier for the card; empty: the card's own, or the base model's.
    """

    run: Path
    repository: str
    private: bool = False
    revision: str = ""
    create_pr: bool = False
    forms: tuple[str, ...] = ()
    licence: str = ""


@dataclass(frozen=True)
class Pushed:
    """What `push_run` uploaded. files: SHA-256 by name. texts: number of them with equal predictions. kept_back: files of
    the model folder that were not uploaded. removed: files of an earlier upload that were deleted.
    """

    repository: str
    url: str
    commit: str
    pull_request: str
    private: bool
    licence: str
    files: dict[str, str]
    size: int
    texts: int
    removed: list[str]
    kept_back: list[str]
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class _Upload:
    """Files by name in the repository, digests, and texts with the logits that the local model and export give them."""

    files: dict[str, Path]
    texts: list[str]
    logits: np.ndarray
    exported: dict[str, np.ndarray]

    def digests(self) -> dict[str, str]:
        return {name: _sha256(path) for name, path in self.files.items()}


def push_run(request: Push, show: Show) -> Pushed:
    """Upload the model of a finished run, download it again, and compare files and predictions.

    Nothing is asked. Raises UserError for an unfinished run, a name or token that the hub refuses, a repository with
    someone else's model, and files that contain a row's text; Failure if the hub fails, or returns something else.
    """
    run = _check(request)
    base = _base_of(run)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        texts = _texts_of(run, show)
        made = _exported(request, run, place, show)
        licence = request.licence or stated_licence(run) or _licence_of(base)
        card = hub_card(run, request.repository, usage_replacements(request.repository), licence, base, made)
        (place / CARD).write_text(card, encoding="utf-8")
        files, kept_back = _files(run, place, made)
        _check_no_rows(files, texts, run)
        upload = _compared(run, files, _few(texts), made)
        stack.enter_context(progress_bars(show.terminal and not show.quiet))
        info, commit, removed = _asking(request.repository, request.revision, lambda: _send(request, upload, run, show))
        show.say("downloading it again to compare")
        _asking(request.repository, request.revision, lambda: _verify(request.repository, str(commit.oid), upload))
        digests, size = upload.digests(), sum(path.stat().st_size for path in files.values())
    return Pushed(
        repository=request.repository,
        url=commit.pr_url or f"{str(commit.commit_url).split('/commit/')[0]}/tree/{request.revision or 'main'}",
        commit=str(commit.oid),
        pull_request=f"refs/pr/{commit.pr_num}" if commit.pr_url else "",
        private=bool(info.private),
        licence=licence,
        files=digests,
        size=size,
        texts=len(upload.texts),
        removed=removed,
        kept_back=kept_back,
        warnings=_warnings(run, licence, bool(info.private), made),
    )


def _check(request: Push) -> RunFolder:
    """Check what needs neither model nor network; returns the run. Raises UserError."""
    run = check_run(request.run)
    run.check_finished()
    if not NAME.fullmatch(request.repository):
        raise UserError(f"push: {request.repository}: expected USER/NAME, the name of a model on the hub")
    if re.fullmatch(r"[0-9a-f]{40}", request.revision):
        raise UserError("push: --revision: found a commit; expected a branch, or a pull request as refs/pr/1")
    if is_offline():
        raise UserError("push: HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it")
    if not token_origin():
        raise UserError(f"push: no token for the hub. {LOGIN} to a token with write access")
    return run


def _asking(repository: str, revision: str, ask: Callable[[], Found]) -> Found:
    """Call a function that asks the hub, with its errors in the user's terms."""
    try:
        return ask()
    except (UserError, Failure):
        raise
    except Exception as error:
        raise explained(error, repository, revision) from None


# ---- what is uploaded


def _base_of(run: RunFolder) -> tuple[str, str]:
    """Return name and commit of the encoder that was fine-tuned, if it came from the hub; else two empty strings."""
    from .run_request import stored_config

    student = stored_config(run).student
    return (student.model, student.revision) if student.revision and NAME.fullmatch(student.model) else ("", "")


def _licence_of(base: tuple[str, str]) -> str:
    """Return the licence that the hub states for the base model; empty if it states none or gives no answer."""
    import huggingface_hub as hub

    found: Any = None
    if base[0]:
        with suppress(Exception):
            found = patiently(lambda: hub.HfApi().model_info(base[0], timeout=TIMEOUT)).card_data
    licence = found.get("license") if found is not None else None
    return licence if isinstance(licence, str) else ""


def _exported(request: Push, run: RunFolder, place: Path, show: Show) -> Export | None:
    """Write the export whose forms are asked for. Raises as `export_run` does."""
    if not request.forms:
        return None
    from .export import export_run

    forms = () if request.forms == ("arrays",) else request.forms  # the only form of a bag of words
    return export_run(run.path, place / "export", forms, show)


def _files(run: RunFolder, place: Path, made: Export | None) -> tuple[dict[str, Path], list[str]]:
    """Return the files to upload by name, and the names of those in the model folder that are not uploaded.

    place: folder with the card and the export.
    """
    from randout.models.sources import find

    from .reload import TRUNCATION, record_truncation, truncation_of

    root = run.model.resolve()
    if (root / BASELINE).exists():
        found = [root / part for part in BASELINE_PARTS]
    else:
        source = find(str(run.path))
        found = [path for path in source.files() if path.suffix in SUFFIXES and not path.is_symlink()]
        record_truncation(place, truncation_of(source))
    found += [root / name for name in (ABSTENTION, FIELDS) if (root / name).exists()]
    files = {path.relative_to(root).as_posix(): path for path in found}
    inside = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    kept_back = sorted(inside - files.keys() - {CARD, SEEN_ROWS})
    if made is not None:
        for path in sorted(path for path in made.folder.rglob("*") if path.is_file()):
            name = path.relative_to(made.folder).as_posix()
            own = any(fnmatch(name, part) for part in EXPORT_PARTS)
            if own or (name not in files and name != CARD and path.suffix in SUFFIXES):  # of the tokenizer
                files[name] = path
    files |= {name: place / name for name in (CARD, TRUNCATION) if (place / name).exists()}
    return files, kept_back


def _texts_of(run: RunFolder, show: Show) -> list[str]:
    """Return the texts of the run's data, held-out ones first; none, with a note, if the data are not here."""
    from .reload import reload_plan

    try:
        dataset = reload_plan(run).dataset
    except UserError as error:
        show.say(f"note: predictions are compared on made-up texts, and the card is not searched for rows ({error})")
        return []
    first = [int(row) for name in ("validation", "test") for row in dataset.split.get(name, ())]
    others = sorted({*range(len(dataset.texts))} - {*first})
    return [dataset.texts[row] for row in (*first, *others)]


def _few(texts: Sequence[str]) -> list[str]:
    """Return the longest of the first texts, which may be cut, and others at equal distances."""
    if not texts:
        return list(PLAIN_TEXTS)
    some = list(texts[:1000])
    return list(dict.fromkeys([max(some, key=len), *some[:: max(1, len(some) // TEXTS)]]))[:TEXTS]


def _check_no_rows(files: Mapping[str, Path], texts: Sequence[str], run: RunFolder) -> None:
    """Raise UserError if a file that people may edit contains the text of a row."""
    for name, path in files.items():
        edited = path.suffix in (".md", ".json", ".txt") and not name.startswith(("tokenizer", "vocab"))
        if not edited or path.stat().st_size > LONGEST_SCAN:
            continue
        content = " ".join(path.read_text(encoding="utf-8").split())
        for text in (part for row in texts for part in texts_in(row)):  # a file may hold one text of a pair
            plain = " ".join(text.split())
            if len(plain) >= LONG_TEXT and plain in content:
                raise UserError(
                    f"push: {name} contains the text of a row of the data ({plain[:30]!r}...), which would be published. "
                    f"Remove it from {run.model / name}"
                )


def _compared(run: RunFolder, files: dict[str, Path], texts: list[str], made: Export | None) -> _Upload:
    """Return the upload with the logits that must come out again after the download."""
    from .saved_model import load_classifier

    exported: dict[str, np.ndarray] = {}
    if made is not None:
        for form in made.record["files"]:
            exported[form] = _logits(load_classifier(str(made.folder), form=form), texts)
    return _Upload(files, texts, _logits(load_classifier(str(run.path)), texts), exported)


def _logits(model: LoadedClassifier, texts: Sequence[str]) -> np.ndarray:
    return model.logits(texts, lambda count: None)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- the hub


def _send(request: Push, upload: _Upload, run: RunFolder, show: Show) -> tuple[Any, Any, list[str]]:
    """Create the repository and the branch if they are missing, and commit the files, all or none.

    Returns the hub's information on the repository, the commit, and the names of files that were deleted.
    """
    import huggingface_hub as hub

    api = hub.HfApi()
    info = _repository(api, request)
    branch = request.revision
    if branch and not branch.startswith("refs/") and branch != "main":
        patiently(lambda: api.create_branch(request.repository, branch=branch, exist_ok=True))
        info = patiently(lambda: api.model_info(request.repository, revision=branch, timeout=TIMEOUT))
    there = [file.rfilename for file in info.siblings or []]
    removed = [name for name in there if name not in upload.files and any(fnmatch(name, part) for part in OWN_PARTS)]
    size = sum(path.stat().st_size for path in upload.files.values())
    show.say(f"uploading {plural(len(upload.files), 'file')} ({size / 1e6:,.1f} MB) to {request.repository}")
    from randout import __version__

    title = f"Upload {run.record.name or run.path.resolve().name}, trained with randout {__version__}"

    def commit() -> Any:
        operations: list[Any] = [hub.CommitOperationAdd(name, str(path)) for name, path in upload.files.items()]
        operations += [hub.CommitOperationDelete(name) for name in removed]
        options: dict[str, Any] = {"commit_message": title, "create_pr": request.create_pr, "parent_commit": info.sha}
        return api.create_commit(request.repository, operations, revision=branch or None, **options)

    with _storage_of(request.repository):
        return info, patiently(commit), removed


def _repository(api: Any, request: Push) -> Any:
    """Return the hub's information on the repository at the branch, which is created if it is missing. Raises UserError."""
    import huggingface_hub.errors

    name, at = request.repository, request.revision if request.revision.startswith("refs/") else None
    try:
        info = patiently(lambda: api.model_info(name, revision=at, timeout=TIMEOUT))
    except huggingface_hub.errors.RepositoryNotFoundError:
        if request.create_pr:
            raise UserError(
                f"push: {name}: no such model on the hub, so there is nothing to propose a change to. Leave out --create-pr "
                "to create it"
            ) from None
        try:
            patiently(lambda: api.create_repo(name, private=request.private or None))
        except huggingface_hub.errors.HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            raise UserError(
                f"push: {name}: this model exists on the hub, and the token from {token_origin()} may not read it"
            ) from None
        return patiently(lambda: api.model_info(name, timeout=TIMEOUT))
    if request.private and not info.private:
        raise UserError(
            f"push: {name} exists and is public, and --private applies to a new repository. Make it private in its settings on "
            "the hub, or choose another name"
        )
    weights = [one.rfilename for one in info.siblings or [] if Path(one.rfilename).match("*.safetensors")]
    weights += [
        one.rfilename for one in info.siblings or [] if any(fnmatch(one.rfilename, part) for part in OTHER_WEIGHTS)
    ]
    if weights and "randout" not in (info.tags or []) and not request.create_pr:
        raise UserError(
            f"push: {name} holds a model that randout did not upload ({weights[0]}), and it is not overwritten. Choose another "
            "name, or propose the change with --create-pr"
        )
    return info


@contextmanager
def _storage_of(repository: str) -> Iterator[None]:
    """Use plain large file storage in this context if the hub has no xet storage, which the hub's library takes for granted."""
    import huggingface_hub as hub
    import huggingface_hub.constants as constants

    before = constants.HF_HUB_DISABLE_XET
    if not before:
        url = f"{constants.ENDPOINT}/api/models/{repository}/xet-write-token/main"
        answer = hub.get_session().get(url, headers=hub.utils.build_hf_headers(), timeout=TIMEOUT)
        constants.HF_HUB_DISABLE_XET = answer.status_code == 404
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _verify(repository: str, commit: str, upload: _Upload) -> None:
    """Download a commit as by its name, and compare it with what was uploaded. Raises Failure if anything differs."""
    import huggingface_hub as hub

    from .saved_model import load_classifier

    wanted = [*HUB_PARTS, *(name for name in upload.files if not any(fnmatch(name, part) for part in HUB_PARTS))]
    with tempfile.TemporaryDirectory() as place:
        options: dict[str, Any] = {"cache_dir": place, "allow_patterns": wanted, "etag_timeout": TIMEOUT}
        folder = Path(patiently(lambda: hub.snapshot_download(repository, revision=commit, **options)))
        differ = [
            name
            for name, digest in upload.digests().items()
            if not (folder / name).is_file() or _sha256(folder / name) != digest
        ]
        if differ:
            raise Failure(
                f"push: {repository}: {plural(len(differ), 'file')} on the hub {verb(len(differ), 'differs', 'differ')} from "
                f"what was uploaded (commit {commit}), first {differ[0]}. Run the command again"
            )
        unequal = (
            [] if np.array_equal(_logits(load_classifier(str(folder)), upload.texts), upload.logits) else ["the model"]
        )
        for form, logits in upload.exported.items():
            if not np.array_equal(_logits(load_classifier(str(folder), form=form), upload.texts), logits):
                unequal.append(f"its form {form}")
        if unequal:
            raise Failure(
                f"push: {repository}: {' and '.join(unequal)} predicts otherwise when downloaded (commit {commit}). Do not use "
                "it; delete that commit on the hub, and report this"
            )


def _warnings(run: RunFolder, licence: str, private: bool, made: Export | None) -> list[str]:
    found = [] if made is None else list(made.warnings)
    if not licence:
        found.append(
            "the card states no licence, so nobody may use the model; add one with --license, such as --license mit"
        )
    if (run.model / BASELINE).exists() and not private:
        from randout import baselines

        words = len(baselines.load(run.model).vocabulary)
        found.append(
            f"the model holds its vocabulary, {plural(words, 'word')} of the training texts, which is now public. Rare words may "
            "be names; --set classifier.min_df=5 trains without words of fewer than 5 texts"
        )
    return found
