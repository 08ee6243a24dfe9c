using System.Diagnostics;
using Virtbus.Vm;

namespace Virtbus.Tests.Vm;

/// <summary>A vhost-user disk served by qemu-storage-daemon, in a folder of its own.</summary>
internal sealed class Disk : IDisposable
{
    private readonly TestFolder _folder = new();
    private readonly Process _daemon;

    public Disk(int mebibytes = 4)
    {
        Image = _folder.PathOf("disk.img");
        using (FileStream image = File.Create(Image))
            image.SetLength(mebibytes * 1024L * 1024);
        string socket = _folder.PathOf("disk.sock");
        string ready = _folder.PathOf("ready");
        ProcessStartInfo start = new("qemu-storage-daemon") { UseShellExecute = false };
        foreach (string argument in new[]
        {
            "--blockdev", $"file,node-name=disk,filename={Image}", "--export",
            $"vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path={socket},writable=on", "--pidfile", ready,
        })
            start.ArgumentList.Add(argument);
        // The daemon writes its pid file when it listens.
        using FileSystemWatcher watcher = new(_folder.Path) { EnableRaisingEvents = true };
        using ManualResetEventSlim listening = new();
        watcher.Created += (_, change) =>
        {
            if (change.FullPath == ready)
                listening.Set();
        };
        _daemon = Process.Start(start)!;
        if (!File.Exists(ready) && !listening.Wait(TimeSpan.FromSeconds(20)))
            throw new TimeoutException("qemu-storage-daemon did not start.");
        Device = new VmDevice("disk", VmDeviceKind.VhostUserBlk, socket);
    }

    public string Image { get; }

    public VmDevice Device { get; }

    public void Dispose()
    {
        _daemon.Kill();
        _daemon.Ends();
        _daemon.Dispose();
        _folder.Dispose();
    }
}
