"""Interpret a pickle without making anything of it.

A pickle is a program: it names functions and calls them. Here it is interpreted without a single
call: a name is kept as `Global`, a call as `Made`, a tensor's numbers as a `Storage` that says
which block of the file they are. Nothing that the file names is imported or run, and only text and
small numbers are ever keys of a dictionary, so that no hash of the file's choice is computed.
"""

import mmap
import pickletools
from dataclasses import dataclass, field
from typing import IO

# A whole yolo11x with its optimizer's state takes 0.2 million operations.
MOST_OPERATIONS = 2_000_000
LARGEST_KEY = 2**60  # larger integers can be chosen so that all have one hash


class NotReadableError(Exception):
    """The file is no whole file of torch.save, or asks for what no such file holds."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function: `module.attribute`."""

    name: str


@dataclass(eq=False)
class Made:
    """What a pickle would make by calling something; nothing was called.

    Attributes:
        by: what would be called.
        args: with what.
        state: attributes to be set on the result.
        items: entries to be added to the result, if it is a dictionary.
        rest: elements to be added to the result, if it is a list or a set.
    """

    by: object
    args: tuple[object, ...]
    state: object = None
    items: dict[object, object] = field(default_factory=dict)
    rest: list[object] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What would be called, as `module.attribute`; empty where it is no name."""
        return self.by.name if isinstance(self.by, Global) else ""


@dataclass(frozen=True)
class Storage:
    """A block of numbers in the file.

    Attributes:
        kind: name of torch's class, such as `HalfStorage`.
        key: which block.
        count: elements that the file says it has.
    """

    kind: str
    key: str
    count: int


def interpret(file: IO[bytes] | mmap.mmap) -> "Machine":
    """Interpret one pickle from the position of `file` to the pickle's end, and call nothing.

    Raises:
        NotReadableError: it holds what torch.save does not write, or too much.
        ValueError, LookupError: it is damaged.
    """
    machine = Machine()
    # of a file it takes read, readline and tell, which a memory map has too
    operations = pickletools.genops(file)  # type: ignore[arg-type]
    for count, (operation, argument, _) in enumerate(operations):
        if count > MOST_OPERATIONS:
            raise NotReadableError(f"it describes more than {MOST_OPERATIONS} objects")
        machine.step(operation.name, argument)
    return machine


class Machine:
    """The stack and the memo of one pickle, and what each operation does to them.

    Attributes:
        names: every class and function named so far.
        storages: every storage named so far, by key.
    """

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.names: set[str] = set()
        self.storages: dict[str, Storage] = {}

    @property
    def result(self) -> object:
        """What the pickle describes, once it has ended."""
        return self.stack[-1]

    def step(self, name: str, argument: object) -> None:
        """Do one operation; `argument` is what follows it in the pickle."""
        match name:  # the most frequent first
            case "BINGET" | "LONG_BINGET" | "GET":
                self.push(self.memo[_index(argument)])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[_index(argument)] = self.stack[-1]
            case "BININT1" | "BININT2" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINFLOAT":
                self.push(argument)
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "REDUCE" | "NEWOBJ":
                arguments, by = self.stack.pop(), self.stack.pop()
                self.push(_made(by, arguments))
            case "EMPTY_TUPLE":
                self.push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.push(tuple(self.take(int(name[-1]))))
            case "TUPLE":
                self.push(tuple(self.since_mark()))
            case "MARK":
                self.marks.append(self.stack)
                self.stack = []
            case "NONE":
                self.push(None)
            case "NEWTRUE" | "NEWFALSE":
                self.push(name == "NEWTRUE")
            case "EMPTY_DICT":
                self.push({})
            case "EMPTY_LIST":
                self.push([])
            case "BINPERSID":
                self.push(self.persistent(self.stack.pop()))
            case "BUILD":
                self.build(self.stack.pop())
            case "SETITEMS" | "SETITEM":
                flat = self.since_mark() if name == "SETITEMS" else self.take(2)
                _add_items(self.stack[-1], flat)
            case "APPENDS" | "APPEND" | "ADDITEMS":
                elements = self.take(1) if name == "APPEND" else self.since_mark()
                _add_elements(self.stack[-1], elements)
            case _:
                self.rare_step(name, argument)

    def rare_step(self, name: str, argument: object) -> None:
        """Do an operation that torch.save writes seldom or only in other protocols."""
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "GLOBAL":
                self.push(self.named(*_text(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                module, attribute = self.take(2)
                self.push(self.named(_text(module), _text(attribute)))
            case "NEWOBJ_EX":
                by, arguments, _ = self.take(3)
                self.push(_made(by, arguments))
            case "OBJ":
                by, *arguments = self.since_mark()
                self.push(_made(by, tuple(arguments)))
            case "INST":
                by = self.named(*_text(argument).split(" ", 1))
                self.push(_made(by, tuple(self.since_mark())))
            case "LIST":
                self.push(self.since_mark())
            case "DICT":
                flat = self.since_mark()
                self.push({})
                _add_items(self.stack[-1], flat)
            case "EMPTY_SET":
                self.push(Made(Global("builtins.set"), ()))
            case "FROZENSET":
                self.push(Made(Global("builtins.frozenset"), (self.since_mark(),)))
            case "POP":
                if self.stack:
                    self.stack.pop()
                else:
                    self.since_mark()
            case "POP_MARK":
                self.since_mark()
            case "DUP":
                self.push(self.stack[-1])
            case "INT" | "LONG" | "LONG1" | "LONG4" | "BININT":
                self.push(argument)
            case "FLOAT" | "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                self.push(argument)
            case "UNICODE" | "BINUNICODE8":
                self.push(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                self.push(argument)
            case _:
                raise NotReadableError(f"it holds the operation {name}, as torch.save never does")

    def named(self, module: str, attribute: str) -> Global:
        """Note a name, and return it."""
        self.names.add(f"{module}.{attribute}")
        return Global(f"{module}.{attribute}")

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def take(self, count: int) -> list[object]:
        """Take the last `count` values."""
        if len(self.stack) < count:
            raise IndexError("values are missing")
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def since_mark(self) -> list[object]:
        """Take everything above the last mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def build(self, state: object) -> None:
        """Give the last object its attributes; those of a dictionary are not kept."""
        target = self.stack[-1]
        if isinstance(target, Made):
            target.state = state

    def persistent(self, found: object) -> object:
        """Return the storage, or the class, that a persistent id stands for."""
        if isinstance(found, tuple) and len(found) > 1 and found[0] == "module":
            return found[1]  # a class; the text of its source, which follows, is of no use
        # the last of six: a view of another storage, as torch 0.3 wrote it
        if isinstance(found, tuple) and len(found) in (5, 6) and found[5:] in ((), (None,)):
            word, kind, key, _, count = found[:5]
            said = isinstance(key, str) and isinstance(count, int) and count >= 0
            if word == "storage" and isinstance(kind, Global) and said:
                storage = Storage(kind.name.rpartition(".")[2], key, count)
                if self.storages.setdefault(key, storage) == storage:
                    return storage
        raise NotReadableError("a tensor in it is stored in a way that is not known")


