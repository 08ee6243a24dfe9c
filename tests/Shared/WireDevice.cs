using System.Buffers.Binary;
using System.Collections.Concurrent;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests;

/// <summary>
/// A PCI-like device with a register of everything that goes over the wire: BAR 0 has scratch memory, an engine that copies between it and the
/// client's memory on the caller's thread or on its own, and doorbells; BARs 2, 3 and 5 have pages to map; BAR 4 is I/O.
/// </summary>
internal sealed class WireDevice : IVfioDeviceOps, IVfioMigrationArcs, IDisposable
{
    internal const ulong BarSize = 0x20_0000;

    // Registers of BAR 0.
    internal const ulong DmaAddress = 0x10;
    internal const ulong DmaLength = 0x18;
    internal const ulong DmaCommand = 0x1c;
    internal const ulong DmaDone = 0x20;
    internal const ulong Doorbell = 0x40;
    internal const ulong MatchedDoorbell = 0x44;
    internal const ulong DmaData = 0x1000;

    // Values of the command register: read or write memory, on the thread that wrote the register or on the engine's own.
    internal const uint ReadHere = 1;
    internal const uint WriteHere = 2;
    internal const uint ReadThere = 3;
    internal const uint WriteThere = 4;

    /// <summary>As <see cref="ReadThere"/>, and the write to the register ends only when the engine is through.</summary>
    internal const uint ReadThereAndWait = 5;

    internal static readonly uint[] IrqCounts = [1, 0, 32, 1, 1];

    private readonly byte[] _bar = new byte[BarSize];
    private readonly ConcurrentQueue<string> _calls = new();
    private readonly EventFd?[][] _irqs;
    private readonly Dictionary<VfioDoorbell, EventFd> _doorbells = [];
    private readonly FileDescriptor _file;
    private readonly IommuGroup _group;
    private readonly List<Thread> _engines = [];
    private List<byte> _loaded = [];
    private VfioOwner? _user;
    private int _saved;
    private int _done;

    internal WireDevice(IommuGroup? group = null)
    {
        _group = group ?? new IommuGroup(1);
        Pages = HostMemory.Allocate("virtbus-device", 0x4000, out _file);
        Backing = _file;
        Other = MemoryFile.Create("virtbus-device2", 0x1000, sealedSize: false);
        Port = new DmaPort("device", _group) { IsBusMaster = true };
        _irqs = [.. IrqCounts.Select(count => new EventFd?[count])];
        Migration = new VfioMigration(this);
        DmaLogging = new VfioDmaLogging(Port);
        Config[0x10 + 16] = 1;
    }

    internal DmaPort Port { get; }

    internal HostMemory Pages { get; }

    /// <summary>The file behind BAR 5, which anybody may shrink.</summary>
    internal FileDescriptor Other { get; }

    /// <summary>What BAR 2 names as the file behind its pages, which it answers for itself.</summary>
    internal FileDescriptor Backing { get; set; }

    internal byte[] Config { get; } = new byte[256];

    internal byte[] Bar => _bar;

    internal byte[] Ports { get; } = new byte[64];

    internal byte[] State { get; set; } = [];

    internal Fault OpenFault { get; set; }

    /// <summary>Where the state cannot be read on, once; 0 for nowhere.</summary>
    internal int FailReadAt { get; set; }

    internal Func<ulong, byte>? OnRead { get; set; }

    /// <summary>Called before each write to BAR 0.</summary>
    internal Action<ulong>? OnWrite { get; set; }

    internal string[] Calls => [.. _calls];

    internal bool IsOpen { get; private set; }

    internal int Opens { get; private set; }

    /// <summary>How the engine's last copy went.</summary>
    internal Fault LastDma => Port.LastFault?.Fault ?? Fault.None;

    public VfioDeviceInfo Info => new(CanReset: true, IsPci: true, Regions: 10, IrqCounts.Length);

    public IVfioMigrationOps? Migration { get; }

    public IVfioDmaLoggingOps? DmaLogging { get; }

    public VfioMigrationFlags Flags => VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy;

    public ulong DataSize => (ulong)State.Length;

    public bool TryOpen(VfioOwner user, out Fault fault)
    {
        fault = OpenFault;
        if (fault != Fault.None)
            return false;
        if (!_group.TryClaimForUser(user, user.Name, out fault))
            return false;
        Opens++;
        IsOpen = true;
        _user = user;
        return true;
    }

