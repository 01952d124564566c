"""Owns putting settings into an Ollama server as a model of their own. Never pulls, never overwrites unasked."""

from __future__ import annotations

from genopt.backends._http import Refused, Server
from genopt.backends._ollama_options import options_of
from genopt.backends._ollama_params import version_of
from genopt.backends._ollama_server import full_name, models_of, server_version
from genopt.errors import BackendError, SpecError
from genopt.export.modelfile import create_body
from genopt.export.settings import Settings
from genopt.export.targets import complete


async def create(settings: Settings, name: str, *, host: str | None = None, replace: bool = False) -> str:
    """Make a model of that name in the server, and say where. The model it builds on has to be there already: Ollama
    would pull it without a word. Raises SpecError, or BackendError for a server that is not reached or refuses."""
    if full_name(name) == full_name(settings.model):
        raise SpecError(f"--create {name}: is the model that these settings build on. Take another name")
    own = settings.options if settings.engine == "ollama" else {}
    host = host if host is not None else own.get("host")
    url = options_of({} if host is None else {"host": host}).url
    server = Server("Ollama", url, "start it with: ollama serve", alive="/api/version")
    try:
        version = version_of(await server_version(server))
        await models_of(server, {settings.model: "--model"}, version)
        if not replace and await _has(server, name):
            raise SpecError(f"--create {name}: {server.where} has a model of that name. Overwrite it with --force")
        body = create_body(settings, complete(settings, "ollama"), name)
        told = await server.send_json("/api/create", body)
    except Refused as error:
        raise BackendError(f"--create {name}: {error}") from None
    finally:
        await server.aclose()
    if told.get("status") != "success":
        raise BackendError(f"--create {name}: {server.where} answered {told}, not success")
    return server.where


async def _has(server: Server, name: str) -> bool:
    try:
        await server.send_json("/api/show", {"model": name})
    except Refused as refused:
        if refused.status == 404:
            return False
        raise
    return True
