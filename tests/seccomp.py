"""Make a system call fail in this process, for ever: a seccomp filter, as containers have it.

Or hold one up.  For forked children and processes of their own only.  The filter is a classic BPF
program over struct seccomp_data, whose words are compared one after the other; what differs jumps
to the end, which allows the call.
"""

import ctypes
import fcntl
import platform
import struct
import sys

SETUP, ENTER, REGISTER = 425, 426, 427  # the same on every architecture that Ferrule supports

LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
FILTER = 2


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def argument_offset(index: int) -> int:
    """Of the low half of an argument, all of which have 64 bits."""
    return 16 + 8 * index + (4 if sys.byteorder == "big" else 0)


def fail(call: int, errno: int, arguments: dict[int, int] | None = None) -> None:
    """Let `call` fail with `errno`, always or when all of these arguments are so."""
    wanted = [(0, call)]
    wanted += [(argument_offset(index), value) for index, value in (arguments or {}).items()]
    code = []
    for number, (offset, value) in enumerate(wanted):
        code.append((LOAD_WORD, 0, 0, offset))
        code.append((JUMP_IF_EQUAL, 0, 2 * (len(wanted) - number) - 1, value))
    code += [(RETURN, 0, 0, ERRNO | errno), (RETURN, 0, 0, ALLOW)]
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    block = ctypes.create_string_buffer(packed)
    program = Program(len(code), ctypes.addressof(block))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments_of_prctl in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                               (PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0)):
        if prctl(*arguments_of_prctl) != 0:
            raise OSError(ctypes.get_errno(), "no seccomp filter here")


# ---- calls that are held up ----

CALL_SECCOMP = {"x86_64": 317, "aarch64": 277}
SET_MODE_FILTER, NEW_LISTENER, ASK = 1, 1 << 3, 0x7FC00000
RECEIVE, ANSWER = 0xC0502100, 0xC0182101  # ioctls: SECCOMP_IOCTL_NOTIF_RECV and _SEND
NOTICE_BYTES, GO_ON = 80, 1


def hold_up(call: int) -> int:
    """Let a system call of this thread wait each time for `let_go`; the listener's descriptor.

    It waits before the kernel looks at its arguments.
    """
    code = [(LOAD_WORD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, call), (RETURN, 0, 0, ASK),
            (RETURN, 0, 0, ALLOW)]
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    block = ctypes.create_string_buffer(packed)
    program = Program(len(code), ctypes.addressof(block))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = libc.syscall(CALL_SECCOMP[platform.machine()], SET_MODE_FILTER, NEW_LISTENER,
                            ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "no seccomp listener here")
    return int(listener)


def await_call(listener: int) -> int:
    """The number of a call that is held up."""
    notice = bytearray(NOTICE_BYTES)
    fcntl.ioctl(listener, RECEIVE, notice)
    return int(struct.unpack_from("Q", notice)[0])


def let_go(listener: int, number: int) -> None:
    """Have the kernel do the call."""
    fcntl.ioctl(listener, ANSWER, bytearray(struct.pack("QqiI", number, 0, 0, GO_ON)))
