"""Storage of each task's own."""
import threading
import weakref

from cpython.object cimport PyObject

from ferrule._core.scheduler cimport RUNNING, Scheduler, Task, scheduler_or_none

cdef extern from "Python.h":
    object PyObject_GenericGetAttr(object thing, object name)
    int PyObject_GenericSetAttr(object thing, object name, PyObject *value) except -1

cdef extern from *:
    """
    /* Whether the class has a data descriptor of that name: a property, a slot. */
    static int fe_has_data_descriptor(PyObject *thing, PyObject *name) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *found = _PyType_LookupRef(Py_TYPE(thing), name);
    #else
        PyObject *found = _PyType_Lookup(Py_TYPE(thing), name);
        Py_XINCREF(found);
    #endif
        int is_one = found != NULL && Py_TYPE(found)->tp_descr_set != NULL;
        Py_XDECREF(found);
        return is_one;
    }
    """
    bint fe_has_data_descriptor(object thing, object name)


cdef class Presence:
    """A task or thread, as the locals know it: it lives as long as the task runs."""
    cdef object __weakref__
    cdef list users              # weakly: the Spaces that have something of it
    cdef Py_ssize_t users_limit

    def __cinit__(self):
        self.users = []
        self.users_limit = 16

    cdef int add_user(self, Spaces spaces) except -1:
        if len(self.users) >= self.users_limit:
            self.users = [user for user in self.users if user() is not None]
            self.users_limit = 2 * len(self.users) + 16
        self.users.append(weakref.ref(spaces))
        return 0

    def __del__(self):
        # Also runs when the interpreter ends, and little is left of the modules.
        cdef Spaces spaces
        for user in self.users:
            spaces = user()
            if spaces is not None:
                spaces.by_presence.pop(id(self), None)


cdef class Spaces:
    """The attributes of one `local`: a dict for each presence."""
    cdef object __weakref__
    cdef dict by_presence

    def __cinit__(self):
        self.by_presence = {}


# An OS thread's presence ends with the thread.
cdef object threads = threading.local()


cdef Presence presence_now():
    cdef Scheduler s = scheduler_or_none()
    cdef Task task
    if s is not None and s.current is not None and s.current.state == RUNNING:
        task = s.current
        if task.presence is None:
            task.presence = Presence()
        return <Presence>task.presence
    try:
        return <Presence>threads.presence
    except AttributeError:
        threads.presence = Presence()
        return <Presence>threads.presence


cdef class local:
    """Attributes that each task has for itself; ``threading.local`` for tasks.

    A subclass may have an ``__init__``: it is called with the same arguments in each task that uses
    the object.  What a task has stored is dropped when the task ends.  Outside a runtime, and in
    threads of `blocking`, each OS thread has its own.  No call of it is a switch point.
    """
    cdef object __weakref__
    cdef Spaces spaces
    cdef tuple args
    cdef dict kwargs

    def __cinit__(self, *args, **kwargs):
        if (args or kwargs) and type(self).__init__ is object.__init__:
            raise TypeError("Initialization arguments are not supported")
        self.args = args
        self.kwargs = kwargs
        self.spaces = Spaces()
        self._new_space(presence_now())  # __init__ follows, as in any class

    cdef dict _new_space(self, Presence presence):
        cdef dict space = {}
        self.spaces.by_presence[id(presence)] = space
        presence.add_user(self.spaces)
        return space

    cdef dict _space(self):
        cdef Presence presence = presence_now()
        space = self.spaces.by_presence.get(id(presence))
        if space is not None:
            return <dict>space
        space = self._new_space(presence)
        if type(self).__init__ is not object.__init__:
            try:
                type(self).__init__(self, *self.args, **self.kwargs)
            except BaseException:
                self.spaces.by_presence.pop(id(presence), None)
                raise
        return <dict>space

    def __getattribute__(self, str name):
        cdef dict space = self._space()
        if name == "__dict__":
            return space
        if name in space and not fe_has_data_descriptor(self, name):
            return space[name]
        return PyObject_GenericGetAttr(self, name)

    def __setattr__(self, str name, value):
        cdef dict space = self._space()
        if self._is_of_class(name):
            PyObject_GenericSetAttr(self, name, <PyObject *>value)
        else:
            space[name] = value

    def __delattr__(self, str name):
        cdef dict space = self._space()
        if self._is_of_class(name):
            PyObject_GenericSetAttr(self, name, NULL)
        elif name not in space:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        else:
            del space[name]

    cdef bint _is_of_class(self, str name) except -1:
        if name == "__dict__":
            raise AttributeError(
                f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        return fe_has_data_descriptor(self, name)
