using System.Buffers.Binary;
using Virtbus.Platform;

namespace Virtbus.Tests.Block;

/// <summary>A file for <see cref="FuseMount"/> that keeps what is written and fails to make it durable as often as it is told.</summary>
internal sealed class FuseDiskFile(int size)
{
    private const uint GetAttr = 3;
    private const uint Open = 14;
    private const uint Read = 15;
    private const uint Write = 16;
    private const uint Release = 18;
    private const uint Sync = 20;
    private const uint Flush = 25;
    private const uint Init = 26;
    private const int RegularFile = 0x8000 | 0x180;
    private readonly byte[] _bytes = new byte[size];
    private int _failSyncs;
    private int _syncs;
    private int _opens;

    /// <summary>How many of the next fsync fail.</summary>
    internal int FailSyncs
    {
        get => Volatile.Read(ref _failSyncs);
        set => Volatile.Write(ref _failSyncs, value);
    }

    /// <summary>How many fsync there were, those that are not answered yet included.</summary>
    internal int Syncs => Volatile.Read(ref _syncs);

    /// <summary>How many times it was opened.</summary>
    internal int Opens => Volatile.Read(ref _opens);

    /// <summary>No fsync is answered while it is not set.</summary>
    internal ManualResetEventSlim Answers { get; } = new(initialState: true);

    internal byte[]? Reply(uint command, ReadOnlySpan<byte> body, out Errno error)
    {
        error = Errno.None;
        if (command == Sync)
        {
            Interlocked.Increment(ref _syncs);
            Answers.Wait();
        }

        switch (command)
        {
            case Init:
                // Version 7.31, and at most 64 KiB a write.
                return [7, 0, 0, 0, 31, 0, 0, 0, .. new byte[12], 0, 0, 1, 0, .. new byte[40]];
            case GetAttr:
                return Attributes();
            case Open:
                Interlocked.Increment(ref _opens);
                return new byte[16];
            case Read:
                var (at, length) = Range(body);
                return _bytes.AsSpan(at, Math.Min(length, _bytes.Length - at)).ToArray();
            case Write:
                (at, length) = Range(body);
                body.Slice(40, length).CopyTo(_bytes.AsSpan(at));
                return [.. BitConverter.GetBytes(length), 0, 0, 0, 0];
            case Sync when FailSyncs > 0:
                FailSyncs--;
                error = Errno.EIO;
                return null;
            case Sync or Flush or Release:
                return [];
            default:
                error = Errno.ENOSYS;
                return null;
        }
    }

    // struct fuse_read_in and fuse_write_in begin alike: handle, offset, size.
    private static (int Offset, int Length) Range(ReadOnlySpan<byte> body) =>
        ((int)BinaryPrimitives.ReadInt64LittleEndian(body[8..]), BinaryPrimitives.ReadInt32LittleEndian(body[16..]));

    // struct fuse_attr_out: how long it holds, then struct fuse_attr.
    private byte[] Attributes()
    {
        var answer = new byte[104];
        answer[0] = 60;
        answer[16] = 1;
        BinaryPrimitives.WriteInt64LittleEndian(answer.AsSpan(24), _bytes.Length);
        BinaryPrimitives.WriteInt64LittleEndian(answer.AsSpan(32), _bytes.Length / 512);
        BinaryPrimitives.WriteInt32LittleEndian(answer.AsSpan(76), RegularFile);
        BinaryPrimitives.WriteInt32LittleEndian(answer.AsSpan(80), 1);
        BinaryPrimitives.WriteInt32LittleEndian(answer.AsSpan(96), 4096);
        return answer;
    }
}