    public void Close()
    {
        IsOpen = false;
        foreach (var engine in _engines)
            engine.Ends("a copy that is under way at the close");
        _engines.Clear();
        Volatile.Write(ref _done, 0);
        DmaLogging!.Stop();
        ((VfioMigration)Migration!).Reset();
        _group.ReleaseUser(_user!, Port);
        foreach (var vectors in _irqs)
        {
            foreach (ref var vector in vectors.AsSpan())
            {
                vector?.Dispose();
                vector = null;
            }
        }

        foreach (var signal in _doorbells.Values)
            signal.Dispose();
        _doorbells.Clear();
        Array.Clear(_bar);
        Say("close");
    }

    /// <summary>Says what a region is, in place of what is below.</summary>
    internal Func<uint, VfioRegionInfo?>? OnRegion { get; set; }

    /// <summary>The file behind <see cref="Pages"/>.</summary>
    internal FileDescriptor File => _file;

    public VfioRegionInfo GetRegionInfo(uint index) => OnRegion?.Invoke(index) ?? index switch
    {
        0 => new(VfioRegionFlags.Read | VfioRegionFlags.Write, BarSize),
        2 => new(VfioRegionFlags.Read | VfioRegionFlags.Write | VfioRegionFlags.Mmap, 0x4000)
        {
            Areas =
            [
                new VfioRegionArea(0x1000, 0x1000, Backing, 0x1000),
                new VfioRegionArea(0x3000, 0x1000, Backing, 0x3000),
                // Of another file: it cannot go with the same descriptor.
                new VfioRegionArea(0x2000, 0x1000, Other, 0),
            ],
        },
        3 => new(VfioRegionFlags.Read | VfioRegionFlags.Write | VfioRegionFlags.Mmap, 0x2000)
        {
            Areas = [new VfioRegionArea(0, 0x2000, _file, 0x2000)],
        },
        4 => new(VfioRegionFlags.Read | VfioRegionFlags.Write, (ulong)Ports.Length),
        5 => new(VfioRegionFlags.Read | VfioRegionFlags.Write | VfioRegionFlags.Mmap, 0x1000)
        {
            Areas = [new VfioRegionArea(0, 0x1000, Other, 0)],
        },
        7 => new(VfioRegionFlags.Read | VfioRegionFlags.Write, (ulong)Config.Length),
        9 => new(VfioRegionFlags.Read, 16) { Type = new VfioRegionType(0x8086, 3) },
        _ => new(VfioRegionFlags.None, 0),
    };

