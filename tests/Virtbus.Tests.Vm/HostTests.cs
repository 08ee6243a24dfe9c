using System.Text;
using Virtbus.Platform;
using Virtbus.Vm;

namespace Virtbus.Tests.Vm;

public sealed class HostTests
{
    private const string LacksVfioUser = "echo 'name \"vhost-user-blk-pci\", bus PCI'";
    private const string HasVfioUser = "echo 'name \"vhost-user-blk-pci\", bus PCI'; echo 'name \"vfio-user-pci\", bus PCI'";

    [Theory]
    [InlineData("plain-1.0/x", "plain-1.0/x")]
    [InlineData("", "''")]
    [InlineData("a b", "'a b'")]
    [InlineData("it's", "'it'\\''s'")]
    [InlineData("$(x)\n", "'$(x)\n'")]
    public void Argument_is_quoted_when_the_shell_would_change_it(string argument, string quoted) =>
        Assert.Equal(quoted, ShellQuote.Quote(argument));

    [Fact]
    public void Mark_is_found_however_the_bytes_are_cut()
    {
        byte[] stream = Encoding.ASCII.GetBytes("aMAR" + "MMARKdata" + "MARK!" + "17\n");
        byte[] mark = "MARK!"u8.ToArray();
        for (int cut = 1; cut <= stream.Length; cut++)
        {
            EndMark end = new(mark);
            List<byte> passed = [];
            foreach (byte[] chunk in stream.Chunk(cut))
                passed.AddRange(end.Pass(chunk));
            Assert.Equal("aMARMMARKdata", Encoding.ASCII.GetString([.. passed]));
            Assert.Equal("17", end.Tail);
        }
    }

    [Fact]
    public void Stream_without_a_mark_gives_all_its_bytes()
    {
        EndMark end = new("MARK"u8.ToArray());
        byte[] passed = end.Pass("abcMA"u8);
        Assert.Equal("abc"u8.ToArray(), passed);
        Assert.Equal("MA"u8.ToArray(), end.Rest());
        Assert.Null(end.Tail);
    }

    [Fact]
    public void One_line_sources_give_the_Debian_mirror()
    {
        IReadOnlyList<AptSource> sources = AptSources.ParseOneLine(
            """
            # deb http://old.example/debian bookworm main
            deb-src http://src.example/debian bookworm main
            deb [arch=amd64 signed-by=/k.gpg] https://third.example/apt tool main
            deb http://security.example/debian-security bookworm-security main
            deb [arch=amd64] http://mirror.example/debian/ bookworm main contrib # ours
            """);
        Assert.Equal(3, sources.Count);
        Assert.Equal("http://mirror.example/debian", AptSources.FindDebianMirror(sources));
    }

    [Fact]
    public void Deb822_sources_give_the_Debian_mirror()
    {
        IReadOnlyList<AptSource> sources = AptSources.ParseDeb822(
            """
            Types: deb
            URIs: http://off.example/debian
            Suites: bookworm
            Components: main
            Enabled: no

            # A comment between
            Types: deb deb-src
            # and one within
            URIs: http://mirror.example/debian
            Suites: bookworm
             bookworm-updates
            Components: main
            Signed-By:
             -----BEGIN PGP PUBLIC KEY BLOCK-----
             .
             abc: def

            Types: deb
            URIs: http://security.example/debian-security
            Suites: bookworm-security
            Components: main
            """);
        Assert.Equal(["bookworm", "bookworm-updates"], sources[0].Suites);
        Assert.Equal("http://mirror.example/debian", AptSources.FindDebianMirror(sources));
    }

    [Fact]
    public void Sources_of_both_formats_are_read_from_the_folder()
    {
        using TestFolder folder = new();
        Directory.CreateDirectory(folder.PathOf("sources.list.d"));
        File.WriteAllText(folder.PathOf("sources.list.d/debian.sources"), "Types: deb\nURIs: http://m.example/debian\nSuites: trixie\nComponents: main\n");
        Assert.Equal("http://m.example/debian", AptSources.DebianMirror(folder.Path));
        File.WriteAllText(folder.PathOf("sources.list"), "deb http://first.example/debian trixie main\n");
        Assert.Equal("http://first.example/debian", AptSources.DebianMirror(folder.Path));
        using TestFolder empty = new();
        Assert.Contains(empty.Path, Assert.Throws<VirtbusException>(() => AptSources.DebianMirror(empty.Path)).Message);
    }

    [Fact]
    public async Task First_QEMU_in_the_path_that_has_the_device_is_taken()
    {
        using TestFolder folder = new();
        string old = folder.Script("old/qemu-system-x86_64", LacksVfioUser);
        string current = folder.Script("new/qemu-system-x86_64", HasVfioUser);
        QemuFinder finder = Finder(folder, chosen: null, old, current);
        Assert.Equal(old, (await finder.FindAsync(["vhost-user-blk-pci"], CancellationToken.None)).Path);
        Assert.Equal(current, (await finder.FindAsync(["vhost-user-blk-pci", "vfio-user-pci"], CancellationToken.None)).Path);
    }

    [Fact]
    public async Task Private_QEMU_is_taken_when_the_path_has_none_with_the_device()
    {
        using TestFolder folder = new();
        string old = folder.Script("old/qemu-system-x86_64", LacksVfioUser);
        // The private QEMU is started through its own dynamic loader.
        folder.Script("cache/qemu-trixie-backports/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", HasVfioUser);
        QemuProgram qemu = await Finder(folder, chosen: null, old).FindAsync(["vfio-user-pci"], CancellationToken.None);
        Assert.StartsWith(folder.PathOf("cache"), qemu.Path);
    }

