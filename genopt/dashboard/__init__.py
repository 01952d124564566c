"""Owns serving optuna-dashboard on a study's storage, with notes, tables of outputs and figures over it. It has no
password, so it listens on this machine alone unless it is told otherwise."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from genopt.archive import load
from genopt.errors import MissingExtra, StudyError
from genopt.study.annotated import Annotated, Files
from genopt.study.storage import open_storage


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing per request."""


def serve(study: str, *, host: str, port: int, browser: bool, say: Callable[[str], None]) -> None:
    """Serve until interrupted, while the study runs or after. Raises MissingExtra, SpecError, StudyError (the port is
    taken)."""
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise MissingExtra("optuna-dashboard", "dashboard") from None
    from genopt.dashboard.live import Live

    archive = load(study)
    _, beneath = open_storage(archive.url, create=False)
    live = Live(study)
    storage = Annotated(beneath, archive.id, live.attributes)
    try:
        app = wsgi(storage, artifact_store=Files(live.file))
        server = make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise StudyError(f"dashboard: cannot listen on {host}:{port} ({error})", hint="choose another --port") from None
    live.start()
    address = f"http://{host}:{server.server_port}/dashboard"
    say(f"dashboard of {archive.name} at {address} (Ctrl-C ends it)")
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("")
    finally:
        live.close()
        server.server_close()
