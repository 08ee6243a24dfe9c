using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Remote.Pci;

namespace Virtbus.Tests.Remote;

/// <summary>
/// A function as VFIO shows it, of another process or of the host: the registers of a simulated function, interrupts that are eventfds, memory by
/// mappings. It can die, and it can answer late.
/// </summary>
internal sealed class FakeLink(bool isPeer = false) : IRemoteLink
{
    private readonly Registers _function = new();
    private readonly Lock _lock = new();
    private readonly ManualResetEventSlim _answers = new(initialState: true);
    private readonly Dictionary<(uint Index, int Vector), EventFd> _signals = [];
    private readonly SortedDictionary<ulong, RemoteMap> _maps = [];
    private Action? _lost;
    private bool _isLineMasked;
    private volatile bool _isLineUp;
    private volatile bool _isDead;
    private int _waiting;

    public List<string> Calls { get; } = [];

    public bool IsLineUp
    {
        get => _isLineUp;
        set => _isLineUp = value;
    }

    public string Name => "0000:03:00.0";

    public bool IsPeer => isPeer;

    public ulong LargestMap { get; init; } = 1UL << 30;

    /// <summary>A part of the first BAR that may be mapped.</summary>
    public VfioRegionArea? Area { get; init; }

    /// <summary>How many reads of registers wait for their answer.</summary>
    public int Waiting => Volatile.Read(ref _waiting);

    public bool CanReset => true;

    public string[] Maps
    {
        get
        {
            lock (_lock)
                return [.. _maps.Select(m => $"{m.Key:x}+{m.Value.Range.Size:x} {m.Value.Access}")];
        }
    }

    /// <summary>How many of the mappings came with a file.</summary>
    public int Files
    {
        get
        {
            lock (_lock)
                return _maps.Values.Count(m => m.File is not null);
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

    public void SetLostCallback(Action lost) => _lost = lost;

    public VirtbusException Refuse(Fault fault) => new(fault.Errno, fault.Message);

    public bool TryGetRegion(uint index, out VfioRegionInfo info, out Fault fault)
    {
        var size = index == 7 ? (ulong)_function.ConfigSize : index < 7 ? _function.GetBar((int)index).Size : 0;
        info = new VfioRegionInfo(VfioRegionFlags.Read | VfioRegionFlags.Write, size) { Areas = index == 0 && Area is not null ? [Area] : [] };
        fault = Fault.None;
        return true;
    }

    /// <summary>The doorbells of the first BAR.</summary>
    public IReadOnlyList<(VfioDoorbell Register, EventFd Signal)> Doorbells { get; init; } = [];

    public IReadOnlyList<(VfioDoorbell Register, EventFd Signal)> GetDoorbells(uint region) => region == 0 ? Doorbells : [];

    public uint GetVectors(uint index) => index switch
    {
        0 => 1,
        1 => 4,
        2 => 8,
        4 => 1,
        _ => 0,
    };

    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        Interlocked.Increment(ref _waiting);
        _answers.Wait();
        Interlocked.Decrement(ref _waiting);
        if (!TryReach(out fault))
            return false;
        Read(region, offset, destination);
        return true;
    }

    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (!TryReach(out fault))
            return false;
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
        if (!TryReach(out fault))
            return false;
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
        if (!TryReach(out fault))
            return false;
        _function.Reset();
        return true;
    }

    public bool TryMap(in RemoteMap map, out Fault fault)
    {
        if (!TryReach(out fault))
            return false;
        lock (_lock)
            _maps.Add(map.Range.Start.Value, map);
        return true;
    }

    public bool TryUnmap(IovaRange range, out Fault fault)
    {
        if (!TryReach(out fault))
            return false;
        lock (_lock)
            return _maps.Remove(range.Start.Value, out var map) && map.Range == range;
    }

    public void Close(Fault reason) => Die();

    public void Dispose()
    {
        _isDead = true;
        _answers.Set();
        _function.Dispose();
        foreach (var signal in _signals.Values)
            signal.Dispose();
    }

    /// <summary>Reads registers past the function that is tested.</summary>
    public void Read(uint region, ulong offset, Span<byte> destination)
    {
        if (region == 7)
            _function.ReadConfig((int)offset, destination);
        else
            _function.ReadBar((int)region, offset, destination);
    }

    /// <summary>The other end goes.</summary>
    public void Die()
    {
        _isDead = true;
        _answers.Set();
        Interlocked.Exchange(ref _lost, null)?.Invoke();
    }

    /// <summary>Reads of registers wait from here on until <see cref="Answer"/>.</summary>
    public void AnswerLate() => _answers.Reset();

    public void Answer() => _answers.Set();

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
        if (!IsBusMaster || !TryFind(iova, DmaAccess.Write, out var map))
            return false;
        Marshal.WriteInt32(map.Address + (nint)(iova - map.Range.Start.Value), value);
        return true;
    }

    /// <summary>DMA of the device by messages.</summary>
    public bool WriteByMessage(ulong iova, int value) =>
        IsBusMaster && TryFind(iova, DmaAccess.Write, out var map) && map.Messages.TryWrite(new Iova(iova), BitConverter.GetBytes(value), out _);

    private bool TryFind(ulong iova, DmaAccess access, out RemoteMap found)
    {
        lock (_lock)
            found = _maps.Values.FirstOrDefault(m => iova >= m.Range.Start.Value && iova - m.Range.Start.Value + 4 <= m.Range.Size && m.Access.HasFlag(access));
        return found.Range.Size > 0;
    }

    private bool TryReach(out Fault fault)
    {
        fault = _isDead ? new Fault(Errno.ECONNRESET, "it is dead") : Fault.None;
        return !_isDead;
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
