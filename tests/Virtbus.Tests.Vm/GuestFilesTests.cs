using System.Buffers.Binary;
using System.Text;
using Virtbus.Platform;
using Virtbus.Vm;

namespace Virtbus.Tests.Vm;

public sealed class GuestFilesTests
{
    [Fact]
    public void Cpio_archive_is_as_cpio_would_write_it()
    {
        using MemoryStream output = new();
        CpioWriter cpio = new(output);
        cpio.Folder("bin");
        cpio.File("init", "abcde"u8, executable: true);
        cpio.Link("sh", "bin/sh");
        cpio.End();
        const string golden =
            "070701" + "00000001" + "000041ED" + "00000000" + "00000000" + "00000002" + "00000000" + "00000000"
            + "00000000" + "00000000" + "00000000" + "00000000" + "00000004" + "00000000" + "bin\0" + "\0\0"
            + "070701" + "00000002" + "000081ED" + "00000000" + "00000000" + "00000001" + "00000000" + "00000005"
            + "00000000" + "00000000" + "00000000" + "00000000" + "00000005" + "00000000" + "init\0" + "\0" + "abcde" + "\0\0\0"
            + "070701" + "00000003" + "0000A1FF" + "00000000" + "00000000" + "00000001" + "00000000" + "00000006"
            + "00000000" + "00000000" + "00000000" + "00000000" + "00000003" + "00000000" + "sh\0" + "\0\0\0" + "bin/sh" + "\0\0"
            + "070701" + "00000000" + "00000000" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000"
            + "00000000" + "00000000" + "00000000" + "00000000" + "0000000B" + "00000000" + "TRAILER!!!\0" + "\0\0\0";
        Assert.Equal(golden, Encoding.ASCII.GetString(output.ToArray()));
    }

    [Fact]
    public void Module_comes_after_all_that_it_needs()
    {
        Dictionary<string, KernelModule> modules = new()
        {
            ["blk"] = new("blk", [], ["virtio", "ring"]),
            ["virtio"] = new("virtio", [], ["ring"]),
            ["ring"] = new("ring", [], []),
            ["absent_need"] = new("absent_need", [], ["builtin"]),
        };
        IReadOnlyList<KernelModule> order = KernelModules.Order(modules);
        Assert.Equal(["absent_need", "ring", "virtio", "blk"], order.Select(module => module.Name));
        Assert.Equal(
            "absent_need.ko:\nring.ko:\nvirtio.ko: ring.ko\nblk.ko: virtio.ko ring.ko\n", KernelModules.DependencyFile(order));
    }

    [Fact]
    public async Task Module_needs_are_read_from_the_module_and_built_in_ones_left_out()
    {
        using TestFolder folder = new();
        Directory.CreateDirectory(folder.PathOf("kernel/drivers"));
        File.WriteAllBytes(folder.PathOf("kernel/drivers/virtio-a.ko"), Elf("license=GPL\0depends=virtio-b,virtio_c\0"));
        File.WriteAllBytes(folder.PathOf("kernel/drivers/virtio_b.ko"), Elf("depends=\0"));
        File.WriteAllText(folder.PathOf("modules.builtin"), "kernel/drivers/virtio_c.ko\n");
        KernelModules modules = KernelModules.Open(folder.Path);
        Assert.True(modules.Has("virtio_c"));
        Assert.True(modules.IsBuiltin("virtio_c") && !modules.IsBuiltin("virtio_b"));
        Assert.Equal(["virtio_b", "virtio_a"], (await modules.LoadAsync(["virtio_a"], CancellationToken.None)).Select(module => module.Name));
        VirtbusException error = await Assert.ThrowsAsync<VirtbusException>(() => modules.LoadAsync(["nvme"], CancellationToken.None));
        Assert.Contains("'nvme'", error.Message);
    }

    [Theory]
    [InlineData("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64")]
    [InlineData("6.1.0-56-cloud-amd64", "6.12.1-1-cloud-amd64")]
    [InlineData("6.12.1-1-amd64", "6.1.0-9-cloud-amd64")]
    public void Newest_cloud_kernel_is_best(string other, string best)
    {
        GuestKernel[] kernels = [new(best, "", ""), new(other, "", "")];
        Assert.Equal(best, GuestKernel.Best(kernels)!.Version);
        Assert.Equal(best, GuestKernel.Best(kernels.Reverse())!.Version);
    }

    [Fact]
    public void Kernel_package_is_read_from_the_meta_package()
    {
        const string record = "Package: linux-image-cloud-amd64\nDepends: linux-base, linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\nSize: 1\n";
        Assert.Equal("linux-image-6.1.0-56-cloud-amd64", DebianPackage.ParseDependency(record, "linux-image-"));
        Assert.Null(DebianPackage.ParseDependency("Package: x\n", "linux-image-"));
    }

