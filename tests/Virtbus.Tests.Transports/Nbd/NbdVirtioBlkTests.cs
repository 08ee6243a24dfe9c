using System.ComponentModel;
using System.Security.Cryptography;
using Virtbus.Block;
using Virtbus.Drivers.VirtioBlk;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Subsystems.Block;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>A disk that a driver of ours has on a function of ours, offered on: client, NBD, class block, virtio_blk, virtio_pci, the function, and a file behind it.</summary>
[Collection(WireCollection.Name)]
public sealed class NbdVirtioBlkTests : IDisposable
{
    private const int Capacity = 16 << 20;
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [InlineData(false, 1)]
    [InlineData(true, 2)]
    public async Task File_goes_there_and_back_through_the_driver_with_its_checksum(bool isPacked, int queues)
    {
        var image = Path.Combine(_folder.FullName, "image");
        var source = Path.Combine(_folder.FullName, "source");
        var bytes = new byte[Capacity];
        new Random(queues).NextBytes(bytes);
        await File.WriteAllBytesAsync(source, bytes, TestContext.Current.CancellationToken);
        await using (var handle = File.Create(image))
            handle.SetLength(Capacity);
        using (var medium = FileBackend.Open(image, raw: true))
        {
            await using var rig = await FabricRig.StartAsync();
            var disk = await AddAsync(rig, new VirtioBlkDevice("disk", medium, "S1", queues, packed: isPacked));
            using var fixture = new NbdFixture(disk.Open("nbd"));
            Run("nbdcopy", "--flush", "--connections=4", "--requests=16", source, fixture.Uri);
            Assert.Contains("identical", Run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, fixture.Uri), StringComparison.Ordinal);
            var back = Path.Combine(_folder.FullName, "back");
            Run("nbdcopy", fixture.Uri, back);
            Assert.Equal(Hash(source), Hash(back));
            Assert.Equal(0, fixture.Server.BadMessages);
        }

        Assert.Equal(Hash(source), Hash(image));
    }

    [Fact]
    public async Task Fio_verifies_what_it_wrote_through_the_driver()
    {
        using var medium = new MemoryBackend(Capacity);
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig, new VirtioBlkDevice("disk", medium, "S1", 2));
        using var fixture = new NbdFixture(disk.Open("nbd"));
        var output = Run(
            "fio", "--name=verify", "--ioengine=nbd", $"--uri={fixture.Uri}", "--rw=randwrite", "--bsrange=512-256k", "--bs_unaligned=0", "--iodepth=32", "--size=16m",
            "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--end_fsync=1");
        Assert.Contains("err= 0", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Client_of_a_disk_whose_function_is_pulled_gets_an_error()
    {
        using var medium = new MemoryBackend(Capacity);
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig, new VirtioBlkDevice("disk", medium, "S1"));
        using var fixture = new NbdFixture(disk.Open("nbd"));
        using var client = NbdClient.Open(fixture.Server);
        client.WriteAt(4096, [.. Enumerable.Repeat((byte)5, 4096)]);
        Assert.Equal(5, client.ReadAt(4096, 4096)[4095]);
        await rig.Pci.SurpriseRemoveAsync((Virtbus.Buses.Pci.PciDevice)disk.Parent!.Parent!).In();
        Assert.NotEqual(default, client.Do(NbdCommand.READ, 4096, 512).Error);
    }

    private static async Task<BlockDevice> AddAsync(FabricRig rig, VirtioBlkDevice model)
    {
        await rig.InitModuleAsync(new VirtioPciModule(), "virtio_pci");
        await rig.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        await rig.PlugAsync(new VirtioFunction(model));
        await rig.Fabric.SettleAsync().In();
        return Assert.Single(BlockSubsystem.Of(rig.Fabric).Class.Devices.OfType<BlockDevice>());
    }

    private static string Hash(string path) => Convert.ToHexString(SHA256.HashData(File.ReadAllBytes(path)));

    private static string Run(string program, params string[] arguments)
    {
        try
        {
            var (output, errors, code) = Programs.Run(program, arguments);
            Assert.True(code == 0, $"{program} ended with {code}: {errors}{output}");
            return output;
        }
        catch (Win32Exception)
        {
            Assert.Skip($"no '{program}' on this host: it is not tried");
            throw;
        }
    }
}
