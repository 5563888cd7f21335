"""The entry of `quilt`: the list of commands, and every failure's way to stderr and to an exit code.

Not here: any command. Exit codes: 0 ok, 1 platform error, 2 usage, 3 not found, 4 not authorised, 5 the user's function
failed, 6 conflict or limit, 124 timed out, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from quilt_fn import __version__
from quilt_fn.cli.lazy import LazyGroup, Where
from quilt_fn.errors import QuiltError, exit_code

COMMANDS = {
    "up": Where("quilt_fn.cli.platform:up", "Start the platform on this machine."),
    "down": Where("quilt_fn.cli.platform:down", "Stop the platform."),
    "status": Where("quilt_fn.cli.platform:status", "Say what of the platform runs."),
    "doctor": Where("quilt_fn.cli.platform:doctor", "Say what this machine can do, and what it lacks."),
    "service": Where("quilt_fn.cli.platform:service", "Start the platform with the machine (systemd)."),
    "deploy": Where("quilt_fn.cli.deploy:deploy", "Deploy a file, a folder, or an App's functions."),
    "invoke": Where("quilt_fn.cli.invoke:invoke", "Call a function and print its result."),
    "functions": Where("quilt_fn.cli.functions:functions", "List, show, change and delete functions."),
    "pool": Where("quilt_fn.cli.pool:pool", "Show how many instances each function has."),
    "logs": Where("quilt_fn.cli.logs:logs", "Print what a function wrote."),
    "exec": Where("quilt_fn.cli.exec:exec_", "Run a command in a container."),
    "shell": Where("quilt_fn.cli.shell:shell", "Open a terminal in a container."),
    "terminals": Where("quilt_fn.cli.terminals:terminals", "Open, list, show and close terminal sessions."),
    "containers": Where("quilt_fn.cli.containers:containers", "Create, list, stop and delete containers."),
    "images": Where("quilt_fn.cli.images:images", "List, build and delete images."),
    "operations": Where("quilt_fn.cli.operations:operations", "List, show, wait for and cancel operations."),
    "events": Where("quilt_fn.cli.operations:events", "Print what happens, as it happens."),
    "network": Where("quilt_fn.cli.network:network", "Addresses, names and egress of containers."),
    "services": Where("quilt_fn.cli.network:services", "Publish a container's port, and withdraw it."),
    "keys": Where("quilt_fn.cli.keys:keys", "List, make and delete API keys."),
    "volumes": Where("quilt_fn.cli.volumes:volumes", "List, make and delete volumes, and see what is in them."),
    "cp": Where("quilt_fn.cli.cp:cp", "Copy files and folders to and from volumes and containers."),
    "guide": Where("quilt_fn.cli.guide:guide", "Read what the HTTP API can do, by concern."),
    "bench": Where("quilt_fn.cli.platform:bench", "Measure starts and throughput on this machine."),
}

EPILOG = """\b
Settings come from the environment: QUILT_URL and QUILT_API_KEY name the platform and its key; QUILT_STATE_DIR,
QUILT_HOST and QUILT_PORT where `quilt up` starts one. docs/reference/settings.md has all of them."""


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="quilt", message="%(prog)s %(version)s")
def quilt() -> None:
    """Python functions on a machine of your own, started in milliseconds."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Raises nothing but what is a bug of ours."""
    try:
        return int(quilt.main(list(arguments), prog_name="quilt", standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except QuiltError as error:
        from quilt_fn.cli.output import show_error

        show_error(error, as_json="--json" in arguments)
        return exit_code(error)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        from quilt_fn.cli.pipes import reader_left

        return reader_left()


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
