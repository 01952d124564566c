"""Owns serving optuna-dashboard on a study's storage. It has no password, so it listens on this machine alone unless it
is told otherwise."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from genopt.archive import load
from genopt.errors import MissingExtra, StudyError
from genopt.study.storage import open_storage


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing per request."""


def serve(study: str, *, host: str, port: int, browser: bool, say: Callable[[str], None]) -> None:
    """Serve until interrupted. Raises MissingExtra, SpecError, StudyError (the port is taken)."""
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise MissingExtra("optuna-dashboard", "dashboard") from None
    archive = load(study)
    storage, _ = open_storage(archive.url, create=False)
    try:
        server = make_server(host, port, wsgi(storage), server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise StudyError(f"dashboard: cannot listen on {host}:{port} ({error})", hint="choose another --port") from None
    address = f"http://{host}:{server.server_port}/dashboard"
    say(f"dashboard of {archive.name} at {address} (Ctrl-C ends it)")
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("")
    finally:
        server.server_close()
