using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Remote.Pci.VfioUser;

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
        var head = MemoryMarshal.Read<VfioUserIoFds>(reply);
        if (head.ArgSize < IoFdsSize)
            return list;
        var bytes = Math.Min((uint)reply.Length, head.ArgSize) - IoFdsSize;
        if (head.Count is 0 or > MaxEntries || head.Count > bytes / IoFdSize)
            return list;
        // One descriptor may stand for several registers, which share its eventfd.
        var signals = new EventFd?[descriptors.Count];
        var wide = bytes == head.Count * WideIoFdSize;
        var size = wide ? WideIoFdSize : IoFdSize;
        for (var i = 0; i < (int)head.Count; i++)
        {
            var bare = reply.Slice(IoFdsSize + (i * size), size);
            // Both begin alike.
            var entry = MemoryMarshal.Read<VfioUserIoFd>(bare);
            if (entry.Type != IoFdTypeEventFd || entry.Size > 8 || entry.DescriptorIndex >= (uint)descriptors.Count)
                continue;
            if ((signals[entry.DescriptorIndex] ??= TryAdopt(descriptors[(int)entry.DescriptorIndex])) is not { } signal)
                continue;
            var value = wide ? MemoryMarshal.Read<VfioUserWideIoFd>(bare).DataMatch : entry.DataMatch;
            var register = new VfioDoorbell(entry.Offset, (int)entry.Size, (entry.Flags & IoEventFdDataMatch) != 0 ? value : null);
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
