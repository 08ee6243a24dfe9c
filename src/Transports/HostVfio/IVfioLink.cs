using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Transports.HostVfio;

/// <summary>A device at the other end of VFIO, whatever carries the calls: regions, interrupts by eventfds, memory, reset. Any thread.</summary>
internal interface IVfioLink : IDisposable
{
    /// <summary>Whether <see cref="TryReset"/> can do something.</summary>
    bool CanReset { get; }

    bool TryGetRegion(uint index, out VfioRegionInfo info);

    uint GetVectors(uint index);

    bool TryRead(uint region, ulong offset, Span<byte> destination);

    bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source);

    bool TrySetIrqs(in VfioIrqSet set, out Fault fault);

    bool TryReset(out Fault fault);

    /// <summary>Lets the device reach memory that stays mapped until it is unmapped here.</summary>
    bool TryMap(IovaRange range, nint address, DmaAccess access, out Fault fault);

    bool TryUnmap(IovaRange range, out Fault fault);
}
