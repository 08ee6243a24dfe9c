using Virtbus.Buses.Pci;
using Virtbus.Pci;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A function that is plugged in, with what is behind it: the socket of a line, a disk's medium.</summary>
/// <param name="name">Its name.</param>
/// <param name="function">The hardware.</param>
/// <param name="console">The socket of its line or console; null when it has none.</param>
/// <param name="medium">What it is on; null for nothing.</param>
internal sealed class PluggedPart(string name, IPciFunction function, SerialConsole? console, IDisposable? medium = null) : IAsyncDisposable
{
    /// <summary>Its name.</summary>
    public string Name => name;

    /// <summary>The hardware.</summary>
    public IPciFunction Function => function;

    /// <summary>The socket of its line or console; null when it has none.</summary>
    public SerialConsole? Console => console;

    /// <summary>What it is on; null for nothing.</summary>
    public IDisposable? Medium => medium;

    /// <summary>What its virtual functions are on.</summary>
    public IReadOnlyList<IDisposable> VirtualMedia { get; init; } = [];

    /// <summary>Takes back by what other ways the medium is offered, and ends when nobody reaches it by these; null when there are none.</summary>
    public Func<ValueTask>? Withdraw { get; init; }

    /// <summary>The device that the function was given first; null until it is in its slot.</summary>
    public PciDevice? Device { get; set; }

    public async ValueTask DisposeAsync()
    {
        // Not the device: by a remove and a rescan that is another one now. Somebody may have pulled the hardware out, too.
        if (Device is { } device)
            await device.Fabric!.GetBus<PciBus>().UnplugAsync(function);
        if (console is not null)
            await console.DisposeAsync();
        if (Withdraw is { } withdraw)
            await withdraw();
        function.Dispose();
        medium?.Dispose();
        foreach (var other in VirtualMedia)
            other.Dispose();
    }
}
