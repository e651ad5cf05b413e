"""A stand-in for the Hugging Face Hub, on loopback and in memory.

The client is the real one. This server speaks as much of the Hub's protocol as `screen models`
makes it use: repository info with the sizes of files, downloads by commit with their headers, a
new repository, and commits of small files and of LFS objects that were uploaded before. Rights
are one token for everything. What the real Hub does besides is not here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "secret" * 5
LARGE = ".safetensors"  # what the Hub keeps in LFS; here by the name alone


@dataclass
class Repo:
    """Commits, oldest first: all files of each."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        text = json.dumps([len(self.commits), sorted(files)])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        return sha

    def find(self, revision: str) -> str | None:
        if revision == "main":
            return list(self.commits)[-1] if self.commits else None
        return revision if revision in self.commits else None


@dataclass
class Hub:
    """What the server holds, and what tests may ask or break."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    status: int | None = None  # of every answer, for a hub that is ill
    cut: str | None = None  # file whose download breaks off in the middle
    full: bool = False  # no room for uploads

    def add(self, repo_id: str, files: dict[str, bytes]) -> str:
        return self.repos.setdefault(repo_id, Repo()).commit(files)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self._begin()
        if path is None:
            return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._tree(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        else:
            self._json({"error": "no such route"}, 404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self._begin()
        if path is None:
            return
        if path == "/api/validate-yaml":
            head = json.loads(body)["content"]
            is_known = re.search(r"^license: (mit|cc0-1\.0|cc-by-4\.0)$", head, re.MULTILINE)
            errors = [] if is_known else [{"message": '"license" must be one of [...]'}]
            self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            self._json({"files": [self._mode(each) for each in json.loads(body)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._json({"transfer": "basic", "objects": self._batch(json.loads(body))})
        elif path.startswith("/verify/"):
            self._json({}, 200 if path.removeprefix("/verify/") in self.hub.objects else 404)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines() if line])
        else:
            self._json({"error": "no such route"}, 404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.full:
            self._json({"error": "quota"}, 403)
            return
        self.hub.objects[self.path.removeprefix("/upload/")] = data
        self._json({})

    def _begin(self) -> str | None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.hub.status is None:
            return path
        self._json({"error": "ill"}, self.hub.status)
        return None

    def _visible(self, repo_id: str) -> Repo | None:
        repo = self.hub.repos.get(repo_id)
        is_allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return repo if repo and (is_allowed or not repo.private) else None

    def _info(self, repo_id: str, revision: str) -> None:
        sha, files = self._at(repo_id, revision)
        if files is None:
            return
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
        ]
        document = {"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings}
        self._json(document | {"tags": [], "downloads": 0, "likes": 0})

    def _tree(self, repo_id: str, revision: str) -> None:
        _, files = self._at(repo_id, revision)
        if files is not None:
            self._json(
                [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(data),
                        "oid": hashlib.sha1(data).hexdigest(),
                    }
                    for name, data in files.items()
                ]
            )

    def _at(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes] | None]:
        """Commit and files of a revision; what is wrong is answered."""
        repo = self._visible(repo_id)
        if repo is None:  # as the Hub does for what is private or not there
            self._json({"error": "Repository not found"}, 401, code="RepoNotFound")
            return "", None
        sha = repo.find(revision)
        if sha is None:
            self._json({"error": "Invalid rev id"}, 404, code="RevisionNotFound")
            return "", None
        return sha, repo.commits[sha]

    def _file(self, repo_id: str, revision: str, name: str) -> None:
        repo = self._visible(repo_id)
        sha = repo.find(revision) if repo else None
        data = repo.commits[sha].get(name) if repo and sha else None
        if data is None or sha is None:
            self._json({"error": "Entry not found"}, 404, code="EntryNotFound", commit=sha)
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", sha)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        if name.endswith(LARGE):
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if name == self.hub.cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    def _create(self, document: dict[str, Any]) -> None:
        owner = document.get("organization") or "me"
        repo_id = f"{owner}/{document['name']}"
        if repo_id in self.hub.repos:
            url = f"{self.hub.endpoint}/{repo_id}"
            self._json({"error": "You already created this model repo", "url": url}, 409)
            return
        private = document.get("private") or document.get("visibility") == "private"
        self.hub.repos[repo_id] = Repo(bool(private))
        self.hub.add(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.hub.endpoint}/{repo_id}"})

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["path"].endswith(LARGE) else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _batch(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        end = self.hub.endpoint
        return [
            each
            | (
                {}
                if each["oid"] in self.hub.objects
                else {
                    "actions": {
                        "upload": {"href": f"{end}/upload/{each['oid']}"},
                        "verify": {"href": f"{end}/verify/{each['oid']}"},
                    }
                }
            )
            for each in document["objects"]
        ]

    def _commit(self, repo_id: str, lines: list[dict[str, Any]]) -> None:
        repo = self.hub.repos[repo_id]
        newest = repo.find("main")
        files = dict(repo.commits[newest]) if newest else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                data = self.hub.objects[value["oid"]]
                assert hashlib.sha256(data).hexdigest() == value["oid"]
                files[value["path"]] = data
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(files)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{sha}"
        self._json({"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    def _json(
        self, document: Any, status: int = 200, code: str | None = None, commit: str | None = None
    ) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub as long as the block lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
