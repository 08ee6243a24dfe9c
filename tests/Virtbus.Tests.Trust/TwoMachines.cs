using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Trust;

/// <summary>Two daemons with the same adapter each, whose first two virtual functions migrate; the third is a machine outside.</summary>
public sealed class TwoMachines : IAsyncLifetime
{
    public const int GuestFunctions = 2;

    /// <summary>The function that does not migrate.</summary>
    public const int Outside = GuestFunctions;

    private const string Adapter = "/bus/pci/devices/0000:01:00.0";
    private static readonly string[] Drivers = ["merlin-vfio-pci", "merlin-vfio-pci", "vfio-pci"];

    // Two addresses, so that nothing of the state is the same before it was brought over.
    private readonly DaemonProcess[] _daemons = [Make("02:00:00:00:01:00"), Make("02:00:00:00:02:00")];
    private readonly string[,] _sockets = new string[2, Drivers.Length];

    public async ValueTask InitializeAsync() => await Task.WhenAll(BeginAsync(0), BeginAsync(1));

    /// <summary>The socket of a function.</summary>
    /// <param name="machine">0 or 1.</param>
    /// <param name="function">Its number.</param>
    public string SocketOf(int machine, int function) => _sockets[machine, function];

    /// <summary>Nothing went wrong inside the daemons.</summary>
    public void CheckLogs()
    {
        foreach (var daemon in _daemons)
            daemon.CheckLog();
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var daemon in _daemons)
            await daemon.DisposeAsync();
    }

    private static DaemonProcess Make(string mac) => new($$"""
        adapters:
          - { name: adapter0, model: merlin, mac: "{{mac}}" }
        serials:
          - { name: serial0 }
        """);

    private async Task BeginAsync(int machine)
    {
        var daemon = _daemons[machine];
        await daemon.UpAsync();
        await daemon.LoadAsync("merlin_vfio_pci");
        await daemon.SetAsync(Adapter + "/sriov_drivers_autoprobe", "0");
        await daemon.SetAsync(Adapter + "/sriov_numvfs", $"{Drivers.Length}");
        var links = await daemon.ListAsync(Adapter);
        for (var i = 0; i < Drivers.Length; i++)
        {
            var address = Path.GetFileName(links[$"virtfn{i}"])!;
            await daemon.SetAsync($"/bus/pci/devices/{address}/driver_override", Drivers[i]);
            await daemon.SetAsync("/bus/pci/drivers_probe", address);
            var socket = _sockets[machine, i] = daemon.SocketOf(address);
            Assert.True(SpinWait.SpinUntil(() => File.Exists(socket), TestFabric.Deadline), $"{socket} is not there.");
        }
    }
}
