using Virtbus.Daemon.Logs;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Transports.VfioUser;

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
    };

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
