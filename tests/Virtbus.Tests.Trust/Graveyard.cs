using System.Globalization;
using Virtbus.Tests.Cli;
using Xunit;

namespace Virtbus.Tests.Trust;

/// <summary>A daemon, its devices and their users, of which one after another dies.</summary>
internal sealed class Graveyard : IAsyncDisposable
{
    private const int Slots = 3;
    private const string Manifest = """
        serials:
          - { name: serial0 }
          - { name: serial1 }
        devices:
          - { module: trust, name: slot, count: 3 }
        modules: MODULES
        """;

    // So that some die while they are setting the device up.
    private const int SetUpOperations = 10;
    private const int MostOperations = 400;

    private readonly DaemonProcess _daemon = new(Manifest.Replace("MODULES", Path.Combine(AppContext.BaseDirectory, "trust-modules"), StringComparison.Ordinal));
    private readonly SortedDictionary<Death, int> _counts = [];
    private readonly List<Device> _devices = [];
    private UserProcess _user = new();
    private UserProcess _next = new();
    private UserDevice? _bystander;
    private string _idle = "";

    /// <summary>A device as the daemon has it: kind, address, and the slot device of the virtual bus where there is one.</summary>
    private sealed record Device(DeviceKind Kind, string Address, string? Slot);

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
            LetsGo: death is Death.Removal or Death.Unbind,
            ByMessage: random.Next(3) == 0,
            TwinSocket: random.Next(2) == 0);
        Doing = $"{death} of {job}";
        _counts[death] = _counts.GetValueOrDefault(death) + 1;
        Assert.Equal(User.At, await _user.BeginAsync(job));
        await DieAsync(death, device);
        if (death == Death.Daemon)
            await UpAsync();
        // It works for the next, and nothing of the one before is left.
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
        < 11 => Death.User,
        < 13 => Death.Daemon,
        13 => Death.Removal,
        14 => Death.RemovalFromTheDeaf,
        15 => Death.ForcedRemoval,
        16 => Death.Unbind,
        17 when device.Slot is not null => Death.Break,
        _ when device.Slot is not null => Death.Pull,
        _ => Death.ForcedRemoval,
    };

    private async Task DieAsync(Death death, Device device)
    {
        var path = "/bus/pci/devices/" + device.Address;
        switch (death)
        {
            case Death.User:
                await KillUserAsync();
                return;
            case Death.Daemon:
                await _daemon.KillAsync();
                Assert.Contains(await _user.EndAsync(), new[] { User.Lost, User.Refused });
                return;
            case Death.Removal:
                await _daemon.SetAsync(path + "/remove", "1");
                Assert.Contains(await _user.EndAsync(), new[] { User.Left, User.Refused });
                break;
            case Death.RemovalFromTheDeaf:
                var lines = _daemon.LogLength;
                var removal = _daemon.SetAsync(path + "/remove", "1");
                Assert.True(SpinWait.SpinUntil(() => removal.IsCompleted || _daemon.Logged(lines, device.Address, "asked to let go"), TestFabric.Deadline));
                // One that came too late was refused, and is no user any more.
                if (removal.IsCompleted)
                    Assert.Equal(User.Refused, await _user.EndAsync());
                else
                    await KillUserAsync();
                await removal;
                break;
            case Death.ForcedRemoval:
                await _daemon.SetAsync(await _daemon.VfioDeviceOfAsync(device.Address) + "/revoke", "1");
                await _daemon.SetAsync(path + "/remove", "1");
                Assert.Contains(await _user.EndAsync(), new[] { User.Lost, User.Refused });
                break;
            case Death.Unbind:
                await _daemon.SetAsync("/bus/pci/drivers/vfio-pci/unbind", device.Address);
                Assert.Contains(await _user.EndAsync(), new[] { User.Left, User.Refused });
                await _daemon.SetAsync("/bus/pci/drivers/vfio-pci/bind", device.Address);
                return;
            default:
                await _daemon.SetAsync(device.Slot + "/hardware", death == Death.Pull ? "pulled" : "broken");
                Assert.Contains(await _user.EndAsync(), new[] { User.Lost, User.Refused });
                await _daemon.SetAsync(device.Slot + "/hardware", "in");
                Assert.Equal(device.Address, await _daemon.GetAsync(device.Slot + "/address"));
                return;
        }
        // The hardware is still there, and the driver that it belonged to is to be told again.
        await _daemon.SetAsync("/bus/pci/rescan", "1");
        await _daemon.SetAsync(path + "/driver_override", "vfio-pci");
        await _daemon.SetAsync("/bus/pci/drivers_probe", device.Address);
    }

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
            _devices.Add(new Device(DeviceKind.Serial, await _daemon.AddressOfAsync($"serial{i}"), null));
        for (var i = 0; i < Slots; i++)
        {
            var slot = $"/bus/auxiliary/devices/trust.slot.{i}";
            _devices.Add(new Device(DeviceKind.Scratch, await _daemon.GetAsync(slot + "/address"), slot));
        }
        // What comes with a device's first use comes now.
        foreach (var device in _devices)
            UserDevice.Check(device.Kind, _daemon.SocketOf(device.Address), byMessage: false, twinSocket: true);
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
