using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Probe;

/// <summary>
/// Registers, memory and the DMA thread of a scratch function, physical or virtual. The thread, its eventfd and the memory of BAR 2 come with
/// their first use, so that an idle function costs next to nothing.
/// </summary>
internal sealed partial class ScratchEngine(IScratchHost host, string name, int index, bool hasPasid) : IDisposable
{
    internal const int RegisterBar = 0;
    internal const int PortBar = 1;
    internal const int MemoryBar = 2;
    internal const uint RegisterSize = 0x4000;
    internal const uint TableOffset = 0x2000;
    internal const uint PendingOffset = 0x3000;
    internal const int MemorySize = 0x10000;
    internal const int Vectors = 8;
    private const uint Identity = 0x00ED5642;
    private const int EndOfMemory = 0x1000;
    private const int ChunkSize = 4096;
    private const int CauseDma = 0, CauseDoorbell = 1, CauseSoftware = 2;
    private const uint AllCauses = 7;
    private const uint PasidValid = 1u << 31, PasidMask = 0xFFFFF;

    private readonly Lock _lock = new();
    private readonly object _idle = new();
    private readonly byte[] _plain = new byte[EndOfMemory - ScratchRegister.Memory];
    private IDisposable? _watch;
    private bool _hadUser;
    private readonly ScratchMemory _memory = new(name);
    private volatile bool _isPaused;
    private EventFd? _wake;
    private EventFd? _signal;
    // The one that the thread waits for; a close of it meanwhile would be one only when that is over.
    private volatile EventFd? _awaited;
    private ServiceThread? _thread;
    private bool _isBusy;
    private volatile bool _isCancelled;
    private volatile bool _isEnding;
    private Transfer? _transfer;
    private uint _cause, _enable, _doorbells, _doorbellValue, _length, _offset, _status, _pasid, _transfers, _resets;
    private ulong _address;

    private readonly record struct Transfer(Iova Address, int Length, int Offset, bool ToMemory, uint? Pasid);

    private enum Status : uint
    {
        Busy = 1,
        Done = 2,
        Unreachable = 3,
        Wrong = 4,
    }

    internal static PciDoorbell[] Doorbells { get; } = [new(RegisterBar, ScratchRegister.Doorbell, sizeof(uint))];

    internal IReadOnlyList<PciBarArea> Areas => _memory.Areas;

    public void Dispose()
    {
        Unplugged();
        lock (_lock)
            _isEnding = true;
        Cancel();
        _wake?.Signal();
        _thread?.Join();
        lock (_lock)
        {
            _signal?.Dispose();
            _signal = null;
            _wake?.Dispose();
        }
        _memory.End();
    }

    /// <summary>The function is in a slot: when its DMA changes hands there, so does its memory.</summary>
    internal void Plugged(DmaPort dma) => _watch = dma.Group.Observe(null, () => ChangeUser(dma.Group.OwnerKind == DmaOwnerKind.User));

    /// <summary>The function is out of its slot.</summary>
    internal void Unplugged()
    {
        Interlocked.Exchange(ref _watch, null)?.Dispose();
        ChangeUser(false);
    }

    internal void Read(int bar, ulong offset, Span<byte> destination)
    {
        if (bar == MemoryBar)
        {
            using var memory = _memory.Borrow();
            if (memory is null)
                destination.Fill(0xFF);
            else
                memory.Read(offset, destination);
            return;
        }
        for (var i = 0; i < destination.Length; i++)
        {
            var at = (int)offset + i;
            if (at is >= ScratchRegister.Memory and < EndOfMemory)
            {
                destination[i] = _plain[at - ScratchRegister.Memory];
                continue;
            }
            // A whole register at once, so that its bytes belong together.
            var value = Register(at & ~3) >> (8 * (at & 3));
            for (var left = 4 - (at & 3); ; value >>= 8)
            {
                destination[i] = (byte)value;
                if (--left == 0 || i + 1 == destination.Length)
                    break;
                i++;
            }
        }
    }

    internal void Write(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (bar == MemoryBar)
        {
            using var memory = _memory.Borrow();
            memory?.Write(offset, source);
            return;
        }
        for (var at = (int)offset; source.Length > 0;)
        {
            if (at is >= ScratchRegister.Memory and < EndOfMemory)
            {
                var count = Math.Min(source.Length, EndOfMemory - at);
                source[..count].CopyTo(_plain.AsSpan(at - ScratchRegister.Memory));
                source = source[count..];
                at += count;
            }
            else if ((at & 3) == 0 && source.Length >= 4)
            {
                SetRegister(at, BinaryPrimitives.ReadUInt32LittleEndian(source));
                source = source[4..];
                at += 4;
            }
            else
            {
                var count = Math.Min(source.Length, 4 - (at & 3));
                source = source[count..];
                at += count;
            }
        }
    }