    public VfioIrqInfo GetIrqInfo(uint index) => index switch
    {
        0 => new(VfioIrqFlags.EventFd | VfioIrqFlags.Maskable | VfioIrqFlags.AutoMasked, 1),
        _ => new(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, IrqCounts[index]),
    };

    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        fault = Fault.None;
        if (region == 0 && OnRead is { } read)
            destination.Fill(read(offset));
        else if (region == 0 && offset == DmaDone && destination.Length == 4)
            BinaryPrimitives.WriteInt32LittleEndian(destination, Volatile.Read(ref _done));
        else if (region == 2)
            Pages.Read(offset, destination);
        else if (Bytes(region) is { } bytes)
            bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
        else
            destination.Fill(0xff);
        if (region == 9)
            fault = new Fault(Errno.EIO, "the test's region cannot be read");
        return region != 9;
    }

    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        fault = Fault.None;
        if (region == 0)
            OnWrite?.Invoke(offset);
        if (region == 2)
            Pages.Write(offset, source);
        else if (Bytes(region) is { } bytes)
            source.CopyTo(bytes.AsSpan((int)offset));
        if (region == 0 && offset == DmaCommand && source.Length == 4)
            Copy(BinaryPrimitives.ReadUInt32LittleEndian(source));
        if (region == 0 && offset is Doorbell or MatchedDoorbell)
            Say($"doorbell {offset:x}");
        return true;
    }

    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault)
    {
        fault = Fault.None;
        var data = set.Flags & (VfioIrqSetFlags)7;
        Say($"irqs {(uint)set.Flags:x} {set.Index} {set.Start} {set.Count} {set.EventFds.Length}");
        var vectors = _irqs[set.Index];
        for (var i = 0; i < (set.Count == 0 ? vectors.Length : (int)set.Count); i++)
        {
            ref var vector = ref vectors[(int)set.Start + i];
            if (!set.Flags.HasFlag(VfioIrqSetFlags.ActionTrigger))
                continue;
            if (set.Count == 0 || data == VfioIrqSetFlags.DataEventFd)
            {
                vector?.Dispose();
                vector = set.EventFds.IsEmpty ? null : set.EventFds[i]?.Duplicate();
            }
            else if (data == VfioIrqSetFlags.DataNone || set.Bools[i] != 0)
            {
                vector?.Signal();
            }
        }

        return true;
    }

    public bool TryReset(out Fault fault)
    {
        fault = Fault.None;
        Array.Clear(_bar);
        ((VfioMigration)Migration!).Reset();
        Say("reset");
        return true;
    }

    public void Request(int count) => Fire(4, 0);

    public bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault) => _group.TryAttach(_user!, Port, space, out fault);

    public IReadOnlyList<VfioDoorbell> GetDoorbells(uint region) => region switch
    {
        0 => [new VfioDoorbell(Doorbell, 4, null), new VfioDoorbell(MatchedDoorbell, 4, 7)],
        4 => [new VfioDoorbell(8, 2, null)],
        _ => [],
    };

    public bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = Fault.None;
        if (_doorbells.Remove(doorbell, out var old))
            old.Dispose();
        if (signal is not null)
            _doorbells[doorbell] = signal.Duplicate();
        return true;
    }

    internal int SignalsOf(ulong offset) =>
        _doorbells.Single(pair => pair.Key.Offset == offset).Value.TryRead(out var count) ? (int)count : 0;

    internal void Fire(uint index, uint vector) => _irqs[index][vector]?.Signal();

    internal bool IsBound(uint index, uint vector) => _irqs[index][vector] is not null;

    // Migration: the state is an array of bytes.

    public bool TryMove(VfioMigrationState from, VfioMigrationState to, out Fault fault)
    {
        fault = Fault.None;
        if ((from, to) is (VfioMigrationState.Resuming, VfioMigrationState.Stop))
            State = [.. _loaded];
        _loaded = [];
        if (to is VfioMigrationState.PreCopy || (to is VfioMigrationState.StopCopy && from is VfioMigrationState.Stop))
            _saved = 0;
        return true;
    }

    public bool TryRead(Span<byte> destination, out int count, out Fault fault)
    {
        fault = Fault.None;
        count = 0;
        if (FailReadAt > 0 && _saved == FailReadAt)
        {
            FailReadAt = 0;
            fault = new Fault(Errno.EIO, "the test's device fails once");
            return false;
        }

        // A little at a time, as devices do.
        count = Math.Min(Math.Min(destination.Length, 5000), State.Length - _saved);
        State.AsSpan(_saved, count).CopyTo(destination);
        _saved += count;
        return true;
    }

    public bool TryWrite(ReadOnlySpan<byte> source, out Fault fault)
    {
        fault = Fault.None;
        _loaded.AddRange(source);
        return true;
    }

    public void GetPreCopyInfo(out ulong initialBytes, out ulong dirtyBytes)
    {
        initialBytes = (ulong)(State.Length - _saved);
        dirtyBytes = 0;
    }

    public void EndSession() => Say("end of session");

    public void Dispose()
    {
        Pages.Dispose();
        _file.Dispose();
        Other.Dispose();
    }

    private byte[]? Bytes(uint region) => region switch
    {
        0 => _bar,
        4 => Ports,
        7 => Config,
        _ => null,
    };

    private void Copy(uint command)
    {
        var address = new Iova(BinaryPrimitives.ReadUInt64LittleEndian(_bar.AsSpan((int)DmaAddress)));
        var length = (int)Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(_bar.AsSpan((int)DmaLength)), BarSize - DmaData);
        if (command is ReadHere or WriteHere)
        {
            Copy(command == ReadHere, address, length);
            return;
        }

        if (command is not (ReadThere or WriteThere or ReadThereAndWait))
            return;
        var engine = new Thread(() => Copy(command != WriteThere, address, length)) { IsBackground = true };
        _engines.Add(engine);
        engine.Start();
        if (command == ReadThereAndWait)
            engine.Ends("a copy that the write waits for");
    }

    private void Copy(bool read, Iova address, int length)
    {
        var data = _bar.AsSpan((int)DmaData, length);
        var good = read ? Port.TryRead(address, data) : Port.TryWrite(address, data);
        Interlocked.Add(ref _done, good ? 1 : 0x10000);
    }

    private void Say(string call) => _calls.Enqueue(call);
}
