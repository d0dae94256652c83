"""The application as a whole: HEAD, versioned paths, path prefixes of proxies, and pages of other origins."""

import pytest

from tests.conftest import running
from tests.service.images import PNG, post

KEY = {"X-API-Key": "k"}
ORIGIN = {"Origin": "https://a.example"}
PATHS = ["/", "/health/live", "/health/ready", "/metrics", "/models", "/docs", "/openapi.json", "/static/style.css"]


@pytest.fixture(scope="module")
def prefixed():
    with running(models="identity", root_path="/purifier", api_key="k") as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_head_works_where_get_does(client, path):
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code == 200
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""
    assert client.head("/purify").status_code == 405
    assert set(client.put(path).headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert "head" not in client.get("/openapi.json").json()["paths"].get(path, {})


@pytest.mark.parametrize("prefix", ["", "/purifier"])
@pytest.mark.parametrize("path", [*PATHS, "/static-offline-docs/swagger-ui.css"])
def test_a_proxy_may_leave_its_prefix_or_take_it_away(prefixed, prefix, path):
    assert prefixed.get(prefix + path, headers=KEY).status_code == 200
    assert prefixed.get(prefix + path).status_code == (200 if path in PATHS[:4] or "/static/" in path else 401)
    assert post(prefixed, PNG, path=f"{prefix}/purify", **KEY).status_code == 200
    assert prefixed.get(f"{prefix}er/metrics", headers=KEY).status_code == 404


def test_the_prefix_itself_leads_to_the_page(prefixed):
    for ask in (prefixed.get, prefixed.head):
        answer = ask("/purifier", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (308, "/purifier/")
    assert prefixed.get("/purifier").json()["status"] == "alive"
    assert post(prefixed, PNG, path="/purifier").status_code == 401


def test_a_prefix_that_is_called_as_a_route_is_that_route():
    with running(models="identity", root_path="/models") as client:
        assert client.get("/models", follow_redirects=False).json()["purifiers"]
        assert client.get("/models/models").json()["purifiers"]


def test_the_document_names_the_key_where_one_is_asked_for(client, prefixed):
    document = prefixed.get("/openapi.json", headers=KEY).json()
    (scheme,) = document["components"]["securitySchemes"].items()
    assert scheme[1] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    asking = {path for path, methods in document["paths"].items() for what in methods.values() if "security" in what}
    assert asking == {"/purify", "/classify", "/models"}
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]


def test_behind_a_prefix_the_documents_ask_for_what_is_below_it(prefixed):
    assert "url: '/purifier/openapi.json'" in prefixed.get("/docs", headers=KEY).text
    assert 'href="/purifier/static-offline-docs/' in prefixed.get("/docs", headers=KEY).text
    assert prefixed.get("/openapi.json", headers=KEY).json()["servers"] == [{"url": "/purifier"}]
    assert prefixed.get("/").json()["docs"] == "/purifier/docs"
    assert 'route="/purify"' in prefixed.get("/metrics").text
    assert 'route="/purifier' not in prefixed.get("/metrics").text


@pytest.mark.parametrize("path", ["/purify", "/classify"])
def test_the_versioned_path_is_the_same_route(client, path):
    plain, versioned = post(client, PNG, path=path), post(client, PNG, path=f"/v1{path}")
    assert (versioned.status_code, versioned.content) == (200, plain.content)
    assert post(client, b"no image", path=f"/v1{path}").json() == post(client, b"no image", path=path).json()
    assert client.get(f"/v1{path}").status_code == 405
    assert 'route="/v1/' not in client.get("/metrics").text  # counted as one route
    assert [named for named in client.get("/openapi.json").json()["paths"] if named.endswith(path)] == [path]


def test_the_versioned_paths_stand_beside_the_gateways():
    with running(models="identity", downstream_url="http://127.0.0.1:9", downstream_protocol="v1") as gateway:
        assert post(gateway, PNG, path="/v1/purify").status_code == 200
        assert post(gateway, b"{}", "application/json", path="/v1/models/m:predict").status_code in (400, 502)


def preflight(client):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
    return client.options("/purify", headers=ORIGIN | asked)


def test_pages_of_other_origins_may_call_only_where_that_is_set(client):
    assert preflight(client).status_code == 405
    assert not [name for name in post(client, PNG, **ORIGIN).headers if name.startswith("access-control")]
    with running(models="identity", api_key="k", cors_origins="https://a.example, https://b.example") as allowed:
        assert preflight(allowed).headers["access-control-allow-origin"] == ORIGIN["Origin"]
        assert "x-api-key" in preflight(allowed).headers["access-control-allow-headers"]
        for headers, status in ((KEY, 200), ({}, 401)):
            answer = post(allowed, PNG, **ORIGIN, **headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == ORIGIN["Origin"], "refusals can be read too"
            assert answer.headers["access-control-expose-headers"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
        other = post(allowed, PNG, **KEY, Origin="https://c.example")
        assert "access-control-allow-origin" not in other.headers
