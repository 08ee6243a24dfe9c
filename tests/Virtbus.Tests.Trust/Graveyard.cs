using System.Globalization;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Trust;

/// <summary>A daemon, its devices and their users, of which one after another dies.</summary>
internal sealed class Graveyard : IAsyncDisposable
{
    private const int Slots = 3;
    private const string Manifest = """
        adapters:
          - { name: adapter0, model: merlin }
        disks:
          - { name: disk0, adapter: adapter0, memory: 1MiB }
        serials:
          - { name: serial0 }
          - { name: serial1 }
        devices:
          - { module: trust, name: slot, count: 3 }
        modules: MODULES
        """;

    // The adapter is the first that the manifest names.
    private const string Adapter = "/bus/pci/devices/0000:01:00.0";
    private static readonly string[] FunctionDrivers = ["merlin-vfio-pci", "vfio-pci"];

    // So that some die while they are setting the device up.
    private const int SetUpOperations = 9;
    private const int MostOperations = 400;

    private readonly DaemonProcess _daemon = new(Manifest.Replace("MODULES", Path.Combine(AppContext.BaseDirectory, "trust-modules"), StringComparison.Ordinal));
    private readonly SortedDictionary<Death, int> _counts = [];
    private readonly List<Device> _devices = [];
    private UserProcess _user = new();
    private UserProcess _next = new();
    private UserDevice? _bystander;
    private string _idle = "";

    /// <summary>A device as the daemon has it.</summary>
    /// <param name="Kind">Its kind.</param>
    /// <param name="Address">Its address.</param>
    /// <param name="Driver">The driver that hands it to users.</param>
    /// <param name="Slot">The device on the virtual bus by which its hardware can be pulled out, where there is one.</param>
    private sealed record Device(DeviceKind Kind, string Address, string Driver = "vfio-pci", string? Slot = null)
    {
        public string Path => "/bus/pci/devices/" + Address;
    }

    /// <summary>What the step does, for messages.</summary>
    public string Doing { get; private set; } = "";

    /// <summary>The last lines of the daemon's log.</summary>
    public string Log => _daemon.LogTail;

    /// <summary>How many of each there were.</summary>
    public string Counts => string.Join(", ", _counts.Select(c => string.Create(CultureInfo.InvariantCulture, $"{c.Value} {c.Key}")));

    public async Task BeginAsync()
    {
        await UpAsync();
        _idle = _daemon.Holds;
    }

    /// <summary>One death, and what is to be so after it.</summary>
    public async Task StepAsync(Random random)
    {
        var device = _devices[random.Next(_devices.Count)];
        var death = Choose(random, device);
        var tell = random.Next(3) == 0 ? random.Next(SetUpOperations) : random.Next(MostOperations);
        var job = new UserJob(
            device.Kind,
            _daemon.SocketOf(device.Address),
            random.Next(),
            tell,
            LetsGo: death is Death.Removal or Death.Unbind or Death.ParentRemoval,
            ByMessage: random.Next(3) == 0,
            TwinSocket: random.Next(2) == 0);
        Doing = $"{death} of {job}";
        _counts[death] = _counts.GetValueOrDefault(death) + 1;
        Assert.Equal(User.At, await _user.BeginAsync(job));
        await DieAsync(death, device);
        if (death == Death.Daemon)
            await UpAsync();
        // It works for the next, and nothing of the one before is left.
        SeeSocket(job.Path);
        UserDevice.Check(device.Kind, job.Path, byMessage: random.Next(2) == 0, twinSocket: random.Next(2) == 0);
        // Those beside it never noticed.
        _bystander!.Check();
        SeeIdle();
        _daemon.CheckLog();
    }

    /// <summary>Takes all down, with users still there.</summary>
    public async Task EndAsync()
    {
        Doing = "down";
        // Hardware whose device is another one than at the beginning goes too.
        await _daemon.SetAsync($"/bus/pci/devices/{_devices[0].Address}/remove", "1");
        await _daemon.SetAsync("/bus/pci/rescan", "1");
        var serial = _devices[1];
        Assert.Equal(User.At, await _user.BeginAsync(new UserJob(serial.Kind, _daemon.SocketOf(serial.Address), 1, MostOperations, LetsGo: false, ByMessage: false, TwinSocket: true)));
        await _daemon.DownAsync();
        Assert.Equal(User.Lost, await _user.EndAsync());
        Assert.True(SpinWait.SpinUntil(() => !_bystander!.Client.IsConnected, TestFabric.Deadline));
    }

    public async ValueTask DisposeAsync()
    {
        _bystander?.Dispose();
        _user.Dispose();
        _next.Dispose();
        await _daemon.DisposeAsync();
    }

    private static Death Choose(Random random, Device device) => random.Next(20) switch
    {
        < 10 => Death.User,
        < 13 => Death.Daemon,
        13 => Death.Removal,
        14 => Death.RemovalFromTheDeaf,
        15 => Death.ForcedRemoval,
        16 => Death.Unbind,
        17 when device.Slot is not null => Death.Break,
        _ when device.Slot is not null => Death.Pull,
        _ when device.Kind == DeviceKind.Nic => Death.ParentRemoval,
        _ => Death.ForcedRemoval,
    };

