using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Transports.VhostUser;
using Virtbus.Virtio.Rings;
using Virtbus.Wire.VhostUser;

namespace Virtbus.Tests;

/// <summary>A vhost-user front end with memory and one ring, that sends what it is told to, wrong messages too.</summary>
internal sealed class FrontEnd : IDisposable
{
    internal const ulong GuestBase = 0x4000_0000;
    internal const ulong UserBase = 0x7fb2_890d_a000;
    internal const ulong MemorySize = 0x40000;
    internal const int RingSize = 16;
    internal const ulong Packed = 1UL << Virtbus.Virtio.VirtioFeatures.VIRTIO_F_RING_PACKED;
    internal const ulong HeaderAt = 0x8000;
    internal const ulong StatusAt = 0x8100;
    internal const ulong DataAt = 0x10000;

    private readonly UnixStream _stream;
    private readonly EventFd _never = new();
    private readonly FileDescriptor _file;
    private readonly bool _eventIndex;
    private readonly bool _packed;
    private readonly int _ringSize;

    internal FrontEnd(string path, bool eventIndex = true, bool packed = false, int ringSize = RingSize)
    {
        UnixStream? stream = null;
        // EAGAIN: as many wait already as the back end lets wait.
        Deadline.Until(() => (stream = UnixStream.TryConnect(path, out var error)) is not null || error != Errno.EAGAIN, "room to connect");
        _stream = stream ?? throw new InvalidOperationException($"nobody listens on {path}");
        Memory = HostMemory.Allocate("virtbus-test", MemorySize, out _file);
        _eventIndex = eventIndex;
        _packed = packed;
        _ringSize = ringSize;
        Ring = NewRing();
    }

    internal HostMemory Memory { get; }

    internal DriverRing Ring { get; private set; }

    /// <summary>The ring of a front end that does not ask for packed ones.</summary>
    internal SplitDriverRing SplitRing => (SplitDriverRing)Ring;

    internal EventFd Kick { get; } = new();

    internal EventFd Call { get; } = new();

    internal EventFd Error { get; } = new();

    internal FileDescriptor File => _file;

    public void Dispose()
    {
        _stream.Dispose();
        _never.Dispose();
        Memory.Dispose();
        _file.Dispose();
        Kick.Dispose();
        Call.Dispose();
        Error.Dispose();
    }

    internal static byte[] Number(ulong value)
    {
        var bytes = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        return bytes;
    }

    internal static byte[] State(uint index, uint value) => Number(index | ((ulong)value << 32));

    internal static byte[] Numbers(params ulong[] values) => [.. values.SelectMany(Number)];

    internal static byte[] Region(ulong start, ulong size, ulong user, ulong offset = 0) => Numbers(0, start, size, user, offset);

    internal static byte[] Message(VhostUserRequest request, byte[] payload, uint flags = 1)
    {
        var message = new byte[12 + payload.Length];
        BinaryPrimitives.WriteUInt32LittleEndian(message, (uint)request);
        BinaryPrimitives.WriteUInt32LittleEndian(message.AsSpan(4), flags);
        BinaryPrimitives.WriteUInt32LittleEndian(message.AsSpan(8), (uint)payload.Length);
        payload.CopyTo(message, 12);
        return message;
    }

    internal byte[] RingAddress()
    {
        var layout = Ring.Layout;
        var toUser = UserBase - GuestBase;
        return Numbers(0, layout.DescriptorArea.Value + toUser, layout.DeviceArea.Value + toUser, layout.DriverArea.Value + toUser, 0);
    }

    /// <summary>Sends bytes as they are; false when the back end is gone.</summary>
    internal bool SendRaw(ReadOnlySpan<byte> bytes, params ReadOnlySpan<FileDescriptor> descriptors)
    {
        while (!bytes.IsEmpty)
        {
            var sent = _stream.Send(bytes, descriptors, out var error);
            if (sent < 0 && error != Errno.EAGAIN)
                return false;
            if (sent < 0)
            {
                Polling.Wait(_stream.Descriptor, forWriting: true, _never, Deadline.Milliseconds);
                continue;
            }

            bytes = bytes[sent..];
            descriptors = default;
        }

        return true;
    }

    internal bool Send(VhostUserRequest request, byte[] payload, uint flags = 1, params ReadOnlySpan<FileDescriptor> descriptors) =>
        SendRaw(Message(request, payload, flags), descriptors);

