/* Objects that only their module makes. */
#ifndef FERRULE_MADE_HERE_H
#define FERRULE_MADE_HERE_H

#include <Python.h>

/* Cython's own __new__ does not look at tp_new. */
static inline int forbid_making(PyTypeObject *type) {
    type->tp_new = NULL;
    type->tp_vectorcall = NULL;
    type->tp_flags |= Py_TPFLAGS_DISALLOW_INSTANTIATION;
    if (PyDict_DelItemString(type->tp_dict, "__new__") < 0) return -1;
    PyType_Modified(type);
    return 0;
}

#endif
