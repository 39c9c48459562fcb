"""A protoc plugin that writes the part of a client which follows from the contract. Usage: plugin.py LANGUAGE

The errors, the events and the calls that are one call of the contract each: what would be the same by hand, thrice.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from jinja2 import Environment, FileSystemLoader, StrictUndefined

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.clients import languages
from tools.clients.errors import read_errors, tree
from tools.clients.events import EVENTS
from tools.clients.requests import RequestFields
from tools.clients.services import Contract
from tools.clients.view import OPTIONS, VIEW

TEMPLATES = Path(__file__).parent / "templates"


def main(language: str) -> int:
    """Reads a request of protoc from standard input, and writes its answer."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(answer(request, language).SerializeToString())
    return 0


def answer(request: plugin_pb2.CodeGeneratorRequest, language: str) -> plugin_pb2.CodeGeneratorResponse:
    """The files of one language. Raises ValueError for a contract that does not say what it must."""
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    ours = [each for each in request.proto_file if each.name in request.file_to_generate]
    contract = Contract(ours)
    errors = read_errors(_file(ours, "errors"))
    facts = {
        "errors": errors,
        "tree": tree(errors),
        "events": EVENTS,
        "view": VIEW,
        "options": OPTIONS,
        "fields": list(RequestFields(_file(ours, "chat")).of("ReplyRequest")),
        "client": contract.calls(),
        "conversations": contract.service("Conversations"),
    }
    for name, content in WRITERS[language](_environment(language), facts):
        response.file.add(name=name, content=content)
    return response


def _file(files: list[FileDescriptorProto], name: str) -> FileDescriptorProto:
    for each in files:
        if each.name.endswith(f"/{name}.proto"):
            return each
    raise ValueError(f"{name}.proto is not among the files")


def _python(templates: Environment, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("errors.py", "events.py", "_fields.py", "_services.py", "_view.py"):
        text = templates.get_template(f"{name}.j2").render(facts)
        ruff = [str(Path(sys.executable).with_name("ruff")), "format", "--line-length=120", "-"]
        done = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True)
        yield f"parley/{name}", done.stdout


def _node(templates: Environment, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("errors.ts", "events.ts", "fields.ts", "services.ts", "settings.ts", "view.ts"):
        yield name, templates.get_template(f"{name}.j2").render(facts)


def _java(templates: Environment, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    home = "dev/parley/client"
    for name in ("package-info.java", "Exceptions.java"):
        yield f"{home}/errors/{name}", templates.get_template(f"{name}.j2").render(facts)
    for error in facts["errors"]:
        text = templates.get_template("Exception.java.j2").render(error=error)
        yield f"{home}/errors/{error.name}Exception.java", text
    for name in ("ReplyEvent.java", "ReplyView.java", "Options.java", "Settings.java"):
        yield f"{home}/{name}", templates.get_template(f"{name}.j2").render(facts)
    service = facts["conversations"]
    for name, doc, methods, modifiers in (
        ("Calls", "What a client offers beside its streams.", facts["client"], "abstract"),
        (service.name, service.doc, service.methods, "public final"),
    ):
        text = templates.get_template("Service.java.j2").render(
            name=name, doc=doc, methods=methods, modifiers=modifiers, imports=sorted(_java_imports(methods))
        )
        yield f"{home}/{name}.java", text


def _java_imports(methods: tuple[Any, ...]) -> set[str]:
    names = set()
    for method in methods:
        names |= {f"dev.parley.v1.{each}" for each in (f"{method.service}Grpc", method.request, method.returns) if each}
        names |= {f"dev.parley.v1.{each.type}" for each in method.first if each.home}
        if method.paged:
            names |= {"java.util.stream.Stream", f"dev.parley.v1.{method.rpc}Response"}
        if method.mask:
            names.add("com.google.protobuf.FieldMask")
        if method.mask or (method.item and not method.paged):
            names.add("java.util.List")
        if method.key:
            names.add("java.util.UUID")
    return names


WRITERS = {"python": _python, "node": _node, "java": _java}


def _environment(language: str) -> Environment:
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES / language),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    words = languages.Words(language)
    templates.filters.update(
        name=words.name,
        type=words.type,
        zero=words.zero,
        prose=words.prose,
        plain=words.plain,
        typed=partial(_typed, words, language),
        docstring=languages.docstring,
        comment=partial(languages.comment, width=110) if language == "node" else languages.comment,
        note=languages.note,
        kind=languages.kind,
        pascal=languages.pascal,
    )
    return templates


def _typed(words: languages.Words, language: str, field: Any) -> str:
    """The type of an argument, or of a field of a request."""
    if not field.home:
        return words.type(field.type)
    if language == "node":
        shape = f"MessageInitShape<typeof {field.type}Schema>"
        return f"readonly {shape}[]" if field.many else shape
    return f"{field.home}_pb2.{field.type}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
