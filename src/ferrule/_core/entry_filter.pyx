"""Expressions over directory entries, compiled for C.

A tree is True, False, or a tuple that begins with a word:

  ("and", …), ("or", …)       any number of trees; "or" of none is false
  ("not", tree)
  ("comma", …)                all of them are evaluated, the last one counts
  ("name", pattern, ignore_case=False)   bytes, as fnmatch takes them; also "path", and "target"
                              for what a symbolic link contains
  ("regex", pattern, syntax, ignore_case=False)   bytes that the whole path matches; SYNTAXES
  ("type", letters)           of "bcdpfls"
  ("target type", letters, follows)   of what a link leads to, or of the link, where the walk
                              follows it: "P", "H" or "L", as find's options
  ("depth", comparison, n)    a comparison is "=", "<" or ">"
  ("size", comparison, n, unit=1)   in units, rounded up; also "links", "uid", "gid", "inode" and
                              "device", without a unit
  ("time", field, comparison, ns, window=0)   a field is "a", "c", "m", "B", or "used" (from "c" to
                              "a"); "=" is above ns and at most window more
  ("mode", comparison, bits, bits_of_directories)   "=": those; "<": all those; ">": any of them
  ("no user",), ("no group",), ("empty",), ("hidden",)
  ("same", inode, device)
  ("access", mode)            as os.access takes it
  ("action", number)          true, and the number (0 to 63) is noted
  ("print", stream, byte)     the path and that byte
  ("format", stream, pieces, colours=())   a piece is bytes, or a tuple of a letter (entry_format.h)
                              and a dict of what format_piece has; a colour is (key, code), bytes
  ("prune",), ("quit",)
  ("external", number)        whatever function the walk's owner set
"""
from libc.errno cimport ENOMEM
from libc.string cimport memset

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()

cdef dict TYPE_BITS = {
    "p": 1 << 1, "c": 1 << 2, "d": 1 << 4, "b": 1 << 6, "f": 1 << 8, "l": 1 << 10, "s": 1 << 12,
}
cdef dict FOLLOWS = {"P": FOLLOWS_NONE, "H": FOLLOWS_ROOTS, "L": FOLLOWS_ALL}
cdef dict TIMES = {"a": TIME_ACCESS, "c": TIME_CHANGE, "m": TIME_MODIFY, "B": TIME_BIRTH,
                   "used": TIME_USED}
cdef dict COMPARISONS = {"=": COMPARE_EQUAL, "<": COMPARE_LESS, ">": COMPARE_MORE}


cdef tuple syntax_names():
    names = []
    while filter_syntax_name(len(names)) != NULL:
        names.append(filter_syntax_name(len(names)).decode())
    return tuple(names)


SYNTAXES = syntax_names()


cdef class EntryFilter:
    """A compiled tree (see the module).  It does not change, and threads may share it.

    Raises ValueError for what is no tree.
    """

    def __cinit__(self, tree):
        self.filter = filter_new()
        if self.filter == NULL:
            raise MemoryError
        filter_begin(self.filter, add_tree(self.filter, tree, FILTER_ENDS_TRUE, FILTER_ENDS_FALSE))
        self.tree = tree

    def __dealloc__(self):
        filter_drop(self.filter)


# Adds from the end: a step can name only what was added before.  Returns where it begins.
cdef uint32_t add_tree(entry_filter *f, object tree, uint32_t on_true,
                       uint32_t on_false) except? 0:
    if tree is True:
        return on_true
    if tree is False:
        return on_false
    if not isinstance(tree, tuple) or not tree:
        raise ValueError(f"not a filter: {tree!r}")
    Py_EnterRecursiveCall(" in a filter")
    try:
        return add_tuple(f, tree[0], tree[1:], on_true, on_false)
    finally:
        Py_LeaveRecursiveCall()


