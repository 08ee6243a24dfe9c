using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Transports.Fuse;

namespace Virtbus.Tests.Transports.Fuse;

/// <summary>A fabric with a device of files, mounted on a folder of its own.</summary>
internal sealed class FuseRig : IAsyncDisposable
{
    private readonly TemporaryFolder _folder = new();

    private FuseRig()
    {
    }

    internal Fabric Fabric { get; } = new(new FabricOptions { LoggerFactory = new RecordedLog() });

    internal FuseDevice Device { get; } = new("one");

    internal string Folder => _folder.Path;

    internal FuseMount Mount { get; private set; } = null!;

    /// <summary>Mounts one, or says that this user may not by skipping the test.</summary>
    internal static async Task<FuseRig> MakeAsync()
    {
        var rig = new FuseRig();
        await rig.Fabric.AddAsync(rig.Device);
        var @class = rig.Fabric.RegisterClass(new Class("kind"));
        await rig.Fabric.AddAsync(new Device("of", null, null, @class));
        var device = FuseFile.TryOpen(out _);
        Assert.SkipWhen(device is null, "no /dev/fuse for this user");
        var error = HostMounts.MountFuse(device!, "virtbus", rig.Folder, forOthers: true);
        Assert.SkipWhen(error == Errno.EPERM, "this user may not mount");
        Assert.Equal(Errno.None, error);
        rig.Mount = FuseMount.Serve(rig.Fabric, device!, new FuseMountOptions { Folder = rig.Folder });
        return rig;
    }

    internal string At(string path) => Path.Combine(Folder, path);

    public async ValueTask DisposeAsync()
    {
        await Mount.DisposeAsync();
        _ = HostMounts.Unmount(Folder);
        _folder.Dispose();
    }
}
