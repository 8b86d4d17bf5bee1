"""A model hub on 127.0.0.1: as much of the Hugging Face Hub's HTTP interface as `huggingface_hub` asks for.

Repositories with commits, branches and pull requests; files in git or in large file storage (LFS), which are served from
another host name as by a CDN, with ETag, X-Repo-Commit and ranges; tokens that may read or write; private and gated
repositories. It has no xet storage and says so. `Fault` makes it fail: errors, rate limits, connections cut in a file.

    with HubServer() as hub:
        hub.add_user("ada", "hf_ada")
        hub.commit("ada/model", {"config.json": b"{}"})
        os.environ["HF_ENDPOINT"] = hub.url
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = re.compile(r"\.(safetensors|bin|onnx|npz|model|h5)$")  # names that go to large file storage
COMMIT = re.compile(r"[0-9a-f]{40}")
Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Fault:
    """How the next `times` requests whose "METHOD /path" matches `pattern` fail.

    status, headers: of the answer; or cut: bytes of the body after which the connection is closed.
    """

    pattern: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = -1


@dataclass
class Repository:
    """A repository: its files by commit, and the commits that its branches and pull requests point to."""

    owner: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)  # users who accepted the terms of a gated repository
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # "main", other branches, "refs/pr/N" -> commit

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a pull request or a commit; None if there is none."""
        return revision if revision in self.commits else self.refs.get(revision)

    def add_commit(self, files: dict[str, bytes], revision: str) -> str:
        """Let a branch or pull request point to a new commit of these files."""
        seed = f"{len(self.commits)} {sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())}"
        commit = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[commit], self.refs[revision] = files, commit
        return commit


