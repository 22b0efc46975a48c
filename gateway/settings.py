"""Every setting of the gateway; nobody else in this room reads the environment."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CHECKOUT = Path(__file__).resolve().parent.parent


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


CommaSeparated = Annotated[list[str], NoDecode]


class UpstreamSettings(BaseModel):
    """One upstream provider on the installation's own key: GATEWAY_UPSTREAMS__<NAME>__<SETTING>."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["openai", "fal", "wavespeed"]
    key: SecretStr
    base_url: str | None = Field(None, description="Needed for openai, ending in /v1; others have the real one.")
    priority: int = Field(200, ge=0, le=1_000, description="Lower ones are asked first; the pool has 100.")
    models: list[str] | None = Field(None, description="JSON list of what it serves; unset: all that it can.")
    names: dict[str, str] = Field(default_factory=dict, description="JSON object: our model to the upstream's name.")
    segments: bool = Field(True, description="openai only: it takes this product's prompts.")
    generates: bool = Field(False, description="openai only: it makes pictures from text alone.")
    connect_timeout_seconds: float = Field(5.0, gt=0, le=60)
    first_byte_timeout_seconds: float = Field(120.0, gt=0, le=600)

    @model_validator(mode="after")
    def _openai_has_an_address(self) -> Self:
        if self.kind == "openai" and self.base_url is None:
            raise ValueError("an upstream of kind openai needs a base_url")
        if self.generates and self.kind != "openai":
            raise ValueError("only upstreams of kind openai make pictures from text")
        return self