    internal void Ring(uint value, uint times = 1)
    {
        lock (_lock)
        {
            _doorbells += times;
            _doorbellValue = value;
        }
        Occur(CauseDoorbell);
    }

    internal uint DoorbellCount
    {
        get
        {
            lock (_lock)
                return _doorbells;
        }
    }

    internal bool TryAttach(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = Fault.None;
        if (doorbell != Doorbells[0])
        {
            fault = new Fault(Errno.ENOENT, "the function has no such doorbell");
            return false;
        }
        EventFd? old;
        lock (_lock)
        {
            if (!TryStart())
            {
                fault = new Fault(Errno.ENODEV, "the function is gone, or the host has no descriptor or thread left for it");
                return false;
            }
            old = _signal;
            _signal = signal?.Duplicate();
            _wake!.Signal();
        }
        if (old is null)
            return true;
        lock (_idle)
        {
            while (_awaited == old)
                Monitor.Wait(_idle);
        }
        old.Dispose();
        return true;
    }

    internal void Reset()
    {
        Cancel();
        lock (_lock)
        {
            _cause = _enable = _doorbells = _doorbellValue = _length = _offset = _status = _pasid = _transfers = 0;
            _address = 0;
            _resets++;
            _plain.AsSpan().Clear();
            _isCancelled = false;
        }
        using var memory = _memory.Borrow(onlyIfThere: true);
        Span<byte> zeros = stackalloc byte[ChunkSize];
        zeros.Clear();
        for (ulong at = 0; memory is not null && at < MemorySize; at += ChunkSize)
            memory.Write(at, zeros);
    }

    // A user may keep the file of BAR 2, and its mapping, for ever: the next one gets another, or each would see what the other writes.
    private void ChangeUser(bool hasUser)
    {
        lock (_lock)
        {
            if (_hadUser == hasUser)
                return;
            _hadUser = hasUser;
        }
        _memory.Drop();
    }

    private static bool IsTransfer(uint length, uint offset) => length is > 0 and <= MemorySize && offset <= MemorySize - length;

    private uint Register(int offset)
    {
        lock (_lock)
        {
            return offset switch
            {
                ScratchRegister.Id => Identity,
                ScratchRegister.Index => (uint)index,
                ScratchRegister.InterruptCause => _cause,
                ScratchRegister.InterruptEnable => _enable,
                ScratchRegister.DoorbellCount => _doorbells,
                ScratchRegister.DoorbellValue => _doorbellValue,
                ScratchRegister.DmaAddressLow => (uint)_address,
                ScratchRegister.DmaAddressHigh => (uint)(_address >> 32),
                ScratchRegister.DmaLength => _length,
                ScratchRegister.DmaOffset => _offset,
                ScratchRegister.DmaStatus => _status,
                ScratchRegister.DmaPasid => _pasid,
                ScratchRegister.DmaCount => _transfers,
                ScratchRegister.ResetCount => _resets,
                _ => 0,
            };
        }
    }

    private void SetRegister(int offset, uint value)
    {
        switch (offset)
        {
            case ScratchRegister.Raise:
                if (!host.RaiseMessage((int)(value % Vectors)))
                    Occur(CauseSoftware);
                return;
            case ScratchRegister.Doorbell:
                Ring(value);
                return;
            case ScratchRegister.DmaCommand:
                Command(value);
                return;
        }
        lock (_lock)
        {
            switch (offset)
            {
                case ScratchRegister.InterruptCause:
                    _cause &= ~value;
                    break;
                case ScratchRegister.InterruptEnable:
                    _enable = value & AllCauses;
                    break;
                case ScratchRegister.DmaAddressLow:
                    _address = (_address & ~0xFFFF_FFFFUL) | value;
                    break;
                case ScratchRegister.DmaAddressHigh:
                    _address = (_address & 0xFFFF_FFFFUL) | ((ulong)value << 32);
                    break;
                case ScratchRegister.DmaLength:
                    _length = value;
                    break;
                case ScratchRegister.DmaOffset:
                    _offset = value;
                    break;
                case ScratchRegister.DmaPasid:
                    _pasid = hasPasid ? value & (PasidValid | PasidMask) : 0;
                    break;
            }
            host.StageInterrupt((_cause & _enable) != 0);
        }
        host.ShowInterrupt();
    }

