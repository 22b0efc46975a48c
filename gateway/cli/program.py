"""The command line's one entry: its commands, and how anything that goes wrong ends: one line and an exit status."""

import contextlib
import importlib
import sys
from collections.abc import Sequence

import typer

from gateway.cli.errors import CliError

# The module of each command is imported only when it is the one that was asked for: most bring a lot along.
COMMANDS = {
    "serve": ("serving", "Serve; with nothing configured, start everything it needs on this machine."),
    "pool": ("pool", "Run the SAM 3 pool of one device, as GATEWAY_POOL_* says."),
    "organizations": ("organizations", "Customers."),
    "keys": ("keys", "API keys of organizations."),
    "wallet": ("wallets", "What organizations have to spend."),
    "topup": ("topups", "Buy credit, as a customer."),
    "refund": ("refunds", "Refund a top-up, whole or in part."),
    "reconcile": ("reconciliation", "Prove that the books agree with themselves and with Stripe."),
    "disputes": ("disputes", "Payments that a bank disputes."),
    "reports": ("reports", "What a month brought in."),
    "credentials": ("credentials", "Customers' own provider keys."),
    "deployments": ("deployments", "What serves the models: the pool and upstream providers."),
    "models": ("models", "Show what is sold, and for how much."),
    "segment": ("segmentation", "Segment a picture through the gateway; prints the cost and the balance."),
    "doctor": ("diagnosis", "Check everything the gateway needs, and say what is wrong."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (refused, failed) or 2 (wrong usage)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(_program(words[0] if words else "")(args=words, prog_name="gateway", standalone_mode=False) or 0)
    except (typer.Exit, typer.Abort, KeyboardInterrupt) as ending:
        return getattr(ending, "exit_code", 130)
    except CliError as error:
        return _refuse(str(error), error.exit_status)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        advice = f" See '{context.command_path} --help'." if context is not None else ""
        message = " ".join(error.format_message().split())  # none where the help was shown instead
        return _refuse(f"{message}{advice}" if message else "", error.exit_code)
    except BrokenPipeError:  # the reader of our output (head, less) has had enough
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return 0


def _program(wanted: str) -> typer.Typer:
    """All commands by name, of which only the wanted one can be run."""
    program = typer.Typer(
        help="The SAM 3 gateway: segmentation sold by the picture.",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, (module, description) in COMMANDS.items():
        command = importlib.import_module(f"gateway.cli.{module}").command if name == wanted else _unwanted
        if isinstance(command, typer.Typer):
            program.add_typer(command, name=name, help=description)
        else:
            program.command(name, help=description)(command)
    return program


def _unwanted() -> None:
    """Stands for a command that was not asked for."""


def _refuse(message: str, exit_status: int) -> int:
    if message:
        sys.stderr.write(f"error: {message}\n")
    return exit_status
