using System.Collections.Concurrent;
using System.Text;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Subsystems.Vfio;
using Virtbus.Testing;
using Virtbus.Tests.Cli;
using Virtbus.Transports.VfioUser;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>What Linux says to an administration queue: a guest has a physical function, and the commands are kept as text.</summary>
public sealed class AdminTraceTests
{
    // Its driver is bound at boot, taken off, and bound again.
    private const string Script = """
        set -e
        modprobe virtio_net
        for d in /sys/bus/pci/drivers/virtio-pci/0000:*; do [ "$(cat $d/device)" = 0x1041 ] && fn=${d##*/}; done
        # VERSION_1 is bit 32, and ADMIN_VQ bit 41.
        cut -c 33,42 /sys/bus/pci/devices/$fn/virtio*/features
        echo $fn >/sys/bus/pci/drivers/virtio-pci/unbind
        echo $fn >/sys/bus/pci/drivers/virtio-pci/bind
        cut -c 33,42 /sys/bus/pci/devices/$fn/virtio*/features
        """;

    [Theory]
    [InlineData(null, "10\n10\n", "")]
    [InlineData("trixie", "11\n11\n", "admin-linux-6.12.txt")]
    public async Task Kernel_that_knows_the_queue_asks_for_its_list_and_says_what_it_uses(string? suite, string taken, string golden)
    {
        Guest.RequireQemu();
        var folder = Directory.CreateTempSubdirectory("vb");
        var told = new ConcurrentQueue<string>();
        await using var rig = await FabricRig.StartAsync();
        var network = new EthernetSwitch();
        var function = new VirtioFunction(
            new VirtioNetDevice("nic", network, new VirtioNetOptions(0x020000000001)),
            new VirtioFunctionOptions
            {
                VirtualFunctions = 2,
                AdminTold = (command, answer) => told.Enqueue($"opcode {command.Opcode:x} group {command.GroupType} member {command.MemberId}: {answer.Status} {answer.Qualifier}"),
            },
            index => new VirtioNetDevice($"nicv{index}", network, new VirtioNetOptions(0x020000000010 + (ulong)index)));
        using (var handle = await rig.OpenAsync(await rig.PlugAsync(function)))
        {
            // The driver is loaded; who opens the function comes.
        }

        var offered = rig.Pci.Devices.SelectMany(static d => d.Children).OfType<VfioDevice>().Single();
        var server = new VfioUserServer(Path.Combine(folder.FullName, "nic"), offered, rig.Log);
        server.Start();
        using var output = new MemoryStream();
        using var errors = new MemoryStream();
        var runner = new VmRunner(new VmOptions
        {
            KernelSuite = suite,
            Devices = [new VmDevice("nic", VmDeviceKind.VfioUserPci, server.Path)],
            Command = ["sh", "-c", Script],
            Output = output,
            Error = errors,
        });
        var code = await runner.RunAsync(TestContext.Current.CancellationToken);
        await server.StopAsync();
        folder.Delete(recursive: true);
        Assert.True(code == 0, Encoding.UTF8.GetString(errors.ToArray()));
        Assert.Equal(taken, Encoding.UTF8.GetString(output.ToArray()));
        var expected = golden.Length == 0 ? "" : await File.ReadAllTextAsync(Path.Combine(AppContext.BaseDirectory, "guest", golden), TestContext.Current.CancellationToken);
        Assert.Equal(expected, string.Concat(told.Select(static t => t + "\n")));
    }
}
