"""What may follow ``%fastgpu`` and ``%%fastgpu``: words, options, help, and what completes them.

A line is split into words first and ``$name`` or ``{expression}`` is filled in per word afterwards, so that a value
with blanks or quotes stays one word. Nothing else of the line is evaluated.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fastgpu.formatting import one_line

SUBMIT_HELP = "Send the cell off as a GPU job and return its handle at once."
RUN_HELP = (
    "Run the cell as a GPU job: print what it prints and wait for its end. "
    "Interrupt once to cancel the job, twice to leave it to itself (its id is printed)."
)


_KEPT_HELP = "Files to keep after its end, as artifacts."


class ArgumentError(Exception):
    """The line cannot be understood; the message is one sentence."""


class HelpRequested(Exception):
    """``--help`` was on the line; ``text`` is the help."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Parser(argparse.ArgumentParser):
    """argparse that neither prints nor exits: it raises ArgumentError or HelpRequested."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, add_help=False, allow_abbrev=False)
        self.color = False  # newer Pythons colour help; it is also shown where escapes are not understood
        self.add_argument("-h", "--help", action="store_true", help="Show this help.")

    @property
    def options(self) -> list[str]:
        """The long options, sorted."""
        return sorted(name for action in self._actions for name in action.option_strings if name.startswith("--"))

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words. Raises ArgumentError or HelpRequested."""
        if "--help" in words or "-h" in words:
            raise HelpRequested(self.format_help())
        known, rest = self.parse_known_args(list(words))
        if rest:
            kind = "option" if rest[0].startswith("-") else "argument"
            word = one_line(rest[0].partition("=")[0])
            raise ArgumentError(f"{self.prog}: unknown {kind} {word}; it knows {' '.join(self.options)}")
        return known

    def error(self, message: str) -> NoReturn:
        """argparse's own complaints, in one line."""
        raise ArgumentError(f"{self.prog}: {one_line(message)}; see {self.prog} --help")


@dataclass(frozen=True)
class CommandLine:
    """One command: its parser and, per option or ``""`` for its plain words, what kind of value completes it."""

    parser: Parser
    completes: Mapping[str, str] = field(default_factory=dict)


def names(text: str) -> list[str]:
    """``a,b`` as two names of variables. Raises argparse's error on anything else."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        if not name.isidentifier():
            raise argparse.ArgumentTypeError(f"{one_line(name)!r} is not the name of a variable")
    return found


def pair(text: str) -> tuple[str, str]:
    """``PATH=ADDRESS``. Raises argparse's error on anything else."""
    path, equals, address = text.partition("=")
    if not path or not equals or not address:
        raise argparse.ArgumentTypeError(f"{one_line(text)!r} is not PATH=ADDRESS")
    return path, address


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{one_line(text)!r} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{one_line(text)!r} is not a whole number")
    return int(text)


def _line(name: str, description: str, **completes: str) -> CommandLine:
    parser = Parser(f"%fastgpu {name}", description)
    parser.add_argument("--json", action="store_true", help="Return plain data.")
    return CommandLine(parser, {("" if key == "words" else f"--{key}"): kind for key, kind in completes.items()})


def _add_what(parser: Parser) -> None:
    """Options that say what is asked for and who pays."""
    parser.add_argument("--gpu", metavar="TYPE", help="GPU type or its beginning, for example h100.")
    parser.add_argument("--count", type=positive, default=1, metavar="N", help="Number of GPUs (1).")
    parser.add_argument("--time", default="1h", metavar="LIMIT", help="Time limit, for example 45m, 2h, 1h30m (1h).")
    parser.add_argument("--account", metavar="A", help="Who pays: class:NAME or person:NAME.")
    parser.add_argument("--promo", metavar="CODE", help="Promotion code.")
    spot = "Cheaper; interrupted and put back into the queue when one that pays in full needs its GPUs."
    parser.add_argument("--spot", action="store_true", help=spot)


def _quote() -> CommandLine:
    command = _line("quote", "What a job would cost, itemised, and whether it would be taken.", **_WHAT)
    _add_what(command.parser)
    command.parser.add_argument("--by", metavar="WHEN", help="Also the cheapest start that ends by then.")
    return command


def _when() -> CommandLine:
    command = _line("when", "When a job costs least: starts up to a deadline, what each costs and why.", **_WHAT)
    _add_what(command.parser)
    command.parser.add_argument("--by", metavar="WHEN", help='When it must have ended, for example "Fri 18:00".')
    command.parser.add_argument("--max-cost", metavar="X", help="The most that it may cost, for example 2.50.")
    return command


def _promos() -> CommandLine:
    command = _line("promos", "Promotions: saving, whether they are for me, when they end.")
    command.parser.add_argument("code", nargs="?", help="A promotion code to look at.")
    return command


def _promo() -> CommandLine:
    command = _line("promo", "Take my place in a promotion: promo redeem CODE.")
    command.parser.add_argument("verb", choices=("redeem",), help="What to do: redeem.")
    command.parser.add_argument("code", metavar="CODE", help="The code you were given.")
    return command


