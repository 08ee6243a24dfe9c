using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Trust;

/// <summary>
/// A daemon with a network device and a disk of virtio. The first virtual function of each is handed out by the variant that migrates; the second one of the
/// network device is a machine outside.
/// </summary>
internal sealed class VirtioMachine : IAsyncDisposable
{
    public const string Net = "nic0v0";
    public const string Outside = "nic0v1";
    public const string Disk = "disk0v0";
    public const string OtherDisk = "disk0v1";

    private readonly string _folder = Directory.CreateTempSubdirectory("vb").FullName;
    private readonly DaemonProcess _daemon;
    private readonly Dictionary<string, string> _sockets = [];

    public VirtioMachine()
    {
        // Nothing of it is on another machine before it was brought there.
        var content = new byte[VirtioDiskUser.DiskSize];
        Random.Shared.NextBytes(content);
        File.WriteAllBytes(DiskFile, content);
        File.WriteAllBytes(Path.Combine(_folder, "disk"), new byte[VirtioDiskUser.DiskSize]);
        File.WriteAllBytes(Path.Combine(_folder, "disk-1"), new byte[VirtioDiskUser.DiskSize]);
        _daemon = new DaemonProcess($$"""
            functions:
              - { name: nic0, virtio: net, vfs: 2, mac: "02:00:00:00:07:00", driver: virtio-pci }
              - { name: disk0, virtio: blk, file: {{_folder}}/disk, vfs: 2, vf_file: {{_folder}}/disk-%, driver: virtio-pci }
            """);
    }

    /// <summary>The file of the virtual function's disk.</summary>
    public string DiskFile => Path.Combine(_folder, "disk-0");

    public DaemonProcess Daemon => _daemon;

    /// <summary>The socket of a function.</summary>
    public string SocketOf(string name) => _sockets[name];

    /// <summary>Starts it.</summary>
    public async Task<VirtioMachine> BeginAsync()
    {
        await _daemon.UpAsync();
        await _daemon.LoadAsync("virtio_vfio_pci");
        foreach (var name in (string[])[Outside, OtherDisk])
            _sockets[name] = _daemon.SocketOf(await _daemon.AddressOfAsync(name));
        foreach (var name in (string[])[Net, Disk])
        {
            var address = await _daemon.AddressOfAsync(name);
            await _daemon.SetAsync("/bus/pci/drivers/vfio-pci/unbind", address);
            await _daemon.SetAsync($"/bus/pci/devices/{address}/driver_override", "virtio-vfio-pci");
            await _daemon.SetAsync("/bus/pci/drivers_probe", address);
            var socket = _sockets[name] = _daemon.SocketOf(address);
            Assert.True(SpinWait.SpinUntil(() => File.Exists(socket), TestFabric.Deadline), $"{socket} is not there.");
            Assert.Equal(name == Net ? "virtio-vfio-pci-trans-lm" : "virtio-vfio-pci-lm", await _daemon.GetAsync($"/bus/pci/devices/{address}/virtio_vfio_ops"));
        }

        return this;
    }

    /// <summary>Brings the content of another machine's disk here, while nobody uses either.</summary>
    public async Task CopyDiskAsync(VirtioMachine from)
    {
        // A program of its own: the files are locked against those that look at locks, and the disk has to stay the same file.
        using var copy = System.Diagnostics.Process.Start("dd", ["status=none", "conv=notrunc", "if=" + from.DiskFile, "of=" + DiskFile]);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        await copy.WaitForExitAsync(deadline.Token);
        Assert.Equal(0, copy.ExitCode);
    }

    public async ValueTask DisposeAsync()
    {
        await _daemon.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }
}
