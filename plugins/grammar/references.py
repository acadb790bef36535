"""The targets of `$ref`: pointers, anchors and identifiers within one document, as in draft 2020-12."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import msgspec

from maxserve.plugins.grammar.keywords import DATA

ROOT = "#"


class Target(msgspec.Struct, frozen=True):
    """A schema that is referred to: its JSON pointer in the document, and the pointer of the resource it belongs to."""

    schema: Any
    pointer: str
    resource: str


class References:
    """Resolves the references of `root`. The document is indexed once, when the first name has to be looked up.

    A schema with an `$id` that names a document of its own is a resource: pointers and anchors below it begin there.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._resources: dict[str, Target] = {}  # by pointer
        self._by_uri: dict[str, Target] = {}
        self._uris: dict[str, str] = {ROOT: ""}  # by pointer of a resource
        self._anchors: dict[str, list[Target]] = {}
        self._indexed = False

    def resource(self, schema: Any, pointer: str, outer: str) -> str:
        """The pointer of the resource that the schema at `pointer` belongs to."""
        return pointer if pointer != ROOT and _own_identifier(schema) else outer

    def resolve(self, ref: str, resource: str) -> Target | None:
        """The target of `ref` as it stands in `resource`, None when there is none in the document."""
        uri, fragment = urldefrag(ref)
        base = self._base(uri, resource)
        if base is None:
            return None
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._anchor(fragment, base)
        found = self._follow(base, fragment)
        if found is None and not uri and base.pointer != ROOT:  # meant from the top, whatever the identifiers say
            found = self._follow(Target(self._root, ROOT, ROOT), fragment)
        return found

    def _base(self, uri: str, resource: str) -> Target | None:
        top = Target(self._root, ROOT, ROOT)
        if not uri:
            if resource == ROOT:
                return top
            self._index()
            return self._resources.get(resource)
        self._index()
        return self._by_uri.get(urljoin(self._uris.get(resource, ""), uri)) or self._by_uri.get(uri)

    def _anchor(self, name: str, base: Target) -> Target | None:
        self._index()
        found = self._anchors.get(name, [])
        return next((each for each in found if each.resource == base.pointer), found[0] if found else None)

    def _follow(self, base: Target, fragment: str) -> Target | None:
        found, pointer, resource = base.schema, base.pointer, base.pointer
        for token in (part.replace("~1", "/").replace("~0", "~") for part in fragment.split("/")[1:]):
            if isinstance(found, list) and token.isdigit() and int(token) < len(found):
                found = found[int(token)]
            elif isinstance(found, dict) and token in found:
                found = found[token]
            else:
                return None
            pointer = f"{pointer}/{escaped(token)}"
            resource = self.resource(found, pointer, resource)
        return Target(found, pointer, resource)

    def _index(self) -> None:
        if self._indexed:
            return
        self._indexed = True
        for target, uri in self._schemas():
            if target.pointer == target.resource:
                self._uris[target.pointer] = uri
                self._resources[target.pointer] = target
                self._by_uri.setdefault(uri, target)
            for name in _anchors(target.schema):
                self._anchors.setdefault(name, []).append(target)

    def _schemas(self) -> Iterator[tuple[Target, str]]:
        """Every object of the document that may be a schema, outer ones first, with the URI of its resource."""
        waiting: list[tuple[Any, str, str, str]] = [(self._root, ROOT, ROOT, "")]
        for value, pointer, outer, base in waiting:  # which grows meanwhile
            if isinstance(value, list):
                waiting += [(item, f"{pointer}/{i}", outer, base) for i, item in enumerate(value)]
            elif isinstance(value, dict):
                own = _own_identifier(value)
                uri, resource = (urljoin(base, own), pointer) if own else (base, outer)
                yield Target(value, pointer, resource), uri
                waiting += [(v, f"{pointer}/{escaped(k)}", resource, uri) for k, v in value.items() if k not in DATA]


def _own_identifier(schema: Any) -> str | None:
    """The `$id` of a document of its own; one that is only a fragment (`#/properties/a`, `#a`) is none."""
    if not isinstance(schema, dict):
        return None
    found = next((value for key in ("$id", "id") if isinstance(value := schema.get(key), str)), "")
    return urldefrag(found)[0] or None if found else None


def _anchors(schema: dict[str, Any]) -> Iterator[str]:
    for key in ("$anchor", "$dynamicAnchor"):
        if isinstance(name := schema.get(key), str):
            yield name
    for key in ("$id", "id"):  # up to draft 7
        if isinstance(name := schema.get(key), str) and name.startswith("#") and not name.startswith("#/"):
            yield name[1:]


def escaped(name: str) -> str:
    """A key as a token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
