using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>
/// Answers what the kernel asks of one mount. Any threads, each with a reply of its own. A request that is none, or asks what there is not, gets an error;
/// nothing is thrown. It waits for nothing but attributes that are read: a write is answered when it is done.
/// </summary>
internal sealed class FuseSession
{
    private const uint Features = FuseProtocol.FUSE_ASYNC_READ | FuseProtocol.FUSE_ATOMIC_O_TRUNC | FuseProtocol.FUSE_BIG_WRITES | FuseProtocol.FUSE_DO_READDIRPLUS
        | FuseProtocol.FUSE_READDIRPLUS_AUTO | FuseProtocol.FUSE_PARALLEL_DIROPS | FuseProtocol.FUSE_CACHE_SYMLINKS;
    private const uint BatchSize = 16;
    private const int LeastInit = 16;
    private const uint OldestMinor = 23;
    private const int MaxName = 255;

    private readonly FuseNames _names;
    private readonly FuseFolders _folders;
    private readonly FuseFiles _files;
    private readonly ILogger _log;
    private readonly LogLimiter _limiter;

    internal FuseSession(FabricTree tree, FuseMountOptions options, ILogger log, TimeProvider time)
    {
        _log = log;
        _limiter = new LogLimiter(time, 20, TimeSpan.FromSeconds(10));
        Nodes = new FuseNodes(tree.Root, options.MaxNames);
        Handles = new FuseHandles();
        _names = new FuseNames(Nodes, options, time.GetUtcNow());
        _folders = new FuseFolders(Nodes, Handles, _names);
        _files = new FuseFiles(tree, Handles, options, () => Told(), OnBug);
    }

    internal FuseNodes Nodes { get; }

    internal FuseHandles Handles { get; }

    /// <summary>What a write waits for before it is answered: that the kernel knows of what it changed.</summary>
    internal Func<Task> Told { get; set; } = static () => Task.CompletedTask;

    /// <summary>Whether the kernel said that it is mounted no more.</summary>
    internal bool IsOver { get; private set; }

    /// <summary>Answers a request.</summary>
    /// <param name="message">It, as it was read.</param>
    /// <param name="reply">The calling thread's.</param>
    internal void Handle(ReadOnlySpan<byte> message, FuseReply reply)
    {
        if (!FuseRequest.TryRead(message, out var request))
        {
            if (_limiter.TryTake(out var suppressed))
                FuseLog.NoRequest(_log, message.Length, suppressed);
            return;
        }

        reply.Begin(request.Unique);
        try
        {
            Answer(request, reply);
        }
        catch (VirtbusException e)
        {
            reply.End(e.Errno);
        }
        catch (Exception e)
        {
            OnBug(e);
            reply.End(Errno.EIO);
        }
    }

    private void Answer(in FuseRequest request, FuseReply reply)
    {
        switch (request.Opcode)
        {
            case FuseOpcode.FUSE_INIT:
                Agree(request, reply);
                break;
            case FuseOpcode.FUSE_DESTROY:
                IsOver = true;
                reply.End(Errno.None);
                break;
            // None of the three is answered, but that who is to be interrupted is not there yet.
            case FuseOpcode.FUSE_FORGET:
                if (request.TryTake(out ulong times))
                    Nodes.Forget(request.NodeId, times);
                break;
            case FuseOpcode.FUSE_BATCH_FORGET:
                Forget(request.Body);
                break;
            case FuseOpcode.FUSE_INTERRUPT:
                if (request.TryTake(out ulong unique) && !_files.TryInterrupt(unique))
                    reply.End(Errno.EAGAIN);
                break;
            case FuseOpcode.FUSE_STATFS:
                reply.Send(new FuseStatfsOut { Bsize = FuseNames.BlockSize, Namelen = MaxName, Frsize = FuseNames.BlockSize });
                break;
            case FuseOpcode.FUSE_RELEASE or FuseOpcode.FUSE_RELEASEDIR:
                if (request.TryTake(out ulong handle))
                    Handles.Remove(handle);
                reply.End(Errno.None);
                break;
            // As a file system answers where the kernel alone makes names.
            case FuseOpcode.FUSE_CREATE or FuseOpcode.FUSE_MKNOD:
                reply.End(Errno.EACCES);
                break;
            case FuseOpcode.FUSE_MKDIR or FuseOpcode.FUSE_UNLINK or FuseOpcode.FUSE_RMDIR or FuseOpcode.FUSE_RENAME or FuseOpcode.FUSE_RENAME2 or FuseOpcode.FUSE_LINK
                or FuseOpcode.FUSE_SYMLINK:
                reply.End(Errno.EPERM);
                break;
            case FuseOpcode.FUSE_TMPFILE:
                reply.End(Errno.EOPNOTSUPP);
                break;
            case FuseOpcode.FUSE_IOCTL:
                reply.End(Errno.ENOTTY);
                break;
            default:
                AnswerOfNode(request, reply);
                break;
        }
    }

