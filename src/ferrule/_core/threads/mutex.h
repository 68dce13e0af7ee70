/* Mutual exclusion for what fibers of several threads share.
 *
 * On a GIL build it is nothing: compiled code that runs no Python code cannot be interrupted.  On a
 * free-threaded build it is the interpreter's own mutex, of one byte.  So the rule for what it
 * guards is the same on both: while it is held nothing is called that may run Python code, no
 * reference to a user's object is dropped, and no fiber switches.
 */
#ifndef FERRULE_MUTEX_H
#define FERRULE_MUTEX_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
typedef PyMutex mutex;
#define mutex_lock(m) PyMutex_Lock(m)
#define mutex_unlock(m) PyMutex_Unlock(m)
#else
typedef char mutex;
#define mutex_lock(m) ((void)(m))
#define mutex_unlock(m) ((void)(m))
#endif

#endif
