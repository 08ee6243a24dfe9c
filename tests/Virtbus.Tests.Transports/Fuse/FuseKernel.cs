using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Transports.Fuse;

namespace Virtbus.Tests.Transports.Fuse;

/// <summary>The kernel's side of a mount, without a kernel: it asks, and takes what is answered.</summary>
internal sealed class FuseKernel
{
    internal const uint Owner = 1000;
    internal const ulong Root = 1;
    private readonly ConcurrentDictionary<ulong, (Errno Errno, byte[] Body)> _answers = new();
    private readonly FuseReply _reply;
    private ulong _unique = 100;

    internal FuseKernel(int maxNames = 1 << 20, Func<CancellationToken, Task>? settle = null, Fabric? fabric = null)
    {
        Log = new RecordedLog();
        Fabric = fabric ?? new Fabric(new FabricOptions { LoggerFactory = Log });
        Session = new FuseSession(
            Fabric.Tree, new FuseMountOptions { Folder = "/nowhere", User = Owner, Group = 7, MaxNames = maxNames, Settle = settle }, Log.CreateLogger("fuse"), TimeProvider.System);
        _reply = new FuseReply(Take);
    }

    internal RecordedLog Log { get; }

    internal Fabric Fabric { get; }

    internal FuseSession Session { get; }

    /// <summary>Answers that nobody asked for.</summary>
    internal int Unasked { get; private set; }

    /// <summary>What a request begins with; its length is set when it is given.</summary>
    internal static byte[] Message(FuseOpcode opcode, ulong unique, ulong node, uint user, ReadOnlySpan<byte> body)
    {
        var message = new byte[FuseProtocol.InHeaderSize + body.Length];
        MemoryMarshal.Write(message, (uint)message.Length);
        MemoryMarshal.Write(message.AsSpan(4), (uint)opcode);
        MemoryMarshal.Write(message.AsSpan(8), unique);
        MemoryMarshal.Write(message.AsSpan(16), node);
        MemoryMarshal.Write(message.AsSpan(24), user);
        body.CopyTo(message.AsSpan(FuseProtocol.InHeaderSize));
        return message;
    }

    internal static byte[] Name(string name) => [.. Encoding.UTF8.GetBytes(name), 0];

    internal static byte[] Words(params ReadOnlySpan<ulong> words) => MemoryMarshal.AsBytes(words).ToArray();

    /// <summary>Bytes of struct fuse_read_in and fuse_write_in.</summary>
    internal static byte[] Transfer(ulong handle, ulong offset, uint size, ReadOnlySpan<byte> data = default) => [.. Words(handle, offset, size, 0, 0), .. data];

    /// <summary>Gives a message as it is.</summary>
    internal void Give(ReadOnlySpan<byte> message) => Session.Handle(message, _reply);

    /// <summary>Asks, and does not wait.</summary>
    internal ulong Begin(FuseOpcode opcode, ulong node, ReadOnlySpan<byte> body, uint user = Owner)
    {
        var unique = _unique += 2;
        Give(Message(opcode, unique, node, user, body));
        return unique;
    }

    internal bool IsAnswered(ulong unique) => _answers.ContainsKey(unique);

    internal (Errno Errno, byte[] Body) End(ulong unique)
    {
        Deadline.Until(() => IsAnswered(unique), "the answer");
        Assert.True(_answers.TryRemove(unique, out var answer));
        return answer;
    }

    /// <summary>Asks, and takes the answer.</summary>
    internal (Errno Errno, byte[] Body) Ask(FuseOpcode opcode, ulong node, ReadOnlySpan<byte> body, uint user = Owner) => End(Begin(opcode, node, body, user));

    internal FuseEntryOut LookUp(ulong folder, string name)
    {
        var (errno, body) = Ask(FuseOpcode.FUSE_LOOKUP, folder, Name(name));
        Assert.Equal(Errno.None, errno);
        return MemoryMarshal.Read<FuseEntryOut>(body);
    }

    /// <summary>Looks a path up, link by link as a kernel does not: the path has none.</summary>
    internal FuseEntryOut Walk(string path)
    {
        var entry = new FuseEntryOut { NodeId = Root };
        foreach (var name in path.Split('/'))
            entry = LookUp(entry.NodeId, name);
        return entry;
    }

    internal ulong Open(ulong node, uint flags = FuseProtocol.O_RDONLY)
    {
        var (errno, body) = Ask(FuseOpcode.FUSE_OPEN, node, Words(flags));
        Assert.Equal(Errno.None, errno);
        Assert.Equal(FuseProtocol.FOPEN_DIRECT_IO, MemoryMarshal.Read<FuseOpenOut>(body).OpenFlags);
        return MemoryMarshal.Read<FuseOpenOut>(body).Handle;
    }

    internal (Errno Errno, byte[] Body) Read(ulong node, ulong handle, ulong offset = 0, uint size = 4096, uint user = Owner) =>
        Ask(FuseOpcode.FUSE_READ, node, Transfer(handle, offset, size), user);

    internal string ReadText(string path)
    {
        var node = Walk(path).NodeId;
        var (errno, body) = Read(node, Open(node));
        Assert.Equal(Errno.None, errno);
        return Encoding.UTF8.GetString(body);
    }

    internal (Errno Errno, byte[] Body) Write(ulong node, ulong handle, ReadOnlySpan<byte> data, ulong offset = 0) =>
        Ask(FuseOpcode.FUSE_WRITE, node, Transfer(handle, offset, (uint)data.Length, data));

    private Errno Take(ReadOnlySpan<byte> message)
    {
        Assert.Equal((uint)message.Length, MemoryMarshal.Read<uint>(message));
        var unique = MemoryMarshal.Read<ulong>(message[8..]);
        var error = MemoryMarshal.Read<int>(message[4..]);
        Assert.InRange(error, -511, 0);
        Assert.True(error == 0 || message.Length == FuseProtocol.OutHeaderSize);
        if (!_answers.TryAdd(unique, ((Errno)(-error), message[FuseProtocol.OutHeaderSize..].ToArray())))
            Unasked++;
        return Errno.None;
    }
}
