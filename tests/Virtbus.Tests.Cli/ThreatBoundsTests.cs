using Virtbus.Daemon.Logs;
using Virtbus.Ethernet;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Transports.VfioUser;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Cli;

/// <summary>The bounds that THREATS.md gives in figures are those that the program has when nobody says otherwise.</summary>
public sealed class ThreatBoundsTests
{
    public static TheoryData<string, long, long> Bounds => new()
    {
        { "32 a message", 32, UnixStream.MaxDescriptors },
        { "a reserve of 256 that no peer gets", 256, PeerDescriptors.Reserve },
        { "65,535 maps an address space", 65_535, new VfioUserServerOptions().MaxDmaMaps },
        { "a message is at most 1 MiB and 16 descriptors", 16, new VfioUserServerOptions().MaxDescriptors },
        { "a message is at most 1 MiB", 1 << 20, new VfioUserServerOptions().MaxDataTransfer },
        { "its connection ends after 10 s", 10, (long)new VfioUserServerOptions().AnswerTimeout.TotalSeconds },
        { "a client of ours waits 30 s", 30, (long)new VfioUserClientOptions().Timeout.TotalSeconds },
        { "two files of 8 MiB at most", 8 << 20, LogFile.DefaultCapacity },
        { "16 MiB a chain", 16 << 20, DescriptorChain.MostCopied },
        { "256 addresses are learned at a device", 256, VirtioNetDevice.MostAddresses },
        { "1,024 behind an adapter or a TAP interface", 1024, EthernetSwitch.MaxAddressesOfNetwork },
        { "1,024 behind an adapter or a TAP interface, 4,096 in all", 4096, EthernetSwitch.MaxAddresses },
        { "a frame makes 2,048 pieces at most", 2048, FrameLayout.MaxSegments },
        { "and all of a batch for all ports 32,768", 32_768, SwitchBatch.MostPieces },
        { "256 of them or 1 MiB wait for each pair of queues", 256, Waiting(60) },
    };

    // Frames of a length that wait for a driver whose buffers are full.
    private static int Waiting(int length)
    {
        const int Buffers = 16;
        const int Sent = 400;
        using var device = new VirtioNetDevice("nic", new EthernetSwitch(), new VirtioNetOptions(0x02_00_00_00_00_01) { Mtu = 9000 });
        using var user = new VirtioNetUser(device, queueSize: Buffers, slotSize: 16384);
        var frame = new byte[length];
        frame.AsSpan(0, 6).Fill(0xFF);
        for (var i = 0; i < Buffers; i++)
            device.Port.Sink.Deliver(new EthernetFrame(frame));
        device.Port.Sink.Flush();
        Deadline.Until(() => device.Counters.ReceivedFrames == Buffers, "the buffers to be full");
        for (var i = 0; i < Sent; i++)
            device.Port.Sink.Deliver(new EthernetFrame(frame));
        return Sent - (int)device.Counters.ReceiveLost;
    }

    [Fact]
    public void Long_frames_that_wait_have_that_many_bytes_at_most() => Assert.InRange(Waiting(9014) * 9014, (1 << 20) - (3 * 9014), 1 << 20);

    [Theory]
    [MemberData(nameof(Bounds))]
    public void Bound_is_the_one_that_is_written_down(string text, long written, long bound)
    {
        var page = string.Join(' ', File.ReadAllText(Path.Combine(DocsExampleTests.Root(), "THREATS.md")).Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
        Assert.Contains(text, page, StringComparison.Ordinal);
        Assert.Equal(written, bound);
    }

    [Fact]
    public void Log_of_the_daemon_has_that_bound()
    {
        var folder = Directory.CreateTempSubdirectory("vb").FullName;
        try
        {
            var path = Path.Combine(folder, "daemon.log");
            using var file = new LogFile(path);
            var lines = new byte[1 << 20];
            lines.AsSpan().Fill((byte)'\n');
            for (var i = 0; i < 20; i++)
                Assert.True(file.TryWrite(lines, out _));
            Assert.InRange(Directory.GetFiles(folder).Max(name => new FileInfo(name).Length), 1, 8 << 20);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
