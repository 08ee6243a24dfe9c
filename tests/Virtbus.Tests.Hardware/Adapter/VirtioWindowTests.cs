using System.Buffers.Binary;
using System.Text;
using Virtbus.Block;
using Virtbus.Hardware.Adapter;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Hardware.Adapter;

/// <summary>Virtio functions in a window of an adapter, driven by registers alone; VS-06: their DMA is that of a PASID.</summary>
public sealed class VirtioWindowTests : IDisposable
{
    private const int Window = 0x8000;
    private const uint Pasid = 5;
    private const ulong Parameters = AdapterDriver.Free;
    private const ulong RingAt = AdapterDriver.Base + 0x40000;
    private readonly AdapterFunction _function = AdapterDriver.Make(merlin: true, vfs: 1, vdpas: 1);
    private readonly AdapterDriver _rig;
    private readonly MemoryBackend _medium = new(1 << 20);

    public VirtioWindowTests()
    {
        _function.Engine.AttachMedium("disk0", _medium);
        _rig = new AdapterDriver(_function);
        _rig.Enable();
    }

    public void Dispose()
    {
        _rig.Dispose();
        _function.Dispose();
        _medium.Dispose();
    }

    [Fact]
    public void Disk_in_a_window_is_read_by_notification_and_by_eventfd_and_interrupts()
    {
        Assert.Equal(0UL, Create().First);
        Assert.True(_rig.AttachPasid(Pasid));
        Assert.Equal(2u, Read(0x40, 4));
        Assert.Equal(1u, Read(18, 2));
        var ring = Start();
        Request(ring);
        _function.WriteBar(2, Window, [0, 0, 0, 0]);
        _rig.WaitInterrupt(3);
        Assert.True(ring.TryTakeUsed(out _, out var written, out _));
        Assert.Equal(513u, written);

        using var kick = new EventFd();
        Assert.True(_function.TryAttachDoorbell(new Pci.PciDoorbell(2, Window, 4), kick, out _));
        Request(ring);
        kick.Signal();
        _rig.WaitInterrupt(3);
        Assert.True(ring.TryTakeUsed(out _, out _, out _));
        Assert.Equal(2UL, Read(0x50, 8));

        // The map changes under the queue; it goes on.
        _rig.Space.TryUnmap(new Memory.Dma.IovaRange(new Iova(AdapterDriver.Base), AdapterDriver.Size), out _, out _);
        Assert.Equal(1u, Read(28, 2));
        Assert.True(_rig.Space.TryMap(new Iova(AdapterDriver.Base), AdapterDriver.Size, _rig.Memory, 0, DmaAccess.ReadWrite, out _));
        Request(ring);
        kick.Signal();
        _rig.WaitInterrupt(3);

        Assert.Equal(Errno.EBUSY, _rig.Do(AdapterOpcode.DestroyVirtio, 0).Status);
        Write(20, 0, 1);
        Assert.Equal(Errno.None, _rig.Do(AdapterOpcode.DestroyVirtio, 0).Status);
        Assert.Equal(0u, Read(0x40, 4));
        Assert.Equal(Errno.ENOENT, _rig.Do(AdapterOpcode.DestroyVirtio, 0).Status);
    }

    [Fact]
    public void Pasid_that_reaches_nothing_starts_no_queue_and_the_reason_is_told()
    {
        Create();
        Start();
        Assert.Equal(0u, Read(28, 2));
        Assert.Equal((uint)Errno.EFAULT, Read(0x4C, 4));
        var text = new byte[96];
        _function.ReadBar(0, Window + 0x80, text);
        Assert.Contains("not all in the memory that the device reaches", Encoding.UTF8.GetString(text));
    }

    [Fact]
    public void Ring_error_is_told_by_an_event()
    {
        Create();
        Assert.True(_rig.AttachPasid(Pasid));
        var ring = Start();
        ring.Add([new DriverBuffer(new Iova(RingAt + 0x8000), 16, false)]);
        ring.Publish();
        _function.WriteBar(2, Window, [0, 0, 0, 0]);
        var told = _rig.TakeEvent();
        Assert.Equal((AdapterEventType.VirtioError, Errno.EPROTO, 0u, 0UL), (told.Type, told.Status, told.Tag, told.First));
        Assert.Equal(64u, Read(20, 1) & 64);
    }

    [Fact]
    public void Features_that_are_not_offered_are_not_taken()
    {
        Create();
        Write(20, 3, 1);
        Write(8, 1, 4);
        Write(12, 0x80000000, 4);
        Write(20, 11, 1);
        Assert.Equal(3u, Read(20, 1));
        Write(8, 1, 4);
        Write(12, 1, 4);
        Write(20, 11, 1);
        Assert.Equal(11u, Read(20, 1));
    }

    [Fact]
    public void What_cannot_be_made_is_refused()
    {
        Assert.Equal(Errno.ENOENT, Create(medium: "disk1").Status);
        Assert.Equal(Errno.EINVAL, Create(pasid: 0).Status);
        Assert.Equal(Errno.EINVAL, Create(pasid: 1 << 20).Status);
        Assert.Equal(Errno.EINVAL, Create(queues: 0).Status);
        Assert.Equal(Errno.EINVAL, Create(queues: 257).Status);
        Assert.Equal(Errno.EINVAL, Create(medium: "disk\u0001").Status);
        Assert.Equal(Errno.None, Create().Status);
        Assert.Equal(Errno.EBUSY, Create().Status);
        Assert.Equal(Errno.None, Create(pasid: 6, queues: 256).Status);
        // Queue sets are the measure: 1 and 256 of 512 are out.
        Assert.Equal(Errno.ENOSPC, Create(pasid: 7, queues: 256).Status);
        Assert.Equal(Errno.None, Create(pasid: 7, queues: 255).Status);
        Assert.Equal(Errno.ENOSPC, Create(pasid: 8).Status);
    }

