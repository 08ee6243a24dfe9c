using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Platform.IoUring;

namespace Virtbus.Tests.Platform;

public class LayoutTests
{
    private const string Program = """
        #define _GNU_SOURCE
        #include <stdio.h>
        #include <stddef.h>
        #include <poll.h>
        #include <fcntl.h>
        #include <signal.h>
        #include <sys/epoll.h>
        #include <sys/socket.h>
        #include <sys/stat.h>
        #include <sys/uio.h>
        #include <linux/aio_abi.h>
        #include <linux/io_uring.h>
        #include <sys/un.h>
        #define SIZE(t) printf("%s %zu\n", #t, sizeof(t))
        #define FIELD(t, f) printf("%s.%s %zu\n", #t, #f, offsetof(t, f))
        typedef struct iovec iovec; typedef struct pollfd pollfd; typedef struct msghdr msghdr; typedef struct cmsghdr cmsghdr;
        typedef struct sigaction sigaction_t; typedef struct flock flock_t;
        typedef struct sockaddr_un sockaddr_un; typedef struct statx statx_t; typedef struct epoll_event epoll_event;
        typedef struct iocb iocb;
        typedef struct io_uring_params io_uring_params; typedef struct io_sqring_offsets io_sqring_offsets;
        typedef struct io_cqring_offsets io_cqring_offsets; typedef struct io_uring_sqe io_uring_sqe; typedef struct io_uring_cqe io_uring_cqe;
        typedef struct io_uring_probe io_uring_probe; typedef struct io_uring_probe_op io_uring_probe_op;
        typedef struct io_uring_sync_cancel_reg io_uring_sync_cancel_reg;
        int main(void) {
          SIZE(iovec); FIELD(iovec, iov_base); FIELD(iovec, iov_len);
          SIZE(pollfd); FIELD(pollfd, fd); FIELD(pollfd, events); FIELD(pollfd, revents);
          SIZE(msghdr); FIELD(msghdr, msg_name); FIELD(msghdr, msg_namelen); FIELD(msghdr, msg_iov); FIELD(msghdr, msg_iovlen);
          FIELD(msghdr, msg_control); FIELD(msghdr, msg_controllen); FIELD(msghdr, msg_flags);
          SIZE(cmsghdr); FIELD(cmsghdr, cmsg_len); FIELD(cmsghdr, cmsg_level); FIELD(cmsghdr, cmsg_type);
          printf("cmsg_data %zu\n", CMSG_LEN(0));
          SIZE(flock_t); FIELD(flock_t, l_type); FIELD(flock_t, l_whence); FIELD(flock_t, l_start); FIELD(flock_t, l_len); FIELD(flock_t, l_pid);
          SIZE(sigaction_t); FIELD(sigaction_t, sa_sigaction); FIELD(sigaction_t, sa_flags);
          SIZE(sockaddr_un); FIELD(sockaddr_un, sun_family); FIELD(sockaddr_un, sun_path);
          SIZE(statx_t); FIELD(statx_t, stx_mask); FIELD(statx_t, stx_blksize); FIELD(statx_t, stx_uid); FIELD(statx_t, stx_gid); FIELD(statx_t, stx_mode);
          FIELD(statx_t, stx_ino); FIELD(statx_t, stx_size); FIELD(statx_t, stx_btime.tv_sec); FIELD(statx_t, stx_btime.tv_nsec);
          FIELD(statx_t, stx_dev_major); FIELD(statx_t, stx_dev_minor);
          FIELD(statx_t, stx_dio_mem_align); FIELD(statx_t, stx_dio_offset_align);
          SIZE(epoll_event); FIELD(epoll_event, data);
          SIZE(iocb); FIELD(iocb, aio_lio_opcode); FIELD(iocb, aio_fildes); FIELD(iocb, aio_flags); FIELD(iocb, aio_resfd);
          SIZE(io_uring_params); FIELD(io_uring_params, sq_entries); FIELD(io_uring_params, cq_entries); FIELD(io_uring_params, flags);
          FIELD(io_uring_params, features); FIELD(io_uring_params, sq_off); FIELD(io_uring_params, cq_off);
          SIZE(io_sqring_offsets); FIELD(io_sqring_offsets, head); FIELD(io_sqring_offsets, tail); FIELD(io_sqring_offsets, ring_mask);
          FIELD(io_sqring_offsets, flags); FIELD(io_sqring_offsets, array);
          SIZE(io_cqring_offsets); FIELD(io_cqring_offsets, head); FIELD(io_cqring_offsets, tail); FIELD(io_cqring_offsets, ring_mask);
          FIELD(io_cqring_offsets, cqes); FIELD(io_cqring_offsets, flags);
          SIZE(io_uring_sqe); FIELD(io_uring_sqe, opcode); FIELD(io_uring_sqe, flags); FIELD(io_uring_sqe, fd); FIELD(io_uring_sqe, off);
          FIELD(io_uring_sqe, addr); FIELD(io_uring_sqe, len); FIELD(io_uring_sqe, rw_flags); FIELD(io_uring_sqe, user_data);
          SIZE(io_uring_cqe); FIELD(io_uring_cqe, user_data); FIELD(io_uring_cqe, res); FIELD(io_uring_cqe, flags);
          SIZE(io_uring_probe); SIZE(io_uring_probe_op); FIELD(io_uring_probe_op, op); FIELD(io_uring_probe_op, flags);
          SIZE(io_uring_sync_cancel_reg); FIELD(io_uring_sync_cancel_reg, addr); FIELD(io_uring_sync_cancel_reg, fd);
          FIELD(io_uring_sync_cancel_reg, flags); FIELD(io_uring_sync_cancel_reg, timeout);
          return 0;
        }
        """;

