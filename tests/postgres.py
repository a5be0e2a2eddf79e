"""A real PostgreSQL server for tests, from the system's `postgresql` package. Fails, never skips, where there is none.

As root the server runs as another user, as it must.
"""

import hashlib
import os
import pwd
import shutil
import signal
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg
from psycopg import pq
from running import free_port, launch, run

from gradsift.datastore import place

MISSING = "no PostgreSQL server on this machine: apt-get install -y postgresql"


def binaries():
    """The folder of initdb and postgres: the newest of Debian's places, else where PATH has them."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    on_path = shutil.which("initdb")
    folders += [Path(on_path).resolve().parent] if on_path else []
    found = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    assert found, MISSING
    return found[-1]


def other_user():
    """Who runs the server: nobody else, unless this is root."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class Server:
    """A server on a free port of this host's loopback, in a folder of its own. `safe`: with fsync, to be killed; `on`: a
    host of tests/hosts.py that it runs on instead."""

    def __init__(self, *, safe=False, on=None):
        self.bin, self._user, self._safe = binaries(), other_user(), safe
        self._on, self.address = on, on.address if on else "127.0.0.1"
        self.folder = Path(tempfile.mkdtemp(prefix="gradsift-postgres-"))
        if self._user:
            os.chown(self.folder, self._user["user"], self._user["group"])
        self.port = free_port()
        # Sorted as people do, not by code point: the catalog must not lean on the database's order.
        run(
            [self.bin / "initdb", "-D", self.folder / "data", "-U", "gradsift", "-A", "trust", "-E", "UTF8", "-k",
             "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", "--no-sync"],
            cwd=self.folder, who=self._user,
        )  # fmt: skip
        with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")
        self.start()
        with self.connect("postgres") as connection:
            connection.execute("CREATE DATABASE gradsift")

    def start(self):
        """Start it, and wait until it answers."""
        settings = {"listen_addresses": self.address, "port": self.port, "unix_socket_directories": self.folder,
                    "shared_buffers": "32MB", "max_connections": 60, "fsync": "on" if self._safe else "off",
                    "log_statement": "none"}  # fmt: skip
        command = [self.bin / "postgres", "-D", self.folder / "data", *(f"--{k}={v}" for k, v in settings.items())]
        with (self.folder / "log").open("ab") as log:
            if self._on:
                self._process = self._on.start(*command, user=self._user.get("user"))
            else:
                self._process = launch(command, stdout=log, stderr=log, cwd=self.folder, **self._user)
        while pq.PGconn.ping(f"host={self.address} port={self.port} dbname=postgres".encode()) != pq.Ping.OK:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)

    def kill(self):
        """`kill -9` of the server and all of its processes, as a power cut would."""
        children = [
            int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _parent(stat) == self._process.pid
        ]
        for pid in (self._process.pid, *children):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in children):  # the next would find their shared memory
            time.sleep(0.01)

    def stop(self):
        """Stop it as a restart does: whoever is connected is cut off."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def close(self):
        self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        self._process.wait()
        shutil.rmtree(self.folder)

    def url(self, schema="", database="gradsift"):
        return f"postgresql://gradsift@{self.address}:{self.port}/{database}" + (f"?schema={schema}" if schema else "")

    def connect(self, database="gradsift"):
        return psycopg.connect(self.url(database=database), autocommit=True)

    def copy(self, schema, new):
        """The catalog of a schema as another schema, by the server's own tools."""
        dump = self.folder / f"{new}.sql"
        dump.write_text(run([self.bin / "pg_dump", "-n", schema, self.url()]).stdout.replace(schema, new))
        with self.connect() as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {new} CASCADE")
        run([self.bin / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, self.url()])


def _parent(stat):
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):  # it ended meanwhile
        return None


def stores_on(server, monkeypatch):
    """From now on each store whose folder says nothing has its catalog on this server, in a schema of the folder's own.

    Its place.json says so to other processes. The copy of a folder gets a copy of the schema.
    """
    real = place.settled

    def settled(asked):
        known = real(asked)
        schema = f"t_{hashlib.sha256(bytes(known.root.resolve())).hexdigest()[:24]}"
        if known.catalog_url is None:
            return replace(known, catalog_url=server.url(schema), store_url=known.root.resolve().as_uri())
        _, _, other = known.catalog_url.partition("?schema=t_")
        if other and f"t_{other}" != schema:
            server.copy(f"t_{other}", schema)
            known = replace(known, catalog_url=server.url(schema), store_url=known.root.resolve().as_uri())
            (known.root / place.PLACE_NAME).unlink()
            place.keep(known)
        return known

    monkeypatch.setattr("gradsift.datastore.store.settled", settled)


COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"  # a simple query


class Line:
    """A line to the server that can be cut when a COMMIT comes along: before the server has it, or its answer."""

    def __init__(self, server):
        self._server = server
        self._cut = ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, schema):
        return self._server.url(schema).replace(f":{self._server.port}/", f":{self.port}/")

    def cut_next(self, what):
        """Cut at the next COMMIT: `before` it reaches the server, or `after` it did and was done."""
        self._cut = what

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._server.port))
            silent = threading.Event()  # no more answers
            threading.Thread(target=self._to_server, args=(client, server, silent), daemon=True).start()
            threading.Thread(target=self._to_client, args=(client, server, silent), daemon=True).start()

    def _to_server(self, client, server, silent):
        for data in _received(client):
            if COMMIT in data and self._cut:
                what, self._cut = self._cut, ""
                silent.set()
                if what == "after":
                    server.sendall(data)
                    return  # the other thread ends both when the server has answered
                break
            server.sendall(data)
        _end(client, server)

    def _to_client(self, client, server, silent):
        for data in _received(server):
            if silent.is_set():
                break
            client.sendall(data)
        _end(client, server)


def _received(connection):
    try:
        while data := connection.recv(1 << 16):
            yield data
    except OSError:  # the other thread ended it
        return


def _end(*connections):
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
