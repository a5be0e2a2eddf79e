"""A stand-in for the Hugging Face Hub on the loopback: what huggingface_hub 2.4 asks of it for data sets, as it asks it.

Repositories with branches and commits, uploads by LFS (a client with HF_HUB_DISABLE_XET=1), visibility, one token. Its
answers have the fields and headers that the client reads. `faults` make it fail; `log` says what was asked.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "a1B2" * 8
LARGE = (".parquet",)  # as the .gitattributes of a new data set say
REPO = r"(?P<repo>[^/]+/[^/]+)"


def git_digest(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Commits are [(sha, {path: (is it large, bytes)})] of each branch, the oldest first."""

    private: bool
    branches: dict = field(default_factory=dict)

    def __post_init__(self):
        self.commit("main", {".gitattributes": (False, b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")})

    def commit(self, branch, files):
        before = self.branches.setdefault(branch, [])
        listing = repr([branch, len(before), sorted((p, hashlib.sha256(c).hexdigest()) for p, (_, c) in files.items())])
        before.append((hashlib.sha1(listing.encode()).hexdigest(), files))
        return before[-1][0]

    def at(self, revision):
        """(sha, files) of a branch or commit, None for none."""
        if revision in self.branches:
            return self.branches[revision][-1]
        every = (commit for commits in self.branches.values() for commit in commits)
        return next((commit for commit in every if commit[0] == revision), None)


@dataclass
class Fault:
    """The next `times` requests of a method to a path that matches: answered with a status, or `cut` in the middle of
    their body, or done and cut before the `answer`."""

    method: str
    path: str
    what: int | str
    times: int = 1
    text: str = "made up by the test"


@dataclass
class Hub:
    url: str = ""
    repositories: dict = field(default_factory=dict)
    large: dict = field(default_factory=dict)  # {sha256: bytes}
    faults: list = field(default_factory=list)
    log: list = field(default_factory=list)  # (method, path, whether with the token)
    ignored: tuple = ()  # names that a .gitignore there leaves out
    lock: threading.RLock = field(default_factory=threading.RLock)

    def commits(self, repo, branch="main"):
        return self.repositories[repo].branches[branch]

    def files(self, repo, revision="main"):
        """{path: bytes}."""
        return {path: content for path, (_, content) in self.repositories[repo].at(revision)[1].items()}

    def asked(self, method, pattern):
        return [path for done, path, _ in self.log if done == method and re.search(pattern, path)]


class Refused(Exception):
    def __init__(self, status, message, code=None):
        self.status, self.message, self.code = status, message, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet for head and body: the second of two would wait for an acknowledgement
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, value, status=200, **headers):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def cut(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle_any(self):
        hub, length = self.hub, int(self.headers.get("Content-Length") or 0)
        path = unquote(urlsplit(self.path).path)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        with hub.lock:
            hub.log.append((self.command, path, known))
            fault = next(
                (f for f in hub.faults if f.times and f.method == self.command and re.search(f.path, path)), None
            )
            if fault:
                fault.times -= 1
        if fault and fault.what == "cut":
            self.rfile.read(min(length, 16))
            return self.cut()
        body = self.rfile.read(length)
        if fault and isinstance(fault.what, int):
            return self.answer({"error": fault.text}, fault.what)
        try:
            with hub.lock:
                result = self.route(path, body, known)
        except Refused as refused:
            headers = {"X_Error_Message": refused.message}
            return self.answer({"error": refused.message}, refused.status,
                               **headers | ({"X_Error_Code": refused.code} if refused.code else {}))  # fmt: skip
        except Exception as error:  # noqa: BLE001 - whoever asks otherwise is not to ask again and again
            return self.answer({"error": f"the stand-in does not know this: {error!r}"}, 400)
        if fault and fault.what == "answer":
            return self.cut()
        return self.answer(*result[:1], **result[1]) if isinstance(result, tuple) else self.answer(result)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def route(self, path, body, known):
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return getattr(self, name)(body, known, **match.groupdict())
        raise Refused(404, f"no {self.command} {path}")

    def repository(self, repo, known, *, write=False):
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not known):
            raise Refused(404 if known else 401, "Repository not found", "RepoNotFound")
        if write and not known:
            raise Refused(401, "Invalid username or password.")
        return found

    def commit_at(self, repo, known, revision):
        found = self.repository(repo, known).at(revision)
        if found is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def create(self, body, known):
        if not known:
            raise Refused(401, "Invalid username or password.")
        asked = json.loads(body)
        assert asked["type"] == "dataset"
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.hub.repositories:
            raise Refused(409, "You already created this dataset repo")
        self.hub.repositories[repo] = Repository(private=asked["visibility"] == "private")
        return {"url": f"{self.hub.url}/datasets/{repo}", "name": repo}

    def info(self, _body, known, repo, revision="main"):
        sha, files = self.commit_at(repo, known, revision)
        siblings = [{"rfilename": path} for path in files]
        private = self.hub.repositories[repo].private
        return {"_id": "0", "id": repo, "sha": sha, "private": private, "siblings": siblings, "tags": []}

    def tree(self, _body, known, repo, revision, folder=None):
        _, files = self.commit_at(repo, known, revision)
        inside = {path: entry for path, entry in files.items() if path.startswith((folder or "").strip("/"))}
        folders = {str(path.rpartition("/")[0]) for path in inside if "/" in path}
        listed = [self.entry(path, *entry) for path, entry in inside.items()]
        return listed + [
            {"type": "directory", "path": name, "oid": git_digest(name.encode())} for name in sorted(folders)
        ]

    def paths_info(self, body, known, repo, revision):
        _, files = self.commit_at(repo, known, revision)
        asked = [unquote(part.partition("=")[2]).replace("+", " ") for part in body.decode().split("&")]
        asked = json.loads(body)["paths"] if body[:1] == b"{" else asked
        listed = [self.entry(path, *files[path]) for path in asked if path in files]
        folders = {path for path in asked if any(name.startswith(f"{path}/") for name in files)}
        return listed + [
            {"type": "directory", "path": name, "oid": git_digest(name.encode())} for name in sorted(folders)
        ]

    def entry(self, path, large, content):
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_digest(content)}
        sha = hashlib.sha256(content).hexdigest()
        return entry | ({"lfs": {"oid": sha, "size": len(content), "pointerSize": 134}} if large else {})

    def validate_yaml(self, body, _known):
        assert json.loads(body)["repoType"] == "dataset"
        return {"warnings": [], "errors": []}

    def branch(self, _body, known, repo, branch):
        found = self.repository(repo, known, write=True)
        if branch in found.branches:
            raise Refused(409, "Reference already exists")
        found.branches[branch] = list(found.branches["main"])
        return {}

    def preupload(self, body, known, repo, revision):
        self.repository(repo, known, write=True)
        _, files = self.commit_at(repo, known, revision)
        told = []
        for asked in json.loads(body)["files"]:
            large, there = asked["path"].endswith(LARGE), files.get(asked["path"])
            oid = None if there is None else self.entry(asked["path"], *there)
            told.append({
                "path": asked["path"], "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": asked["path"] in self.hub.ignored,
                "oid": oid and (oid["lfs"]["oid"] if "lfs" in oid else oid["oid"]),
            })  # fmt: skip
        return {"files": told}

    def batch(self, body, known, repo):
        self.repository(repo, known, write=True)
        asked = json.loads(body)
        assert asked["operation"] == "upload"
        assert "basic" in asked["transfers"]
        objects = []
        for one in asked["objects"]:
            there = one["oid"] in self.hub.large
            upload = {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}
            verify = {"href": f"{self.hub.url}/verify/{repo}", "header": {}}
            objects.append(one | ({} if there else {"actions": {"upload": upload, "verify": verify}}))
        return {"transfer": "basic", "objects": objects}

    def upload(self, body, _known, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(422, "not what was announced")
        self.hub.large[oid] = body
        return {}

    def verify(self, body, known, repo):
        self.repository(repo, known, write=True)
        asked = json.loads(body)
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(422, "not there")
        return {}

    def commit(self, body, known, repo, revision):
        found = self.repository(repo, known, write=True)
        sha, files = self.commit_at(repo, known, revision)
        if revision not in found.branches:
            raise Refused(404, "not a branch", "RevisionNotFound")
        assert self.headers["Content-Type"] == "application/x-ndjson"
        header, *operations = map(json.loads, body.splitlines())
        assert header["key"] == "header"
        assert header["value"]["summary"]
        if header["value"].get("parentCommit", sha) != sha:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(files)
        for one in operations:
            value = one["value"]
            if one["key"] == "file":
                files[value["path"]] = (False, base64.b64decode(value["content"]))
            elif one["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise Refused(400, f"LFS pointer of {value['path']} points to a file that does not exist")
                files[value["path"]] = (True, self.hub.large[value["oid"]])
            else:
                assert one["key"] == "deletedFile"
                del files[value["path"]]
        made = found.commit(revision, files)
        return {"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/datasets/{repo}/commit/{made}"}

    def resolve(self, _body, known, repo, revision, path):
        sha, files = self.commit_at(repo, known, revision)
        if path not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        large, content = files[path]
        etag = hashlib.sha256(content).hexdigest() if large else git_digest(content)
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        headers = {
            "X_Repo_Commit": sha,
            "ETag": f'"{etag}"',
            "X_Linked_Size": len(content),
            "X_Linked_Etag": f'"{etag}"',
        }
        if span:
            first, last = int(span[1]), min(int(span[2]), len(content) - 1)
            headers |= {"status": 206, "Content_Range": f"bytes {first}-{last}/{len(content)}"}
            content = content[first : last + 1]
        return content, headers


ROUTES = [
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("GET", f"/api/datasets/{REPO}", "info"),
    ("GET", f"/api/datasets/{REPO}/revision/(?P<revision>.+)", "info"),
    ("GET", f"/api/datasets/{REPO}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", "tree"),
    ("POST", f"/api/datasets/{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", f"/api/datasets/{REPO}/branch/(?P<branch>.+)", "branch"),
    ("POST", f"/api/datasets/{REPO}/preupload/(?P<revision>.+)", "preupload"),
    ("POST", f"/datasets/{REPO}.git/info/lfs/objects/batch", "batch"),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", "upload"),
    ("POST", f"/verify/{REPO}", "verify"),
    ("POST", f"/api/datasets/{REPO}/commit/(?P<revision>.+)", "commit"),
    ("GET HEAD", f"/datasets/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


def variables(hub, home):
    """The environment of a command that pushes to it."""
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1"}  # fmt: skip


@contextmanager
def serving():
    """A hub without repositories, listening."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
