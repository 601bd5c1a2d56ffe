"""`saga mcp`: the commands of this command line as a Model Context Protocol server, for an assistant to ask with."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from .shell import Shell

Flag = Annotated[bool, Parameter(negative="", show_default=False)]


async def mcp(
    *,
    allow_changes: Flag = False,
    payloads: Flag = False,
    timeout: float = 60.0,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Serve this command line to an assistant, by the Model Context Protocol over standard input and output.

    The assistant starts it; tell it so in its settings, for example: {"command": "saga", "args": ["mcp"]}

    Args:
        allow_changes: also offer the commands that change something; each asks for a reason.
        payloads: also offer to show dead letters whole; the bodies of events go to the assistant then.
        timeout: how long one command may take, seconds.
    """
    if timeout <= 0:
        raise ConfigurationError(f"--timeout {timeout:g}: write more than 0 seconds")
    try:
        from .assistant import assistant
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise ConfigurationError("saga mcp needs the extra: pip install 'choreo[mcp]'") from None
    from .commanding import Commanding

    shell.settings  # noqa: B018 - a wrong setting is told here, once, and not in every answer
    server = assistant(Commanding(shell, timeout), changes=allow_changes, payloads=payloads)
    await server.run_stdio_async()