    [Theory]
    [InlineData("trixie", true)]
    [InlineData("trixie-backports", true)]
    [InlineData("", false)]
    [InlineData("Trixie", false)]
    [InlineData("trixie main", false)]
    [InlineData("trixie\n", false)]
    [InlineData("../trixie", false)]
    [InlineData("trixie-", false)]
    public async Task Kernel_is_of_a_suite_that_has_the_name_of_one(string suite, bool isOne)
    {
        using TestFolder folder = new();
        // One that was fetched before, without the drivers: what is no name is refused before the cache is looked at.
        Directory.CreateDirectory(folder.PathOf($"kernel-{suite}"));
        VirtbusException error = await Assert.ThrowsAsync<VirtbusException>(
            () => GuestKernel.GetAsync(new CacheFolder(folder.Path, progress: null), suite, progress: null, CancellationToken.None));
        Assert.Equal(isOne ? Errno.ENOENT : Errno.EINVAL, error.Errno);
        Assert.Contains(suite, error.Message);
    }

    [Fact]
    public void Libraries_of_a_program_are_read_from_ldd()
    {
        const string text =
            "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibpci.so.3 => /lib/x86_64-linux-gnu/libpci.so.3 (0x00007f3b)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f3c)\n";
        Assert.Equal(
            [
                new GuestFile("lib/libpci.so.3", "/lib/x86_64-linux-gnu/libpci.so.3", IsProgram: false),
                new GuestFile("lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2", IsProgram: true),
            ],
            PciTools.ParseLibraries(text, "lspci"));
        VirtbusException error = Assert.Throws<VirtbusException>(() => PciTools.ParseLibraries("\tlibkmod.so.2 => not found\n", "lspci"));
        Assert.Contains("'libkmod.so.2'", error.Message);
    }

    [Fact]
    public async Task Cache_builds_once_for_runs_at_the_same_time()
    {
        using TestFolder folder = new();
        int builds = 0;
        Task<string> Get() => new CacheFolder(folder.Path, progress: null).GetOrBuildAsync(
            "deep/entry",
            async partial =>
            {
                Interlocked.Increment(ref builds);
                await File.WriteAllTextAsync(Path.Combine(partial, "file"), "whole");
            },
            CancellationToken.None);
        string[] paths = await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => Task.Run(Get)));
        Assert.Equal(1, builds);
        Assert.Equal("whole", File.ReadAllText(Path.Combine(Assert.Single(paths.Distinct()), "file")));
    }

    [Fact]
    public async Task Failed_build_leaves_no_entry_and_a_dead_one_is_cleared()
    {
        using TestFolder folder = new();
        CacheFolder cache = new(folder.Path, progress: null);
        Directory.CreateDirectory(folder.PathOf("entry.partial/half"));
        await Assert.ThrowsAsync<InvalidOperationException>(
            () => cache.GetOrBuildAsync("entry", _ => throw new InvalidOperationException(), CancellationToken.None));
        Assert.Empty(Directory.EnumerateDirectories(folder.Path));
    }

    [Fact]
    public void Cache_follows_its_variable_then_XDG_then_home()
    {
        Dictionary<string, string?> variables = new() { ["HOME"] = "/h", ["XDG_CACHE_HOME"] = "/x", ["VIRTBUS_CACHE"] = "/v" };
        string Locate() => CacheFolder.Locate(variables.GetValueOrDefault);
        Assert.Equal("/v", Locate());
        variables.Remove("VIRTBUS_CACHE");
        Assert.Equal("/x/virtbus", Locate());
        variables.Remove("XDG_CACHE_HOME");
        Assert.Equal("/h/.cache/virtbus", Locate());
        variables.Remove("HOME");
        Assert.Throws<VirtbusException>(Locate);
    }

    // A header, the .modinfo content, the section names, and three section headers.
    private static byte[] Elf(string info)
    {
        const string names = "\0.names\0.modinfo\0";
        byte[] elf = new byte[64 + info.Length + names.Length + (3 * 64)];
        int sections = elf.Length - (3 * 64);
        "\u007FELF\u0002\u0001"u8.CopyTo(elf);
        BinaryPrimitives.WriteUInt64LittleEndian(elf.AsSpan(0x28), (ulong)sections);
        BinaryPrimitives.WriteUInt16LittleEndian(elf.AsSpan(0x3A), 64);
        BinaryPrimitives.WriteUInt16LittleEndian(elf.AsSpan(0x3C), 3);
        BinaryPrimitives.WriteUInt16LittleEndian(elf.AsSpan(0x3E), 1);
        Encoding.ASCII.GetBytes(info).CopyTo(elf, 64);
        Encoding.ASCII.GetBytes(names).CopyTo(elf, 64 + info.Length);
        void Section(int index, uint name, int offset, int size)
        {
            Span<byte> header = elf.AsSpan(sections + (index * 64));
            BinaryPrimitives.WriteUInt32LittleEndian(header, name);
            BinaryPrimitives.WriteUInt64LittleEndian(header[0x18..], (ulong)offset);
            BinaryPrimitives.WriteUInt64LittleEndian(header[0x20..], (ulong)size);
        }

        Section(1, name: 1, 64 + info.Length, names.Length);
        Section(2, name: 8, 64, info.Length);
        return elf;
    }
}
