using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.HostVfio;

namespace Virtbus.Tests.Vfio.HostVfio;

/// <summary>A device as the kernel's VFIO shows it: the registers of a simulated function, interrupts that are eventfds, memory by mappings.</summary>
internal sealed class FakeLink : IVfioLink
{
    private readonly Registers _function = new();
    private readonly Lock _lock = new();
    private readonly Dictionary<(uint Index, int Vector), EventFd> _signals = [];
    private readonly SortedDictionary<ulong, (ulong Size, nint Address, DmaAccess Access)> _maps = [];
    private bool _isLineMasked;
    private volatile bool _isLineUp;

    public List<string> Calls { get; } = [];

    public bool IsLineUp
    {
        get => _isLineUp;
        set => _isLineUp = value;
    }

    public bool CanReset => true;

    public string[] Maps
    {
        get
        {
            lock (_lock)
                return [.. _maps.Select(m => $"{m.Key:x}+{m.Value.Size:x} {m.Value.Access}")];
        }
    }

    public bool IsBusMaster
    {
        get
        {
            var command = new byte[1];
            _function.ReadConfig(4, command);
            return (command[0] & 4) != 0;
        }
    }

    public bool TryGetRegion(uint index, out VfioRegionInfo info)
    {
        var size = index == 7 ? (ulong)_function.ConfigSize : index < 7 ? _function.GetBar((int)index).Size : 0;
        info = new VfioRegionInfo(VfioRegionFlags.Read | VfioRegionFlags.Write, size);
        return size > 0;
    }

    public uint GetVectors(uint index) => index switch
    {
        0 => 1,
        1 => 4,
        2 => 8,
        4 => 1,
        _ => 0,
    };

    public bool TryRead(uint region, ulong offset, Span<byte> destination)
    {
        if (region == 7)
            _function.ReadConfig((int)offset, destination);
        else
            _function.ReadBar((int)region, offset, destination);
        return true;
    }

    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source)
    {
        if (region == 7)
            _function.WriteConfig((int)offset, source);
        else
            _function.WriteBar((int)region, offset, source);
        // The register that quiets the line.
        if (region == 0 && offset == 8)
            _isLineUp = false;
        return true;
    }

    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault)
    {
        fault = Fault.None;
        var fires = false;
        lock (_lock)
        {
            Calls.Add($"{set.Index} {set.Flags & (VfioIrqSetFlags)0x38} {set.Count}");
            if (set.Flags.HasFlag(VfioIrqSetFlags.ActionUnmask))
            {
                _isLineMasked = false;
                fires = _isLineUp;
            }
            else if (set.Count == 0)
            {
                foreach (var key in _signals.Keys.Where(k => k.Index == 0 || k.Index is 1 or 2).ToArray())
                {
                    if (_signals.Remove(key, out var old))
                        old.Dispose();
                }
            }
            for (var i = 0; i < set.EventFds.Length; i++)
            {
                // The kernel keeps the open file, whatever its owner closes.
                Assert.True(EventFd.TryAdopt(set.EventFds[i]!.Descriptor.Duplicate(), out var copy, out _));
                _signals[(set.Index, (int)set.Start + i)] = copy!;
            }
        }
        if (fires)
            RaiseLine();
        return true;
    }

    public bool TryReset(out Fault fault)
    {
        _function.Reset();
        fault = Fault.None;
        return true;
    }

    public bool TryMap(IovaRange range, nint address, DmaAccess access, out Fault fault)
    {
        fault = Fault.None;
        lock (_lock)
            _maps.Add(range.Start.Value, (range.Size, address, access));
        return true;
    }

    public bool TryUnmap(IovaRange range, out Fault fault)
    {
        fault = Fault.None;
        lock (_lock)
            return _maps.Remove(range.Start.Value);
    }

    public void Dispose()
    {
        _function.Dispose();
        foreach (var signal in _signals.Values)
            signal.Dispose();
    }

    public void Fire(uint index, int vector)
    {
        lock (_lock)
        {
            if (_signals.TryGetValue((index, vector), out var signal))
                signal.Signal();
        }
    }

    /// <summary>The line rises; VFIO masks it when it tells.</summary>
    public void RaiseLine()
    {
        lock (_lock)
        {
            _isLineUp = true;
            if (_isLineMasked)
                return;
            _isLineMasked = true;
        }
        Fire(0, 0);
    }

    /// <summary>DMA of the device, through the IOMMU.</summary>
    public bool Write(ulong iova, int value)
    {
        lock (_lock)
        {
            foreach (var (start, (size, address, access)) in _maps)
            {
                if (!IsBusMaster || iova < start || iova - start + 4 > size || !access.HasFlag(DmaAccess.Write))
                    continue;
                Marshal.WriteInt32(address + (nint)(iova - start), value);
                return true;
            }
            return false;
        }
    }

    private sealed class Registers() : PciFunction(ConfigSpaceBuilder.Function(0x1AF4, 0x10F5)
        .Class(0x020000)
        .InterruptPin(1)
        .MemoryBar(0, 0x4000)
        .IoBar(1, 32)
        .Msi(4, is64Bit: true, hasMasks: true)
        .Msix(8, 0, 0x2000, 0, 0x3000)
        .Express(new PciExpressOptions())
        .Build())
    {
        private readonly byte[] _bytes = new byte[64];

        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
        {
            destination.Clear();
            if (offset + (ulong)destination.Length <= 64)
                _bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
        }

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
            if (offset + (ulong)source.Length <= 64)
                source.CopyTo(_bytes.AsSpan((int)offset));
        }

        protected override void OnReset(PciResetKind kind) => _bytes.AsSpan().Clear();
    }
}
