# Socket addresses: the tuples of the socket module <-> struct sockaddr.

cdef int put_port(object port, uint16_t *out) except -1:
    cdef long value = port
    if not 0 <= value <= 65535:
        raise OverflowError("port must be 0-65535.")
    out[0] = htons(<uint16_t>value)
    return 0


cdef int put_inet(tuple address, sockaddr_storage *out, socklen_t *size) except -1:
    cdef sockaddr_in *v4 = <sockaddr_in *>out
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>out
    if not 2 <= len(address) <= 4:
        raise TypeError("an internet address is (host, port[, flowinfo[, scope_id]])")
    host = address[0]
    if not isinstance(host, str):
        raise TypeError(f"host must be str, not {type(host).__name__}")
    text, _, scope = host.partition("%")
    encoded = text.encode("ascii", "replace")
    if len(address) == 2 and inet_pton(AF_INET, encoded or b"0.0.0.0", &v4.sin_addr) == 1:
        v4.sin_family = AF_INET
        put_port(address[1], &v4.sin_port)
        size[0] = sizeof(sockaddr_in)
        return 0
    if inet_pton(AF_INET6, encoded or b"::", &v6.sin6_addr) != 1:
        raise ValueError(
            f"{host!r} is not a numeric address; resolve names first (socket.getaddrinfo)")
    v6.sin6_family = AF_INET6
    put_port(address[1], &v6.sin6_port)
    v6.sin6_flowinfo = htonl(<uint32_t>(address[2] if len(address) > 2 else 0))
    if len(address) > 3 and address[3]:
        v6.sin6_scope_id = address[3]
    elif scope:
        v6.sin6_scope_id = int(scope) if scope.isdecimal() else if_nametoindex(scope.encode())
    size[0] = sizeof(sockaddr_in6)
    return 0


cdef int put_unix(object path, sockaddr_storage *out, socklen_t *size) except -1:
    cdef sockaddr_un *un = <sockaddr_un *>out
    cdef bytes name = os.fsencode(path)
    cdef Py_ssize_t n = len(name)
    # An abstract name (it begins with NUL) has no terminator and may use the last byte.  Of an
    # empty one there is the family alone: bind then finds a name.
    cdef int terminator = n > 0 and name[0] != 0
    if n > <Py_ssize_t>sizeof(un.sun_path) - terminator:
        raise OSError("AF_UNIX path too long")
    un.sun_family = AF_UNIX
    memcpy(un.sun_path, <const char *>name, n)
    size[0] = <socklen_t>(sizeof(sa_family_t) + n + terminator)
    return 0


# Of a family that has no form of its own here: what get_address gave.
cdef int put_raw(int family, bytes data, sockaddr_storage *out, socklen_t *size) except -1:
    if not 0 <= family <= 0xffff:
        raise ValueError(f"an address family must be from 0 to 65535, not {family}")
    if len(data) > <Py_ssize_t>(sizeof(sockaddr_storage) - sizeof(sa_family_t)):
        raise ValueError("an address has at most 126 bytes behind its family")
    out.ss_family = <sa_family_t>family
    memcpy(<char *>out + sizeof(sa_family_t), <const char *>data, len(data))
    size[0] = <socklen_t>(sizeof(sa_family_t) + len(data))
    return 0


# Write `address`, in the form the socket module uses, to a zeroed `out`.
cdef int put_address(object address, sockaddr_storage *out, socklen_t *size) except -1:
    if isinstance(address, tuple) and len(address) == 2 and isinstance(address[1], bytes):
        return put_raw(address[0], address[1], out, size)
    if isinstance(address, tuple):
        return put_inet(address, out, size)
    if isinstance(address, (str, bytes, os.PathLike)):
        return put_unix(address, out, size)
    raise TypeError("an address is (host, port[, …]), a Unix path or (family, bytes), not "
                    f"{type(address).__name__}")


cdef object get_unix(const sockaddr_un *un, Py_ssize_t size):
    cdef Py_ssize_t n = size - <Py_ssize_t>sizeof(sa_family_t)
    if n <= 0:
        return ""
    if un.sun_path[0] == 0:
        return (<const char *>un.sun_path)[:n]
    return os.fsdecode((<const char *>un.sun_path)[:strnlen(un.sun_path, n)])


# The address as the socket module would give it; None when the kernel wrote none, or not all of it.
cdef object get_address(const sockaddr_storage *address, socklen_t size):
    cdef char text[64]
    cdef const sockaddr_in *v4 = <const sockaddr_in *>address
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *>address
    if size < sizeof(sa_family_t):
        return None
    if address.ss_family == AF_INET:
        if size < sizeof(sockaddr_in):
            return None
        inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(v4.sin_port)
    if address.ss_family == AF_INET6:
        if size < sizeof(sockaddr_in6):
            return None
        inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text))
        return (text.decode("ascii"), ntohs(v6.sin6_port), ntohl(v6.sin6_flowinfo),
                v6.sin6_scope_id)
    if address.ss_family == AF_UNIX:
        return get_unix(<const sockaddr_un *>address, size)
    return address.ss_family, (<const char *>address + sizeof(sa_family_t))[
        :size - sizeof(sa_family_t)]
