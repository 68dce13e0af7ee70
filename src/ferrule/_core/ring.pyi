import sys
from collections.abc import Iterable, Iterator
from os import PathLike, waitid_result
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeAlias, final, overload

from typing_extensions import Buffer, disjoint_base

from ferrule._core.stat_result import StatResult

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

_FileLike: TypeAlias = int | _HasFileno
_StrOrBytesPath: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]
_WritableBuffer: TypeAlias = Buffer
_SendBuffer: TypeAlias = Buffer | list[Buffer] | tuple[Buffer, ...]
_Address: TypeAlias = tuple[Any, ...] | _StrOrBytesPath

SETUP_LADDER: tuple[int, ...]

class SubmissionQueueFull(RuntimeError): ...
class NotSupported(OSError): ...

class RingStatistics(NamedTuple):
    in_flight: int
    completed: int
    unmatched: int
    leaked: int
    slots: int

class Message(NamedTuple):
    nbytes: int
    ancdata: list[tuple[int, int, bytes]]
    msg_flags: int
    address: Any

class TxTimestamp(NamedTuple):
    time_ns: int
    kind: int
    key: int
    hardware: bool

class ReceivedMessage(NamedTuple):
    data: bytes | memoryview
    ancdata: list[tuple[int, int, bytes]]
    msg_flags: int
    address: Any

class Params:
    sq_entries: int
    cq_entries: int
    flags: int
    sq_thread_cpu: int
    sq_thread_idle: int
    features: int
    wq_fd: int
    resv: tuple[int, int, int]
    def __init__(
        self,
        flags: int = 0,
        *,
        sq_thread_cpu: int = 0,
        sq_thread_idle: int = 0,
        cq_entries: int = 0,
        wq_fd: int = 0,
    ) -> None: ...

OPERATIONS: tuple[tuple[str, str], ...]
REGISTRATIONS: tuple[tuple[str, str], ...]

def _hide_features(ring: Ring, features: int) -> None: ...
def _explain_refusal(setting: _StrOrBytesPath = ...) -> str: ...
def _hide_operations(opcodes: Iterable[int]) -> list[int]: ...
def _show_operations(opcodes: Iterable[int]) -> None: ...
def leaked_operations() -> int: ...

@final
class CQE:
    user_data: Any
    res: int
    flags: int
    opcode: int
    is_tag: bool
    @property
    def ok(self) -> bool: ...
    @property
    def more(self) -> bool: ...
    @property
    def big_cqe(self) -> tuple[int, int] | None: ...
    @property
    def sock_nonempty(self) -> bool: ...
    @property
    def notification(self) -> bool: ...
    @property
    def copied(self) -> bool | None: ...
    @property
    def buffer_more(self) -> bool: ...
    @property
    def buffer_id(self) -> int | None: ...
    @property
    def address(self) -> Any: ...
    @property
    def message(self) -> Message | None: ...
    @property
    def option(self) -> int | bytes | None: ...
    @property
    def timestamp(self) -> TxTimestamp | None: ...
    @property
    def stat(self) -> StatResult | None: ...
    @property
    def child(self) -> waitid_result | None: ...
    @property
    def events(self) -> list[tuple[int, int]] | None: ...
    @property
    def xattr(self) -> bytes | None: ...
    @property
    def pipe(self) -> tuple[int, int] | None: ...
    @property
    def slots(self) -> list[int] | None: ...
    def raise_for_error(self) -> int: ...

class Query(NamedTuple):
    request_opcodes: int
    register_opcodes: int
    features: int
    setup_flags: int
    enter_flags: int
    sqe_flags: int
    query_opcodes: int

def query() -> Query: ...
def send_msg_ring(target: Ring | _FileLike, res: int, data: int, flags: int = ...) -> None: ...
@final
class Probe:
    @property
    def last_op(self) -> int: ...
    def opcode_supported(self, opcode: int) -> bool: ...

