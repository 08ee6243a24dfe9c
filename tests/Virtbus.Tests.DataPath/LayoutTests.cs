using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Tests.DataPath;

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
        #include <sys/un.h>
        #define SIZE(t) printf("%s %zu\n", #t, sizeof(t))
        #define FIELD(t, f) printf("%s.%s %zu\n", #t, #f, offsetof(t, f))
        typedef struct iovec iovec; typedef struct pollfd pollfd; typedef struct msghdr msghdr; typedef struct cmsghdr cmsghdr;
        typedef struct sigaction sigaction_t;
        typedef struct sockaddr_un sockaddr_un; typedef struct statx statx_t; typedef struct epoll_event epoll_event;
        typedef struct iocb iocb;
        int main(void) {
          SIZE(iovec); FIELD(iovec, iov_base); FIELD(iovec, iov_len);
          SIZE(pollfd); FIELD(pollfd, fd); FIELD(pollfd, events); FIELD(pollfd, revents);
          SIZE(msghdr); FIELD(msghdr, msg_name); FIELD(msghdr, msg_namelen); FIELD(msghdr, msg_iov); FIELD(msghdr, msg_iovlen);
          FIELD(msghdr, msg_control); FIELD(msghdr, msg_controllen); FIELD(msghdr, msg_flags);
          SIZE(cmsghdr); FIELD(cmsghdr, cmsg_len); FIELD(cmsghdr, cmsg_level); FIELD(cmsghdr, cmsg_type);
          printf("cmsg_data %zu\n", CMSG_LEN(0));
          SIZE(sigaction_t); FIELD(sigaction_t, sa_sigaction); FIELD(sigaction_t, sa_flags);
          SIZE(sockaddr_un); FIELD(sockaddr_un, sun_family); FIELD(sockaddr_un, sun_path);
          SIZE(statx_t); FIELD(statx_t, stx_mask); FIELD(statx_t, stx_blksize); FIELD(statx_t, stx_uid); FIELD(statx_t, stx_gid); FIELD(statx_t, stx_mode);
          FIELD(statx_t, stx_ino); FIELD(statx_t, stx_size); FIELD(statx_t, stx_btime.tv_sec); FIELD(statx_t, stx_btime.tv_nsec);
          FIELD(statx_t, stx_dev_major); FIELD(statx_t, stx_dev_minor);
          SIZE(epoll_event); FIELD(epoll_event, data);
          SIZE(iocb); FIELD(iocb, aio_lio_opcode); FIELD(iocb, aio_fildes); FIELD(iocb, aio_flags); FIELD(iocb, aio_resfd);
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
        yield return ("epoll_event", EpollLayout.Size);
        yield return ("epoll_event.data", EpollLayout.DataOffset);
        yield return ("iocb", Unsafe.SizeOf<IoControlBlock>());
        yield return ("iocb.aio_lio_opcode", Offset<IoControlBlock>(nameof(IoControlBlock.Opcode)));
        yield return ("iocb.aio_fildes", Offset<IoControlBlock>(nameof(IoControlBlock.Fd)));
        yield return ("iocb.aio_flags", Offset<IoControlBlock>(nameof(IoControlBlock.Flags)));
        yield return ("iocb.aio_resfd", Offset<IoControlBlock>(nameof(IoControlBlock.Signal)));
    }

    private static int Offset<T>(string field) => (int)Marshal.OffsetOf<T>(field);

    private static bool TryRun(string program, string[] arguments, out string output)
    {
        output = "";
        try
        {
            (output, _, var code) = Patience.Run(program, arguments);
            return code == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false;
        }
    }
}