cdef uint32_t add_tuple(entry_filter *f, object word, tuple rest, uint32_t on_true,
                        uint32_t on_false) except? 0:
    if word == "not":
        inner, = rest
        return add_tree(f, inner, on_false, on_true)
    if word == "and":
        for each in reversed(rest):
            on_true = add_tree(f, each, on_true, on_false)
        return on_true
    if word == "or":
        for each in reversed(rest):
            on_false = add_tree(f, each, on_true, on_false)
        return on_false
    if word == "comma":
        return add_comma(f, rest, on_true, on_false)
    return add_step(f, word, rest, on_true, on_false)


cdef uint32_t add_comma(entry_filter *f, tuple trees, uint32_t on_true,
                        uint32_t on_false) except? 0:
    if not trees:
        raise ValueError("a comma needs something to join")
    cdef uint32_t start = add_tree(f, trees[-1], on_true, on_false)
    for each in reversed(trees[:-1]):
        start = add_tree(f, each, start, start)
    return start


cdef uint32_t add_step(entry_filter *f, object word, tuple rest, uint32_t on_true,
                       uint32_t on_false) except? 0:
    cdef filter_step step
    cdef int64_t r
    cdef const char *complaint
    memset(&step, 0, sizeof(filter_step))
    step.on_true = on_true
    step.on_false = on_false
    try:
        fields = STEPS[word](*rest)
        fill_step(&step, fields)
        if "format" in fields:
            pieces, colours = fields["format"]
            step.format = make_format(pieces, colours)
    except (TypeError, KeyError, OverflowError) as exc:
        raise ValueError(f"not a filter: {(word, *rest)!r}") from exc
    r = filter_add(f, &step)
    if r == -ENOMEM:
        raise MemoryError
    if r < 0:
        complaint = filter_complaint(f)
        if complaint != NULL:
            raise ValueError(complaint.decode())
        raise ValueError(f"not a filter: {(word, *rest)!r}")
    return <uint32_t>r


# `fields` keeps the text alive.
cdef int fill_step(filter_step *step, dict fields) except -1:
    cdef bytes text = fields.get("text")
    step.kind = fields["kind"]
    step.subject = fields.get("subject", 0)
    step.comparison = fields.get("comparison", 0)
    step.ignore_case = fields.get("ignore_case", 0)
    step.field = fields.get("field", 0)
    step.stream = fields.get("stream", 0)
    step.number = fields.get("number", 0)
    step.other = fields.get("other", 0)
    if text is not None:
        step.text = text
        step.length = <uint32_t>len(text)
    return 0


# Owned by the step that it is put into.
cdef entry_format *make_format(object pieces, object colours) except NULL:
    cdef entry_format *format = format_new(<uint32_t>len(pieces))
    cdef uint32_t at
    if format == NULL:
        raise MemoryError
    try:
        for at, piece in enumerate(pieces):
            add_piece(format, at, piece)
        for key, code in colours:
            check(format_add_colour(format, <bytes?>key, <bytes?>code), key)
    except BaseException:
        format_free(format)
        raise
    return format


cdef int add_piece(entry_format *format, uint32_t at, object given) except -1:
    cdef format_piece piece
    cdef bytes text
    memset(&piece, 0, sizeof(format_piece))
    piece.precision = -1
    if isinstance(given, bytes):
        text, fields = given, {}
    else:
        letter, fields = given
        piece.letter = ord(letter)
        text = fields.get("text")
    if text is not None:
        piece.text = text
        piece.length = <uint32_t>len(text)
    if "field" in fields:
        piece.field = TIMES[fields["field"]]
    piece.how = ord(fields["how"]) if fields.get("how") else 0
    piece.left = bool(fields.get("left"))
    piece.zero = bool(fields.get("zero"))
    piece.sharp = bool(fields.get("sharp"))
    piece.plus = bool(fields.get("plus"))
    piece.space = bool(fields.get("space"))
    piece.safe = bool(fields.get("safe"))
    piece.width = fields.get("width", 0)
    piece.precision = fields.get("precision", -1)
    return check(format_set(format, at, &piece), given)


cdef int check(int r, object given) except -1:
    if r == -ENOMEM:
        raise MemoryError
    if r < 0:
        raise TypeError(f"no piece of a format: {given!r}")
    return 0


