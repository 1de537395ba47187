"""A PostgreSQL server of the attacks' own, which they may stop, kill and cut off; one for all of them."""

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .kit import ONE_AT_A_TIME, CannotRunError, shell


class Server:
    """A server in a folder of its own, which trusts everybody who reaches it."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        initdb = shutil.which("initdb")
        if not found and not initdb:
            raise CannotRunError("needs PostgreSQL")
        self.bin = found[-1] if found else Path(str(initdb)).resolve().parent
        self.place = Path(tempfile.mkdtemp(prefix="luthier-attack-postgres-"))
        self.place.chmod(0o755)
        self.data = self.place / "data"
        self.user = "postgres" if os.geteuid() == 0 else ""
        self.data.mkdir(mode=0o700)
        if self.user:
            shutil.chown(self.data, self.user)
            shutil.chown(self.place, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.tool("initdb", "-D", self.data, "-U", "luthier", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.213.0.0/16 trust\n")
        self.start()
        atexit.register(self.close)
        self.databases = 0

    def tool(self, name: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's own tools as the server's user."""
        before = ["runuser", "-u", self.user, "--"] if self.user else []
        return shell(*before, self.bin / name, *arguments, check=check, cwd="/")

    def start(self) -> None:
        options = f"-c fsync=off -c listen_addresses=* -c port={self.port} -c unix_socket_directories={self.place}"
        self.tool("pg_ctl", "start", "-w", "-D", self.data, "-l", self.place / "log", "-o", options)

    def stop(self, how: str = "fast") -> None:
        self.tool("pg_ctl", "stop", "-w", "-m", how, "-D", self.data, check=False)

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def database(self) -> str:
        """A new database; return its name."""
        self.databases += 1
        name = f"attack{self.databases}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return name

    def url(self, database: str, host: str = "127.0.0.1") -> str:
        return f"postgresql://luthier@{host}:{self.port}/{database}"

    def sql(self, database: str, text: str) -> str:
        """What the server answers, as the administrator."""
        return shell("psql", "-X", "-At", self.url(database), "-c", text).stdout

    def close(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.place, ignore_errors=True)


_server: list[Server] = []
_making = threading.Lock()


@contextmanager
def server() -> Iterator[Server]:
    """The server, for one attack at a time; afterwards it runs again, whatever was done to it."""
    with ONE_AT_A_TIME:
        with _making:
            if not _server:
                _server.append(Server())
        one = _server[0]
        try:
            yield one
        finally:
            if one.tool("pg_ctl", "status", "-D", one.data, check=False).returncode:
                one.start()
