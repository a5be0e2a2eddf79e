"""An S3 server for tests: moto's, as a process of its own, and a proxy before it that does what networks do.

No request leaves this machine; the credentials are made up.
"""

import http.client
import os
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.config import Config
from running import PATIENCE, free_port, start

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "NO_PROXY": "*", "no_proxy": "*",
}  # fmt: skip


@contextmanager
def server(host="127.0.0.1"):
    """`host:port` of a running S3 server without buckets."""
    port = free_port()
    process = start("-m", "moto.server", "-H", host, "-p", port, stdout=None)
    drain = threading.Thread(target=process.stderr.read, daemon=True)  # its log of requests
    drain.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection((host, port)).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"{host}:{port}"
    finally:
        process.kill()
        process.wait()
        drain.join()
        process.stderr.close()


@cache
def client(address):
    """A plain client of a server, for what a test does past the store."""
    return boto3.session.Session().client(
        "s3", endpoint_url=f"http://{address}", region_name="us-east-1", aws_access_key_id="test",
        aws_secret_access_key="test", config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )  # fmt: skip


class Bucket:
    """A new bucket of a server, looked at past the store."""

    def __init__(self, address, name, prefix="team/store"):
        self.address, self.name, self.prefix = address, name, prefix
        self.client = client(address)
        self.client.create_bucket(Bucket=name)

    def url(self, address=None):
        """The `store_url` of it, of the server itself or of a proxy before it."""
        return (
            f"s3://{self.name}/{self.prefix}?endpoint_override={address or self.address}&scheme=http&region=us-east-1"
        )

    def key(self, name):
        return f"{self.prefix}/{name}" if self.prefix else name

    def put(self, name, content):
        self.client.put_object(Bucket=self.name, Key=self.key(name), Body=content)

    def content(self):
        """{name: bytes} of all objects of the bucket."""
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            for entry in page.get("Contents", ()):
                body = self.client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read()
                found[entry["Key"].removeprefix(self.prefix + "/")] = body
        return found

    def uploads(self):
        """Keys of unfinished uploads."""
        return [found["Key"] for found in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]

    def abandon(self, kind, part=b"half"):
        """Leave an unfinished upload, as a writer does that is killed."""
        where = {"Bucket": self.name, "Key": self.key(f"{kind}/{os.urandom(16).hex()}.bin")}
        upload = self.client.create_multipart_upload(**where)["UploadId"]
        self.client.upload_part(**where, UploadId=upload, PartNumber=1, Body=part)


class Faults:
    """What a proxy does to the next requests: each is taken by the first request whose method it names."""

    def __init__(self):
        self.planned, self.seen, self.lock = [], [], threading.Lock()
        self.held, self.let_go = threading.Event(), threading.Event()

    def plan(self, kind, method="", times=1, after=0):
        """`times` requests of a method, after the next `after`, meet a fault. Kinds: a status such as "500"; "reset",
        "refuse" (closed without an answer), "hold" (never answered), "delay", "cut" (fewer bytes than announced),
        "short" (fewer bytes, announced so), "lost" (done, but the answer is lost)."""
        self.planned += [("", method)] * after + [(kind, method)] * times

    def take(self, method, path):
        with self.lock:
            self.seen.append((method, path))
            for place, (kind, wanted) in enumerate(self.planned):
                if wanted in ("", method):
                    del self.planned[place]
                    return kind
        return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_request(self):
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self._body()
        fault = self.server.faults.take(self.command, self.path)
        if fault.isdigit():
            return self._answer(int(fault), {}, _error(fault))
        if fault == "hold":
            self.server.faults.held.set()
            self.server.faults.let_go.wait(PATIENCE)
        if fault in ("reset", "hold", "refuse"):
            return self._hang_up(reset=fault == "reset")
        if fault == "delay":
            time.sleep(0.3)
        status, headers, content = self._forward(body)
        if fault == "lost":
            return self._hang_up()
        if fault == "short":
            content = content[: len(content) // 2]
            headers = {k: v for k, v in headers.items() if not k.lower().startswith("x-amz-checksum")}
        self._answer(
            status, headers, content, announced=len(content), sent=len(content) // 2 if fault == "cut" else None
        )

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _forward(self, body):
        host, port = self.server.behind.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        passed = {
            k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "expect", "connection")
        }
        connection.request(self.command, self.path, body, passed | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def _answer(self, status, headers, content, announced=None, sent=None):
        self.send_response_only(status)
        length = headers.pop("Content-Length", None) if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(announced if announced is not None else len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
        if sent is not None:
            self._hang_up()

    def _hang_up(self, reset=False):
        if reset:  # RST, not FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wfile.flush()
        self.close_connection = True
        if not reset:
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


def _error(status):
    code = {"500": "InternalError", "503": "SlowDown", "404": "NoSuchUpload"}.get(status, "AccessDenied")
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):  # a client that hung up is no error here
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*_)


@contextmanager
def proxy(behind):
    """(`host:port`, faults) of a proxy before a server."""
    listener = _Server(("127.0.0.1", 0), _Handler)
    listener.behind, listener.faults = behind, Faults()
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{listener.server_port}", listener.faults
    finally:
        listener.faults.let_go.set()
        listener.shutdown()
        thread.join()
        listener.server_close()
