"""A customer's own provider key, from attaching it to removing it, as an OpenAI developer sees it."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import structlog

from gateway.secrets_at_rest import Owner, Sealed, SecretUnreadable, Vault
from tests.contract.providers import KINDS, Kind
from tests.fakes.pool import FakePool
from tests.fakes.upstream import GOOD_KEY, Upstream
from tests.pictures import data_uri, picture
from tests.postgres import PostgresServer
from tests.running import RunningProgram
from tests.serving import Customer, RunningGateway

MODEL = "meta/sam-3-image"
KEK = "a key-encryption key for tests, more than 32 characters"


class Scene:
    """A gateway, a pool, and the three upstreams that customers may have keys of."""

    def __init__(self, gateway: RunningGateway, pool: FakePool, upstreams: dict[str, Upstream], urls: dict[str, str]):
        self.gateway = gateway
        self.pool = pool
        self.upstreams = upstreams
        self.urls = urls

    def reset(self) -> None:
        """Be as new."""
        self.pool.reset()
        for upstream in self.upstreams.values():
            upstream.behaviour = "succeed"
            upstream.asked.clear()
            upstream.keys.clear()
            upstream.began.clear()

    def api(self, customer: Customer, method: str, path: str = "", **options: Any) -> httpx.Response:
        """One request to the provider credentials of the account."""
        return httpx.request(
            method,
            f"{self.gateway.base_url}/v1/provider-credentials{path}",
            headers={"authorization": f"Bearer {customer.key}"},
            timeout=30,
            **options,
        )

    def attach(self, customer: Customer, provider: str, *, key: str = GOOD_KEY, **fields: Any) -> dict[str, Any]:
        """Attach a key over the API."""
        body = {"provider": provider, "key": key, **fields}
        if provider == "openai":
            body["base_url"] = f"{self.urls['openai']}/v1"
        answer = self.api(customer, "POST", json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def generate(self, customer: Customer, **fields: Any) -> Any:
        """One call with the stock client."""
        client = self.gateway.openai(customer)
        prompt = fields.pop("prompt", "red circle")
        return client.images.generate(
            model=fields.pop("model", MODEL), prompt=prompt, extra_body={"image": data_uri(picture())} | fields
        )


@pytest.fixture(scope="module")
def shared(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    pool = FakePool()
    upstreams = {kind.name: kind.upstream() for kind in KINDS}
    programs = {name: RunningProgram(upstream.app) for name, upstream in upstreams.items()}
    with programs["openai"] as a, programs["fal"] as b, programs["wavespeed"] as c, RunningProgram(pool.app) as local:
        urls = {"openai": a.base_url, "fal": b.base_url, "wavespeed": c.base_url}
        with RunningGateway.start(
            postgres,
            local.base_url,
            tmp_path_factory.mktemp("own-keys"),
            key_encryption_key=KEK,
            fal_url=urls["fal"],
            wavespeed_url=urls["wavespeed"],
            picture_url_networks=["127.0.0.0/8"],
            picture_url_ports=[url.rpartition(":")[2] for url in urls.values()],
        ) as gateway:
            yield Scene(gateway, pool, upstreams, urls)


@pytest.fixture
def scene(shared: Scene) -> Scene:
    shared.reset()
    return shared


@pytest.fixture
def customer(scene: Scene) -> Customer:
    return scene.gateway.customer(usd=1)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_attach_call_for_nothing_detach_pay_again(scene: Scene, customer: Customer, kind: Kind) -> None:
    attached = scene.attach(customer, kind.name, name="mine")
    assert (attached["last4"], attached["enabled"], attached["may_fall_back"]) == (GOOD_KEY[-4:], True, False)
    assert GOOD_KEY not in str(attached)

    answer = scene.generate(customer)
    assert (answer.usage.payer, answer.usage.cost_micros, answer.usage.cost_usd) == ("customer", 0, "0.000000")
    assert httpx.get(answer.data[0].url).status_code == 200
    assert (scene.upstreams[kind.name].keys[-1], scene.pool.tasks) == (GOOD_KEY, [])
    balance = scene.gateway.balance(customer)
    assert (balance.balance_micros, balance.held_micros) == (1_000_000, 0)
    [prediction] = scene.gateway.predictions(customer)
    assert (prediction["payer"], prediction["status"]) == ("customer", "completed")
    assert (prediction["price_micros"], prediction["charged_micros"]) == (0, 0)
    assert prediction["deployment"] == f"own:{kind.name}:{GOOD_KEY[-4:]}"

    assert scene.api(customer, "DELETE", f"/{attached['id']}").status_code == 204
    answer = scene.generate(customer)
    assert (answer.usage.payer, answer.usage.cost_usd) == ("wallet", "0.005000")
    assert scene.gateway.balance(customer).balance_micros == 995_000
    scene.gateway.require_sound_books()


def test_an_empty_wallet_is_no_hindrance(scene: Scene) -> None:
    poor = scene.gateway.customer(usd=0)
    scene.attach(poor, "fal")
    assert scene.generate(poor).usage.payer == "customer"


def test_a_key_that_the_provider_does_not_accept_is_not_stored(scene: Scene, customer: Customer) -> None:
    bad = "a-key-that-nobody-knows-0123456789"
    answer = scene.api(customer, "POST", json={"provider": "fal", "key": bad})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "provider_credential_rejected")
    assert bad not in answer.text
    assert scene.api(customer, "GET").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"provider": "replicate", "key": GOOD_KEY}, "provider"),
        ({"provider": "fal", "key": "short"}, "key"),
        ({"provider": "fal", "key": GOOD_KEY, "base_url": "https://fal.example/v1"}, "base_url"),
        ({"provider": "openai", "key": GOOD_KEY}, "base_url"),
        ({"provider": "openai", "key": GOOD_KEY, "base_url": "ftp://x.example"}, "base_url"),
        ({"provider": "openai", "key": GOOD_KEY, "base_url": "https://user:pass@x.example/v1"}, "base_url"),
        ({"provider": "fal", "key": GOOD_KEY, "models": ["gpt"]}, "model"),
        ({"provider": "fal", "key": GOOD_KEY, "api_keys": ["key_0"]}, "api_keys"),
        ({"provider": "fal", "key": GOOD_KEY, "position": -1}, "position"),
    ],
)
def test_what_cannot_be_attached_is_refused_in_words(
    scene: Scene, customer: Customer, body: dict[str, Any], param: str
) -> None:
    answer = scene.api(customer, "POST", json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param
    assert GOOD_KEY not in answer.text


def test_an_address_inside_a_private_network_is_not_connected_to(scene: Scene, customer: Customer) -> None:
    body = {"provider": "openai", "key": GOOD_KEY, "base_url": "https://169.254.169.254/v1"}
    answer = scene.api(customer, "POST", json=body)
    assert answer.status_code == 400
    assert "cannot be reached" in answer.json()["error"]["message"]


def test_a_refused_key_is_named_and_never_replaced_by_ours(scene: Scene, customer: Customer) -> None:
    attached = scene.attach(customer, "fal")
    scene.upstreams["fal"].behaviour = "forbidden"
    for _ in range(3):
        with pytest.raises(openai.InternalServerError, match="fal refused") as raised:
            scene.generate(customer)
        assert raised.value.code == "provider_credential_refused"
        assert raised.value.response.headers["x-should-retry"] == "false"
    assert scene.pool.tasks == []
    assert scene.gateway.balance(customer).balance_micros == 1_000_000

    shown = scene.api(customer, "GET", f"/{attached['id']}").json()
    assert (shown["enabled"], shown["refusals_in_a_row"]) == (False, 3)
    assert "3 times in a row" in shown["disabled_reason"]
    assert "Exhausted balance" in shown["last_error"]

    scene.upstreams["fal"].behaviour = "succeed"
    with pytest.raises(openai.InternalServerError, match="switched off"):
        scene.generate(customer)
    assert scene.pool.tasks == []
    scene.api(customer, "PATCH", f"/{attached['id']}", json={"enabled": True})
    assert scene.generate(customer).usage.payer == "customer"


def test_with_leave_to_fall_back_the_wallet_pays_for_what_the_key_did_not_start(
    scene: Scene, customer: Customer
) -> None:
    scene.attach(customer, "fal", may_fall_back=True)
    scene.upstreams["fal"].behaviour = "busy"
    answer = scene.generate(customer)
    assert (answer.usage.payer, answer.usage.cost_usd) == ("wallet", "0.005000")
    [prediction] = scene.gateway.predictions(customer)
    assert (prediction["payer"], prediction["charged_micros"], prediction["deployment"]) == ("wallet", 5_000, "pool")
    scene.upstreams["fal"].behaviour = "break"  # may have been done, so it is not done and paid for again
    with pytest.raises(openai.InternalServerError):
        scene.generate(customer)
    assert scene.gateway.balance(customer).balance_micros == 995_000
    assert scene.gateway.balance(customer).held_micros == 0
    scene.gateway.require_sound_books()


def test_falling_back_on_an_empty_wallet_is_refused_and_leaves_no_hold(scene: Scene) -> None:
    poor = scene.gateway.customer(usd=0)
    scene.attach(poor, "fal", may_fall_back=True)
    scene.upstreams["fal"].behaviour = "busy"
    with pytest.raises(openai.APIStatusError) as raised:
        scene.generate(poor)
    assert raised.value.status_code == 402
    [prediction] = scene.gateway.predictions(poor)
    assert (prediction["status"], prediction["charged_micros"]) == ("failed", 0)
    scene.gateway.require_sound_books()


def test_a_busy_provider_is_503_with_its_waiting_time(scene: Scene, customer: Customer) -> None:
    scene.attach(customer, "wavespeed")
    scene.upstreams["wavespeed"].behaviour = "busy"
    with pytest.raises(openai.InternalServerError) as raised:
        scene.generate(customer)
    assert (raised.value.status_code, raised.value.response.headers["retry-after"]) == (503, "7")


def test_the_providers_words_about_the_input_arrive_without_secrets(scene: Scene, customer: Customer) -> None:
    scene.attach(customer, "fal")
    scene.upstreams["fal"].behaviour = "reject"
    with pytest.raises(openai.BadRequestError, match="too dark") as raised:
        scene.generate(customer)
    assert GOOD_KEY not in str(raised.value)


def test_what_the_provider_cannot_do_is_refused_openly_or_skipped(scene: Scene, customer: Customer) -> None:
    attached = scene.attach(customer, "wavespeed", position=1)
    with pytest.raises(openai.BadRequestError, match=r"wavespeed.*3 masks, scores") as raised:
        scene.generate(customer, max_masks=3, include_scores=True)
    assert raised.value.code == "not_supported"
    scene.attach(customer, "fal", position=2)
    assert len(scene.generate(customer, max_masks=3, include_scores=True).data) == 3
    assert (len(scene.upstreams["wavespeed"].asked), len(scene.upstreams["fal"].asked)) == (0, 1)
    scene.api(customer, "PATCH", f"/{attached['id']}", json={"may_fall_back": True})
    assert scene.generate(customer, model="meta/sam-3-1-image").usage.payer == "customer"


def test_keys_are_used_in_order_and_pinned_to_models_and_api_keys(scene: Scene, customer: Customer) -> None:
    second = scene.attach(customer, "openai", position=2)
    first = scene.attach(customer, "fal", position=1, models=["fal-ai/sam-3/image"])
    assert first["models"] == [MODEL]
    scene.generate(customer)
    scene.generate(customer, model="meta/sam-3-image-rle")
    assert [p["deployment"].split(":")[1] for p in scene.gateway.predictions(customer)] == ["fal", "openai"]
    pinned = scene.api(customer, "PATCH", f"/{second['id']}", json={"api_keys": [f"key_{customer.key_id.hex}"]})
    assert pinned.json()["api_keys"] == [f"key_{customer.key_id.hex}"]
    scene.api(customer, "PATCH", f"/{first['id']}", json={"enabled": False})
    assert scene.generate(customer).usage.payer == "customer"
    assert len(scene.api(customer, "GET").json()["data"]) == 2


def test_other_organizations_see_nothing_and_pay(scene: Scene, customer: Customer) -> None:
    attached = scene.attach(customer, "fal")
    stranger = scene.gateway.customer(usd=1)
    for method, options in (("GET", {}), ("PATCH", {"json": {"enabled": False}}), ("DELETE", {})):
        assert scene.api(stranger, method, f"/{attached['id']}", **options).status_code == 404
    assert scene.api(stranger, "GET").json()["data"] == []
    assert scene.generate(stranger).usage.payer == "wallet"


def test_a_key_without_the_scope_may_not_touch_provider_keys(scene: Scene) -> None:
    limited = scene.gateway.customer(usd=1, scopes=["segment"])
    assert scene.api(limited, "GET").status_code == 403


def test_pictures_from_text_go_to_the_key_that_makes_them(scene: Scene, customer: Customer) -> None:
    client = scene.gateway.openai(customer)
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(model=MODEL, prompt="a red circle")
    assert raised.value.code == "picture_missing"
    scene.attach(customer, "openai")
    answer: Any = client.images.generate(model=MODEL, prompt="a red circle", n=2)
    assert (len(answer.data), answer.usage.images, answer.usage.payer) == (2, 2, "customer")
    assert scene.upstreams["openai"].asked[0].picture is None


def test_a_row_copied_to_another_organization_does_not_open(scene: Scene, customer: Customer) -> None:
    scene.attach(customer, "fal")
    thief = scene.gateway.customer(usd=1)
    scene.gateway.execute(
        "UPDATE gateway.provider_credentials SET organization_id = $1 WHERE organization_id = $2",
        thief.organization_id,
        customer.organization_id,
    )
    with pytest.raises(openai.InternalServerError, match="cannot be opened"):
        scene.generate(thief)
    assert scene.upstreams["fal"].asked == []


def test_a_customers_key_is_in_no_log_line_and_no_row(scene: Scene, customer: Customer, capfd: Any) -> None:
    lines = io.StringIO()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=structlog.PrintLoggerFactory(lines),
        cache_logger_on_first_use=False,
    )
    try:
        scene.attach(customer, "fal")
        scene.attach(customer, "openai", may_fall_back=True)
        for behaviour in ("succeed", "reject", "break", "forbidden", "busy", "garbage"):
            for upstream in scene.upstreams.values():
                upstream.behaviour = behaviour
            with contextlib.suppress(openai.APIStatusError):
                scene.generate(customer)
    finally:
        structlog.configure(**before)
    assert GOOD_KEY not in lines.getvalue() + "".join(capfd.readouterr())
    rows = scene.gateway.rows("SELECT to_jsonb(c)::text FROM gateway.provider_credentials c")
    rows += scene.gateway.rows("SELECT to_jsonb(p)::text FROM gateway.predictions p")
    assert rows
    assert not any(GOOD_KEY in row[0] or GOOD_KEY.encode().hex() in row[0] for row in rows)


def test_after_a_change_of_the_key_encryption_key_all_is_readable_under_the_new_one(
    scene: Scene, customer: Customer
) -> None:
    scene.attach(customer, "fal")
    [row] = scene.gateway.rows(
        "SELECT id, key_id, wrapped_key, ciphertext FROM gateway.provider_credentials WHERE organization_id = $1",
        customer.organization_id,
    )
    owner, new_kek = Owner(customer.organization_id, "fal", row["id"]), "another key-encryption key, also long enough"
    sealed = Sealed(row["key_id"], row["wrapped_key"], row["ciphertext"])
    moved = Vault([new_kek, KEK]).rewrap(sealed, owner)
    assert Vault([new_kek]).open(moved, owner) == GOOD_KEY
    with pytest.raises(SecretUnreadable):
        Vault([new_kek]).open(sealed, owner)