def _jobs() -> CommandLine:
    command = _line("jobs", "My jobs, newest first, an array in one row.")
    command.parser.add_argument("--array", metavar="ID", help="Only this array, job by job.")
    command.parser.add_argument("--all", action="store_true", help="Also jobs that have ended.")
    command.parser.add_argument("--limit", type=positive, default=20, metavar="N", help="At most so many (20).")
    return command


def _logs() -> CommandLine:
    command = _with_job("logs", "What a job printed.")
    command.parser.add_argument("-f", "--follow", action="store_true", help="Go on until the job ends.")
    return command


def _cancel() -> CommandLine:
    command = _line("cancel", "Cancel jobs or arrays; what they used until then is charged.", words="job")
    command.parser.add_argument("ids", nargs="+", metavar="ID", help="Ids of the jobs or arrays.")
    return command


def _cost() -> CommandLine:
    command = _line("cost", "What I spent; the rows add up to the ledger.", by="group")
    command.parser.add_argument("--since", metavar="DAY", help="From this day or instant on, for example 2025-11-01.")
    command.parser.add_argument("--by", choices=GROUPS, default="job", help="Group by (job).")
    return command


def _with_job(name: str, description: str, optional: bool = False) -> CommandLine:
    command = _line(name, description, words="job")
    command.parser.add_argument("id", nargs="?" if optional else None, metavar="ID", help="Id of the job or lease.")
    return command


def _add_together(parser: Parser) -> None:
    """Options that say what it has to do with other jobs, and of its attempts and stop."""
    swept = "A job for each value, as variables of the cell (repeat for combinations)."
    parser.add_argument("--array", action="append", default=[], metavar="NAME=A,B", help=swept)
    parser.add_argument("--max-running", type=positive, metavar="N", help="Most jobs of the array at once.")
    waits = "Job or array that must have succeeded before."
    parser.add_argument("--after", action="append", default=[], metavar="ID", help=waits)
    tries = "Attempts more after failures that are not its own (0)."
    parser.add_argument("--retries", type=whole, default=0, metavar="N", help=tries)
    parser.add_argument("--grace", type=whole, metavar="S", help="Seconds between the order to stop and the kill.")


def _cell(name: str, description: str) -> CommandLine:
    parser = Parser(f"%%fastgpu {name}", description)
    _add_what(parser)
    parser.add_argument("--max-cost", metavar="X", help="Refuse the job if it could cost more, for example 2.50.")
    parser.add_argument(
        "--start", default="now", metavar="WHEN", help='now, cheapest, or an instant such as "Fri 20:00" (now).'
    )
    parser.add_argument("--by", metavar="WHEN", help='When it must have ended, for example "Fri 18:00".')
    parser.add_argument("--name", metavar="TEXT", help="The job's name.")
    parser.add_argument("--in", dest="inputs", type=names, default=[], metavar="A,B", help="Variables to send along.")
    parser.add_argument("--out", dest="outputs", type=names, default=[], metavar="M", help="Variables to bring back.")
    parser.add_argument("--files", action="append", default=[], metavar="GLOB", help="Files to send along.")
    parser.add_argument("--out-file", dest="out_files", action="append", default=[], metavar="GLOB", help=_KEPT_HELP)
    parser.add_argument(
        "--source",
        dest="sources",
        type=pair,
        action="append",
        default=[],
        metavar="PATH=ADDRESS",
        help="An input to fetch, also artifact:JOB/PATH of what an earlier job kept.",
    )
    parser.add_argument("--python", metavar="NAME", help="Environment it runs in.")
    parser.add_argument("--lock", metavar="FILE", help="File with pinned packages to make an environment from.")
    _add_together(parser)
    parser.add_argument("--again", action="store_true", help="Submit although an identical cell is still active.")
    parser.add_argument("--dry-run", action="store_true", help="Show cost and what would be sent; submit nothing.")
    parser.add_argument("--json", action="store_true", help="Return plain data.")
    completes = {**{f"--{key}": kind for key, kind in _WHAT.items()}, "--in": "name", "--start": "start"}
    return CommandLine(parser, completes)


GROUPS = ("job", "gpu", "day", "person")
_WHAT = {"gpu": "gpu", "account": "account"}

LINE_COMMANDS: dict[str, CommandLine] = {
    "status": _line("status", "My GPUs, their use and cost, active jobs and accounts."),
    "top": _line("top", "A live meter of my GPUs and what they cost."),
    "quote": _quote(),
    "when": _when(),
    "promos": _promos(),
    "promo": _promo(),
    "quota": _line("quota", "My limits: used, reserved, left, when how much comes back."),
    "jobs": _jobs(),
    "logs": _logs(),
    "cancel": _cancel(),
    "cost": _cost(),
    "why": _with_job("why", "Why a job is refused, waiting, charged or stopped.", optional=True),
    "result": _with_job("result", "What a job brought back: figures, notebook outputs, saved variables."),
    "metrics": _with_job("metrics", "The figures a job reports of itself: last and best values."),
    "receipt": _with_job("receipt", "Every charge of a job, each naming its rule."),
}
CELL_COMMANDS: dict[str, CommandLine] = {"submit": _cell("submit", SUBMIT_HELP), "run": _cell("run", RUN_HELP)}