class Settings(BaseSettings):
    """Read from the environment with the prefix GATEWAY_. Nothing set is the newcomer's machine: all embedded."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", extra="ignore", env_ignore_empty=True, env_nested_delimiter="__"
    )

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    public_url: str | None = Field(None, description="Base URL that links in answers begin with; default host:port.")
    data_dir: Path = Field(CHECKOUT / ".gateway", description="Embedded database, media, secrets and demo.json.")

    database_url: SecretStr | None = Field(None, description="postgresql://…; unset starts the embedded one.")
    database_may_lose_data: bool = Field(False, description="Accept a PostgreSQL with fsync off; for tests only.")
    database_pool_size: int = Field(10, ge=1, le=200)
    redis_url: SecretStr | None = Field(None, description="redis://…; unset limits within this process.")
    media_url: str | None = Field(None, description="file:///folder; unset keeps media in the data folder.")
    pool_urls: CommaSeparated = Field(default_factory=list, description="SAM 3 pools; unset starts one here.")
    pool_checkpoint: Path | None = Field(None, description="Folder of facebook/sam3 weights for the embedded pool.")
    pool_checkpoint_3_1: Path | None = Field(None, description="Folder of SAM 3.1 detector weights.")
    pool_device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")

    pool_priority: int = Field(100, ge=0, le=1_000, description="Where the pool stands among the upstreams.")
    upstreams: dict[str, UpstreamSettings] = Field(
        default_factory=dict, description="By name, e.g. GATEWAY_UPSTREAMS__FAL__KIND=fal and …__KEY=…"
    )
    deployment_order: dict[str, list[str]] = Field(
        default_factory=dict, description='JSON: the deployments of single models, e.g. {"meta/sam-3-image": ["fal"]}.'
    )
    fal_url: str = Field("https://queue.fal.run", description="fal's queue, for upstreams and customers' own keys.")
    wavespeed_url: str = Field("https://api.wavespeed.ai", description="WaveSpeed, for the same.")

    key_encryption_key: SecretStr | None = Field(
        None, description="Secret that customers' provider keys are sealed under; kept in the data folder."
    )
    previous_key_encryption_key: SecretStr | None = Field(None, description="Still opens until 'credentials rewrap'.")
    key_pepper: SecretStr | None = Field(None, description="Secret that key hashes depend on; kept in the data folder.")
    previous_key_pepper: SecretStr | None = Field(None, description="Still accepted while keys move to key_pepper.")
    media_signing_key: SecretStr | None = Field(None, description="Secret of media links; kept in the data folder.")
    previous_media_signing_key: SecretStr | None = None

    stripe_secret_key: SecretStr | None = Field(None, description="sk_…; unset: no payments by card.")
    stripe_webhook_secret: SecretStr | None = Field(None, description="whsec_… of the endpoint /stripe/events.")
    previous_stripe_webhook_secret: SecretStr | None = Field(None, description="Still accepted while it changes.")
    stripe_api_url: str | None = Field(None, description="Address of a test server in Stripe's place.")

    requests_per_minute: int = Field(600, ge=1, description="Per key, where the key sets none.")
    organization_requests_per_minute: int = Field(1200, ge=1, description="Over all keys of an organization.")
    gateway_processes: int = Field(1, ge=1, description="Processes that share the limits while Redis is out.")

    call_timeout_seconds: float = Field(60.0, gt=0, le=600)
    shutdown_timeout_seconds: float = Field(30.0, gt=0, le=600)
    hold_ttl_seconds: float = Field(180.0, gt=0, le=86_400)
    maximum_calls_in_flight: int = Field(512, ge=1)

    body_limit_bytes: int = Field(32 * 1024 * 1024, ge=1024)  # a picture of 20 MiB in base64, and its prompt
    pictures_per_call_limit: int = Field(16, ge=1, le=64)
    header_timeout_seconds: float = Field(5.0, gt=0)
    body_timeout_seconds: float = Field(60.0, gt=0)  # the largest body at 4 Mbit/s
    picture_url_networks: CommaSeparated = Field(
        default_factory=list, description="Private networks (CIDR) picture URLs may point into. Empty in production."
    )
    picture_url_ports: CommaSeparated = Field(default_factory=list, description="Ports beside 80 and 443.")
    media_link_seconds: int = Field(3600, ge=60, le=7 * 86_400)
    media_retention_seconds: int = Field(86_400, ge=60)
    prediction_retention_days: int = Field(90, ge=1)

    log_level: str = "info"
    log_format: str = Field("auto", pattern="^(auto|json|console)$")

    _split_lists = field_validator("pool_urls", "picture_url_networks", "picture_url_ports", mode="before")(_split)

    @model_validator(mode="after")
    def _hold_outlives_call(self) -> Self:
        """A hold that expired under a running call would give its money away twice."""
        if self.hold_ttl_seconds <= self.call_timeout_seconds + self.shutdown_timeout_seconds:
            raise ValueError(
                "GATEWAY_HOLD_TTL_SECONDS must be greater than GATEWAY_CALL_TIMEOUT_SECONDS + "
                "GATEWAY_SHUTDOWN_TIMEOUT_SECONDS"
            )
        return self

    @model_validator(mode="after")
    def _deployments_exist(self) -> Self:
        names = {"pool", *self.upstreams}
        if "pool" in self.upstreams or not all(name.replace("-", "").replace("_", "").isalnum() for name in names):
            raise ValueError("GATEWAY_UPSTREAMS: names are letters, digits, - and _, and not 'pool'")
        unknown = {name for order in self.deployment_order.values() for name in order} - names
        if unknown:
            raise ValueError(f"GATEWAY_DEPLOYMENT_ORDER names unknown deployments: {', '.join(sorted(unknown))}")
        return self

    def upstream_url(self, upstream: UpstreamSettings) -> str:
        """Where this upstream lives, without a trailing slash."""
        known = {"fal": self.fal_url, "wavespeed": self.wavespeed_url}
        return (upstream.base_url or known[upstream.kind]).rstrip("/")

    @property
    def key_encryption_keys(self) -> list[str]:
        """Secrets that provider keys may be sealed under; new ones take the first."""
        keys = (self.key_encryption_key, self.previous_key_encryption_key)
        return [secret.get_secret_value() for secret in keys if secret]

    @property
    def peppers(self) -> list[str]:
        """Secrets that key hashes may depend on; new keys take the first."""
        return [secret.get_secret_value() for secret in (self.key_pepper, self.previous_key_pepper) if secret]

    @property
    def media_signing_keys(self) -> list[str]:
        """Secrets that media links may be signed with; new links take the first."""
        keys = (self.media_signing_key, self.previous_media_signing_key)
        return [secret.get_secret_value() for secret in keys if secret]

    @property
    def stripe_webhook_secrets(self) -> list[str]:
        """Secrets that Stripe may sign events with."""
        secrets = (self.stripe_webhook_secret, self.previous_stripe_webhook_secret)
        return [secret.get_secret_value() for secret in secrets if secret]

    @property
    def base_url(self) -> str:
        """Where customers reach this gateway, without a trailing slash."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")
