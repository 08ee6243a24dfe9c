using Virtbus.Buses.Pci;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Tests.Guest.Module;

/// <summary>QEMU's device for lessons (docs/specs/edu.rst there): registers, a factorial, DMA, and an interrupt for both.</summary>
internal sealed class Edu(PciDevice device)
{
    internal const uint Vendor = 0x1234;
    internal const uint Device = 0x11E8;

    private const ulong Identity = 0x00, Liveness = 0x04, Factorial = 0x08, Status = 0x20, Cause = 0x24, Acknowledge = 0x64;
    private const ulong DmaSource = 0x80, DmaTarget = 0x88, DmaCount = 0x90, DmaCommand = 0x98;
    private const ulong OwnMemory = 0x40000;
    private const uint TellFactorial = 0x80;
    private const uint FactorialDone = 1, DmaDone = 0x100;
    private const uint Start = 1, ToMemory = 2, Tell = 4;
    private const int Bytes = 4096;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly PciRegion _registers = device.GetRegion(0);
    private readonly ManualResetEventSlim _told = new();
    private uint _cause;

    /// <summary>Has it do all that it can, told by one kind of interrupt.</summary>
    internal void Run(PciInterruptKinds kind)
    {
        Console.WriteLine($"edu {kind} id {_registers.Read32(Identity):x8}");
        _registers.Write32(Liveness, 0x12345678);
        Console.WriteLine($"edu {kind} inverts to {_registers.Read32(Liveness):x8}");
        device.AllocateVectors(1, 1, kind)[0].SetHandler(TakeInterrupt);
        try
        {
            _registers.Write32(Status, TellFactorial);
            // More than once: a line that is not unmasked tells once only.
            foreach (var number in (uint[])[5, 10])
            {
                _registers.Write32(Factorial, number);
                Await(FactorialDone);
                Console.WriteLine($"edu {kind} factorial {_registers.Read32(Factorial)}");
            }

            Copy(kind);
        }
        finally
        {
            device.FreeVectors();
        }
    }

    private void Copy(PciInterruptKinds kind)
    {
        if (!device.IommuGroup.TryAllocate(2 * Bytes, out var memory, out var fault))
            throw new VirtbusException(fault.Errno, fault.Message);
        ulong target;
        using (memory)
        {
            var bytes = memory!.Span;
            Random.Shared.NextBytes(bytes[..Bytes]);
            target = memory.Address.Value + Bytes;
            Move(memory.Address.Value, OwnMemory, Start | Tell);
            Move(OwnMemory, target, Start | ToMemory | Tell);
            Console.WriteLine($"edu {kind} copied {Bytes} bytes {(bytes[Bytes..].SequenceEqual(bytes[..Bytes]) ? "as they are" : "wrong")}");
        }

        // The memory is this process's no more: the IOMMU stops who still writes there, and the kernel's log has it.
        Move(OwnMemory, target, Start | ToMemory | Tell);
        Console.WriteLine($"edu {kind} went on");
    }

    private void Move(ulong from, ulong to, uint command)
    {
        _registers.Write64(DmaSource, from);
        _registers.Write64(DmaTarget, to);
        _registers.Write64(DmaCount, Bytes);
        _registers.Write64(DmaCommand, command);
        Await(DmaDone);
    }

    private void TakeInterrupt()
    {
        var cause = _registers.Read32(Cause);
        if (cause == 0)
            return;
        Volatile.Write(ref _cause, cause);
        _registers.Write32(Acknowledge, cause);
        _told.Set();
    }

    private void Await(uint cause)
    {
        if (!_told.Wait(Patience))
            throw new VirtbusException(Errno.ETIMEDOUT, $"No interrupt came; the device's cause is {_registers.Read32(Cause):x}.");
        _told.Reset();
        if (Volatile.Read(ref _cause) != cause)
            throw new VirtbusException(Errno.EPROTO, $"The interrupt's cause is {_cause:x} and not {cause:x}.");
    }
}