def overview() -> str:
    """All commands with their descriptions, for ``%fastgpu --help``."""
    rows = [(command.parser.prog, command.parser.description or "") for command in _all_commands()]
    width = max(len(prog) for prog, _ in rows)
    listed = "\n".join(f"  {prog:<{width}}  {description}" for prog, description in rows)
    return f"FastGPU: GPUs with a price, a quota and an explanation.\n\n{listed}\n\nEach knows --help and --json.\n"


def _all_commands() -> list[CommandLine]:
    return [*LINE_COMMANDS.values(), *CELL_COMMANDS.values()]


def read_line(
    line: str, commands: Mapping[str, CommandLine], default: str | None, evaluate: Callable[[str], Any]
) -> tuple[str, argparse.Namespace]:
    """Command and options of a line. Raises ArgumentError, or HelpRequested for ``--help``.

    ``evaluate`` gives the value of an expression in the notebook; it is called for ``$name`` and ``{…}`` only.
    """
    words = [word.fill(evaluate) for word in split(line)]
    if words and words[0] in ("--help", "-h", "help"):
        raise HelpRequested(overview())
    if words and not words[0].startswith("-"):
        name, words = words[0], words[1:]
    elif default is not None:
        name = default
    else:
        raise ArgumentError(f"which command? There are: {', '.join(commands)}")
    if name not in commands:
        hint = _hint(name, commands)
        raise ArgumentError(f"unknown command {one_line(name)}; {hint}")
    return name, commands[name].parser.read(words)


def _hint(name: str, commands: Mapping[str, CommandLine]) -> str:
    if name in CELL_COMMANDS:
        return f"{name} works on a cell: begin the cell with %%fastgpu {name}"
    if name in LINE_COMMANDS:
        return f"{name} takes no cell: write %fastgpu {name}"
    meant = difflib.get_close_matches(name, commands, n=1)
    return f"{f'did you mean {meant[0]}? There' if meant else 'there'} are: {', '.join(commands)}"


# ---------------------------------------------------------------- words


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a line as pieces: text to keep, and expressions to fill in."""

    pieces: tuple[tuple[bool, str], ...]

    def fill(self, evaluate: Callable[[str], Any]) -> str:
        """The word with every expression replaced by its value's text. Raises ArgumentError naming what failed."""
        return "".join(self._value(text, evaluate) if is_expression else text for is_expression, text in self.pieces)

    @staticmethod
    def _value(expression: str, evaluate: Callable[[str], Any]) -> str:
        try:
            return str(evaluate(expression))
        except Exception as error:  # the notebook's own code may raise anything
            problem = f"{type(error).__name__}: {one_line(str(error))}"
            raise ArgumentError(f"cannot fill in {one_line(expression)!r}: {problem}") from error


_NAME = re.compile(r"\$([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")


def split(line: str) -> list[Word]:
    """Words of a line, quoted as in a shell. A trailing ``;`` is dropped: it only silences the output.

    Within single quotes everything is kept as it is; elsewhere ``$name``, ``$name.attribute`` and ``{expression}`` are
    marked to be filled in and ``$$``, ``{{``, ``}}`` stand for one character. Raises ArgumentError on a quote or brace
    left open.
    """
    text = line.strip()
    if text.endswith(";"):
        text = text[:-1].rstrip()
    words: list[Word] = []
    pieces: list[tuple[bool, str]] = []
    begun, quote, place = False, "", 0
    while place < len(text):
        char = text[place]
        if not quote and char.isspace():
            if begun:
                words.append(Word(tuple(pieces)))
            pieces, begun = [], False
            place += 1
            continue
        begun = True
        if char == quote or (not quote and char in "'\""):
            quote = "" if quote else char
            place += 1
        elif quote != "'" and char in "${}\\":
            piece, place = _special(text, place)
            pieces.append(piece)
        else:
            pieces.append((False, char))
            place += 1
    if quote:
        raise ArgumentError(f"a {quote} is left open")
    return [*words, Word(tuple(pieces))] if begun else words


def _special(text: str, place: int) -> tuple[tuple[bool, str], int]:
    """The piece that begins with ``$``, a brace or a backslash, and where the text goes on."""
    char, pair = text[place], text[place : place + 2]
    if char == "\\":
        return (False, pair[1:] or char), place + 2
    if pair in ("$$", "{{", "}}"):
        return (False, char), place + 2
    if char == "$" and (match := _NAME.match(text, place)):
        return (True, match[1]), match.end()
    if char == "{":
        end = _closing(text, place)
        return (True, text[place + 1 : end].strip()), end + 1
    return (False, char), place + 1


def _closing(text: str, opening: int) -> int:
    """Where the brace opened at ``opening`` closes; braces within strings do not count."""
    depth, quote = 0, ""
    for place in range(opening, len(text)):
        char = text[place]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return place
    raise ArgumentError("a { is left open")