    [Fact]
    public void Cache_mode_belongs_to_the_medium_and_not_to_the_window()
    {
        Create();
        Write(0x120, 0, 1);
        Assert.Equal(0u, Read(0x7C, 4));
        Write(20, 0, 1);
        Assert.Equal(0u, Read(0x120, 1));
        Write(22, 7, 2);
        Write(0xE0, 1, 4);
        Assert.Equal(0u, Read(22, 2));
        Assert.Equal(0u, Read(0x120, 1));
        _rig.ResetFunction();
        _rig.Enable();
        Create();
        Assert.Equal(0u, Read(0x120, 1));
    }

    [Fact]
    public void Reset_of_the_function_takes_windows_away()
    {
        Create();
        Assert.True(_rig.AttachPasid(Pasid));
        Start();
        _rig.ResetFunction();
        Assert.Equal(0u, Read(0x40, 4));
        Assert.DoesNotContain(_function.Doorbells, d => d.Offset >= Window);
    }

    [Fact]
    public void Virtual_function_with_a_window_is_not_saved()
    {
        using var virtualRig = new AdapterDriver(AdapterDriver.EnableVirtual(_function, 1)[0]);
        virtualRig.Enable();
        WriteParameters(virtualRig, Pasid, 1, "disk0");
        Assert.Equal(Errno.None, virtualRig.Do(AdapterOpcode.CreateVirtioBlock, 0, Parameters).Status);
        _rig.Do(AdapterOpcode.SuspendFunction, 1, 0);
        Assert.Equal(Errno.EOPNOTSUPP, _rig.Do(AdapterOpcode.SaveFunction, 1, Parameters, 4096).Status);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Random_accesses_to_a_window_break_nothing(int seed)
    {
        Create(queues: 3);
        Assert.True(_rig.AttachPasid(Pasid));
        var random = new Random(seed);
        int[] sizes = [1, 2, 4, 8];
        ulong[] values = [0, 1, 2, 3, 11, 15, 64, 128, 0x8000, 0xFFFF, RingAt, RingAt + 0x1000, ulong.MaxValue];
        for (var i = 0; i < 3000; i++)
        {
            var offset = random.Next(4) == 0 ? random.Next(0x1000) : random.Next(0x48);
            if (random.Next(3) == 0)
                Read(offset, sizes[random.Next(4)]);
            else
                Write(offset, values[random.Next(values.Length)], sizes[random.Next(4)]);
            if (i % 50 == 0)
                _function.WriteBar(2, Window + (ulong)random.Next(16), [1, 0, 0, 0]);
        }
        Write(20, 0, 1);
        Assert.Equal(0u, Read(20, 1));
        var ring = Start();
        Request(ring);
        _function.WriteBar(2, Window, [0, 0, 0, 0]);
        _rig.WaitInterrupt(3);
    }

    private static void WriteParameters(AdapterDriver rig, uint pasid, ushort queues, string medium)
    {
        var parameters = new byte[256];
        BinaryPrimitives.WriteUInt32LittleEndian(parameters, pasid);
        BinaryPrimitives.WriteUInt16LittleEndian(parameters.AsSpan(4), queues);
        Encoding.ASCII.GetBytes("SERIAL", parameters.AsSpan(8));
        Encoding.ASCII.GetBytes("disk", parameters.AsSpan(32));
        Encoding.ASCII.GetBytes(medium, parameters.AsSpan(128));
        rig.WriteMemory(Parameters, parameters);
    }

    private AdapterEvent Create(uint pasid = Pasid, ushort queues = 1, string medium = "disk0")
    {
        WriteParameters(_rig, pasid, queues, medium);
        return _rig.Do(AdapterOpcode.CreateVirtioBlock, 0, Parameters);
    }

    // A virtio driver's way (VIRTIO 1.2, 3.1.1), with a ring of 16 and vector 3.
    private SplitDriverRing Start()
    {
        _rig.Fill(RingAt, 0x10000);
        Write(20, 0, 1);
        Write(20, 3, 1);
        Write(8, 1, 4);
        Write(12, 1, 4);
        Write(20, 11, 1);
        var ring = new SplitDriverRing(_rig.Memory, new Iova(AdapterDriver.Base), RingAt - AdapterDriver.Base, 16, eventIndex: false, indirect: false);
        Write(22, 0, 2);
        Write(24, 16, 2);
        Write(26, 3, 2);
        Write(32, ring.Layout.DescriptorArea.Value, 8);
        Write(40, ring.Layout.DriverArea.Value, 8);
        Write(48, ring.Layout.DeviceArea.Value, 8);
        Write(20, 15, 1);
        Write(28, 1, 2);
        return ring;
    }

    private void Request(SplitDriverRing ring)
    {
        _rig.Fill(RingAt + 0x8000, 16);
        ring.Add(
        [
            new DriverBuffer(new Iova(RingAt + 0x8000), 16, false),
            new DriverBuffer(new Iova(RingAt + 0x9000), 512, true),
            new DriverBuffer(new Iova(RingAt + 0x8100), 1, true),
        ]);
        ring.RequestCalls(true);
        ring.Publish();
    }

    private ulong Read(int offset, int size)
    {
        var bytes = new byte[8];
        _function.ReadBar(0, (ulong)(Window + offset), bytes.AsSpan(0, size));
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    private void Write(int offset, ulong value, int size)
    {
        var bytes = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        _function.WriteBar(0, (ulong)(Window + offset), bytes.AsSpan(0, size));
    }
}
