from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio

PATH = "/v1/embeddings"


@pytest.mark.parametrize("given", ["text", ["one", "two"], [1, 2], [[1], [2, 3]]])
async def test_a_model_that_generates_text_says_so(client: httpx.AsyncClient, given: Any) -> None:
    response = await client.post(PATH, json={"model": "acme/tiny", "input": given, "encoding_format": "base64"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_model", "model")
    assert "acme/tiny" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "input"), ({"input": 5}, "input"), ({"input": "a", "encoding_format": "hex"}, "encoding_format")],
)
async def test_wrong_fields(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post(PATH, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_another_model(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json={"model": "other", "input": "a"})).status_code == 404
