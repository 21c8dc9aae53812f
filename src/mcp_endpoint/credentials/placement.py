"""Puts a key into a request: as a query field, as a header of its own, or as a bearer token."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote_to_bytes

QUERY: Final = "query:"
HEADER: Final = "header:"


def fields_beside(query: bytes, place: str) -> list[bytes]:
    """The fields of a query as written, without empty ones and without any that has the name of the key's field."""
    fields = [field for field in query.split(b"&") if field]
    if place.startswith(QUERY):
        fields = [field for field in fields if _name(field) != place.removeprefix(QUERY)]
    return fields


def in_query(query: bytes, place: str, secret: str) -> bytes:
    """The query with the key appended, if that is its place; earlier fields of that name are removed, all others kept as written."""
    fields = fields_beside(query, place)
    if place.startswith(QUERY):
        fields.append(f"{quote(place.removeprefix(QUERY), safe='')}={quote(secret, safe='')}".encode())
    return b"&".join(fields)


def as_header(place: str, secret: str) -> tuple[str, str] | None:
    """The header that carries the key, its name in lower case; None if the key is not in a header."""
    if place.startswith(HEADER):
        return place.removeprefix(HEADER).lower(), secret
    return ("authorization", f"Bearer {secret}") if place == "bearer" else None


def _name(field: bytes) -> str:
    """The decoded name of a query field."""
    return unquote_to_bytes(field.partition(b"=")[0].replace(b"+", b" ")).decode("utf-8", "replace")
