"""Expressions over directory entries, compiled for C.

A tree is True, False, or a tuple that begins with a word:

  ("and", …), ("or", …)       any number of trees; "or" of none is false
  ("not", tree)
  ("comma", …)                all of them are evaluated, the last one counts
  ("name", pattern, ignore_case=False), ("path", …)    bytes, as fnmatch takes them
  ("type", letters)           of "bcdpfls"
  ("depth", comparison, n)    a comparison is "=", "<" or ">"
  ("hidden",)
  ("action", number)          true, and the number (0 to 63) is noted
  ("print", stream, byte)     the path and that byte
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
cdef dict COMPARISONS = {"=": COMPARE_EQUAL, "<": COMPARE_LESS, ">": COMPARE_MORE}


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
        filter_free(self.filter)


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
    memset(&step, 0, sizeof(filter_step))
    step.on_true = on_true
    step.on_false = on_false
    try:
        fields = STEPS[word](*rest)
        fill_step(&step, fields)
    except (TypeError, KeyError, OverflowError) as exc:
        raise ValueError(f"not a filter: {(word, *rest)!r}") from exc
    r = filter_add(f, &step)
    if r == -ENOMEM:
        raise MemoryError
    if r < 0:
        raise ValueError(f"not a filter: {(word, *rest)!r}")
    return <uint32_t>r


# `fields` keeps the text alive.
cdef int fill_step(filter_step *step, dict fields) except -1:
    cdef bytes text = fields.get("text")
    step.kind = fields["kind"]
    step.subject = fields.get("subject", 0)
    step.comparison = fields.get("comparison", 0)
    step.ignore_case = fields.get("ignore_case", 0)
    step.stream = fields.get("stream", 0)
    step.number = fields.get("number", 0)
    if text is not None:
        step.text = text
        step.length = <uint32_t>len(text)
    return 0


# ---- one function for each word: what it takes, and the fields of its step ----

def _step_glob(int subject, bytes pattern not None, bint ignore_case=False):
    return {"kind": FILTER_GLOB, "subject": subject, "text": pattern, "ignore_case": ignore_case}


def _step_name(pattern, ignore_case=False):
    return _step_glob(SUBJECT_NAME, pattern, ignore_case)


def _step_path(pattern, ignore_case=False):
    return _step_glob(SUBJECT_PATH, pattern, ignore_case)


def _step_type(letters):
    bits = 0
    for letter in letters:
        bits |= TYPE_BITS[letter]
    return {"kind": FILTER_TYPE, "number": bits}


def _step_depth(comparison, n):
    return {"kind": FILTER_DEPTH, "comparison": COMPARISONS[comparison], "number": n}


def _step_print(stream, byte):
    return {"kind": FILTER_PRINT, "stream": stream, "number": byte}


cdef dict STEPS = {
    "name": _step_name,
    "path": _step_path,
    "type": _step_type,
    "depth": _step_depth,
    "hidden": lambda: {"kind": FILTER_HIDDEN},
    "action": lambda number: {"kind": FILTER_ACTION, "number": number},
    "print": _step_print,
    "prune": lambda: {"kind": FILTER_PRUNING},
    "quit": lambda: {"kind": FILTER_QUITTING},
    "external": lambda number: {"kind": FILTER_EXTERNAL, "number": number},
}
