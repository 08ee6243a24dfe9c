using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A function that answers as another one does, but for what a test makes of its answers.</summary>
internal sealed class SpoiledFunction(IPciFunction inner) : IPciFunction
{
    /// <summary>Changes what is read of config space: first byte, bytes.</summary>
    internal Spoil? Config { get; set; }

    /// <summary>Changes what is read of a BAR.</summary>
    internal BarSpoil? Bar { get; set; }

    /// <summary>Told of each write to a BAR: which, where, how many bytes.</summary>
    internal Action<int, ulong, int>? OnWrite { get; set; }

    /// <summary>Told of each write to a BAR of 2 bytes: where, and what.</summary>
    internal Action<ulong, ushort>? OnWord { get; set; }

    /// <summary>What it is plugged into, for what it says without cause; null before.</summary>
    internal IPciPort? Port { get; private set; }

    public bool IsReal { get; init; }

    public int ConfigSize => inner.ConfigSize;

    public bool IsPresent => inner.IsPresent;

    public IReadOnlyList<PciDoorbell> Doorbells => inner.Doorbells;

    public IReadOnlyList<IPciFunction> VirtualFunctions => inner.VirtualFunctions;

    public void SetLostCallback(Action? lost) => inner.SetLostCallback(lost);

    public void ReadConfig(int offset, Span<byte> destination)
    {
        inner.ReadConfig(offset, destination);
        Config?.Invoke(offset, destination);
    }

    public void WriteConfig(int offset, ReadOnlySpan<byte> source) => inner.WriteConfig(offset, source);

    public PciBar GetBar(int bar) => inner.GetBar(bar);

    public IReadOnlyList<PciBarArea> GetBarAreas(int bar) => inner.GetBarAreas(bar);

    public void ReadBar(int bar, ulong offset, Span<byte> destination)
    {
        inner.ReadBar(bar, offset, destination);
        Bar?.Invoke(bar, offset, destination);
    }

    public void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        OnWrite?.Invoke(bar, offset, source.Length);
        if (source.Length == sizeof(ushort))
            OnWord?.Invoke(offset, System.Buffers.Binary.BinaryPrimitives.ReadUInt16LittleEndian(source));
        inner.WriteBar(bar, offset, source);
    }

    public bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault) => inner.TryAttachDoorbell(doorbell, signal, out fault);

    public void Plug(IPciPort port)
    {
        Port = port;
        inner.Plug(port);
    }

    public void Unplug() => inner.Unplug();

    public void Reset() => inner.Reset();

    public void Dispose() => inner.Dispose();

    /// <summary>A function whose capabilities are of kinds that there are not, so that its ports alone are left.</summary>
    internal static SpoiledFunction WithoutCapabilities(IPciFunction inner)
    {
        var places = Enumerable.Range(1, 5).Select(type => Find(inner, (byte)type)).Where(static at => at != 0).ToArray();
        return new SpoiledFunction(inner)
        {
            Config = (offset, bytes) =>
            {
                foreach (var at in places)
                    Put(offset, bytes, at + 3, 0x77, 1);
            },
        };
    }

    /// <summary>Where in config space the capability of a structure is; 0 when there is none.</summary>
    internal static int Find(IPciFunction function, byte type)
    {
        Span<byte> bytes = stackalloc byte[4];
        function.ReadConfig(PciHeader.PCI_CAPABILITY_LIST, bytes[..1]);
        for (int at = bytes[0]; at != 0; at = bytes[1])
        {
            function.ReadConfig(at, bytes);
            if (bytes[0] == PciCapabilityId.PCI_CAP_ID_VNDR && bytes[3] == type)
                return at;
        }

        return 0;
    }

    /// <summary>Replaces bytes of config space in what was read of it.</summary>
    internal static void Put(int offset, Span<byte> bytes, int at, uint value, int count)
    {
        for (var i = 0; i < count; i++)
        {
            if (at + i >= offset && at + i < offset + bytes.Length)
                bytes[at + i - offset] = (byte)(value >> (8 * i));
        }
    }

    internal delegate void Spoil(int offset, Span<byte> bytes);

    internal delegate void BarSpoil(int bar, ulong offset, Span<byte> bytes);
}
