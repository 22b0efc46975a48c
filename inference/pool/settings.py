"""The pool's settings, from GATEWAY_POOL_* in the environment. Nothing else in the pool reads the environment."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SHIPPED_CHECKPOINT = Path(__file__).parent / "tiny" / "checkpoint"


class PoolSettings(BaseSettings):
    """One pool process: one device, its weights, where it listens and what it holds back."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_POOL_", extra="ignore")

    checkpoint: Path = Field(
        default=SHIPPED_CHECKPOINT,
        description="Folder in the layout of facebook/sam3. The default is the small demonstration checkpoint.",
    )
    checkpoint_3_1: Path | None = Field(
        default=None,
        description="Folder with the weights of meta/sam-3-1-image; without it full weights do not offer that model.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N; auto is cuda where there is one.")

    host: str = Field(default="127.0.0.1", description="Address to listen on, unless `socket` is set.")
    port: int = Field(default=8090, ge=0, le=65535, description="Port to listen on, 0 for any free one.")
    socket: Path | None = Field(default=None, description="Unix socket to listen on instead of host and port.")

    max_queue: int = Field(default=128, ge=1, le=100_000, description="Requests held at once, running ones included.")
    max_queue_bytes: int = Field(
        default=512 * 1024 * 1024, ge=1, description="Encoded pictures held at once, in bytes."
    )
    max_batch: int = Field(default=8, ge=1, le=256, description="Pictures per batch.")
    max_rows: int = Field(default=16, ge=1, le=1024, description="Detector or tracker rows per model call.")
    cache_bytes: int = Field(
        default=256 * 1024 * 1024, ge=0, description="Encoded pictures kept for further prompts, in bytes."
    )
    torch_threads: int | None = Field(
        default=None, ge=1, le=512, description="Threads of one model call on a CPU; default: the machine's cores."
    )
    picture_threads: int | None = Field(
        default=None, ge=1, le=512, description="Threads that decode and, as many, that encode; default: the cores."
    )

    default_deadline_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="How long a caller without X-Deadline-Ms is taken to wait."
    )
    drain_timeout_seconds: float = Field(
        default=30.0, ge=0, le=3600, description="After SIGTERM, how long running requests may take to end."
    )
    exit_with_parent: bool = Field(default=False, description="End when the process that started this one has ended.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _socket_path_is_short(self) -> Self:
        if self.socket is not None and len(os.fsencode(self.socket)) > 100:
            raise ValueError(f"socket path is longer than a unix socket's address can be: {self.socket}")
        return self

    @property
    def cores(self) -> int:
        """Cores that this process may run on."""
        available = getattr(os, "sched_getaffinity", None)
        return len(available(0)) if available else (os.cpu_count() or 1)
