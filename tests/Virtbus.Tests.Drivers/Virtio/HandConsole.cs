using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Subsystems.Tty;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A console in hand work, with split rings: each step of the device is one of the test.</summary>
internal sealed class HandConsole
{
    internal const int Input = 0;
    internal const int Output = 1;

    private readonly byte[] _bytes = new byte[16];
    private readonly byte[] _text = new byte[4096];
    private readonly ushort[] _used = new ushort[2];
    private VirtioBusDevice? _device;

    private HandConsole(FakeTransport transport)
    {
        Transport = transport;
        Port = new DmaPort("device", transport.Group) { IsBusMaster = true };
    }

    internal FakeTransport Transport { get; }

    internal DmaPort Port { get; }

    internal VirtioBusDevice Device => _device!;

    internal TtyDevice Line => Device.Children.OfType<TtyDevice>().Single();

    /// <summary>Puts one on the bus.</summary>
    /// <param name="rig">A fabric with the driver.</param>
    /// <param name="parent">What it is below.</param>
    /// <param name="size">Columns and rows, as the configuration has them; null for a device that does not say.</param>
    /// <param name="ringSize">Descriptors of a queue.</param>
    /// <param name="made">Given it before a driver probes.</param>
    internal static async Task<HandConsole> AddAsync(FabricRig rig, Device parent, byte[]? size = null, int ringSize = 32, Action<HandConsole>? made = null)
    {
        var features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);
        var transport = new FakeTransport
        {
            VirtioType = VirtioDeviceId.VIRTIO_ID_CONSOLE,
            DeviceFeatures = size is null ? features : features.With(0),
            Config = size ?? [],
            QueueSize = ringSize,
        };
        var console = new HandConsole(transport);
        Assert.True(transport.Group.TryClaimForDriver("driver", out _));
        made?.Invoke(console);
        console._device = await rig.Virtio.AddAsync(parent, transport).In();
        Assert.Equal(VirtioRig.Console, console.Device.Driver?.Name);
        return console;
    }

    /// <summary>How many buffers the driver has made available, since the queue was made.</summary>
    internal int Offered(int queue) => ReadWord(Layout(queue).DriverArea.Value + 2);

    /// <summary>Whether the driver wants to be told of used buffers.</summary>
    internal bool WantsCalls(int queue) => ReadWord(Layout(queue).DriverArea.Value) == 0;

    internal void Interrupt(int queue) => Transport.Queues[queue].Interrupt();

    /// <summary>The queues were made anew.</summary>
    internal void Restart() => Array.Clear(_used);

    /// <summary>Puts bytes into the next buffer of the driver.</summary>
    /// <returns>Whether there was one.</returns>
    internal bool TrySend(ReadOnlySpan<byte> bytes)
    {
        if (!TryNext(Input, out var head, out var address, out _))
            return false;
        if (bytes.Length > 0)
            Port.TryWrite(new Iova(address), bytes);
        Use(Input, head, (uint)bytes.Length);
        return true;
    }

    /// <summary>Takes the bytes of the driver's next buffer; none when there is none. They are valid until the next call.</summary>
    internal ReadOnlySpan<byte> Take()
    {
        if (!TryNext(Output, out var head, out var address, out var length))
            return [];
        var bytes = _text.AsSpan(0, (int)length);
        Port.TryRead(new Iova(address), bytes);
        Use(Output, head, 0);
        return bytes;
    }

    /// <summary>The driver's next buffer.</summary>
    internal bool TryNext(int queue, out ushort head, out ulong address, out uint length)
    {
        var layout = Layout(queue);
        head = 0;
        address = 0;
        length = 0;
        if (Offered(queue) == _used[queue])
            return false;
        head = ReadWord(layout.DriverArea.Value + 4 + (2 * (ulong)(_used[queue] & (layout.Size - 1))));
        Port.TryRead(new Iova(layout.DescriptorArea.Value + (16 * (ulong)head)), _bytes);
        address = BinaryPrimitives.ReadUInt64LittleEndian(_bytes);
        length = BinaryPrimitives.ReadUInt32LittleEndian(_bytes.AsSpan(8));
        return true;
    }

    /// <summary>Hands a buffer back, whatever is said of it.</summary>
    internal void Use(int queue, uint id, uint written)
    {
        var layout = Layout(queue);
        BinaryPrimitives.WriteUInt32LittleEndian(_bytes, id);
        BinaryPrimitives.WriteUInt32LittleEndian(_bytes.AsSpan(4), written);
        Port.TryWrite(new Iova(layout.DeviceArea.Value + 4 + (8 * (ulong)(_used[queue] & (layout.Size - 1)))), _bytes.AsSpan(0, 8));
        Announce(queue, ++_used[queue]);
    }

    /// <summary>Says how many buffers were handed back.</summary>
    internal void Announce(int queue, ushort count)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(_bytes, count);
        Port.TryWrite(new Iova(Layout(queue).DeviceArea.Value + 2), _bytes.AsSpan(0, 2));
    }

    private RingLayout Layout(int queue) => Transport.Queues[queue].Layout;

    private ushort ReadWord(ulong address)
    {
        Port.TryRead(new Iova(address), _bytes.AsSpan(0, 2));
        return BinaryPrimitives.ReadUInt16LittleEndian(_bytes);
    }
}
