using Microsoft.Extensions.Logging;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Samples;

[assembly: FabricModule("aux_test_device", typeof(TestDeviceModule), Description = "Publishes a test part and a factory part")]

namespace Virtbus.Samples;

/// <summary>The creator: one device with two parts, each for a consumer of another kind.</summary>
public sealed class TestDeviceModule : IFabricModule, ITestPort, IFactoryPort
{
    private readonly List<Device> _devices = [];
    private readonly HashSet<string> _consumers = [];
    private ILogger? _log;

    /// <inheritdoc/>
    public string Greeting => "hello from aux_test_device";

    /// <inheritdoc/>
    public string SerialNumber { get; private set; } = "";

    /// <inheritdoc/>
    public async ValueTask InitAsync(ModuleContext context)
    {
        _log = context.Log;
        var bus = context.Fabric.GetBus<AuxiliaryBus>();
        // The creator allocates and embeds what it shares (step one), the constructors initialize (step two), AddAsync adds (step three).
        var parent = new Device("aux_test");
        await AddAsync(context.Fabric, parent);
        await AddAsync(context.Fabric, new TestPart(bus, 0, parent, this));
        await AddAsync(context.Fabric, new FactoryPart(bus, 0, parent, this));
    }

    /// <inheritdoc/>
    public async ValueTask ExitAsync()
    {
        // The parts go before what they share does; unbinding their drivers is the bus's work.
        foreach (var device in Enumerable.Reverse(_devices))
            await device.Fabric!.UnregisterAsync(device);
        _devices.Clear();
    }

    /// <inheritdoc/>
    public void Open(string consumer)
    {
        lock (_consumers)
            _consumers.Add(consumer);
        _log?.LogInformation("{Consumer} opened the test port", consumer);
    }

    /// <inheritdoc/>
    public void Close(string consumer)
    {
        lock (_consumers)
            _consumers.Remove(consumer);
        _log?.LogInformation("{Consumer} closed the test port", consumer);
    }

    /// <inheritdoc/>
    public void Provision(string serialNumber)
    {
        ArgumentNullException.ThrowIfNull(serialNumber);
        if (serialNumber.Length is 0 or > 32 || !serialNumber.All(char.IsAsciiLetterOrDigit))
            throw new VirtbusException(Errno.EINVAL, $"Serial number '{serialNumber}' is not valid. Use 1 to 32 letters and digits.");
        if (SerialNumber.Length > 0)
            throw new VirtbusException(Errno.EBUSY, $"The serial number is '{SerialNumber}' already. It is provisioned once.");
        SerialNumber = serialNumber;
    }

    /// <inheritdoc/>
    public string SelfTest()
    {
        lock (_consumers)
            return $"pass, {_consumers.Count} consumers";
    }

    private async ValueTask AddAsync(Fabric fabric, Device device)
    {
        try
        {
            await fabric.AddAsync(device);
        }
        catch
        {
            device.Put();
            throw;
        }
        _devices.Add(device);
    }
}