    /// <summary>Waits for a reply and hands its payload back; null when the back end closed the connection.</summary>
    internal byte[]? Receive(VhostUserRequest request)
    {
        if (Read(12) is not { } header)
            return null;
        Assert.Equal((uint)request, BinaryPrimitives.ReadUInt32LittleEndian(header));
        Assert.Equal(5u, BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(4)) & 7);
        return Read(BinaryPrimitives.ReadInt32LittleEndian(header.AsSpan(8)));
    }

    /// <summary>Sends a request that has a reply of its own, or wants an acknowledgement, and gives the reply's number back.</summary>
    internal ulong? Ask(VhostUserRequest request, byte[] payload, uint flags = 1, params ReadOnlySpan<FileDescriptor> descriptors)
    {
        Send(request, payload, flags, descriptors);
        return Receive(request) is { } reply ? BinaryPrimitives.ReadUInt64LittleEndian(reply) : null;
    }

    /// <summary>Sends a request that has to succeed.</summary>
    internal void Do(VhostUserRequest request, byte[] payload, params ReadOnlySpan<FileDescriptor> descriptors) =>
        Assert.Equal(0u, Ask(request, payload, 9, descriptors));

    /// <summary>Waits until the back end closes the connection; replies before are passed over.</summary>
    internal void ExpectClosed()
    {
        while (Read(1) is not null)
        {
        }
    }

    /// <summary>Drops what has come, without waiting.</summary>
    internal void Drain()
    {
        var buffer = new byte[4096];
        List<FileDescriptor> none = [];
        while (_stream.Receive(buffer, none, out _) > 0)
        {
        }
    }

    /// <summary>Sets everything up to a running ring, as libblkio does; without reading the configuration, as one that connects again.</summary>
    internal void Connect()
    {
        Send(VhostUserRequest.SET_OWNER, []);
        var features = Ask(VhostUserRequest.GET_FEATURES, [])!.Value;
        if (!_packed)
            features &= ~Packed;
        Send(VhostUserRequest.SET_FEATURES, Number(features));
        var protocol = Ask(VhostUserRequest.GET_PROTOCOL_FEATURES, [])!.Value;
        Send(VhostUserRequest.SET_PROTOCOL_FEATURES, Number(protocol));
        Do(VhostUserRequest.ADD_MEM_REG, Region(GuestBase, MemorySize, UserBase), _file);
        Do(VhostUserRequest.SET_VRING_NUM, State(0, (uint)_ringSize));
        Do(VhostUserRequest.SET_VRING_BASE, State(0, QueueState.Beginning(_packed).Encode()));
        Do(VhostUserRequest.SET_VRING_ADDR, RingAddress());
        Do(VhostUserRequest.SET_VRING_KICK, Number(0), Kick.Descriptor);
        Do(VhostUserRequest.SET_VRING_CALL, Number(0), Call.Descriptor);
        Do(VhostUserRequest.SET_VRING_ERR, Number(0), Error.Descriptor);
        Do(VhostUserRequest.SET_VRING_ENABLE, State(0, 1));
    }

    internal void AddRead(ulong sector, uint length, ulong target = GuestBase + DataAt)
    {
        Memory.Write(HeaderAt, Numbers(0, sector));
        Memory.Write(StatusAt, [0xee]);
        Ring.Add([Buffer(HeaderAt, 16, false), new DriverBuffer(new Iova(target), length, true), Buffer(StatusAt, 1, true)]);
        Ring.RequestCalls(true);
        if (Ring.Publish())
            Kick.Signal();
    }

    internal void AddWrite(ulong sector)
    {
        Memory.Write(HeaderAt, Numbers(1, sector));
        Memory.Write(StatusAt, [0xee]);
        Ring.Add([Buffer(HeaderAt, 16, false), Buffer(DataAt, 512, false), Buffer(StatusAt, 1, true)]);
        Ring.RequestCalls(true);
        if (Ring.Publish())
            Kick.Signal();
    }

    /// <summary>Writes a sector and waits for it.</summary>
    internal void WriteSector(ulong sector)
    {
        AddWrite(sector);
        WaitUsed();
        var status = new byte[1];
        Memory.Read(StatusAt, status);
        Assert.Equal(0, status[0]);
    }

    /// <summary>Reads the configuration space as QEMU does, and gives the cache mode: 1 for write-back.</summary>
    internal byte ReadMode()
    {
        const int Size = 57, Writeback = 32;
        Send(VhostUserRequest.GET_CONFIG, [.. State(0, Size), 0, 0, 0, 0, .. new byte[Size]]);
        return Receive(VhostUserRequest.GET_CONFIG)![12 + Writeback];
    }

    /// <summary>Begins the ring anew, whatever is in it.</summary>
    internal void ClearRing() => Ring = NewRing();

    /// <summary>Reads a sector and waits for it.</summary>
    internal void ReadSector(ulong sector)
    {
        AddRead(sector, 512);
        WaitUsed();
        var status = new byte[1];
        Memory.Read(StatusAt, status);
        Assert.Equal(0, status[0]);
    }

    internal void WaitUsed() => Deadline.Until(() => Ring.TryTakeUsed(out _, out _, out _), "a used buffer");

    internal static DriverBuffer Buffer(ulong offset, uint length, bool deviceWrites) => new(new Iova(GuestBase + offset), length, deviceWrites);

    private DriverRing NewRing() => RingForm.NewDriver(_packed, Memory, GuestBase, _ringSize, _eventIndex, indirect: true, inOrder: true);

    private byte[]? Read(int count)
    {
        var buffer = new byte[count];
        var have = 0;
        List<FileDescriptor> none = [];
        while (have < count)
        {
            var got = _stream.Receive(buffer.AsSpan(have), none, out var error);
            if (got > 0)
                have += got;
            else if (got == 0 || error == Errno.ECONNRESET)
                return null;
            else if (!Polling.Wait(_stream.Descriptor, forWriting: false, _never, Deadline.Milliseconds))
                Assert.Fail("the back end does not answer");
        }

        return buffer;
    }
}
