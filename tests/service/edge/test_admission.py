"""Who gets in: keys, each client's share, room for bodies, and what an answer says of itself."""

import grpc
import pytest
from pydantic import ValidationError

from arn_purify.service.core import codec
from arn_purify.service.gateway.grpc import _address
from arn_purify.service.settings import Settings
from tests.conftest import PATIENCE, running
from tests.service.images import PIXELS, PNG

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def locked():
    behind = {"downstream_url": "http://127.0.0.1:9", "downstream_protocol": "any", "downstream_grpc": "127.0.0.1:9"}
    with running(api_key="first,second", grpc_port=0, **behind) as client:
        yield client


def test_each_key_opens_and_nothing_else_does(locked):
    for key, status in {"first": 200, "second": 200, "secon": 401, "first,second": 401, "": 401}.items():
        assert locked.post("/purify", content=PNG, headers={"X-API-Key": key}).status_code == status
    refused = locked.post("/purify", content=PNG, headers={"Authorization": "Bearer second"})
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert refused.headers["www-authenticate"] == "X-API-Key"
    assert 'arn_rejected_total{reason="unauthorized"}' in locked.get("/metrics").text


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/metrics", "/static/app.js"])
def test_probes_scrapers_and_the_page_need_no_key(locked, path):
    assert locked.get(path, headers={"Accept": "text/html"}).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/ping", 502), ("/v2/health/ready", 502), ("/v2/health/live", 200)])
def test_the_gateways_probes_need_no_key(locked, path, status):
    assert locked.get(path).status_code == status  # nothing listens behind


def test_every_other_route_needs_one(locked):
    """Whatever is served, told from the app itself, so that a new route is closed until it is opened on purpose."""
    opened = {"/", "/health/live", "/health/ready", "/metrics", "/static/{path:path}", "/ping",
              "/v2/health/live", "/v2/health/ready"}  # fmt: skip
    seen = {(getattr(route, "path", ""), method) for route in every(locked.app.routes)
            for method in getattr(route, "methods", None) or ["GET"]}  # fmt: skip
    paths = {path for path, _ in seen}
    assert opened < paths
    assert {"/purify", "/models", "/docs", "/openapi.json", "/v2/models/{model}/infer", "/predictions/{model}"} < paths
    for path, method in seen:
        if path and path not in opened:
            assert locked.request(method, path).status_code == 401, path
    for path in ["/nowhere", "/health", "/static", "/healthy", "/metrics/", "/v2/healthy/x"]:
        assert locked.get(path).status_code == 401, path


def every(routes):
    for route in routes:
        yield route
        yield from every(getattr(getattr(route, "original_router", None), "routes", []))


def test_a_protocols_own_form_tells_it(locked):
    refused = locked.post("/predictions/m", content=PNG)
    assert (refused.status_code, refused.json()["code"], refused.json()["type"]) == (401, 401, "Unauthorized")
    refused = locked.post("/v2/models/m/infer", content=b"{}")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")


def test_over_grpc_the_key_is_metadata_and_probes_need_none(locked):
    with grpc.insecure_channel(f"127.0.0.1:{locked.app.state.service.grpc.port}") as channel:

        def ask(method, *metadata):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(method)(b"\x0a\x01m", metadata=metadata, timeout=10)
            return refused.value

        wrong = ask(MODEL_INFER, ("x-api-key", "third"))
        assert (wrong.code(), dict(wrong.trailing_metadata())["x-arn-code"]) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "unauthorized",
        )
        assert ask(MODEL_INFER).code() is grpc.StatusCode.UNAUTHENTICATED
        assert ask(MODEL_INFER, ("x-api-key", "first")).code() is grpc.StatusCode.INVALID_ARGUMENT  # no image
        probe = ask("/inference.GRPCInferenceService/ServerReady")
        assert probe.code() is grpc.StatusCode.UNAVAILABLE  # nothing listens behind
        assert ask("/inference.GRPCInferenceService/Whatever").code() is grpc.StatusCode.UNIMPLEMENTED
    assert 'arn_requests_total{route="grpc:ModelInfer",status="UNAUTHENTICATED"} 2.0' in locked.get("/metrics").text


