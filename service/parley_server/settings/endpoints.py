"""Checks what the providers of all vendors have: base URL, key and headers. No fault contains a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from parley_server.settings.keys import find_header, find_key, google_credentials
from parley_server.settings.shape import EndpointSettings, GeminiSettings

_APPENDED = {
    "openai": ("/chat/completions", "/completions", "/responses", "/embeddings", "/messages"),
    "anthropic": ("/v1", "/messages"),
    "gemini": ("/models", "/projects", ":generateContent", ":streamGenerateContent"),
}
_KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"}
_OWN_HOST = re.compile(
    r"api\.openai\.com|api\.anthropic\.com|(.+\.|.+-)?(generativelanguage|aiplatform)\.googleapis\.com"
)
_FROM_API_KEY = ("credentials", "stored_key")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
# The providers and the HTTP client set these headers.
_SET_HERE = frozenset(
    {
        "accept",
        "accept-encoding",
        "anthropic-version",
        "api-key",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "transfer-encoding",
        "user-agent",
        "x-api-key",
        "x-goog-api-key",
    }
)


def with_secrets(
    table: dict[str, Any], environment: Mapping[str, str], *, path: str, folder: Path, faults: list[str]
) -> dict[str, Any]:
    """The table of a provider with its key and its headers resolved, without those that cannot be."""
    resolved = {key: value for key, value in table.items() if key not in ("api_key", "headers", *_FROM_API_KEY)}
    faults.extend(f"{path}.{name}: unknown key; did you mean api_key?" for name in _FROM_API_KEY if name in table)
    try:
        if "api_key" in table:
            resolved |= _key_of(table["api_key"], environment, folder=folder, gemini=table.get("kind") == "gemini")
    except ValueError as error:
        faults.append(f"{path}.api_key: {error}")
    if "headers" in table:
        resolved["headers"] = _headers(table["headers"], environment, path=f"{path}.headers", faults=faults)
    return resolved


def endpoint_faults(provider: EndpointSettings, kind: str, *, has_key: bool) -> list[str]:
    """The faults of a valid shape: each begins with its key. `has_key`: the configuration names a key, which may itself
    have a fault."""
    faults = []
    if provider.base_url and (fault := base_url_fault(provider.base_url, kind)) is not None:
        faults.append(f"base_url: {fault}")
    elif not has_key and _is_vendor(provider.base_url):
        example = f'"env:{_KEY_VARIABLES[kind]}"'
        faults.append(f"api_key: is required for the vendor's own address, such as {example}")
    if isinstance(provider, GeminiSettings):
        faults.extend(_vertex_faults(provider))
    return faults


def base_url_fault(base_url: str, kind: str) -> str | None:
    """The fault of a provider's base URL; None if it has none. The text never contains the URL, which may hold a
    secret."""
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        return "must be an http or https URL with a host"
    if "@" in parts.netloc:
        return "must not contain a user or a password; put the key into api_key"
    if "?" in base_url or "#" in base_url:
        return "must not have a query or a fragment"
    path = parts.path.rstrip("/").lower()
    if named := next((each for each in _APPENDED[kind] if path.endswith(each.lower())), None):
        return f"must end before {named}, which the server appends"
    return None


def _vertex_faults(provider: GeminiSettings) -> list[str]:
    if provider.project and not provider.location:
        return ['location: is required with project, such as "global"']
    if provider.location and not provider.project:
        return ["project: is required with location"]
    if provider.credentials is not None and not provider.project:
        return ['api_key: "google:" needs project and location, because only Vertex AI takes such credentials']
    return []


def _is_vendor(base_url: str) -> bool:
    return not base_url or _OWN_HOST.fullmatch((urlsplit(base_url).hostname or "").rstrip(".")) is not None


def _key_of(reference: Any, environment: Mapping[str, str], *, folder: Path, gemini: bool) -> dict[str, Any]:
    if reference == "stored":
        return {"stored_key": True}
    credentials = google_credentials(reference, folder)
    if credentials is None:
        return {"api_key": find_key(reference, environment, folder)}
    if not gemini:
        raise ValueError('"google:" is only for providers of kind "gemini"')
    return {"credentials": credentials}


def _headers(table: Any, environment: Mapping[str, str], *, path: str, faults: list[str]) -> Any:
    if not isinstance(table, dict):
        return table
    headers: dict[str, Any] = {}
    for name, value in table.items():
        if not _HEADER_NAME.fullmatch(name):
            faults.append(f"{path}: contains a name that HTTP does not allow")
        elif name.lower() in _SET_HERE:
            hint = "; put the key into api_key" if "key" in name.lower() or name.lower() == "authorization" else ""
            faults.append(f"{path}.{name}: is set by the server{hint}")
        elif not isinstance(value, str):
            faults.append(f"{path}.{name}: must be a string")
        else:
            try:
                headers[name] = _checked(find_header(value, environment))
            except ValueError as error:
                faults.append(f"{path}.{name}: {error}")
    return headers


def _checked(value: str) -> str:
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError("must be printable ASCII characters without spaces at its ends")
    return value
