"""Stores and loads the images of conversations."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, insert, select

from parley_server.core.model import Identity, ImagePart
from parley_server.core.store_types import StoredImage
from parley_server.errors import ImageNotFound
from parley_server.store.engine.dialect import Sought, listed, listed_values
from parley_server.store.ownership import owned, owner
from parley_server.store.schema import image

_INSERT = insert(image)
_GET = select(image.c.mime_type, image.c.data, image.c.size_bytes).where(
    image.c.id == bindparam("image_id", type_=Sought()), owned(image)
)
_OF_CONVERSATION = (
    image.c.tenant == bindparam("of_tenant"),
    image.c.conversation_id == bindparam("of_conversation"),
)


@cache
def _held(dialect: str) -> Select[Any]:
    return select(image.c.id).where(*_OF_CONVERSATION, image.c.id.in_(listed("image_ids", dialect)))


@cache
def _load(dialect: str) -> Select[Any]:
    columns = (image.c.id, image.c.mime_type, image.c.data)
    return select(*columns).where(*_OF_CONVERSATION, image.c.id.in_(listed("image_ids", dialect)))


def insert_images(
    connection: Connection, images: Collection[StoredImage], *, tenant: str, end_user: str, conversation_id: str
) -> None:
    """Store the images of new messages."""
    if not images:
        return
    rows = [
        {
            "id": each.id,
            "tenant": tenant,
            "end_user": end_user,
            "conversation_id": conversation_id,
            "mime_type": each.mime_type,
            "size_bytes": len(each.data),
            "data": each.data,
        }
        for each in images
    ]
    connection.execute(_INSERT, rows)


def first_missing(
    connection: Connection, image_ids: Collection[str], *, tenant: str, conversation_id: str
) -> str | None:
    """The first of these ids that is not an image of the conversation; None if all are."""
    if not image_ids:
        return None
    held = set(connection.execute(_held(connection.dialect.name), _of(tenant, conversation_id, image_ids)).scalars())
    return next((image_id for image_id in image_ids if image_id not in held), None)


def load_images(
    connection: Connection, image_ids: Collection[str], *, tenant: str, conversation_id: str
) -> tuple[StoredImage, ...]:
    """The images with their bytes, in the order given. Ids that are not images of the conversation are left out."""
    if not image_ids:
        return ()
    rows = connection.execute(_load(connection.dialect.name), _of(tenant, conversation_id, image_ids))
    found = {row.id: StoredImage(id=row.id, mime_type=row.mime_type, data=row.data) for row in rows}
    return tuple(found[image_id] for image_id in dict.fromkeys(image_ids) if image_id in found)


def get_image(connection: Connection, identity: Identity, image_id: str) -> ImagePart:
    """The image with its bytes. Raises ImageNotFound."""
    row = connection.execute(_GET, {"image_id": image_id, **owner(identity)}).first()
    if row is None:
        raise ImageNotFound
    return ImagePart(image_id=image_id, mime_type=row.mime_type, data=row.data, size_bytes=row.size_bytes)


def _of(tenant: str, conversation_id: str, image_ids: Collection[str]) -> dict[str, object]:
    return {"of_tenant": tenant, "of_conversation": conversation_id, "image_ids": listed_values(image_ids)}
