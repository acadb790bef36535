"""Keywords of JSON Schema and its relatives: which ones are annotations, and which ones assert what is not kept."""

from __future__ import annotations

# Draft 3 to 2020-12: they describe, identify or define, and validate nothing.
ANNOTATIONS = frozenset(
    {"$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment", "$defs"}
    | {"definitions", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"contentMediaType", "contentEncoding", "contentSchema"}
)

# They decide which texts are valid, and no grammar of ours holds them. All other unknown keywords are annotations.
ASSERTIONS = frozenset(
    {"not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"}
    | {"dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"}
    | {"additionalItems", "$dynamicRef", "$recursiveRef", "extends", "disallow", "divisibleBy"}
)

# Keywords whose value is not a schema and holds none: what stands in them identifies and refers to nothing.
DATA = frozenset({"const", "enum", "default", "examples", "example"})