class HubError(Exception):
    """An answer with an error: its status, code and message."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.answer: Answer = (
            status,
            {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}),
            json.dumps({"error": message}).encode(),
        )


def etag_of(path: str, data: bytes) -> str:
    """SHA-256 of a file in large file storage, else its object name in git."""
    if LARGE.search(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class HubServer:
    """The hub. url: its address. asked: "METHOD /path" of every request; headers: theirs, with lower-case names."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, tuple[str, bool]] = {}  # token -> user, whether it may write
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage_url = f"http://localhost:{self.server.server_port}"  # another host name, as a CDN has

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add_user(self, name: str, token: str, writes: bool = True) -> None:
        """Let a token stand for a user. writes: whether it may change the user's repositories."""
        self.tokens[token] = (name, writes)

    def commit(self, name: str, files: Mapping[str, bytes] | Path, revision: str = "main", **options: Any) -> str:
        """Commit files (by name, or those of a folder) to a branch or pull request; creates the repository with `options`.

        Returns the commit, in which earlier files of that revision, or else of main, are kept.
        """
        if isinstance(files, Path):
            root = files
            files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        found = self.repositories.setdefault(name, Repository(name.split("/")[0]))
        for option, value in options.items():
            setattr(found, option, value)
        before = found.resolve(revision) or found.resolve("main")
        return found.add_commit({**(found.commits[before] if before else {}), **files}, revision)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository at a revision."""
        found = self.repositories[name]
        return found.commits[str(found.resolve(revision))]

    def fault_of(self, what: str) -> Fault | None:
        """Take the fault of a request, if there is one left."""
        with self.lock:
            for at, fault in enumerate(self.faults):
                if re.search(fault.pattern, what):
                    left = [Fault(fault.pattern, fault.times - 1, fault.status, fault.headers, fault.cut)]
                    self.faults[at : at + 1] = left if fault.times > 1 else []
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """Answers one connection. hub: the server, of which each has a class of its own."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _handle(self) -> None:
        body, target = self._body(), urlsplit(self.path)
        path = unquote(target.path)
        with self.hub.lock:
            self.hub.asked.append(f"{self.command} {path}")
            self.hub.headers.append({name.lower(): value for name, value in self.headers.items()})
        fault = self.hub.fault_of(f"{self.command} {path}")
        if fault and fault.cut < 0:
            self._send((fault.status, dict(fault.headers), b'{"error": "fault"}'))
            return
        try:
            with self.hub.lock:
                answer = self._answer(path, {key: value[0] for key, value in parse_qs(target.query).items()}, body)
        except HubError as error:
            answer = error.answer
        self._send(answer, fault.cut if fault else -1)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, answer: Answer, cut: int = -1) -> None:
        """Send an answer, or its first `cut` bytes only."""
        status, headers, body = answer
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut < 0 else body[:cut])
        if cut >= 0:
            self.wfile.flush()
            self.close_connection = True

    def _answer(self, path: str, query: Mapping[str, str], body: bytes) -> Answer:
        """The answer to a request. Raises HubError."""
        for method, pattern, answer in ROUTES:
            if self.command in method.split() and (match := re.fullmatch(pattern, path)):
                return answer(self, query, body, **match.groupdict())
        raise HubError(404, message=f"no {self.command} {path} here")

    # ---- who may do what

    def _user(self) -> tuple[str, bool]:
        """The user of the request's token and whether it may write; ("", False) without one."""
        sent = self.headers.get("Authorization", "")
        if not sent:
            return "", False
        found = self.hub.tokens.get(sent.removeprefix("Bearer "))
        if found is None:
            raise HubError(401, message="Invalid credentials in Authorization header")
        return found

    def _readable(self, name: str) -> Repository:
        user, _ = self._user()
        found = self.hub.repositories.get(name)
        if found is None or (found.private and user != found.owner):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        return found

    def _writable(self, name: str, proposes: bool = False) -> Repository:
        """The repository. proposes: whether the change is a pull request, which everyone with a token may make."""
        found, (user, writes) = self._readable(name), self._user()
        if not user:
            raise HubError(401, message="Invalid username or password.")
        if not writes or (user != found.owner and not proposes):
            raise HubError(403, message="Forbidden: you must have write access to this repository")
        return found

    @staticmethod
    def _commit_of(found: Repository, revision: str) -> str:
        commit = found.resolve(revision)
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # ---- answers

    def answer_whoami(self, query: Any, body: bytes) -> Answer:
        user, writes = self._user()
        if not user:
            raise HubError(401, message="Invalid username or password.")
        return _json({"type": "user", "name": user, "auth": {"accessToken": {"role": "write" if writes else "read"}}})

    def answer_create(self, query: Any, body: bytes) -> Answer:
        asked, (user, writes) = json.loads(body), self._user()
        owner = asked.get("organization") or user
        if not user or not writes or owner != user:
            raise HubError(403 if user else 401, message=f"You don't have the rights to create a model under {owner!r}")
        name = f"{owner}/{asked['name']}"
        if name in self.hub.repositories:
            raise HubError(409, message="You already created this model repo")
        self.hub.commit(name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        return _json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def answer_validate(self, query: Any, body: bytes) -> Answer:
        head = json.loads(body)["content"].split("---")[1]
        errors = [
            {"message": f'"{key}" must be a name'}
            for key in re.findall(r"^(base_model|license): \S+[ ].*$", head, re.M)
        ]
        return _json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def answer_info(self, query: Any, body: bytes, name: str, revision: str = "main") -> Answer:
        found = self._readable(name)
        commit = self._commit_of(found, revision)
        files = found.commits[commit]
        head = _head_of(files.get("README.md", b"").decode())
        return _json(
            {
                "_id": "1",
                "id": name,
                "modelId": name,
                "author": found.owner,
                "sha": commit,
                "private": found.private,
                "gated": "auto" if found.gated else False,
                "tags": head.get("tags", []),
                "cardData": head,
                "siblings": [{"rfilename": file} for file in sorted(files)],
            }
        )

    def answer_tree(self, query: Any, body: bytes, name: str, revision: str) -> Answer:
        found = self._readable(name)
        rows = []
        for path, data in sorted(found.commits[self._commit_of(found, revision)].items()):
            row: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
            pointer = b"oid sha256:" + etag_of(path, data).encode()
            row["oid"] = etag_of("", pointer) if LARGE.search(path) else etag_of(path, data)
            if LARGE.search(path):
                row["lfs"] = {"oid": etag_of(path, data), "size": len(data), "pointerSize": 130}
            rows.append(row)
        return _json(rows)

    def answer_refs(self, query: Any, body: bytes, name: str) -> Answer:
        refs = self._readable(name).refs

        def rows(prefix: str, pulls: bool) -> list[dict[str, str]]:
            chosen = {name: commit for name, commit in refs.items() if name.startswith("refs/pr/") == pulls}
            return [{"name": n, "ref": f"{prefix}{n}", "targetCommit": commit} for n, commit in chosen.items()]

        pulls = {"pullRequests": rows("", True)} if query.get("include_prs") else {}
        return _json({"branches": rows("refs/heads/", False), "converts": [], "tags": []} | pulls)

    def answer_branch(self, query: Any, body: bytes, name: str, revision: str) -> Answer:
        found = self._writable(name)
        if revision in found.refs:
            raise HubError(409, message="Reference already exists")
        found.refs[revision] = self._commit_of(found, json.loads(body or b"{}").get("startingPoint", "main"))
        return _json({})

    def answer_preupload(self, query: Any, body: bytes, name: str, revision: str) -> Answer:
        found = self._writable(name, bool(query.get("create_pr")))
        there = found.commits[self._commit_of(found, revision)]
        rows = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            base64.b64decode(file["sample"])
            row = {"path": path, "uploadMode": "lfs" if LARGE.search(path) else "regular", "shouldIgnore": False}
            rows.append(row | ({"oid": etag_of(path, there[path])} if path in there else {}))
        return _json({"files": rows})

    def answer_batch(self, query: Any, body: bytes, name: str) -> Answer:
        user, writes = self._user()
        if not (user and writes):
            raise HubError(403, message="Forbidden")
        self._readable(name)
        rows = []
        for one in json.loads(body)["objects"]:
            links = {what: {"href": f"{self.hub.url}/storage/{what}/{one['oid']}"} for what in ("upload", "verify")}
            rows.append(one | ({} if one["oid"] in self.hub.objects else {"actions": links}))
        return _json({"transfer": "basic", "objects": rows})

    def answer_upload(self, query: Any, body: bytes, oid: str) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            raise HubError(400, message="the content does not have this SHA-256")
        self.hub.objects[oid] = body
        return 200, {"ETag": oid}, b""

    def answer_verify(self, query: Any, body: bytes, oid: str) -> Answer:
        if len(self.hub.objects.get(oid, b"")) != json.loads(body)["size"]:
            raise HubError(400, message="the object has another size")
        return _json({})

    def answer_commit(self, query: Any, body: bytes, name: str, revision: str) -> Answer:
        proposes = bool(query.get("create_pr"))
        found = self._writable(name, proposes)
        parent = self._commit_of(found, revision)
        files = dict(found.commits[parent])
        for line in body.splitlines():
            item = json.loads(line)
            what, value = item["key"], item["value"]
            if what == "header" and value.get("parentCommit") not in (None, parent):
                raise HubError(412, message="A commit has happened since. Please refresh and try again.")
            elif what == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif what == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif what == "deletedFile":
                del files[value["path"]]
        number = 1 + sum(ref.startswith("refs/pr/") for ref in found.refs)
        commit = found.add_commit(files, f"refs/pr/{number}" if proposes else revision)
        pull = f"{self.hub.url}/{name}/discussions/{number}" if proposes else None
        url = f"{self.hub.url}/{name}/commit/{commit}"
        return _json({"success": True, "commitUrl": url, "commitOid": commit, "hookOutput": "", "pullRequestUrl": pull})

    def answer_resolve(self, query: Any, body: bytes, name: str, revision: str, file: str) -> Answer:
        found, (user, _) = self._readable(name), self._user()
        if found.gated and user != found.owner and user not in found.readers:
            raise HubError(403 if user else 401, "GatedRepo", f"Access to model {name} is restricted")
        commit = self._commit_of(found, revision)
        data = found.commits[commit].get(file)
        if data is None:
            raise HubError(404, "EntryNotFound", "Entry not found")
        etag = etag_of(file, data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if not LARGE.search(file):
            return self._ranged(data, headers)
        self.hub.objects[etag] = data
        linked = {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        return 302, headers | linked | {"Location": f"{self.hub.storage_url}/storage/{etag}"}, b""

    def answer_stored(self, query: Any, body: bytes, oid: str) -> Answer:
        if "Authorization" in self.headers:
            raise HubError(400, message="a token was sent to the storage, which is not the hub")
        return self._ranged(self.hub.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _ranged(self, data: bytes, headers: dict[str, str]) -> Answer:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return 200, headers, data
        first, last = int(match[1]), int(match[2] or len(data) - 1)
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]


def _json(value: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _head_of(card: str) -> dict[str, Any]:
    """The YAML head of a model card, as far as it is of scalars and lists of words."""
    head: dict[str, Any] = {}
    for line in card.split("---")[1].splitlines() if card.startswith("---") else ():
        if match := re.fullmatch(r"(\w+):\s*(.*)", line):
            key = match[1]
            head[key] = match[2] or []
        elif head and (match := re.fullmatch(r"- (\S+)", line)) and isinstance(head[key], list):
            head[key].append(match[1])
    return head


NAME, REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>.+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", r"/api/whoami-v2", Handler.answer_whoami),
    ("POST", r"/api/repos/create", Handler.answer_create),
    ("POST", r"/api/validate-yaml", Handler.answer_validate),
    ("GET", r"/api/models/(?P<name>[^/]+(/[^/]+)?)", Handler.answer_info),
    ("GET", rf"/api/models/{NAME}/revision/{REVISION}", Handler.answer_info),
    ("GET", rf"/api/models/{NAME}/tree/{REVISION}", Handler.answer_tree),
    ("GET", rf"/api/models/{NAME}/refs", Handler.answer_refs),
    ("POST", rf"/api/models/{NAME}/branch/{REVISION}", Handler.answer_branch),
    ("POST", rf"/api/models/{NAME}/preupload/{REVISION}", Handler.answer_preupload),
    ("POST", rf"/api/models/{NAME}/commit/{REVISION}", Handler.answer_commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.answer_batch),
    ("PUT", r"/storage/upload/(?P<oid>\w+)", Handler.answer_upload),
    ("POST", r"/storage/verify/(?P<oid>\w+)", Handler.answer_verify),
    ("GET", r"/storage/(?P<oid>\w+)", Handler.answer_stored),
    ("GET HEAD", rf"/{NAME}/resolve/(?P<revision>refs/pr/\d+|[^/]+)/(?P<file>.+)", Handler.answer_resolve),
]