    [Fact]
    public void Private_QEMU_does_not_look_for_modules_of_another()
    {
        using TestFolder folder = new();
        string program = folder.PathOf("qemu");
        File.WriteAllText(program, "a\0/usr/lib/x86_64-linux-gnu/qemu\0b/usr/lib/x86_64-linux-gnu/qemu.d\0");
        QemuRoot.ForgetModuleFolder(program);
        Assert.Equal("a\0/usr/lib/x86_64-linux-gnu/none\0b/usr/lib/x86_64-linux-gnu/qemu.d\0", File.ReadAllText(program));
    }

    [Fact]
    public async Task Variable_wins_and_a_QEMU_without_the_device_is_refused()
    {
        using TestFolder folder = new();
        string current = folder.Script("new/qemu-system-x86_64", HasVfioUser);
        string own = folder.Script("own", LacksVfioUser);
        QemuFinder finder = Finder(folder, own, current);
        Assert.Equal(own, (await finder.FindAsync(["vhost-user-blk-pci"], CancellationToken.None)).Path);
        VirtbusException error = await Assert.ThrowsAsync<VirtbusException>(() => finder.FindAsync(["vfio-user-pci"], CancellationToken.None));
        Assert.Equal(Errno.ENODEV, error.Errno);
        Assert.Contains("'vfio-user-pci'", error.Message);
        error = await Assert.ThrowsAsync<VirtbusException>(() => Finder(folder, "/nowhere").FindAsync([], CancellationToken.None));
        Assert.Equal(Errno.ENOENT, error.Errno);
    }

    [Fact]
    public async Task Options_that_cannot_work_are_refused_by_name()
    {
        async Task Refused(VmOptions options, Errno errno, string part)
        {
            VirtbusException error = await Assert.ThrowsAsync<VirtbusException>(() => new VmRunner(options).RunAsync(CancellationToken.None));
            Assert.Equal(errno, error.Errno);
            Assert.Contains(part, error.Message);
        }

        await Refused(new VmOptions { MemoryMiB = 64 }, Errno.EINVAL, "64 MiB");
        await Refused(new VmOptions { Cpus = 0 }, Errno.EINVAL, "0 CPUs");
        await Refused(new VmOptions { Devices = [new VmDevice("web1", VmDeviceKind.VhostUserBlk, "/nowhere")] }, Errno.ENOENT, "'web1'");
        using TestFolder folder = new();
        File.WriteAllText(folder.PathOf("web1.sock"), "");
        VmDevice disk = new("web1", VmDeviceKind.VhostUserBlk, folder.PathOf("web1.sock"));
        await Refused(new VmOptions { Devices = [disk], SharedMemory = false }, Errno.EINVAL, "'web1' is a vhost-user device");
        Assert.Equal(VmAccelerator.Tcg, new VmOptions().ResolveAccelerator(_ => null));
        Assert.Equal(VmAccelerator.Kvm, new VmOptions().ResolveAccelerator(_ => "kvm"));
        Assert.Throws<VirtbusException>(() => new VmOptions().ResolveAccelerator(_ => "xen"));
    }

    [Fact]
    public void Machine_is_made_of_what_the_options_say()
    {
        GuestImage image = new("/kernel", "/initramfs");
        string Line(VmOptions options) => string.Join(' ', QemuArguments.Machine(options, VmAccelerator.Tcg, image, ""));
        VmDevice function = new("0000:01:00.1", VmDeviceKind.VfioUserPci, "/run/a,b.sock");
        VmDevice disk = new("web1", VmDeviceKind.VhostUserBlk, "/run/a,b.sock", Queues: 2);

        string plain = Line(new VmOptions { Devices = [function, disk] });
        Assert.Contains("-device {\"driver\":\"vfio-user-pci\",\"id\":\"dev0\",\"socket\":{\"type\":\"unix\",\"path\":\"/run/a,b.sock\"}}", plain);
        Assert.Contains("path=/run/a,,b.sock -device {\"driver\":\"vhost-user-blk-pci\",\"id\":\"dev1\",\"chardev\":\"dev1-socket\",\"num-queues\":2}", plain);
        Assert.Contains("memory-backend-memfd,id=mem,size=256M,share=on", plain);
        Assert.Contains("-no-reboot", plain);
        Assert.DoesNotContain("iommu", plain);
        Assert.DoesNotContain("force_legacy", plain);

        string other = Line(new VmOptions { Devices = [function], SharedMemory = false, Iommu = true, LegacyVirtio = true, CanReboot = true });
        Assert.Contains(" virtio_pci.force_legacy=1 ", other);
        Assert.Contains("memory-backend-ram,id=mem,size=256M ", other);
        Assert.DoesNotContain("-no-reboot", other);
        Assert.Contains("intel_iommu=on", other);
        // QEMU lets a device be behind an IOMMU only when it comes after it.
        Assert.InRange(other.IndexOf("intel-iommu,caching-mode=on"), 0, other.IndexOf("vfio-user-pci"));
    }

    private static QemuFinder Finder(TestFolder folder, string? chosen, params string[] installed) =>
        new(new CacheFolder(folder.PathOf("cache"), progress: null), progress: null, _ => chosen, _ => installed);
}
