"""The page docs/options.md, made from the options themselves.

`python tools/options_page.py > docs/options.md` renews it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from maxserve.core.config.catalog import OptionSpec, catalog, limits
from maxserve.core.config.sources import BEFORE_SETTINGS
from maxserve.core.config.values import value_text
from maxserve.testing.sections import built_in_sections

FLAT = """\
model_path: ./my-model
max_length: 4096
max_batch_size: 32
enable_prefix_caching: false
"""

NESTED = """\
model:
  model_path: ./my-model
  max_length: 4096
scheduling:
  max_batch_size: 32
kv_cache:
  enable_prefix_caching: false
"""

SECTIONED = """\
small:
  max_batch_size: 4
large:
  max_batch_size: 128
"""

INTRODUCTION = f"""\
# Options of `max serve`

<!-- Made by `python tools/options_page.py`; change the fields in core/config instead. -->

Every option can be typed, stand in a settings file, or in an environment variable. For each option on its own, what is
**typed** wins over the **file**, the file over the **environment**, the environment over the **default**. Whatever is
wrong, be it a value, a key or a combination, stops the start with one line that says where. An option whose feature is
not there yet is refused by name. `--pretty-print-config` logs every value and where it came from.

## How values are written

- A switch is typed `--x` or `--no-x`; elsewhere it is `true` or `false` (also yes/no, on/off, 1/0).
- A repeatable option is typed several times; in a file it is a list; in a variable it is a JSON list, or values with
  commas between. A list replaces the list of a weaker place as a whole.
- A name of a set may be written in any case, with or without dashes and underscores, and with its class in front:
  `paged`, `PAGED` and `KVCacheStrategy.PAGED` are one.

## Environment

Each option has the variable `MAX_SERVE_` and its name: `MAX_SERVE_MAX_BATCH_SIZE=32`. A file `.env` in the working
directory counts as environment; the real environment wins over it, and it may hold other programs' variables. A
variable without text sets nothing.

These variables have no option, because they are read before plugins add theirs:

{{early}}

## Settings files

`--config-file FILE` reads YAML. Keys are the options' names with underscores (dashes will do). The file may be flat:

```yaml
{FLAT}```

or nested by section:

```yaml
{NESTED}```

The sections are {{sections}}.
Names such as `kv_cache_config` are accepted too, and `pipeline_config` may hold anything.
Or it may hold several sets of settings, of which `--section-name` chooses one, in turn flat or nested:

```yaml
{SECTIONED}```

The draft model's options are `draft_model_path` and so on, or stand below `draft_model` without `draft_`.
`--draft-config-file` reads them from a file of their own. Unknown keys are listed in one error.

## Who may ask

With `--api-key`, clients that have one. Without, all that reach the port, but for pages of other sites in browsers,
which reach servers of the machine they are looked at on:

- A request whose `Origin` is another site's is refused with 403, unless `--allowed-origins` lists the site. The site
  that the server was asked for as, `localhost` and applications and extensions with schemes of their own are not
  other sites.
- So is one whose `Host` is a name that a stranger may have registered and let mean this machine for a moment (DNS
  rebinding). Addresses, `localhost`, names without a dot and those below `.local`, `.internal`, `.svc`, `.lan`,
  `.home`, `.corp`, `.intranet`, `.private`, `.localdomain` and `.home.arpa` are none of these, nor is what `--host`
  or `--allowed-hosts` name. Where `--host` opens the server to the network, other names are refused only to what
  looks like a browser.
- A body without `Content-Type` is taken for JSON, but not from a page (415).

Behind a proxy that hands on the name it was asked for, name it: `--allowed-hosts llm.example.org`; `--allowed-hosts
'*'` switches the check of names off. Pages of `--allowed-origins` can read every answer, failures included.

## Limits of connections

Every connection is bounded: the header of a request (`--max-header-bytes`, 256 fields: 431, or 414 for the URL;
`--header-timeout`: 408), its body (`--max-request-bytes`: 413; `--min-body-rate` over each `--body-timeout`: 408),
the time without a request (`--keep-alive-timeout`) and the time for which a client may not read its answer
(`--send-timeout`). An answer that is read may take as long as it likes, and so may the wait for its first token. Of
requests that are sent before the answer to one before them, 16 wait; then the connection ends after those. Of
`--max-connections`, the one that has been idle or sending for longest makes room for the next; where all are being
answered, one more gets a 503.

## Limits of bodies

A body has at most `--max-request-bytes`, and so many values of JSON as 32,768 objects and lists, 131,072 strings and
a million entries; more is a 400 that says which. Bodies above 64 KiB are read beside the event loop. All bodies
together, from their first byte to the end of their answer, have sixteen times the largest one's memory; where that is
taken, one of more than 64 KiB is answered 503.

