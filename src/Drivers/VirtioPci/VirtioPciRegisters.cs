using Virtbus.Buses.Pci;
using Virtbus.Virtio;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>The structures of a modern function as registers. What lies beyond the end of one reads as all ones, and swallows writes.</summary>
internal sealed class VirtioPciRegisters(PciDevice device, VirtioPciLayout layout) : IVirtioRegisterAccess
{
    private readonly PciRegion _common = device.GetRegion(layout.Common.Bar);
    private readonly PciRegion? _config = layout.Config is { } config ? device.GetRegion(config.Bar) : null;

    /// <summary>Bytes of the configuration of the device's type; 0 when it has none.</summary>
    public ulong ConfigSize => layout.Config?.Length ?? 0;

    public void Read(int offset, Span<byte> destination)
    {
        if (Holds(layout.Common.Length, offset, destination.Length))
            _common.Read(layout.Common.Offset + (ulong)offset, destination);
        else
            destination.Fill(0xFF);
    }

    public void Write(int offset, ReadOnlySpan<byte> source)
    {
        if (Holds(layout.Common.Length, offset, source.Length))
            _common.Write(layout.Common.Offset + (ulong)offset, source);
    }

    // Field by field at its own width: the places and sizes of all of them are those of what lies naturally aligned (4.1.3.1).
    public void ReadConfig(int offset, Span<byte> destination)
    {
        if (!Holds(ConfigSize, offset, destination.Length))
        {
            destination.Fill(0xFF);
            return;
        }

        for (var done = 0; done < destination.Length;)
        {
            var length = Math.Min(PciRegion.RegisterAt((ulong)(offset + done), destination.Length - done), sizeof(uint));
            _config!.Read(layout.Config!.Value.Offset + (ulong)(offset + done), destination.Slice(done, length));
            done += length;
        }
    }

    public void WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
        if (Holds(ConfigSize, offset, source.Length))
            _config!.Write(layout.Config!.Value.Offset + (ulong)offset, source);
    }

    private static bool Holds(ulong size, int offset, int length) => (ulong)offset + (ulong)length <= size;
}