def test_over_grpc_a_service_that_drains_says_so(locked, monkeypatch):
    service = locked.app.state.service
    monkeypatch.setattr(service.lifecycle, "draining", True)
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc.port}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(MODEL_INFER)(b"", metadata=(("x-api-key", "first"),), timeout=PATIENCE)
        trailing = dict(refused.value.trailing_metadata())
    assert (refused.value.code(), trailing["x-arn-code"]) == (grpc.StatusCode.UNAVAILABLE, "draining")
    assert trailing["retry-after"] == "1"
    assert "connection" not in trailing, "HTTP/2 has none"


def test_keys_are_shown_nowhere(locked, caplog):
    settings = Settings(api_key="first,cherished")
    with caplog.at_level("DEBUG"):
        answer = locked.post("/purify", content=b"junk", headers={"X-API-Key": "second"})
        refused = locked.post("/purify", content=b"junk", headers={"X-API-Key": "cherished"})
    with pytest.raises(ValidationError) as wrong:
        Settings(api_key="cherished", input_mean="1,2")
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(wrong.value), refused.text):
        assert "cherished" not in shown
    for shown in (answer.text, caplog.text):
        assert "second" not in shown
        assert "cherished" not in shown
    assert "POST /purify 400" in caplog.text


def test_a_list_of_no_key_is_no_open_door():
    with pytest.raises(ValidationError, match="without anything in it"):
        Settings(api_key=" , ")
    assert Settings(api_key="").api_key == ()


def test_a_refusal_takes_nothing_of_the_body(locked):
    def body():
        pytest.fail("the body was asked for")
        yield PNG

    assert locked.post("/purify", content=body(), headers={"X-API-Key": "wrong"}).status_code == 401


@pytest.mark.parametrize(
    ("peer", "address"), [("ipv4:1.2.3.4:5", "1.2.3.4"), ("ipv6:%5B::1%5D:5", "::1"), ("unix:", "")]
)
def test_the_address_of_a_grpc_peer(peer, address):
    assert _address(peer) == address


def test_a_clients_second_request_is_refused_and_its_probe_is_not():
    with running(client_requests=1) as client:
        with client.app.state.service.limits.client("testclient"):
            refused = client.post("/purify", content=PNG)
            assert (refused.status_code, refused.json()["code"]) == (429, "client_limit")
            assert refused.headers["retry-after"] == "1"
            assert client.get("/health/ready").status_code == 200
        assert client.post("/purify", content=PNG).status_code == 200


def test_a_body_without_a_length_is_counted_as_it_comes():
    body = codec.encode_npy(PIXELS)
    with running(max_body_bytes=len(body), bodies_bytes=len(body)) as client:
        memory = client.app.state.service.limits.memory
        assert client.post("/purify", content=iter([body[:100], body[100:]])).status_code == 200
        with memory.reserve(200):
            for content in (body, iter([body[:100], body[100:]])):
                refused = client.post("/purify", content=content)
                assert (refused.status_code, refused.json()["code"]) == (429, "bodies_full")
                assert refused.headers["retry-after"] == "1"
        assert client.post("/purify", content=body).status_code == 200
        assert client.post("/purify", content=body + b"x").status_code == 413
        assert "arn_body_bytes 0.0" in client.get("/metrics").text


def test_no_answer_is_sniffed_or_stored(client):
    answers = [client.post("/purify", content=PNG), client.post("/purify", content=b"junk"), client.get("/nowhere"),
               client.get("/models"), client.get("/openapi.json")]  # fmt: skip
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    page = client.get("/static/app.js")
    assert (page.headers["cache-control"], page.headers["x-content-type-options"]) == ("no-cache", "nosniff")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_loads_nothing_from_elsewhere(client, path):
    page = client.get(path).text
    assert "src=" in page
    assert "://" not in page
    for source in page.split('"'):
        if source.endswith((".js", ".css")):
            assert client.get(source).status_code == 200


def test_the_documentation_can_be_taken_away():
    with running(docs=False) as client:
        assert [client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3
        assert "docs" not in client.get("/").json()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tls_cert": __file__}, "come together"),
        ({"tls_cert": __file__, "tls_key": "nowhere.pem"}, "nowhere.pem: no such file"),
        ({"bodies_bytes": 1000}, "room for one body"),
    ],
)
def test_settings_that_cannot_be_are_told(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**wrong)