## Options of plugins

A plugin that declares the setting `aging` in its section `shortest-first` adds `--shortest-first.aging`, the variable
`MAX_SERVE_SHORTEST_FIRST_AGING`, and `aging` below `shortest-first` in the file. `max serve --help` lists them; those
of the plugins that come with maxserve are in the tables below.

## Where maxserve differs from MAX

Names, types, choices and meanings are those of `max serve` in MAX. These differ:

- What requests may ask of the sampler (`--enable-penalties`, `--enable-min-tokens`, `--enable-structured-output`,
  `--enable-echo`, `--enable-variable-logits`) is on.
- `--max-batch-size` is planned from memory on every device when unset; `--kv-cache-page-size` has a default per
  device and takes any multiple of 16.
- `--host` exists, and is 127.0.0.1: only this machine can reach the server until you say otherwise.
- `--model-path` has a default, a small demo model. `--model` is a second name for it.
- `--cache-strategy`, `--scheduler` and `--speculative-method` take any name that a plugin registers.
- `--config-file` works from the command line, in each of the layouts above.
- `--device-memory-utilization` must lie between 0 and 1, and other values that could never work stop the start.
- `--enable-in-flight-batching` is on: those who generate get a token in every step, and prompts run beside them in
  pieces that keep the step below `--max-mixed-step-ms`, by what steps took so far. `--max-batch-input-tokens`,
  when given, is the size of the pieces instead, as in MAX; `--no-enable-in-flight-batching` runs prompts first, as MAX
  does.
- `--max-queue-size-tg`, `--min-batch-size-tg`, `--ce-delay-ms` and `--enable-prioritize-first-decode` belong to the
  scheduler that their meaning names, which serves text as well. An option that is up to the scheduler is refused
  beside one that does not use it, and the refusal says which do. `--ce-delay-ms` holds only prompts back: those who
  generate go on.
- `--scheduler fair` shares the server by client: the `user` of a request, else its API key (`key-` and the first 16
  hexadecimal digits of the key's SHA-256), each by its weight in `--fair.weights`.
- A full queue (`--max-queue-size`) is answered 429 with Retry-After; a request that asks for more answers at once than
  batch and queue hold together is a 400.
- Further options: `--host`, `--scheduler`, `--max-queue-size`, `--max-mixed-step-ms`, `--executor`, `--enable-routes`,
  `--plugin`, `--no-plugin`, `--prefer`, `--debug`.
"""


def document() -> str:
    """The whole page, as Markdown; options of the plugins that ship are on it too."""
    titles: dict[str, list[OptionSpec]] = {}
    options = catalog(built_in_sections())
    for option in options:
        titles.setdefault(option.title, []).append(option)
    sections = ", ".join(dict.fromkeys(f"`{option.page}`" for option in options if option.page != "files"))
    early = "\n".join(f"- `{name}`: {meaning}" for name, meaning in BEFORE_SETTINGS.items())
    parts = [INTRODUCTION.format(sections=sections, early=early)]
    parts += [_table(title, options) for title, options in titles.items()]
    return "\n".join([*parts, _values_table(options)])


def _table(title: str, options: list[OptionSpec]) -> str:
    head = f"## {title}\n\n| Option | Value | Default | Meaning |\n|---|---|---|---|\n"
    return head + "".join(_row(option) for option in options)


def _row(option: OptionSpec) -> str:
    flags = [option.flag, *filter(None, (option.off_flag, option.alias_flag))]
    cells = (" ".join(f"`{flag}`" for flag in flags), _value(option), _default(option), _meaning(option))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _value(option: OptionSpec) -> str:
    if option.shape.switch:
        return "switch"
    what = f"`{option.metavar}`"
    return ", ".join(filter(None, (what, limits(option), "repeatable" if option.shape.many else "")))


def _default(option: OptionSpec) -> str:
    return "–" if option.default is None or option.default in ("", (), {}) else f"`{value_text(option.default)}`"


def _meaning(option: OptionSpec) -> str:
    refused = [f"**Not supported yet:** {option.unsupported}."] if option.unsupported else []
    others = option.env[1:]
    also = [f"Also {' and '.join(f'`{name}`' for name in others)}."] if others else []
    return " ".join([option.help, *also, *refused])


def _values_table(options: Iterable[OptionSpec]) -> str:
    some = [(option.flag, option.unsupported_values) for option in options if not option.unsupported]
    rows = [f"| `{flag}` {values.what} | {values.instead} |\n" for flag, values in some if values is not None]
    return "## Values that are not supported yet\n\n| Value | Instead |\n|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(document())
