using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Transports.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>Reads a server's answer to DEVICE_GET_REGION_IO_FDS.</summary>
internal static class VfioUserDoorbellReader
{
    /// <summary>The most entries that are looked at: each write to a region looks through its doorbells.</summary>
    private const int MaxEntries = 1024;

    /// <summary>
    /// Reads it. Entries have the specification's 40 bytes or libvfio-user's 48, which the answer's size tells apart; what is no ioeventfd is
    /// passed over, and so is what makes no sense: those registers are written by messages.
    /// </summary>
    /// <param name="reply">The payload, of at least the size without entries.</param>
    /// <param name="descriptors">What came with it; they stay the caller's.</param>
    internal static List<VfioUserDoorbell> Read(ReadOnlySpan<byte> reply, List<FileDescriptor> descriptors)
    {
        var list = new List<VfioUserDoorbell>();
        var count = BinaryPrimitives.ReadUInt32LittleEndian(reply[12..]);
        var bytes = Math.Min((uint)reply.Length, BinaryPrimitives.ReadUInt32LittleEndian(reply)) - IoFdsSize;
        if (count is 0 or > MaxEntries || count > bytes / IoFdEntrySize)
            return list;
        // One descriptor may stand for several registers, which share its eventfd.
        var signals = new EventFd?[descriptors.Count];
        var wide = bytes == count * WideIoFdEntrySize;
        var size = wide ? WideIoFdEntrySize : IoFdEntrySize;
        for (var i = 0; i < (int)count; i++)
        {
            var entry = reply.Slice(IoFdsSize + (i * size), size);
            var width = BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]);
            var index = BinaryPrimitives.ReadUInt32LittleEndian(entry[16..]);
            if (BinaryPrimitives.ReadUInt32LittleEndian(entry[20..]) != IoFdTypeEventFd || width > 8 || index >= (uint)descriptors.Count)
                continue;
            if ((signals[index] ??= TryAdopt(descriptors[(int)index])) is not { } signal)
                continue;
            var matches = (BinaryPrimitives.ReadUInt32LittleEndian(entry[24..]) & IoEventFdDataMatch) != 0;
            var value = BinaryPrimitives.ReadUInt64LittleEndian(entry[(wide ? 40 : 32)..]);
            var register = new VfioDoorbell(BinaryPrimitives.ReadUInt64LittleEndian(entry), (int)width, matches ? value : null);
            list.Add(new VfioUserDoorbell(register, signal));
        }

        return list;
    }

    private static EventFd? TryAdopt(FileDescriptor descriptor)
    {
        var own = descriptor.Duplicate();
        if (EventFd.TryAdopt(own, out var signal, out _))
            return signal;
        own.Dispose();
        return null;
    }
}
