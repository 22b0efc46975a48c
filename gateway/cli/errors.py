"""How a command says that it cannot do what was asked."""


class CliError(Exception):
    """One sentence (or a sentence and a log's end) for standard error, and the exit status."""

    def __init__(self, message: str, *, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status