@disjoint_base
class Operations:
    def prep_nop(
        self, user_data: object = ..., *, flags: int = ..., result: int = ..., fd: int = ...
    ) -> SQE: ...
    def prep_poll_add(self, file: _FileLike, mask: int, *, user_data: object = ...) -> SQE: ...
    def prep_poll_multishot(
        self, file: _FileLike, mask: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_poll_remove(self, target: object, *, user_data: object = ...) -> SQE: ...
    def prep_poll_update(
        self, target: object, mask: int, multishot: bool = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_cancel(
        self,
        target: object = ...,
        flags: int = ...,
        opcode: int | None = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_cancel64(self, key: int, flags: int = ..., *, user_data: object = ...) -> SQE: ...
    def prep_cancel_fd(
        self,
        file: _FileLike,
        flags: int = ...,
        opcode: int | None = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_timeout(
        self, seconds: float, count: int = ..., flags: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_timeout_remove(
        self, target: object, flags: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_timeout_update(
        self, target: object, seconds: float, flags: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_link_timeout(
        self, seconds: float, flags: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_msg_ring(
        self,
        target: Ring | _FileLike,
        res: int,
        data: int,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_msg_ring_cqe_flags(
        self,
        target: Ring | _FileLike,
        res: int,
        data: int,
        flags: int,
        cqe_flags: int,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_msg_ring_fd(
        self,
        target: Ring | _FileLike,
        source_slot: int,
        target_slot: int,
        data: int,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_msg_ring_fd_alloc(
        self,
        target: Ring | _FileLike,
        source_slot: int,
        data: int,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...

class FileOperations(Operations):
    def prep_read(
        self,
        file: _FileLike,
        buffer: _WritableBuffer | None,
        offset: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_write(
        self, file: _FileLike, buffer: Buffer | None, offset: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_read_multishot(
        self,
        file: _FileLike,
        group: BufferRing | int,
        offset: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_readv(
        self,
        file: _FileLike,
        buffers: Iterable[_WritableBuffer],
        offset: int = ...,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_readv2(
        self,
        file: _FileLike,
        buffers: Iterable[_WritableBuffer],
        offset: int,
        flags: int,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_writev(
        self,
        file: _FileLike,
        buffers: Iterable[Buffer],
        offset: int = ...,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_writev2(
        self,
        file: _FileLike,
        buffers: Iterable[Buffer],
        offset: int,
        flags: int,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_splice(
        self,
        src: _FileLike,
        dst: _FileLike,
        count: int,
        offset_src: int | None = ...,
        offset_dst: int | None = ...,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_tee(
        self,
        src: _FileLike,
        dst: _FileLike,
        count: int,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_fsync(
        self,
        file: _FileLike,
        flags: int = ...,
        offset: int = ...,
        length: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_sync_file_range(
        self, file: _FileLike, offset: int, length: int, flags: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_fallocate(
        self, file: _FileLike, mode: int, offset: int, length: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_ftruncate(self, file: _FileLike, length: int, *, user_data: object = ...) -> SQE: ...
    def prep_fadvise(
        self, file: _FileLike, offset: int, length: int, advice: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_fadvise64(
        self, file: _FileLike, offset: int, length: int, advice: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_madvise(self, buffer: Buffer, advice: int, *, user_data: object = ...) -> SQE: ...
    def prep_madvise64(self, buffer: Buffer, advice: int, *, user_data: object = ...) -> SQE: ...
    def prep_openat(
        self,
        dfd: _FileLike | None,
        path: _StrOrBytesPath,
        flags: int = ...,
        mode: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_openat_direct(
        self,
        dfd: _FileLike | None,
        path: _StrOrBytesPath,
        flags: int = ...,
        mode: int = ...,
        file_index: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_open(
        self, path: _StrOrBytesPath, flags: int = ..., mode: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_open_direct(
        self,
        path: _StrOrBytesPath,
        flags: int = ...,
        mode: int = ...,
        file_index: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_openat2(
        self,
        dfd: _FileLike | None,
        path: _StrOrBytesPath,
        flags: int = ...,
        mode: int | None = ...,
        resolve: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_openat2_direct(
        self,
        dfd: _FileLike | None,
        path: _StrOrBytesPath,
        flags: int = ...,
        mode: int | None = ...,
        resolve: int = ...,
        file_index: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_close(self, file: _FileLike, *, user_data: object = ...) -> SQE: ...
    def prep_close_direct(self, file_index: int, *, user_data: object = ...) -> SQE: ...
    def prep_files_update(
        self, files: Iterable[_FileLike], offset: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_fixed_fd_install(
        self, file_index: int, flags: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_pipe(self, flags: int = ..., *, user_data: object = ...) -> SQE: ...
    def prep_pipe_direct(
        self, flags: int = ..., file_index: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_statx(
        self,
        dfd: _FileLike | None,
        path: _StrOrBytesPath,
        flags: int = ...,
        mask: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_renameat(
        self,
        olddfd: _FileLike | None,
        oldpath: _StrOrBytesPath,
        newdfd: _FileLike | None,
        newpath: _StrOrBytesPath,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_rename(
        self, oldpath: _StrOrBytesPath, newpath: _StrOrBytesPath, *, user_data: object = ...
    ) -> SQE: ...
    def prep_unlinkat(
        self,
        dfd: _FileLike | None,
        path: _StrOrBytesPath,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_unlink(
        self, path: _StrOrBytesPath, flags: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_mkdirat(
        self,
        dfd: _FileLike | None,
        path: _StrOrBytesPath,
        mode: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_mkdir(
        self, path: _StrOrBytesPath, mode: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_symlinkat(
        self,
        target: _StrOrBytesPath,
        newdfd: _FileLike | None,
        linkpath: _StrOrBytesPath,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_symlink(
        self, target: _StrOrBytesPath, linkpath: _StrOrBytesPath, *, user_data: object = ...
    ) -> SQE: ...
    def prep_linkat(
        self,
        olddfd: _FileLike | None,
        oldpath: _StrOrBytesPath,
        newdfd: _FileLike | None,
        newpath: _StrOrBytesPath,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_link(
        self,
        oldpath: _StrOrBytesPath,
        newpath: _StrOrBytesPath,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_setxattr(
        self,
        path: _StrOrBytesPath,
        name: _StrOrBytesPath,
        value: Buffer,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_fsetxattr(
        self,
        file: _FileLike,
        name: _StrOrBytesPath,
        value: Buffer,
        flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_getxattr(
        self,
        path: _StrOrBytesPath,
        name: _StrOrBytesPath,
        size: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_fgetxattr(
        self, file: _FileLike, name: _StrOrBytesPath, size: int = ..., *, user_data: object = ...
    ) -> SQE: ...

    def prep_read_fixed(
        self,
        file: _FileLike,
        buffer: _WritableBuffer,
        offset: int = ...,
        buf_index: int | None = None,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_write_fixed(
        self,
        file: _FileLike,
        buffer: Buffer,
        offset: int = ...,
        buf_index: int | None = None,
        *,
        user_data: object = ...,
    ) -> SQE: ...

    def prep_readv_fixed(
        self,
        file: _FileLike,
        buffers: Iterable[_WritableBuffer],
        offset: int = ...,
        flags: int = ...,
        buf_index: int | None = None,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_writev_fixed(
        self,
        file: _FileLike,
        buffers: Iterable[Buffer],
        offset: int = ...,
        flags: int = ...,
        buf_index: int | None = None,
        *,
        user_data: object = ...,
    ) -> SQE: ...

class SocketOperations(FileOperations):
    def prep_socket(
        self, domain: int, type: int, protocol: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_socket_direct(
        self,
        domain: int,
        type: int,
        protocol: int = ...,
        file_index: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_socket_direct_alloc(
        self, domain: int, type: int, protocol: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_bind(self, file: _FileLike, address: _Address, *, user_data: object = ...) -> SQE: ...
    def prep_listen(
        self, file: _FileLike, backlog: int = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_connect(
        self, file: _FileLike, address: _Address, *, user_data: object = ...
    ) -> SQE: ...
    def prep_shutdown(self, file: _FileLike, how: int, *, user_data: object = ...) -> SQE: ...
    def prep_accept(
        self, file: _FileLike, flags: int = ..., *, ioprio: int = ..., user_data: object = ...
    ) -> SQE: ...
    def prep_accept_direct(
        self,
        file: _FileLike,
        flags: int = ...,
        file_index: int = ...,
        *,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_multishot_accept(
        self, file: _FileLike, flags: int = ..., *, ioprio: int = ..., user_data: object = ...
    ) -> SQE: ...
    def prep_multishot_accept_direct(
        self, file: _FileLike, flags: int = ..., *, ioprio: int = ..., user_data: object = ...
    ) -> SQE: ...
    def prep_recv(
        self,
        file: _FileLike,
        buffer: _WritableBuffer | None,
        flags: int = ...,
        *,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_recv_multishot(
        self,
        file: _FileLike,
        group: BufferRing | int,
        flags: int = ...,
        *,
        ioprio: int = ...,
        length: int = ...,
        limit: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_recvmsg(
        self,
        file: _FileLike,
        buffers: Iterable[_WritableBuffer],
        ancbufsize: int = ...,
        flags: int = ...,
        *,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_recvmsg_multishot(
        self,
        file: _FileLike,
        group: BufferRing | int,
        ancbufsize: int = ...,
        flags: int = ...,
        *,
        namelen: int = ...,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_recv_zc(
        self,
        file: _FileLike,
        ifq: int,
        length: int = ...,
        *,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_send(
        self,
        file: _FileLike,
        buffer: _SendBuffer | None,
        flags: int = ...,
        *,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_sendto(
        self,
        file: _FileLike,
        buffer: _SendBuffer,
        address: _Address,
        flags: int = ...,
        *,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_send_bundle(
        self,
        file: _FileLike,
        group: BufferRing | int,
        flags: int = ...,
        *,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_send_zc(
        self,
        file: _FileLike,
        buffer: _SendBuffer,
        flags: int = ...,
        zc_flags: int = ...,
        address: _Address | None = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_send_zc_fixed(
        self,
        file: _FileLike,
        buffer: Buffer,
        flags: int = ...,
        zc_flags: int = ...,
        buf_index: int | None = ...,
        address: _Address | None = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_sendmsg(
        self,
        file: _FileLike,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = ...,
        flags: int = ...,
        address: _Address | None = ...,
        *,
        ioprio: int = ...,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_sendmsg_zc(
        self,
        file: _FileLike,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = ...,
        flags: int = ...,
        address: _Address | None = ...,
        zc_flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_sendmsg_zc_fixed(
        self,
        file: _FileLike,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = ...,
        flags: int = ...,
        address: _Address | None = ...,
        zc_flags: int = ...,
        buf_index: int | None = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_cmd_sock(
        self,
        cmd_op: int,
        file: _FileLike,
        level: int = ...,
        optname: int = ...,
        value: int | Buffer | None = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_cmd_getsockname(
        self, file: _FileLike, peer: bool = ..., *, user_data: object = ...
    ) -> SQE: ...

class SystemOperations(SocketOperations):
    def prep_futex_wait(
        self,
        futex: Buffer,
        value: int,
        mask: int = ...,
        futex_flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_futex_wake(
        self,
        futex: Buffer,
        count: int,
        mask: int = ...,
        futex_flags: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_futex_waitv(
        self,
        futexes: Iterable[tuple[Buffer, int] | tuple[Buffer, int, int]],
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_waitid(
        self, idtype: int, id: int, options: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_epoll_ctl(
        self,
        epoll: _FileLike,
        file: _FileLike,
        op: int,
        events: int = ...,
        data: int | None = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_epoll_wait(
        self, epoll: _FileLike, maxevents: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_uring_cmd(
        self, cmd_op: int, file: _FileLike, data: Buffer = ..., *, user_data: object = ...
    ) -> SQE: ...
    def prep_cmd_discard(
        self, file: _FileLike, offset: int, length: int, *, user_data: object = ...
    ) -> SQE: ...
    def prep_provide_buffers(
        self,
        memory: _WritableBuffer,
        length: int,
        count: int,
        bgid: int,
        bid: int = ...,
        *,
        user_data: object = ...,
    ) -> SQE: ...
    def prep_remove_buffers(self, count: int, bgid: int, *, user_data: object = ...) -> SQE: ...

@final
class SQE(SystemOperations):
    @property
    def key(self) -> int: ...
    def buffer_select(self, group: BufferRing | int) -> SQE: ...
    def link(self) -> SQE: ...
    def hardlink(self) -> SQE: ...
    def drain(self) -> SQE: ...
    def use_registered_fd(self) -> SQE: ...
    @property
    def submitted(self) -> bool: ...
    @property
    def user_data(self) -> Any: ...
    @user_data.setter
    def user_data(self, value: Any) -> None: ...
    @property
    def opcode(self) -> int: ...
    @opcode.setter
    def opcode(self, value: int) -> None: ...
    @property
    def flags(self) -> int: ...
    @flags.setter
    def flags(self, value: int) -> None: ...
    @property
    def ioprio(self) -> int: ...
    @ioprio.setter
    def ioprio(self, value: int) -> None: ...
    @property
    def fd(self) -> int: ...
    @fd.setter
    def fd(self, value: int) -> None: ...
    @property
    def off(self) -> int: ...
    @off.setter
    def off(self, value: int) -> None: ...
    @property
    def addr(self) -> int: ...
    @addr.setter
    def addr(self, value: int) -> None: ...
    @property
    def len(self) -> int: ...
    @len.setter
    def len(self, value: int) -> None: ...
    @property
    def op_flags(self) -> int: ...
    @op_flags.setter
    def op_flags(self, value: int) -> None: ...
    @property
    def buf_index(self) -> int: ...
    @buf_index.setter
    def buf_index(self, value: int) -> None: ...
    @property
    def buf_group(self) -> int: ...
    @buf_group.setter
    def buf_group(self, value: int) -> None: ...
    @property
    def personality(self) -> int: ...
    @personality.setter
    def personality(self, value: int) -> None: ...
    @property
    def file_index(self) -> int: ...
    @file_index.setter
    def file_index(self, value: int) -> None: ...
    @property
    def addr3(self) -> int: ...
    @addr3.setter
    def addr3(self, value: int) -> None: ...

@final
class BufferRing:
    entries: int
    buffer_size: int
    bgid: int
    def add(self, bid: int, length: int | None = None) -> None: ...
    def advance(self) -> int: ...
    def recycle(self, *which: int | CQE) -> None: ...
    def get(self, which: int | CQE, length: int | None = None) -> memoryview: ...
    def views(self, cqe: CQE) -> list[memoryview]: ...
    def take(self, cqe: CQE) -> bytes: ...
    def get_message(self, cqe: CQE) -> ReceivedMessage: ...
    def take_message(self, cqe: CQE) -> ReceivedMessage: ...
    def available(self) -> int: ...
    def head(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> BufferRing: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def __len__(self) -> int: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class BatchQueue:
    memory: Buffer | None
    @property
    def capacity(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def prep_nop(self, count: int, tags: Buffer | None = None) -> int: ...
    def prep_read(
        self,
        fds: int | Buffer,
        starts: int | Buffer,
        lengths: int | Buffer,
        offsets: int | Buffer,
        *,
        tags: Buffer | None = None,
        flags: int | Buffer = ...,
    ) -> int: ...
    def prep_write(
        self,
        fds: int | Buffer,
        starts: int | Buffer,
        lengths: int | Buffer,
        offsets: int | Buffer,
        *,
        tags: Buffer | None = None,
        flags: int | Buffer = ...,
    ) -> int: ...
    def prep_read_fixed(
        self,
        fds: int | Buffer,
        starts: int | Buffer,
        lengths: int | Buffer,
        offsets: int | Buffer,
        buf_index: int | None = None,
        *,
        tags: Buffer | None = None,
        flags: int | Buffer = ...,
    ) -> int: ...
    def prep_write_fixed(
        self,
        fds: int | Buffer,
        starts: int | Buffer,
        lengths: int | Buffer,
        offsets: int | Buffer,
        buf_index: int | None = None,
        *,
        tags: Buffer | None = None,
        flags: int | Buffer = ...,
    ) -> int: ...
    def prep_recv(
        self,
        fds: int | Buffer,
        starts: int | Buffer,
        lengths: int | Buffer,
        *,
        msg_flags: int = ...,
        tags: Buffer | None = None,
        flags: int | Buffer = ...,
    ) -> int: ...
    def prep_send(
        self,
        fds: int | Buffer,
        starts: int | Buffer,
        lengths: int | Buffer,
        *,
        msg_flags: int = ...,
        tags: Buffer | None = None,
        flags: int | Buffer = ...,
    ) -> int: ...
    def cancel(self, tags: Buffer | None = None) -> int: ...
    def complete(
        self,
        results: Buffer,
        tags: Buffer | None = None,
        *,
        wait_nr: int = ...,
        timeout: float | None = None,
    ) -> int: ...
    def submit_and_complete(
        self,
        results: Buffer,
        tags: Buffer | None = None,
        *,
        wait_nr: int = ...,
        timeout: float | None = None,
    ) -> int: ...
    def close(self, timeout: float = ...) -> None: ...
    def __enter__(self) -> BatchQueue: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class WaitRegion:
    count: int
    def set(
        self,
        index: int,
        seconds: float | None = None,
        min_wait: float = 0,
        sigmask: Iterable[int] | None = None,
    ) -> None: ...
    def __len__(self) -> int: ...

@final
class SubmissionQueue:
    @property
    def head(self) -> int: ...
    @property
    def tail(self) -> int: ...
    @property
    def sqe_head(self) -> int: ...
    @property
    def sqe_tail(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def mask(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def dropped(self) -> int: ...

@final
class CompletionQueue:
    @property
    def head(self) -> int: ...
    @property
    def tail(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def mask(self) -> int: ...
    @property
    def overflow(self) -> int: ...

@disjoint_base
class RegisteredBuffer:
    index: int
    @property
    def registered(self) -> bool: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, where: int, /) -> int: ...
    @overload
    def __getitem__(self, where: slice, /) -> memoryview: ...
    @overload
    def __setitem__(self, where: int, value: int, /) -> None: ...
    @overload
    def __setitem__(self, where: slice, value: Buffer, /) -> None: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
        def __release_buffer__(self, view: memoryview, /) -> None: ...

class BufferPoolEmpty(RuntimeError): ...

@final
class PooledBuffer(RegisteredBuffer):
    def release(self) -> None: ...
    def __enter__(self) -> PooledBuffer: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class BufferPool:
    count: int
    size: int
    offset: int
    def acquire(self) -> PooledBuffer: ...
    def available(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> BufferPool: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def __len__(self) -> int: ...

@final
class FileTable:
    size: int
    @property
    def kernel_slots(self) -> range: ...
    def allocate(self) -> int: ...
    def free(self, slot: int) -> None: ...
    def install(self, file: _FileLike) -> int: ...
    def adopt(self, slot: int) -> None: ...
    def close(self, slot: int) -> None: ...
    def unregister(self) -> None: ...
    def __enter__(self) -> FileTable: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, slot: object, /) -> bool: ...
    def __iter__(self) -> Iterator[int]: ...

class TableRegistrations(SystemOperations):
    @overload
    def register_buffers(
        self, buffers: Iterable[Buffer]
    ) -> list[RegisteredBuffer]: ...
    @overload
    def register_buffers(
        self, buffers: Iterable[Buffer | None]
    ) -> list[RegisteredBuffer | None]: ...
    @overload
    def register_buffers_tags(
        self, buffers: Iterable[Buffer], tags: Iterable[object]
    ) -> list[RegisteredBuffer]: ...
    @overload
    def register_buffers_tags(
        self, buffers: Iterable[Buffer | None], tags: Iterable[object]
    ) -> list[RegisteredBuffer | None]: ...
    def register_buffers_sparse(self, count: int) -> None: ...
    @overload
    def register_buffers_update(
        self, offset: int, buffers: Iterable[Buffer]
    ) -> list[RegisteredBuffer]: ...
    @overload
    def register_buffers_update(
        self, offset: int, buffers: Iterable[Buffer | None]
    ) -> list[RegisteredBuffer | None]: ...
    @overload
    def register_buffers_update_tag(
        self, offset: int, buffers: Iterable[Buffer], tags: Iterable[object]
    ) -> list[RegisteredBuffer]: ...
    @overload
    def register_buffers_update_tag(
        self, offset: int, buffers: Iterable[Buffer | None], tags: Iterable[object]
    ) -> list[RegisteredBuffer | None]: ...
    def unregister_buffers(self) -> None: ...
    def register_clone_buffers(
        self,
        source: Ring,
        *,
        dst_offset: int = 0,
        src_offset: int = 0,
        count: int | None = None,
        flags: int = 0,
    ) -> list[RegisteredBuffer | None]: ...
    def register_buffer_pool(
        self, count: int, size: int, offset: int | None = None
    ) -> BufferPool: ...
    def register_files(self, files: Iterable[_FileLike]) -> None: ...
    def register_files_tags(self, files: Iterable[_FileLike], tags: Iterable[object]) -> None: ...
    def register_files_sparse(self, count: int) -> None: ...
    def register_files_update(self, offset: int, files: Iterable[_FileLike]) -> int: ...
    def register_files_update_tag(
        self, offset: int, files: Iterable[_FileLike], tags: Iterable[object]
    ) -> int: ...
    def unregister_files(self) -> None: ...
    def register_file_alloc_range(self, offset: int, length: int) -> None: ...
    def register_file_table(self, size: int, kernel_slots: int = 0) -> FileTable: ...

class NapiSettings(NamedTuple):
    busy_poll_to: float
    prefer_busy_poll: bool
    tracking: int | None

class Registrations(TableRegistrations):
    def register_personality(self) -> int: ...
    def unregister_personality(self, personality: int) -> None: ...
    def register_restrictions(
        self,
        *,
        register_ops: Iterable[int] = ...,
        sqe_ops: Iterable[int] = ...,
        sqe_flags_allowed: int = ...,
        sqe_flags_required: int = ...,
    ) -> None: ...
    def cq_eventfd_enabled(self) -> bool: ...
    def cq_eventfd_toggle(self, enabled: bool) -> None: ...
    def register_query(self) -> Query: ...
    def resize_rings(self, entries: int, cq_entries: int | None = None) -> None: ...
    def register_iowq_aff(self, cpus: Iterable[int]) -> None: ...
    def unregister_iowq_aff(self) -> None: ...
    def register_napi(
        self, busy_poll_to: float, prefer_busy_poll: bool = ..., tracking: int = ...
    ) -> NapiSettings: ...
    def unregister_napi(self) -> NapiSettings: ...
    def register_napi_add_id(self, napi_id: int) -> None: ...
    def register_napi_del_id(self, napi_id: int) -> None: ...
    def register_eventfd(self, file: _FileLike, only_async: bool = ...) -> None: ...
    def unregister_eventfd(self) -> None: ...
    def register_probe(self) -> Probe: ...
    def register_wait_reg(self, count: int = ...) -> WaitRegion: ...
    def register_clock(self, clock: int) -> None: ...
    def enable_rings(self) -> None: ...
    def register_ring_fd(self) -> None: ...
    def unregister_ring_fd(self) -> None: ...
    def close_ring_fd(self) -> None: ...
    def register_iowq_max_workers(
        self, bounded: int = ..., unbounded: int = ...
    ) -> tuple[int, int]: ...
    def register_buf_ring(
        self,
        entries: int,
        buffer_size: int,
        bgid: int = ...,
        flags: int = ...,
        *,
        provide: bool = ...,
    ) -> BufferRing: ...
    def unregister_buf_ring(self, bgid: int) -> None: ...
    def register_sync_cancel(
        self,
        target: object = None,
        flags: int = ...,
        file: _FileLike | None = None,
        opcode: int | None = None,
        timeout: float | None = None,
    ) -> int: ...

@final
class Ring(Registrations):
    def __init__(
        self,
        entries: int,
        *,
        flags: int | None = None,
        cq_entries: int | None = None,
        sq_thread_cpu: int | None = None,
        sq_thread_idle: int | None = None,
        wq_fd: int | None = None,
    ) -> None: ...
    @classmethod
    def from_params(cls, entries: int, params: Params) -> Ring: ...
    @property
    def fd(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def flags(self) -> int: ...
    @property
    def features(self) -> int: ...
    @property
    def sq(self) -> SubmissionQueue: ...
    @property
    def cq(self) -> CompletionQueue: ...
    def fileno(self) -> int: ...
    def statistics(self) -> RingStatistics: ...
    def get_sqe(self, user_data: object = None) -> SQE: ...
    def submit(self) -> int: ...
    def submit_and_wait(self, wait_nr: int) -> int: ...
    def submit_and_wait_timeout(
        self,
        wait_nr: int,
        seconds: float | None,
        sigmask: Iterable[int] | None = None,
        *,
        absolute: bool = ...,
    ) -> int: ...
    def submit_and_wait_min_timeout(
        self,
        wait_nr: int,
        seconds: float | None,
        min_wait: float,
        sigmask: Iterable[int] | None = None,
    ) -> int: ...
    def submit_and_wait_reg(self, wait_nr: int, index: int) -> int: ...
    def submit_and_get_events(self) -> int: ...
    def sqring_wait(self) -> int: ...
    def set_iowait(self, enable: bool) -> None: ...
    def sq_ready(self) -> int: ...
    def sq_space_left(self) -> int: ...
    def copy_cqes(
        self, max_count: int = ..., wait_nr: int = 0, timeout: float | None = None
    ) -> list[CQE]: ...
    def copy_cqe(self, timeout: float | None = None) -> CQE: ...
    def peek_cqe(self) -> CQE | None: ...
    def wait_cqe(self, timeout: float | None = None) -> CQE: ...
    def cqe_seen(self, cqe: CQE) -> None: ...
    def cq_advance(self, count: int) -> None: ...
    def cq_ready(self) -> int: ...
    def cq_has_overflow(self) -> bool: ...
    def cq_overflow(self) -> int: ...
    def get_events(self) -> None: ...
    def batch_queue(self, capacity: int, memory: _WritableBuffer | None = None) -> BatchQueue: ...
    def close(self, timeout: float = 5.0) -> None: ...
    def __enter__(self) -> Ring: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