def _made(by: object, arguments: object) -> object:
    """Return what a call would make: a dictionary for an OrderedDict, else its description."""
    if not isinstance(arguments, tuple):
        raise NotReadableError("a call in it has no arguments")
    if isinstance(by, Global) and by.name == "collections.OrderedDict" and not arguments:
        return {}
    return Made(by, arguments)


def _add_items(target: object, flat: list[object]) -> None:
    """Add keys and values, in turn, to a dictionary; leave out entries by names and tuples."""
    into = target.items if isinstance(target, Made) else target
    if not isinstance(into, dict):
        raise NotReadableError("it adds entries to what is no dictionary")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if _is_plain(key):
            into[key] = value
        elif not isinstance(key, Global) and not (
            isinstance(key, tuple) and all(map(_is_plain, key))
        ):
            raise NotReadableError(
                "an entry of a dictionary has a key that torch.save never writes"
            )


def _is_plain(key: object) -> bool:
    """Whether a key's hash takes no time and is not that of others, chosen to be slow to find."""
    if isinstance(key, int):
        return -LARGEST_KEY < key < LARGEST_KEY
    return key is None or isinstance(key, str | bytes | float)


def _add_elements(target: object, elements: list[object]) -> None:
    into = target.rest if isinstance(target, Made) else target
    if not isinstance(into, list):
        raise NotReadableError("it adds elements to what is no list")
    into.extend(elements)


def _index(argument: object) -> int:
    if not isinstance(argument, int) or not 0 <= argument < LARGEST_KEY:
        raise NotReadableError("a place of its memo is out of range")
    return argument


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise NotReadableError("a name in it is no text")
    return value
