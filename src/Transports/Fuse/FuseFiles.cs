using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using System.Text;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>Attributes that are read, written and polled.</summary>
/// <param name="tree">The tree.</param>
/// <param name="handles">What is open.</param>
/// <param name="options">What the mount is made with.</param>
/// <param name="told">Ends when the kernel knows of what a write changed.</param>
/// <param name="onBug">Hears of what no attribute may throw.</param>
internal sealed class FuseFiles(FabricTree tree, FuseHandles handles, FuseMountOptions options, Func<Task> told, Action<Exception> onBug)
{
    private const uint Ready = FuseProtocol.POLLIN | FuseProtocol.POLLOUT | FuseProtocol.POLLRDNORM | FuseProtocol.POLLWRNORM;
    private const uint Changed = FuseProtocol.POLLPRI | FuseProtocol.POLLERR;
    private const int MayRead = 0x124;
    private const int MayWrite = 0x92;
    private static readonly UTF8Encoding Utf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    // Writes that are under way, by request.
    private readonly ConcurrentDictionary<ulong, FuseLateReply> _writes = new();

    internal void Open(FuseNode node, in FuseRequest request, FuseReply reply)
    {
        if (node.Entry is not TreeFile file || !request.TryTake(out uint flags))
        {
            reply.End(node.Entry is TreeDirectory ? Errno.EISDIR : Errno.EINVAL);
            return;
        }

        // The bits alone do not say it to root.
        var way = flags & FuseProtocol.O_ACCMODE;
        if ((way != FuseProtocol.O_WRONLY && (file.Mode & MayRead) == 0) || (way != FuseProtocol.O_RDONLY && (file.Mode & MayWrite) == 0))
            reply.End(Errno.EACCES);
        else if (file.IsGone)
            reply.End(Errno.ENODEV);
        else
            reply.Send(new FuseOpenOut { Handle = handles.Add(new FuseHandle(node)), OpenFlags = FuseProtocol.FOPEN_DIRECT_IO });
    }

    internal void Read(in FuseRequest request, FuseReply reply)
    {
        if (!request.TryTake(out FuseTransferIn asked) || !handles.TryGet(asked.Handle, out var handle) || handle.File is not { } file)
        {
            reply.End(Errno.EBADF);
            return;
        }

        var room = reply.Room[..(int)Math.Min(asked.Size, FuseProtocol.MaxRead)];
        if (file.IsBinary)
        {
            var most = IsOwner(request.User) ? long.MaxValue : file.PublicSize;
            var offset = (long)Math.Min(asked.Offset, long.MaxValue);
            reply.Send(file.ReadBytes(offset, room[..(int)Math.Clamp(most - offset, 0, room.Length)]));
            return;
        }

        // What changes from here on is another value.
        if (asked.Offset == 0 || handle.Value is null)
        {
            handle.IsChanged = false;
            handle.Value = Encoding.UTF8.GetBytes(file.Read());
        }

        var value = handle.Value.AsSpan((int)Math.Min(asked.Offset, (ulong)handle.Value.Length)..);
        value = value[..Math.Min(value.Length, room.Length)];
        value.CopyTo(room);
        reply.Send(value.Length);
    }

    internal void Write(in FuseRequest request, FuseReply reply)
    {
        if (!request.TryTake(out FuseTransferIn asked) || !handles.TryGet(asked.Handle, out var handle) || handle.File is not { } file)
        {
            reply.End(Errno.EBADF);
            return;
        }

        var bytes = request.Body[Unsafe.SizeOf<FuseTransferIn>()..];
        if (bytes.Length != asked.Size)
        {
            reply.End(Errno.EINVAL);
            return;
        }

        var late = reply.Defer();
        if (file.IsBinary)
        {
            var written = file.WriteBytes((long)Math.Min(asked.Offset, long.MaxValue), bytes);
            // Behind its end there is nothing, and a program that writes there would try for ever.
            late.Give(written, written == 0 && bytes.Length > 0 ? Errno.EFBIG : Errno.None);
            return;
        }

        string value;
        try
        {
            value = Utf8.GetString(bytes);
        }
        catch (DecoderFallbackException)
        {
            reply.End(Errno.EINVAL);
            return;
        }

        // Off this thread: a bind takes as long as the driver's probe.
        _writes[late.Unique] = late;
        _ = Task.Run(() => StoreAsync(file, value, bytes: (int)asked.Size, late));
    }

    internal bool TryInterrupt(ulong unique)
    {
        if (!_writes.TryGetValue(unique, out var late))
            return false;
        late.Interrupt();
        return true;
    }

    internal void Poll(in FuseRequest request, FuseReply reply)
    {
        if (!request.TryTake(out FusePollIn asked) || !handles.TryGet(asked.Handle, out var handle) || handle.File is not { } file)
        {
            reply.End(Errno.EBADF);
            return;
        }

        if ((asked.Flags & FuseProtocol.FUSE_POLL_SCHEDULE_NOTIFY) != 0)
        {
            Volatile.Write(ref handle.Poller, asked.KernelHandle);
            handles.Watch(handle);
        }

        // Looked at after the wish to be told is known, so that a change is seen or told.
        reply.Send((ulong)(Ready | (handle.IsChanged || file.IsGone ? Changed : 0)));
    }

    private bool IsOwner(uint user) => user == 0 || user == options.User;

    private async Task StoreAsync(TreeFile file, string value, int bytes, FuseLateReply late)
    {
        var errno = Errno.None;
        try
        {
            await tree.WriteAsync(file, value, late.Interrupted);
            if (options.Settle is { } settle)
                await settle(late.Interrupted);
            await told();
        }
        catch (VirtbusException e)
        {
            errno = e.Errno;
        }
        catch (OperationCanceledException) when (late.Interrupted.IsCancellationRequested)
        {
            errno = Errno.EINTR;
        }
        catch (Exception e)
        {
            onBug(e);
            errno = Errno.EIO;
        }

        _writes.TryRemove(late.Unique, out _);
        late.Give(bytes, errno);
    }
}
