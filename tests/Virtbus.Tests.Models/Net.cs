using System.Buffers.Binary;
using Virtbus.Models.VirtioNet;
using Virtbus.Virtio;

namespace Virtbus.Tests.Models;

/// <summary>Frames and headers for the tests of network devices.</summary>
internal static class Net
{
    /// <summary>A frame that no protocol knows, with a content of its own.</summary>
    internal static byte[] Frame(ulong to, ulong from, int length, int seed)
    {
        var frame = new byte[length];
        new Random(seed).NextBytes(frame);
        VirtioNetConfig.WriteMac(frame, to);
        VirtioNetConfig.WriteMac(frame.AsSpan(6), from);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), 0x88B5);
        return frame;
    }

    /// <summary>A frame of IPv4 and TCP or UDP.</summary>
    internal static byte[] Tcp(ulong to, ulong from, int length, uint source = 0x0A000001, uint destination = 0x0A000002, ushort sourcePort = 1, ushort port = 2, byte protocol = 6)
    {
        var frame = Frame(to, from, length, length);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), 0x0800);
        frame.AsSpan(14, 20).Clear();
        frame[14] = 0x45;
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(16), (ushort)(length - 14));
        (frame[22], frame[23]) = (64, protocol);
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(26), source);
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(30), destination);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(34), sourcePort);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(36), port);
        if (length > 46)
            frame[46] = 0x50;
        return frame;
    }

    /// <summary>The first ten bytes of struct virtio_net_hdr.</summary>
    internal static byte[] Header(byte flags, byte type, ushort headerLength, ushort segment, ushort start, ushort offset)
    {
        var header = new byte[10];
        (header[0], header[1]) = (flags, type);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(2), headerLength);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(4), segment);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(6), start);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(8), offset);
        return header;
    }

    /// <summary>The field status of a device's configuration.</summary>
    internal static int Status(VirtioNetDevice device)
    {
        var status = new byte[2];
        Assert.True(device.TryGetConfig(VirtioNetConfig.StatusOffset, status, out _));
        return BinaryPrimitives.ReadUInt16LittleEndian(status);
    }
}