    private void Occur(int cause)
    {
        bool isEnabled;
        lock (_lock)
        {
            _cause |= 1u << cause;
            isEnabled = ((_enable >> cause) & 1) != 0;
            host.StageInterrupt((_cause & _enable) != 0);
        }
        if (isEnabled)
            host.RaiseMessage(cause);
        host.ShowInterrupt();
    }

    private void Command(uint command)
    {
        lock (_lock)
        {
            if (_status == (uint)Status.Busy || _isEnding || _isCancelled)
                return;
            if (command is 1 or 2 && IsTransfer(_length, _offset) && TryStart())
            {
                _status = (uint)Status.Busy;
                _transfer = new Transfer(new Iova(_address), (int)_length, (int)_offset, command == 2, (_pasid & PasidValid) != 0 ? _pasid & PasidMask : null);
                _wake!.Signal();
                return;
            }
            _status = (uint)Status.Wrong;
        }
        Occur(CauseDma);
    }

    // Under the lock. False when the function ends or the host has no descriptor or thread left.
    private bool TryStart()
    {
        if (_thread is not null || _isEnding)
            return !_isEnding;
        try
        {
            _wake ??= new EventFd();
        }
        catch (VirtbusException)
        {
            return false;
        }
        _thread = ServiceThread.TryStart(name, Run);
        return _thread is not null;
    }

    private void Run()
    {
        var buffer = new byte[ChunkSize];
        while (!_isEnding)
        {
            EventFd? signal;
            Transfer? transfer;
            lock (_lock)
            {
                // While it stands still, what was asked for waits.
                signal = _isPaused ? null : _signal;
                transfer = _isPaused ? null : _transfer;
                _transfer = _isPaused ? _transfer : null;
                _isBusy = transfer is not null;
                _awaited = _isBusy ? null : signal;
            }
            if (transfer is { } work)
            {
                Execute(work, buffer);
                lock (_idle)
                {
                    _isBusy = false;
                    Monitor.PulseAll(_idle);
                }
                continue;
            }
            WaitForWork(signal);
        }
    }

    private void WaitForWork(EventFd? signal)
    {
        try
        {
            Polling.Wait((signal ?? _wake!).Descriptor, forWriting: false, _wake!);
        }
        catch (ObjectDisposedException)
        {
            // The function is gone just now.
        }
        finally
        {
            lock (_idle)
            {
                _awaited = null;
                Monitor.PulseAll(_idle);
            }
        }
        _wake!.TryRead(out _);
        ulong rings = 0;
        lock (_lock)
        {
            // Only a signal that is still attached counts.
            // While it is paused a ring stays where it is, for who goes on.
            if (!_isPaused && signal is not null && ReferenceEquals(signal, _signal))
                _isBusy = signal.TryRead(out rings);
        }
        if (rings == 0)
            return;
        Ring(0, (uint)Math.Min(rings, uint.MaxValue));
        lock (_idle)
        {
            _isBusy = false;
            Monitor.PulseAll(_idle);
        }
    }

    private void Execute(in Transfer transfer, byte[] buffer)
    {
        var done = Move(transfer, buffer);
        lock (_lock)
        {
            if (_isCancelled)
                return;
            _status = (uint)(done ? Status.Done : Status.Unreachable);
            _transfers++;
        }
        Occur(CauseDma);
    }

    private bool Move(in Transfer transfer, byte[] buffer)
    {
        using var memory = _memory.Borrow();
        for (var moved = 0; moved < transfer.Length; moved += ChunkSize)
        {
            using var use = host.UsePort();
            if (_isCancelled || memory is null || use.Dma is null)
                return false;
            var dma = transfer.Pasid is { } pasid and > 0 ? use.Dma.ForPasid(pasid) : use.Dma;
            var chunk = buffer.AsSpan(0, Math.Min(ChunkSize, transfer.Length - moved));
            var address = new Iova(transfer.Address.Value + (ulong)moved);
            if (transfer.ToMemory)
            {
                memory.Read((ulong)(transfer.Offset + moved), chunk);
                if (!dma.TryWrite(address, chunk))
                    return false;
            }
            else
            {
                if (!dma.TryRead(address, chunk))
                    return false;
                memory.Write((ulong)(transfer.Offset + moved), chunk);
            }
        }
        return true;
    }

    // Nothing that was started goes on when it returns.
    private void Cancel()
    {
        lock (_lock)
        {
            _isCancelled = true;
            _transfer = null;
        }
        WaitUntilIdle();
    }

    private void WaitUntilIdle()
    {
        lock (_idle)
        {
            while (_isBusy && _thread is not { IsCurrent: true })
                Monitor.Wait(_idle);
        }
    }
}
