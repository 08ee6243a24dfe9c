using Virtbus.Buses.Virtio;
using Virtbus.Subsystems.Tty;
using Virtbus.Virtio;

namespace Virtbus.Drivers.VirtioConsole;

/// <summary>Registers a line of the tty subsystem, hvc0 and on, for each virtio console (VIRTIO 1.3, 5.3), which is taken to have one port.</summary>
[VirtioDeviceTable(VirtioDeviceId.VIRTIO_ID_CONSOLE)]
internal sealed class VirtioConsoleDriver(VirtioBus bus, string module) : VirtioDriver(bus, module)
{
    private const string Kind = "hvc";

    public override VirtioFeatures Features { get; } = VirtioFeatures.Of(ConsolePort.VIRTIO_CONSOLE_F_SIZE);

    protected override async ValueTask ProbeAsync(VirtioBusDevice device, CancellationToken cancellationToken)
    {
        var port = device.Resources.Add(new ConsolePort(device));
        port.Start();
        var subsystem = TtySubsystem.Of(device.Fabric!);
        var line = await subsystem.RegisterAsync(device, Kind, port);
        device.Resources.AddAction(() => subsystem.UnregisterAsync(line));
        port.SetLine(line);
        device.SetDriverData(port);
    }

    protected override ValueTask RemoveAsync(VirtioBusDevice device)
    {
        device.GetDriverData<ConsolePort>()?.Stop();
        return default;
    }

    protected override ValueTask FreezeAsync(VirtioBusDevice device)
    {
        device.GetDriverData<ConsolePort>()!.Sleep();
        return default;
    }

    protected override ValueTask RestoreAsync(VirtioBusDevice device)
    {
        device.GetDriverData<ConsolePort>()!.Start();
        return default;
    }

    protected override void OnConfigChanged(VirtioBusDevice device) => device.GetDriverData<ConsolePort>()?.Refresh();
}
