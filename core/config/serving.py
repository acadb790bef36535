"""What stands around the model: the HTTP server, plugins, and the files settings come from."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from maxserve.core.config.section import Section
from maxserve.core.interfaces.config import Option


class ServerSettings(Section):
    """The HTTP server and its processes."""

    title: ClassVar[str] = "Server"

    host: Annotated[
        str,
        Option(metavar="ADDRESS", server=True),
        Field(description="Address to listen on; 0.0.0.0 opens the server to the network.", min_length=1),
    ] = "127.0.0.1"
    port: Annotated[
        int, Option(server=True), Field(description="TCP port to listen on; 0 takes any free one.", ge=0, le=65535)
    ] = 8000
    log_prefix: Annotated[
        str | None, Option(server=True), Field(description="Text in front of every log line, in every process.")
    ] = None
    pretty_print_config: Annotated[
        bool,
        Option(server=True, negatable=False),
        Field(description="Log every setting at start, with where it came from."),
    ] = False
    sim_failure: Annotated[
        int, Field(description="Percent of steps that fail on purpose, to try how clients take it.", ge=0)
    ] = 0
    zmq_endpoint_base: Annotated[
        str | None,
        Option(metavar="URL", server=True),
        Field(
            description="Beginning of the addresses through which the processes talk: ipc://PATH or tcp://HOST:PORT; "
            "unset, a fresh private folder. inproc://NAME is refused, as it cannot join two processes."
        ),
    ] = None
    executor: Annotated[
        str,
        Option(metavar="NAME", registry="executors", server=True),
        Field(
            description="Where the worker runs: local, a process of this machine, or a name that a plugin registers.",
            min_length=1,
        ),
    ] = "local"
    enable_routes: Annotated[
        tuple[str, ...],
        Option(metavar="NAME", server=True),
        Field(description="Plugin whose HTTP routes are served besides those that are by default."),
    ] = ()
    api_key: Annotated[
        tuple[str, ...],
        Option(metavar="KEY", server=True, secret=True),
        Field(
            description="Answer only requests that bring this key as `Authorization: Bearer KEY` or `x-api-key: KEY`; "
            "probes of health need none. Others on this machine can read what is typed: prefer MAX_SERVE_API_KEY.",
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Option(metavar="ORIGIN", server=True),
        Field(
            description="Web site, such as https://chat.example, whose pages may use this server (CORS); "
            "* lets all of them.",
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        Option(metavar="HOST", server=True),
        Field(
            description="Name by which a server without an API key may be asked for, besides addresses, localhost and "
            "names that are not in the public DNS: that of a proxy, say. *.example.org means all below it, * any.",
        ),
    ] = ()
    max_request_bytes: Annotated[
        int,
        Option(server=True),
        Field(description="Largest body of a request; a larger one is answered 413.", ge=1024),
    ] = 64 * 1024 * 1024
    max_connections: Annotated[
        int,
        Option(server=True),
        Field(
            description="Most open connections; one more takes the place of the one that has been idle for longest.",
            ge=1,
        ),
    ] = 4096
    max_header_bytes: Annotated[
        int,
        Option(server=True),
        Field(description="Longest header of a request; a longer one is answered 431, or 414.", ge=1024),
    ] = 64 * 1024
    header_timeout: Annotated[
        float,
        Option(server=True),
        Field(description="Seconds within which the header of a request must come; 0 for no limit.", ge=0),
    ] = 20.0
    body_timeout: Annotated[
        float,
        Option(server=True),
        Field(
            description="Seconds over which the rate of a body that is being received is measured; 0 for no limit.",
            ge=0,
        ),
    ] = 20.0
    min_body_rate: Annotated[
        int,
        Option(server=True),
        Field(description="Bytes per second in which a body must come at least, else it is answered 408.", ge=1),
    ] = 1024
    keep_alive_timeout: Annotated[
        float,
        Option(server=True),
        Field(
            description="Seconds for which a connection without a request stays open; longer than those of load "
            "balancers, which would reuse it just when it closes.",
            gt=0,
        ),
    ] = 75.0
    send_timeout: Annotated[
        float,
        Option(server=True),
        Field(
            description="Seconds after which a client that does not read its answer is cut off; 0 for no limit. A "
            "stream that is read may take as long as it likes.",
            ge=0,
        ),
    ] = 120.0
    strict_fields: Annotated[
        bool,
        Option(server=True),
        Field(
            description="Refuse requests with unknown fields; off, they are answered, and `warnings` names the fields."
        ),
    ] = False
    tool_parser: Annotated[
        str,
        Option(metavar="NAME", server=True),
        Field(
            description="How tool calls are read out of answers: the name of a parser (docs/parsers.md lists them), "
            "auto to go by the chat template, none to leave them in the text.",
            min_length=1,
        ),
    ] = "auto"
    reasoning_parser: Annotated[
        str,
        Option(metavar="NAME", server=True),
        Field(
            description="How reasoning is set apart from answers: the name of a parser (docs/parsers.md lists them), "
            "auto to go by the chat template, none to leave it in the text.",
            min_length=1,
        ),
    ] = "auto"
    debug: Annotated[
        bool, Option(negatable=False), Field(description="Show the Python traceback when the start fails.")
    ] = False


class PluginsSettings(Section):
    """Which plugins are there, and what they were told."""

    title: ClassVar[str] = "Plugins"

    plugin: Annotated[
        tuple[str, ...],
        Option(metavar="MODULE|FILE.py[:ATTRIBUTE]"),
        Field(description="Plugin to load besides the installed ones: a module, a Python file or a package folder."),
    ] = ()
    no_plugin: Annotated[
        tuple[str, ...],
        Option(metavar="NAME"),
        Field(description="Plugin to leave out, built in or installed."),
    ] = ()
    prefer: Annotated[
        tuple[str, ...],
        Option(metavar="KIND:NAME=PLUGIN"),
        Field(description="Whose component to take when two plugins offer one of the same name."),
    ] = ()
    custom_architectures: Annotated[
        tuple[str, ...],
        Option(metavar="MODULE|DIR/MODULE|DIR:MODULE"),
        Field(description="Python module with a list ARCHITECTURES of further model families."),
    ] = ()
    sections: Annotated[dict[str, dict[str, Any]], Option(hidden=True)] = Field(
        default_factory=dict, description="What plugins' own options were set to: section, field, plain value."
    )


class FilesSettings(Section):
    """Files that hold settings."""

    title: ClassVar[str] = "Settings files"

    config_file: Annotated[
        tuple[str, ...],
        Option(metavar="FILE"),
        Field(
            description="YAML file with settings; what is typed wins over it, it wins over the environment, and of "
            "several files the later one wins."
        ),
    ] = ()
    section_name: Annotated[
        tuple[str, ...],
        Option(metavar="TEXT"),
        Field(
            description="Key of the file below which the settings are; unset, the whole file. As many as files, one "
            "for each; one for all files; or several of one file, of which the later one wins."
        ),
    ] = ()
