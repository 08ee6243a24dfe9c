using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;

namespace FrameDriver;

/// <summary>Frames of one type that go out by an interface and come in.</summary>
internal sealed class FrameExchange : IFrameReceiver, IDisposable
{
    // For experiments of one's own (IEEE 802).
    private const ushort Type = 0x88B5;
    private const int AddressLength = 6, TypeAt = 12, HeaderLength = 14, Shortest = 60;
    private static readonly TimeSpan Answer = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly Queue<byte[]> _received = [];
    private readonly NetDevice _device;

    public FrameExchange(NetDevice device)
    {
        _device = device;
        device.AddReceiver(this);
    }

    // On the driver's receive thread; the frame is valid during the call.
    public void Receive(NetDevice device, int queue, in EthernetFrame frame)
    {
        if (BinaryPrimitives.ReadUInt16BigEndian(frame.Bytes[TypeAt..]) != Type)
            return;
        lock (_received)
        {
            _received.Enqueue(frame.Bytes.ToArray());
            Monitor.Pulse(_received);
        }
    }

    /// <summary>Sends frames to everybody, from the shortest to the longest, and waits until each has come back.</summary>
    /// <returns>The length of the longest.</returns>
    public int Send(int count)
    {
        var longest = _device.Mtu + HeaderLength;
        for (var i = 0; i < count; i++)
        {
            var frame = new byte[Shortest + (i * (longest - Shortest) / Math.Max(count - 1, 1))];
            frame.AsSpan(0, AddressLength).Fill(0xFF);
            for (var at = HeaderLength; at < frame.Length; at++)
                frame[at] = (byte)((at * 7) + i);
            var begin = Environment.TickCount64;
            byte[] back;
            do
            {
                // Whoever is to answer may not be there yet; an answer to a frame before may still come.
                if (Environment.TickCount64 - begin > Patience.TotalMilliseconds)
                    throw new VirtbusException(Errno.ETIMEDOUT, $"Frame {i} of {frame.Length} bytes did not come back in {Patience.TotalSeconds} s. Start who answers, on the same switch.");
                Transmit(frame);
            }
            while (!TryTake(Answer, out back) || !back.AsSpan(HeaderLength).SequenceEqual(frame.AsSpan(HeaderLength)));
        }

        return longest;
    }

    /// <summary>Sends frames back to where they come from.</summary>
    public void Echo(int count)
    {
        for (var i = 0; i < count; i++)
        {
            if (!TryTake(Patience, out var frame))
                throw new VirtbusException(Errno.ETIMEDOUT, $"No frame came in {Patience.TotalSeconds} s.");
            frame.AsSpan(AddressLength, AddressLength).CopyTo(frame);
            Transmit(frame);
        }
    }

    public void Dispose() => _device.RemoveReceiver(this);

    private bool TryTake(TimeSpan patience, out byte[] frame)
    {
        lock (_received)
            return _received.TryDequeue(out frame!) || (Monitor.Wait(_received, patience) && _received.TryDequeue(out frame!));
    }

    private void Transmit(Span<byte> frame)
    {
        Span<byte> address = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(address, _device.Address);
        address[2..].CopyTo(frame[AddressLength..]);
        BinaryPrimitives.WriteUInt16BigEndian(frame[TypeAt..], Type);
        if (!_device.TryTransmit(frame, out var fault))
            throw new VirtbusException(fault.Errno, $"A frame of {frame.Length} bytes could not be sent by {_device.Name}: {fault.Message}.");
    }
}