# ---- one function for each word: what it takes, and the fields of its step ----

def _step_glob(int subject, bytes pattern not None, bint ignore_case):
    return {"kind": FILTER_GLOB, "subject": subject, "text": pattern, "ignore_case": ignore_case}


def _step_name(pattern, ignore_case=False):
    return _step_glob(SUBJECT_NAME, pattern, ignore_case)


def _step_path(pattern, ignore_case=False):
    return _step_glob(SUBJECT_PATH, pattern, ignore_case)


def _step_target(pattern, ignore_case=False):
    return _step_glob(SUBJECT_TARGET, pattern, ignore_case)


def _step_regex(bytes pattern not None, syntax, bint ignore_case=False):
    if syntax not in SYNTAXES:
        raise ValueError(f"regular expressions are {' or '.join(SYNTAXES)} here, not {syntax}")
    return {"kind": FILTER_REGEX, "subject": SUBJECT_PATH, "text": pattern,
            "ignore_case": ignore_case, "number": filter_find_syntax(syntax.encode())}


cdef int type_bits(str letters) except -1:
    cdef int bits = 0
    for letter in letters:
        bits |= TYPE_BITS[letter]
    return bits


def _step_type(letters):
    return {"kind": FILTER_TYPE, "number": type_bits(letters)}


def _step_target_type(letters, follows):
    return {"kind": FILTER_TARGET_TYPE, "number": type_bits(letters), "other": FOLLOWS[follows]}


def _step_depth(comparison, n):
    return {"kind": FILTER_DEPTH, "comparison": COMPARISONS[comparison], "number": n}


def _step_number(int field, comparison, n, unit=0):
    return {"kind": FILTER_NUMBER, "field": field, "comparison": COMPARISONS[comparison],
            "number": n, "other": unit}


def _step_time(field, comparison, ns, window=0):
    return {"kind": FILTER_TIME, "field": TIMES[field], "comparison": COMPARISONS[comparison],
            "number": ns, "other": window}


def _step_mode(comparison, bits, bits_of_directories):
    return {"kind": FILTER_MODE, "comparison": COMPARISONS[comparison], "number": bits,
            "other": bits_of_directories}


def _step_same(inode, device):
    return {"kind": FILTER_SAME, "number": inode, "other": device}


def _step_print(stream, byte):
    return {"kind": FILTER_PRINT, "stream": stream, "number": byte}


def _step_format(stream, pieces, colours=()):
    return {"kind": FILTER_FORMAT, "stream": stream, "format": (pieces, colours)}


cdef dict STEPS = {
    "name": _step_name,
    "path": _step_path,
    "target": _step_target,
    "regex": _step_regex,
    "type": _step_type,
    "target type": _step_target_type,
    "depth": _step_depth,
    "size": lambda *rest: _step_number(NUMBER_SIZE, *rest),
    "links": lambda *rest: _step_number(NUMBER_LINKS, *rest),
    "uid": lambda *rest: _step_number(NUMBER_UID, *rest),
    "gid": lambda *rest: _step_number(NUMBER_GID, *rest),
    "inode": lambda *rest: _step_number(NUMBER_INODE, *rest),
    "device": lambda *rest: _step_number(NUMBER_DEVICE, *rest),
    "time": _step_time,
    "mode": _step_mode,
    "no user": lambda: {"kind": FILTER_UNOWNED},
    "no group": lambda: {"kind": FILTER_UNOWNED, "number": 1},
    "same": _step_same,
    "empty": lambda: {"kind": FILTER_EMPTY},
    "hidden": lambda: {"kind": FILTER_HIDDEN},
    "access": lambda mode: {"kind": FILTER_ACCESS, "number": mode},
    "action": lambda number: {"kind": FILTER_ACTION, "number": number},
    "print": _step_print,
    "format": _step_format,
    "prune": lambda: {"kind": FILTER_PRUNING},
    "quit": lambda: {"kind": FILTER_QUITTING},
    "external": lambda number: {"kind": FILTER_EXTERNAL, "number": number},
}
