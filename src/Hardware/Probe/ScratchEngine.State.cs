using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Hardware.Probe;

// The state that moves: registers, a transfer that waits, and what the memories hold.
internal sealed partial class ScratchEngine
{
    private const string RegistersSection = "scratch";
    private const string PlainSection = "scratch-plain";
    // May be missing: memory that nobody used holds zeros.
    private const string MemorySection = "scratch-bar2";
    private const ushort StateVersion = 1;
    private const int RegistersSize = 72;
    private const uint ToMemory = 2;

    /// <summary>What was read of a state and found right.</summary>
    internal sealed record Image(ReadOnlyMemory<byte> Registers, ReadOnlyMemory<byte> Plain, ReadOnlyMemory<byte> Memory);

    internal void Pause()
    {
        lock (_lock)
            _isPaused = true;
        _wake?.Signal();
        WaitUntilIdle();
    }

    internal void Resume()
    {
        lock (_lock)
        {
            _isPaused = false;
            _wake?.Signal();
        }
    }

    internal bool TrySave(StateWriter writer, out Fault fault)
    {
        if (!_isPaused)
            return RefuseRunning(out fault);
        Span<byte> r = stackalloc byte[RegistersSize];
        r.Clear();
        lock (_lock)
        {
            ReadOnlySpan<uint> values = [_cause, _enable, _doorbells, _doorbellValue, _length, _offset, _status, _pasid, _transfers, _resets];
            for (var i = 0; i < values.Length; i++)
                BinaryPrimitives.WriteUInt32LittleEndian(r[(4 * i)..], values[i]);
            BinaryPrimitives.WriteUInt64LittleEndian(r[40..], _address);
            if (_transfer is { } transfer)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(r[48..], transfer.Address.Value);
                BinaryPrimitives.WriteInt32LittleEndian(r[56..], transfer.Length);
                BinaryPrimitives.WriteInt32LittleEndian(r[60..], transfer.Offset);
                BinaryPrimitives.WriteUInt32LittleEndian(r[64..], transfer.ToMemory ? ToMemory : 1);
                BinaryPrimitives.WriteUInt32LittleEndian(r[68..], transfer.Pasid is { } pasid ? PasidValid | pasid : 0);
            }
        }
        writer.Add(RegistersSection, StateVersion, r);
        writer.Add(PlainSection, StateVersion, _plain);
        using var memory = _memory.Borrow(onlyIfThere: true);
        if (memory is not null)
        {
            var content = new byte[MemorySize];
            memory.Read(0, content);
            writer.Add(MemorySection, StateVersion, content);
        }
        fault = Fault.None;
        return true;
    }

    /// <summary>Takes and checks the sections, and changes nothing.</summary>
    internal bool TryRead(StateReader reader, out Image image, out Fault fault)
    {
        image = null!;
        if (!_isPaused)
            return RefuseRunning(out fault);
        if (!reader.TryTake(RegistersSection, StateVersion, RegistersSize, RegistersSize, out var registers, out fault)
            || !reader.TryTake(PlainSection, StateVersion, _plain.Length, _plain.Length, out var plain, out fault)
            || !reader.TryTakeIfThere(MemorySection, StateVersion, MemorySize, MemorySize, out var memory, out fault))
            return false;
        var r = registers.Content.Span;
        var status = BinaryPrimitives.ReadUInt32LittleEndian(r[24..]);
        var command = BinaryPrimitives.ReadUInt32LittleEndian(r[64..]);
        var pasid = BinaryPrimitives.ReadUInt32LittleEndian(r[68..]);
        var isTransfer = IsTransfer(BinaryPrimitives.ReadUInt32LittleEndian(r[56..]), BinaryPrimitives.ReadUInt32LittleEndian(r[60..]));
        // One waits, or none is under way.
        var pasids = hasPasid ? PasidValid | PasidMask : 0;
        var isRight = (BinaryPrimitives.ReadUInt32LittleEndian(r[28..]) & ~pasids) == 0 && BinaryPrimitives.ReadUInt32LittleEndian(r) <= AllCauses && BinaryPrimitives.ReadUInt32LittleEndian(r[4..]) <= AllCauses
            && status <= (uint)Status.Wrong && (status == (uint)Status.Busy) == (command != 0)
            && (command == 0 || (command <= ToMemory && isTransfer && (pasid & ~pasids) == 0));
        if (!isRight)
        {
            fault = new Fault(Errno.EINVAL, $"section '{RegistersSection}', version {registers.Version}, has a value that such a function never has");
            return false;
        }
        image = new Image(registers.Content, plain.Content, memory?.Content ?? default);
        return true;
    }

    /// <summary>Takes a state over that was read.</summary>
    /// <param name="image">The state.</param>
    /// <param name="fault">ENOMEM: the host has no memory for BAR 2; nothing changed.</param>
    internal bool TryApply(Image image, out Fault fault)
    {
        using (var memory = _memory.Borrow(onlyIfThere: image.Memory.IsEmpty))
        {
            if (memory is null && !image.Memory.IsEmpty)
            {
                fault = new Fault(Errno.ENOMEM, "the host has no memory for the function's BAR 2");
                return false;
            }
            memory?.Write(0, image.Memory.IsEmpty ? new byte[MemorySize] : image.Memory.Span);
        }
        lock (_lock)
        {
            var r = image.Registers.Span;
            Span<uint> values = stackalloc uint[10];
            for (var i = 0; i < values.Length; i++)
                values[i] = BinaryPrimitives.ReadUInt32LittleEndian(r[(4 * i)..]);
            (_cause, _enable, _doorbells, _doorbellValue, _length) = (values[0], values[1], values[2], values[3], values[4]);
            (_offset, _status, _pasid, _transfers, _resets) = (values[5], values[6], values[7], values[8], values[9]);
            _address = BinaryPrimitives.ReadUInt64LittleEndian(r[40..]);
            image.Plain.Span.CopyTo(_plain);
            _transfer = null;
            var command = BinaryPrimitives.ReadUInt32LittleEndian(r[64..]);
            var pasid = BinaryPrimitives.ReadUInt32LittleEndian(r[68..]);
            if (command != 0)
            {
                _transfer = new Transfer(
                    new Iova(BinaryPrimitives.ReadUInt64LittleEndian(r[48..])),
                    BinaryPrimitives.ReadInt32LittleEndian(r[56..]),
                    BinaryPrimitives.ReadInt32LittleEndian(r[60..]),
                    command == ToMemory,
                    (pasid & PasidValid) != 0 ? pasid & PasidMask : null);
            }
            if (_transfer is not null && !TryStart())
                (_transfer, _status) = (null, (uint)Status.Unreachable);
            host.StageInterrupt((_cause & _enable) != 0);
        }
        host.ShowInterrupt();
        fault = Fault.None;
        return true;
    }

    private static bool RefuseRunning(out Fault fault)
    {
        fault = new Fault(Errno.EBUSY, "the function does not stand still");
        return false;
    }
}
