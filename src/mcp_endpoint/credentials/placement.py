"""Where a key stands in a request: in the query, in a header of its own, or as a bearer."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote_to_bytes

QUERY: Final = "query:"
HEADER: Final = "header:"


def fields_beside(query: bytes, place: str) -> list[bytes]:
    """The fields of a query as they stand, without empty ones and without any that bears the name of the key."""
    fields = [field for field in query.split(b"&") if field]
    if place.startswith(QUERY):
        fields = [field for field in fields if _name(field) != place.removeprefix(QUERY)]
    return fields


def in_query(query: bytes, place: str, secret: str) -> bytes:
    """A query with the key at its end, if it goes there; whatever bore its name before is gone, everything else stays as it was."""
    fields = fields_beside(query, place)
    if place.startswith(QUERY):
        fields.append(f"{quote(place.removeprefix(QUERY), safe='')}={quote(secret, safe='')}".encode())
    return b"&".join(fields)


def as_header(place: str, secret: str) -> tuple[str, str] | None:
    """The header that bears the key, its name in lower case; None if no header does."""
    if place.startswith(HEADER):
        return place.removeprefix(HEADER).lower(), secret
    return ("authorization", f"Bearer {secret}") if place == "bearer" else None


def _name(field: bytes) -> str:
    """The name of one field of a query."""
    return unquote_to_bytes(field.partition(b"=")[0].replace(b"+", b" ")).decode("utf-8", "replace")