    [Fact]
    public void Structs_have_the_layout_of_the_C_compiler()
    {
        var folder = Directory.CreateTempSubdirectory("virtbus-layout");
        try
        {
            var binary = Path.Combine(folder.FullName, "layout");
            File.WriteAllText(binary + ".c", Program);
            if (!TryRun("cc", [binary + ".c", "-o", binary], out _))
                Assert.Skip("no C compiler ('cc') on this host: layouts are not checked");
            Assert.True(TryRun(binary, [], out var output));
            Assert.Equal(output.Trim(), string.Join('\n', Ours().Select(line => $"{line.Name} {line.Value}")));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static IEnumerable<(string Name, int Value)> Ours()
    {
        yield return ("iovec", Unsafe.SizeOf<IoVector>());
        yield return ("iovec.iov_base", Offset<IoVector>("<Address>k__BackingField"));
        yield return ("iovec.iov_len", Offset<IoVector>("<Length>k__BackingField"));
        yield return ("pollfd", Unsafe.SizeOf<PollEntry>());
        yield return ("pollfd.fd", Offset<PollEntry>(nameof(PollEntry.Fd)));
        yield return ("pollfd.events", Offset<PollEntry>(nameof(PollEntry.Events)));
        yield return ("pollfd.revents", Offset<PollEntry>(nameof(PollEntry.Returned)));
        yield return ("msghdr", Unsafe.SizeOf<MessageHeader>());
        yield return ("msghdr.msg_name", Offset<MessageHeader>("Name"));
        yield return ("msghdr.msg_namelen", Offset<MessageHeader>("NameLength"));
        yield return ("msghdr.msg_iov", Offset<MessageHeader>("Vectors"));
        yield return ("msghdr.msg_iovlen", Offset<MessageHeader>("VectorCount"));
        yield return ("msghdr.msg_control", Offset<MessageHeader>("Control"));
        yield return ("msghdr.msg_controllen", Offset<MessageHeader>("ControlLength"));
        yield return ("msghdr.msg_flags", Offset<MessageHeader>("Flags"));
        yield return ("cmsghdr", Unsafe.SizeOf<ControlHeader>());
        yield return ("cmsghdr.cmsg_len", Offset<ControlHeader>(nameof(ControlHeader.Length)));
        yield return ("cmsghdr.cmsg_level", Offset<ControlHeader>(nameof(ControlHeader.Level)));
        yield return ("cmsghdr.cmsg_type", Offset<ControlHeader>(nameof(ControlHeader.Type)));
        yield return ("cmsg_data", 16);
        yield return ("flock_t", Unsafe.SizeOf<FileRangeLock>());
        yield return ("flock_t.l_type", Offset<FileRangeLock>(nameof(FileRangeLock.Kind)));
        yield return ("flock_t.l_whence", Offset<FileRangeLock>(nameof(FileRangeLock.Whence)));
        yield return ("flock_t.l_start", Offset<FileRangeLock>(nameof(FileRangeLock.Start)));
        yield return ("flock_t.l_len", Offset<FileRangeLock>(nameof(FileRangeLock.Length)));
        yield return ("flock_t.l_pid", Offset<FileRangeLock>(nameof(FileRangeLock.Process)));
        yield return ("sigaction_t", Unsafe.SizeOf<SignalAction>());
        yield return ("sigaction_t.sa_sigaction", Offset<SignalAction>(nameof(SignalAction.Handler)));
        yield return ("sigaction_t.sa_flags", Offset<SignalAction>(nameof(SignalAction.Flags)));
        yield return ("sockaddr_un", Unsafe.SizeOf<UnixAddress>());
        yield return ("sockaddr_un.sun_family", Offset<UnixAddress>(nameof(UnixAddress.Family)));
        yield return ("sockaddr_un.sun_path", Offset<UnixAddress>(nameof(UnixAddress.Path)));
        yield return ("statx_t", Unsafe.SizeOf<StatxBuffer>());
        yield return ("statx_t.stx_mask", Offset<StatxBuffer>(nameof(StatxBuffer.Mask)));
        yield return ("statx_t.stx_blksize", Offset<StatxBuffer>(nameof(StatxBuffer.BlockSize)));
        yield return ("statx_t.stx_uid", Offset<StatxBuffer>(nameof(StatxBuffer.Owner)));
        yield return ("statx_t.stx_gid", Offset<StatxBuffer>(nameof(StatxBuffer.Group)));
        yield return ("statx_t.stx_mode", Offset<StatxBuffer>(nameof(StatxBuffer.Mode)));
        yield return ("statx_t.stx_ino", Offset<StatxBuffer>(nameof(StatxBuffer.Inode)));
        yield return ("statx_t.stx_size", Offset<StatxBuffer>(nameof(StatxBuffer.Size)));
        yield return ("statx_t.stx_btime.tv_sec", Offset<StatxBuffer>(nameof(StatxBuffer.BirthSeconds)));
        yield return ("statx_t.stx_btime.tv_nsec", Offset<StatxBuffer>(nameof(StatxBuffer.BirthNanoseconds)));
        yield return ("statx_t.stx_dev_major", Offset<StatxBuffer>(nameof(StatxBuffer.DeviceMajor)));
        yield return ("statx_t.stx_dev_minor", Offset<StatxBuffer>(nameof(StatxBuffer.DeviceMinor)));
        yield return ("statx_t.stx_dio_mem_align", Offset<StatxBuffer>(nameof(StatxBuffer.DirectMemoryAlignment)));
        yield return ("statx_t.stx_dio_offset_align", Offset<StatxBuffer>(nameof(StatxBuffer.DirectOffsetAlignment)));
        yield return ("epoll_event", EpollLayout.Size);
        yield return ("epoll_event.data", EpollLayout.DataOffset);
        yield return ("iocb", Unsafe.SizeOf<IoControlBlock>());
        yield return ("iocb.aio_lio_opcode", Offset<IoControlBlock>(nameof(IoControlBlock.Opcode)));
        yield return ("iocb.aio_fildes", Offset<IoControlBlock>(nameof(IoControlBlock.Fd)));
        yield return ("iocb.aio_flags", Offset<IoControlBlock>(nameof(IoControlBlock.Flags)));
        yield return ("iocb.aio_resfd", Offset<IoControlBlock>(nameof(IoControlBlock.Signal)));
        yield return ("io_uring_params", Unsafe.SizeOf<IoRingParameters>());
        yield return ("io_uring_params.sq_entries", Offset<IoRingParameters>(nameof(IoRingParameters.SubmissionEntries)));
        yield return ("io_uring_params.cq_entries", Offset<IoRingParameters>(nameof(IoRingParameters.CompletionEntries)));
        yield return ("io_uring_params.flags", Offset<IoRingParameters>(nameof(IoRingParameters.Flags)));
        yield return ("io_uring_params.features", Offset<IoRingParameters>(nameof(IoRingParameters.Features)));
        yield return ("io_uring_params.sq_off", Offset<IoRingParameters>(nameof(IoRingParameters.Submission)));
        yield return ("io_uring_params.cq_off", Offset<IoRingParameters>(nameof(IoRingParameters.Completion)));
        yield return ("io_sqring_offsets", Unsafe.SizeOf<SubmissionOffsets>());
        yield return ("io_sqring_offsets.head", Offset<SubmissionOffsets>(nameof(SubmissionOffsets.Head)));
        yield return ("io_sqring_offsets.tail", Offset<SubmissionOffsets>(nameof(SubmissionOffsets.Tail)));
        yield return ("io_sqring_offsets.ring_mask", Offset<SubmissionOffsets>(nameof(SubmissionOffsets.Mask)));
        yield return ("io_sqring_offsets.flags", Offset<SubmissionOffsets>(nameof(SubmissionOffsets.Flags)));
        yield return ("io_sqring_offsets.array", Offset<SubmissionOffsets>(nameof(SubmissionOffsets.Array)));
        yield return ("io_cqring_offsets", Unsafe.SizeOf<CompletionOffsets>());
        yield return ("io_cqring_offsets.head", Offset<CompletionOffsets>(nameof(CompletionOffsets.Head)));
        yield return ("io_cqring_offsets.tail", Offset<CompletionOffsets>(nameof(CompletionOffsets.Tail)));
        yield return ("io_cqring_offsets.ring_mask", Offset<CompletionOffsets>(nameof(CompletionOffsets.Mask)));
        yield return ("io_cqring_offsets.cqes", Offset<CompletionOffsets>(nameof(CompletionOffsets.Entries)));
        yield return ("io_cqring_offsets.flags", Offset<CompletionOffsets>(nameof(CompletionOffsets.Flags)));
        yield return ("io_uring_sqe", Unsafe.SizeOf<SubmissionEntry>());
        yield return ("io_uring_sqe.opcode", Offset<SubmissionEntry>(nameof(SubmissionEntry.Opcode)));
        yield return ("io_uring_sqe.flags", Offset<SubmissionEntry>(nameof(SubmissionEntry.Flags)));
        yield return ("io_uring_sqe.fd", Offset<SubmissionEntry>(nameof(SubmissionEntry.Fd)));
        yield return ("io_uring_sqe.off", Offset<SubmissionEntry>(nameof(SubmissionEntry.Offset)));
        yield return ("io_uring_sqe.addr", Offset<SubmissionEntry>(nameof(SubmissionEntry.Address)));
        yield return ("io_uring_sqe.len", Offset<SubmissionEntry>(nameof(SubmissionEntry.Length)));
        yield return ("io_uring_sqe.rw_flags", Offset<SubmissionEntry>(nameof(SubmissionEntry.OperationFlags)));
        yield return ("io_uring_sqe.user_data", Offset<SubmissionEntry>(nameof(SubmissionEntry.UserData)));
        yield return ("io_uring_cqe", Unsafe.SizeOf<CompletionEntry>());
        yield return ("io_uring_cqe.user_data", Offset<CompletionEntry>(nameof(CompletionEntry.UserData)));
        yield return ("io_uring_cqe.res", Offset<CompletionEntry>(nameof(CompletionEntry.Result)));
        yield return ("io_uring_cqe.flags", Offset<CompletionEntry>(nameof(CompletionEntry.Flags)));
        yield return ("io_uring_probe", ProbeEntry.HeaderSize);
        yield return ("io_uring_probe_op", Unsafe.SizeOf<ProbeEntry>());
        yield return ("io_uring_probe_op.op", Offset<ProbeEntry>(nameof(ProbeEntry.Opcode)));
        yield return ("io_uring_probe_op.flags", Offset<ProbeEntry>(nameof(ProbeEntry.Flags)));
        yield return ("io_uring_sync_cancel_reg", Unsafe.SizeOf<CancelArgument>());
        yield return ("io_uring_sync_cancel_reg.addr", Offset<CancelArgument>(nameof(CancelArgument.UserData)));
        yield return ("io_uring_sync_cancel_reg.fd", Offset<CancelArgument>(nameof(CancelArgument.Fd)));
        yield return ("io_uring_sync_cancel_reg.flags", Offset<CancelArgument>(nameof(CancelArgument.Flags)));
        yield return ("io_uring_sync_cancel_reg.timeout", Offset<CancelArgument>(nameof(CancelArgument.TimeoutSeconds)));
    }

    private static int Offset<T>(string field) => (int)Marshal.OffsetOf<T>(field);

    private static bool TryRun(string program, string[] arguments, out string output)
    {
        output = "";
        try
        {
            (output, _, var code) = Programs.Run(program, arguments);
            return code == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false;
        }
    }
}
