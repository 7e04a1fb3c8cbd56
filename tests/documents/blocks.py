"""The fenced blocks of a Markdown document, and the commands in them."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# A recipe's head: `#   python -m compress.run ...`, three blanks after the sign.
HEAD = re.compile(r"^#   (\S.*?(?:\\\n#.*?)*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the fence.
        text: the lines between the fences.
        before: the paragraph above the block; it may name the file to save it as.
    """

    language: str
    text: str
    before: str


class Command(NamedTuple):
    """One command line of a document, comments removed."""

    document: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {shlex.join(self.words)}"


def blocks(text: str) -> list[Block]:
    """All fenced blocks that name a language, in order."""
    found = []
    for match in FENCE.finditer(text):
        above = text[: match.start()].rstrip().rpartition("\n\n")[2]
        found.append(Block(match[1], match[2], above))
    return found


def commands(document: str, lines: str) -> list[Command]:
    """The commands of a shell block; a backslash continues a line."""
    joined = lines.replace("\\\n", " ")
    split = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [Command(document, tuple(words)) for words in split if words]


def documented(root: Path, documents: Sequence[Path]) -> list[Command]:
    """Every command of the shell blocks of Markdown files and of the heads of recipes."""
    found = []
    for path in documents:
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            for block in blocks(text):
                if block.language == "sh":
                    found += commands(name, block.text)
        else:
            for match in HEAD.finditer(text):
                line = re.sub(r"\\\n#\s*", " ", match[1])
                if re.match(r"(slimdet|python|torchrun)\b", line):
                    found += commands(name, line)
    return found
