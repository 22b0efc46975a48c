"""Where a customer's command finds the gateway and its key."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.cli.errors import CliError
from gateway.embedded.data_folder import DataFolder
from gateway.settings import CHECKOUT


@dataclass(frozen=True, slots=True)
class Connection:
    """A gateway's address without a path, and a key."""

    base_url: str
    api_key: str


class ClientSettings(BaseSettings):
    """A customer's side of the environment, with the prefix GATEWAY_."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", extra="ignore", env_ignore_empty=True)

    base_url: str | None = None
    api_key: SecretStr | None = None
    data_dir: Path = CHECKOUT / ".gateway"

    def connection(self, *, base_url: str | None, api_key: str | None) -> Connection:
        """What was given on the command line, else here, else what the data folder's demo.json says.

        Raises CliError where something is missing.
        """
        base_url = base_url or self.base_url
        api_key = api_key or (self.api_key.get_secret_value() if self.api_key is not None else None)
        if base_url is None or api_key is None:
            try:
                demo = json.loads(DataFolder(self.data_dir).demo_file.read_text(encoding="utf-8"))
                base_url, api_key = base_url or demo["base_url"], api_key or demo["api_key"]
            except (OSError, ValueError, KeyError, TypeError):
                raise CliError(
                    "No gateway is known: start one with deploy/run, or give --base-url and --api-key."
                ) from None
        return Connection(base_url.rstrip("/").removesuffix("/v1"), api_key)
