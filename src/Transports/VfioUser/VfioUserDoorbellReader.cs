using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Transports.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>Reads a server's answer to DEVICE_GET_REGION_IO_FDS.</summary>
internal static class VfioUserDoorbellReader
{
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
        if (count == 0 || count > bytes / IoFdEntrySize)
            return list;
        var wide = bytes == count * WideIoFdEntrySize;
        var size = wide ? WideIoFdEntrySize : IoFdEntrySize;
        for (var i = 0; i < (int)count; i++)
        {
            var entry = reply.Slice(IoFdsSize + (i * size), size);
            var width = BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]);
            var index = BinaryPrimitives.ReadUInt32LittleEndian(entry[16..]);
            if (BinaryPrimitives.ReadUInt32LittleEndian(entry[20..]) != IoFdTypeEventFd || width > 8 || index >= (uint)descriptors.Count)
                continue;
            // One descriptor may stand for several registers.
            var descriptor = descriptors[(int)index].Duplicate();
            if (!EventFd.TryAdopt(descriptor, out var signal, out _))
            {
                descriptor.Dispose();
                continue;
            }

            var matches = (BinaryPrimitives.ReadUInt32LittleEndian(entry[24..]) & IoEventFdDataMatch) != 0;
            var value = BinaryPrimitives.ReadUInt64LittleEndian(entry[(wide ? 40 : 32)..]);
            var register = new VfioDoorbell(BinaryPrimitives.ReadUInt64LittleEndian(entry), (int)width, matches ? value : null);
            list.Add(new VfioUserDoorbell(register, signal!));
        }

        return list;
    }
}