    private async Task DieAsync(Death death, Device device)
    {
        switch (death)
        {
            case Death.User:
                await KillUserAsync();
                break;
            case Death.Daemon:
                await _daemon.KillAsync();
                await SeeUserEndAsync(User.Lost);
                break;
            case Death.Removal:
                await RemoveAsync(device);
                await SeeUserEndAsync(User.Left);
                await BringBackAsync(device);
                break;
            case Death.RemovalFromTheDeaf:
                var lines = _daemon.LogLength;
                var removal = RemoveAsync(device);
                Assert.True(SpinWait.SpinUntil(() => removal.IsCompleted || _daemon.Logged(lines, device.Address, "asked to let go"), TestFabric.Deadline));
                // One that came too late was refused, and is no user any more.
                if (removal.IsCompleted)
                    Assert.Equal(User.Refused, await _user.EndAsync());
                else
                    await KillUserAsync();
                await removal;
                await BringBackAsync(device);
                break;
            case Death.ForcedRemoval:
                await _daemon.SetAsync(await _daemon.VfioDeviceOfAsync(device.Address) + "/revoke", "1");
                await RemoveAsync(device);
                await SeeUserEndAsync(User.Lost);
                await BringBackAsync(device);
                break;
            case Death.Unbind:
                await _daemon.SetAsync($"/bus/pci/drivers/{device.Driver}/unbind", device.Address);
                await SeeUserEndAsync(User.Left);
                await _daemon.SetAsync($"/bus/pci/drivers/{device.Driver}/bind", device.Address);
                break;
            case Death.ParentRemoval:
                await _daemon.SetAsync(Adapter + "/remove", "1");
                await SeeUserEndAsync(User.Left);
                await _daemon.SetAsync("/bus/pci/rescan", "1");
                await EnableFunctionsAsync();
                SeeSocket(Path.Combine(_daemon.Runtime, "disk0.sock"));
                break;
            default:
                await _daemon.SetAsync(device.Slot + "/hardware", death == Death.Pull ? "pulled" : "broken");
                await SeeUserEndAsync(User.Lost);
                await _daemon.SetAsync(device.Slot + "/hardware", "in");
                Assert.Equal(device.Address, await _daemon.GetAsync(device.Slot + "/address"));
                break;
        }
    }

    // Of virtual functions there is a number, and no one of them.
    private Task RemoveAsync(Device device) => device.Kind == DeviceKind.Nic ? _daemon.SetAsync(Adapter + "/sriov_numvfs", "0") : _daemon.SetAsync(device.Path + "/remove", "1");

    // The hardware is still there; which driver it belongs to has to be said again.
    private async Task BringBackAsync(Device device)
    {
        if (device.Kind == DeviceKind.Nic)
        {
            await EnableFunctionsAsync();
            return;
        }
        await _daemon.SetAsync("/bus/pci/rescan", "1");
        await GiveAsync(device);
    }

    private async Task GiveAsync(Device device)
    {
        await _daemon.SetAsync(device.Path + "/driver_override", device.Driver);
        await _daemon.SetAsync("/bus/pci/drivers_probe", device.Address);
    }

    private async Task<List<Device>> EnableFunctionsAsync()
    {
        await _daemon.SetAsync(Adapter + "/sriov_drivers_autoprobe", "0");
        await _daemon.SetAsync(Adapter + "/sriov_numvfs", $"{FunctionDrivers.Length}");
        var links = await _daemon.ListAsync(Adapter);
        var functions = FunctionDrivers.Select((driver, i) => new Device(DeviceKind.Nic, Path.GetFileName(links[$"virtfn{i}"])!, driver)).ToList();
        foreach (var function in functions)
            await GiveAsync(function);
        return functions;
    }

    private async Task SeeUserEndAsync(string expected)
    {
        var end = await _user.EndAsync();
        // One that came too late was refused.
        Assert.True(end == expected || end == User.Refused, $"The user's job ended as '{end}'.");
    }

    private static void SeeSocket(string path) => Assert.True(SpinWait.SpinUntil(() => File.Exists(path), TestFabric.Deadline), $"{path} is not there.");

    private async Task KillUserAsync()
    {
        await _user.KillAsync();
        _user.Dispose();
        // The next one started while the last one was at work.
        _user = _next;
        _next = new UserProcess();
    }

    private async Task UpAsync()
    {
        _bystander?.Dispose();
        await _daemon.UpAsync();
        _devices.Clear();
        for (var i = 0; i < 2; i++)
            _devices.Add(new Device(DeviceKind.Serial, await _daemon.AddressOfAsync($"serial{i}")));
        await _daemon.LoadAsync("merlin_vfio_pci");
        _devices.AddRange(await EnableFunctionsAsync());
        for (var i = 0; i < Slots; i++)
        {
            var slot = $"/bus/auxiliary/devices/trust.slot.{i}";
            _devices.Add(new Device(DeviceKind.Scratch, await _daemon.GetAsync(slot + "/address"), Slot: slot));
        }
        // What comes with a device's first use comes now.
        foreach (var device in _devices)
        {
            SeeSocket(_daemon.SocketOf(device.Address));
            UserDevice.Check(device.Kind, _daemon.SocketOf(device.Address), byMessage: false, twinSocket: true);
        }
        _bystander = UserDevice.Open(DeviceKind.Scratch, _daemon.SocketOf(_devices[^1].Address), byMessage: false, twinSocket: true);
        _bystander.SetUpOrFail();
        _bystander.Check();
        _devices.RemoveAt(_devices.Count - 1);
        if (_idle.Length > 0)
            SeeIdle();
    }

    private void SeeIdle()
    {
        var holds = "";
        Assert.True(SpinWait.SpinUntil(() => (holds = _daemon.Holds) == _idle, TestFabric.Deadline), $"The daemon holds {holds}, and held {_idle} when it was idle.");
    }
}
