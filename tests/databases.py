"""Database servers of one's own on this machine's loopback, to be restarted and killed; and a wire to cut."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa


class Missing(Exception):
    """A server is not installed, or cannot run here."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def account(name: str) -> dict[str, Any]:
    """Keywords for Popen that run a server which refuses to be root as another user."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise Missing(f"the server cannot run as root, and there is no user {name}") from None
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class Server:
    """A database server: `url` names an empty database in it. Use as a context manager."""

    url: str
    name: str

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"genopt-{self.name}-"))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Any:
        try:
            own = {"TMPDIR": str(self.folder)}  # that of a test run may be closed to the server's user
            self.options: dict[str, Any] = {"cwd": self.folder, "env": os.environ | own, **account(self.name)}
            self.options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            if "user" in self.options:
                os.chown(self.folder, self.options["user"], self.options["group"])
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def prepare(self) -> None:
        """Make the database's files."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> None:
        """Raise OperationalError while the server does not answer."""
        engine = sa.create_engine(self.url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(self.command(), **self.options)
        for attempt in range(400):
            with contextlib.suppress(sa.exc.OperationalError):
                return self.ready()
            assert attempt < 399, "the server does not answer"
            assert self.process.poll() is None, "the server stopped"
            time.sleep(0.05)

    def database(self, name: str) -> str:
        """The URL of a new database in it."""
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url.rpartition("/")[0] + "/" + name

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it; SIGINT ends PostgreSQL and its connections in order."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


class Postgres(Server):
    """A PostgreSQL server."""

    name = "postgres"

    def __init__(self) -> None:
        super().__init__()
        self.url = f"postgresql+psycopg://genopt:hidden@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        found = shutil.which("initdb") or next(
            (str(f / "initdb") for f in reversed(folders) if (f / "initdb").exists()), ""
        )
        if not found:
            raise Missing("no PostgreSQL server is installed")
        self._program = str(Path(found).with_name("postgres"))
        data = str(self.folder / "data")
        password = self.folder / "password"
        password.write_text("hidden", encoding="utf-8")
        initdb = [
            found,
            "-D",
            data,
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-U",
            "genopt",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(initdb, check=True, timeout=60, **self.options)

    def command(self) -> list[str]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self._program, "-D", str(self.folder / "data"), "-p", str(self.port), *words]


class MariaDB(Server):
    """A MariaDB server."""

    name = "mysql"

    def __init__(self) -> None:
        super().__init__()
        self.url = f"mysql+pymysql://root@127.0.0.1:{self.port}/genopt"

    def prepare(self) -> None:
        install, server = shutil.which("mariadb-install-db"), shutil.which("mariadbd", path="/usr/sbin:/usr/bin")
        if not install or not server:
            raise Missing("no MariaDB server is installed")
        self._program = server
        made = [install, "--no-defaults", f"--datadir={self.folder / 'data'}", "--skip-test-db"]
        made += ["--auth-root-authentication-method=normal", "--force"]
        subprocess.run(made, check=True, timeout=120, **self.options)

    def command(self) -> list[str]:
        data, sock = self.folder / "data", self.folder / "socket"
        where = [f"--datadir={data}", f"--socket={sock}", f"--port={self.port}", "--bind-address=127.0.0.1"]
        return [self._program, "--no-defaults", *where, "--innodb-flush-log-at-trx-commit=2"]

    def ready(self) -> None:
        engine = sa.create_engine(self.url.removesuffix("genopt"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("CREATE DATABASE IF NOT EXISTS genopt CHARACTER SET latin1")
        finally:
            engine.dispose()

    def stop(self, number: int = signal.SIGTERM) -> None:
        super().stop(signal.SIGTERM if number == signal.SIGINT else number)


class Wire:
    """A wire to a server, which can be cut (nothing comes through, nobody is told) and mended; `port` is its end."""

    def __init__(self, to: int) -> None:
        self._to, self._whole = to, threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._whole.wait()
        with contextlib.suppress(OSError):
            far = socket.create_connection(("127.0.0.1", self._to))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink, self._whole), daemon=True).start()
            return
        near.close()

    def _pump(self, source: socket.socket, sink: socket.socket, whole: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                whole.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self) -> None:
        self._whole.clear()

    def lose(self) -> None:
        """Have the connections of now carry nothing any more, without anybody being told; new ones do."""
        self._whole, lost = threading.Event(), self._whole
        lost.clear()
        self._whole.set()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self.mend()
        self._listener.close()


@contextmanager
def wire(to: int) -> Iterator[Wire]:
    """A wire to a port of this machine."""
    made = Wire(to)
    try:
        yield made
    finally:
        made.close()