    private void AnswerOfNode(in FuseRequest request, FuseReply reply)
    {
        if (!Nodes.TryGet(request.NodeId, out var node))
        {
            reply.End(Errno.ENOENT);
            return;
        }

        switch (request.Opcode)
        {
            case FuseOpcode.FUSE_LOOKUP:
                _names.LookUp(node, request, reply);
                break;
            case FuseOpcode.FUSE_GETATTR:
                _names.GetAttributes(node, reply);
                break;
            case FuseOpcode.FUSE_SETATTR:
                _names.SetAttributes(node, request, reply);
                break;
            case FuseOpcode.FUSE_READLINK:
                _names.ReadLink(node, reply);
                break;
            case FuseOpcode.FUSE_OPENDIR:
                _folders.Open(node, reply);
                break;
            case FuseOpcode.FUSE_READDIR:
                _folders.Read(request, reply, isPlus: false);
                break;
            case FuseOpcode.FUSE_READDIRPLUS:
                _folders.Read(request, reply, isPlus: true);
                break;
            case FuseOpcode.FUSE_OPEN:
                _files.Open(node, request, reply);
                break;
            case FuseOpcode.FUSE_READ:
                _files.Read(request, reply);
                break;
            case FuseOpcode.FUSE_WRITE:
                _files.Write(request, reply);
                break;
            case FuseOpcode.FUSE_POLL:
                _files.Poll(request, reply);
                break;
            default:
                // The kernel has a way of its own then, and does not ask again.
                reply.End(Errno.ENOSYS);
                break;
        }
    }

    private void Agree(in FuseRequest request, FuseReply reply)
    {
        if (request.Body.Length < LeastInit)
        {
            reply.End(Errno.EPROTO);
            return;
        }

        var major = MemoryMarshal.Read<uint>(request.Body);
        var minor = MemoryMarshal.Read<uint>(request.Body[4..]);
        var flags = MemoryMarshal.Read<uint>(request.Body[12..]);
        // One that is newer hears what we are and asks again.
        if (major < FuseProtocol.FUSE_KERNEL_VERSION || (major == FuseProtocol.FUSE_KERNEL_VERSION && minor < OldestMinor))
        {
            FuseLog.TooOld(_log, major, minor, FuseProtocol.FUSE_KERNEL_VERSION, OldestMinor);
            reply.End(Errno.EPROTO);
            return;
        }

        reply.Send(new FuseInitOut
        {
            Major = FuseProtocol.FUSE_KERNEL_VERSION,
            Minor = Math.Min(minor, FuseProtocol.FUSE_KERNEL_MINOR_VERSION),
            Flags = flags & Features,
            MaxWrite = FuseProtocol.MaxWrite,
            TimeGran = 1,
        });
    }

    private void Forget(ReadOnlySpan<byte> body)
    {
        if (!MemoryMarshal.TryRead(body, out uint count))
            return;
        for (var i = 0u; i < count && body.Length >= 8 + ((i + 1) * BatchSize); i++)
        {
            var one = body[(int)(8 + (i * BatchSize))..];
            Nodes.Forget(MemoryMarshal.Read<ulong>(one), MemoryMarshal.Read<ulong>(one[8..]));
        }
    }

    private void OnBug(Exception exception)
    {
        if (_limiter.TryTake(out var suppressed))
            FuseLog.RequestFailed(_log, exception, suppressed);
    }
}
