"""The comments of a proto file, by the path of what they stand above."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorProto

Path = tuple[int, ...]


class Comments:
    """Texts without markers, on one line. A path is that of `SourceCodeInfo.Location`."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._places = {tuple(each.path): each for each in file.source_code_info.location}

    def of(self, path: Path) -> str:
        """What stands directly above; empty where there is nothing."""
        place = self._places.get(path)
        return _flat(place.leading_comments) if place else ""

    def before(self, path: Path) -> list[str]:
        """What stands above that, each with an empty line below it."""
        place = self._places.get(path)
        return [_flat(each) for each in place.leading_detached_comments] if place else []


def _flat(comment: str) -> str:
    return " ".join(comment.split())
