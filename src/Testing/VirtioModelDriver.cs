using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Testing;

/// <summary>
/// The driver of a virtio device model with no bus between them: it settles the features, sets queue 0 up in memory of its own, and does requests,
/// each waited for by the device's interrupt. One thread uses it.
/// </summary>
public sealed class VirtioModelDriver : IDisposable
{
    private const ulong Base = 0x100000;
    private const ulong Size = 0x100000;
    private readonly VirtioDevice _device;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly EventFd _call = new();
    private readonly int _queueSize;
    private DriverRing _ring;
    private readonly ulong _free;
    private ulong _next;

    /// <summary>Brings a device up.</summary>
    /// <param name="device">The device; it stays the caller's, and is reset when this is disposed.</param>
    /// <param name="without">Features that the device offers and the driver does not take.</param>
    /// <param name="queueSize">One that the device allows: a power of two, or any with packed rings.</param>
    /// <exception cref="ExpectationException">The device refuses a step.</exception>
    public VirtioModelDriver(VirtioDevice device, VirtioFeatures without = default, int queueSize = 64)
    {
        ArgumentNullException.ThrowIfNull(device);
        _device = device;
        _memory = HostMemory.Allocate("virtio-driver", Size, out var file);
        file.Dispose();
        var dma = new StandaloneDma("virtio-driver");
        if (!_space.TryMap(new Iova(Base), Size, _memory, 0, DmaAccess.ReadWrite, out var fault))
            throw Refused("map of memory", fault);
        dma.Attach(_space);
        device.SetDma(dma.Port);
        // Looked at only when somebody says so, as in VirtioNetUser.
        for (var queue = 0; queue < device.QueueCount; queue++)
            device.SetQueueKick(queue, null, polls: false);
        Features = device.DeviceFeatures & ~without;
        _queueSize = queueSize;
        _ring = NewRing();
        _next = _free = (Math.Max(SplitDriverRing.BytesFor(queueSize), PackedDriverRing.BytesFor(queueSize)) + 4095) & ~4095UL;
        Start();
    }

    /// <summary>What driver and device have settled on.</summary>
    public VirtioFeatures Features { get; }

    /// <summary>The ring, for a test that puts something unusual into it.</summary>
    public DriverRing Ring => _ring;

    /// <summary>Takes memory that the device reaches, until the next <see cref="Request"/>.</summary>
    /// <param name="length">Bytes; all of them together at most 512 KiB.</param>
    /// <returns>Where the device finds it.</returns>
    /// <exception cref="ExpectationException">There is not as much left.</exception>
    public Iova Take(int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        if (_next + (ulong)length > Size)
            throw new ExpectationException($"{length} bytes are more than the driver has left for one request.");
        var address = new Iova(Base + _next);
        _next += ((ulong)length + 15) & ~15UL;
        return address;
    }

    /// <summary>Writes memory that the device reaches.</summary>
    /// <param name="address">From <see cref="Take"/>.</param>
    /// <param name="bytes">What is written.</param>
    public void Write(Iova address, ReadOnlySpan<byte> bytes) => _memory.Write(address.Value - Base, bytes);

    /// <summary>Reads memory that the device reaches.</summary>
    /// <param name="address">From <see cref="Take"/>.</param>
    /// <param name="bytes">Where to.</param>
    public void Read(Iova address, Span<byte> bytes) => _memory.Read(address.Value - Base, bytes);

    /// <summary>Does a request, and waits until the device has handed it back. The memory taken for it can be read until the next <see cref="Take"/>.</summary>
    /// <param name="buffers">Its buffers, those that the device reads first.</param>
    /// <returns>Bytes that the device says it wrote.</returns>
    /// <exception cref="ExpectationException">The ring is full, or the device broke it.</exception>
    /// <exception cref="TimeoutException">It does not come back in time.</exception>
    public uint Request(params ReadOnlySpan<DriverBuffer> buffers)
    {
        _next = _free;
        var name = _ring.Add(buffers);
        if (name < 0)
            throw new ExpectationException($"The ring has no room for {buffers.Length} buffers.");
        if (_ring.Publish())
            _device.KickQueue(0);
        var start = Environment.TickCount64;
        while (true)
        {
            if (_ring.TryTakeUsed(out var head, out var written, out var fault))
            {
                if (head != name)
                    throw new ExpectationException($"The device handed buffer {head} back, and {name} was asked for.");
                return written;
            }

            if (fault != Fault.None)
                throw new ExpectationException($"The device broke the ring: {fault.Message}.");
            if ((_device.Status & DEVICE_NEEDS_RESET) != 0)
                throw new ExpectationException("The device needs a reset: it failed, or was given what it can't take.");
            if (Environment.TickCount64 - start > Deadline.Limit.TotalMilliseconds)
                throw new TimeoutException($"Waited {Deadline.Limit.TotalSeconds} s for the device to hand a request back.");
            // A device that fails tells by its configuration's interrupt, not by the queue's.
            if (_call.Wait(TimeSpan.FromMilliseconds(100)))
                _call.TryRead(out _);
        }
    }

    /// <summary>Resets the device and brings it up again, as a driver that is bound anew.</summary>
    /// <exception cref="ExpectationException">The device refuses a step.</exception>
    public void Restart()
    {
        if (!_device.TrySetStatus(0, out var fault))
            throw Refused("reset", fault);
        _memory.Write(0, new byte[_free]);
        _ring = NewRing();
        Start();
    }

    /// <summary>Resets the device, and takes its memory away.</summary>
    public void Dispose()
    {
        _device.TrySetStatus(0, out _);
        _device.SetQueueInterrupt(0, null);
        _device.SetDma(null);
        _space.Dispose();
        _memory.Dispose();
        _call.Dispose();
    }

    private DriverRing NewRing()
    {
        var (eventIndex, indirect, inOrder) =
            (Features.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX), Features.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC), Features.Has(VirtioFeatures.VIRTIO_F_IN_ORDER));
        return Features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED)
            ? new PackedDriverRing(_memory, new Iova(Base), 0, _queueSize, eventIndex, indirect, inOrder)
            : new SplitDriverRing(_memory, new Iova(Base), 0, _queueSize, eventIndex, indirect, inOrder);
    }

    // The order of VIRTIO 1.3, 3.1.1.
    private void Start()
    {
        var layout = _ring.Layout;
        Step("ACKNOWLEDGE, DRIVER", _device.TrySetStatus(ACKNOWLEDGE | DRIVER, out var fault), fault);
        Step("the features", _device.TrySetDriverFeatures(Features, out fault), fault);
        Step("FEATURES_OK", _device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out fault), fault);
        Step("the queue's size", _device.TrySetQueueSize(0, layout.Size, out fault), fault);
        Step("the queue's addresses", _device.TrySetQueueAddress(0, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out fault), fault);
        _device.SetQueueInterrupt(0, _call.Signal);
        Step("the queue", _device.TrySetQueueReady(0, true, out fault), fault);
        Step("DRIVER_OK", _device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, out fault), fault);
    }

    private static void Step(string what, bool isTaken, Fault fault)
    {
        if (!isTaken)
            throw Refused(what, fault);
    }

    private static ExpectationException Refused(string what, Fault fault) => new($"The device refuses {what}: {fault.Message} ({fault.Errno}).");
}
