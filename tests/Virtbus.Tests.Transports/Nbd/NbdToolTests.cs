using System.ComponentModel;
using Virtbus.Block;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>The programs that people use: nbdinfo and nbdcopy (libnbd), qemu-img, fio.</summary>
[Collection(WireCollection.Name)]
public class NbdToolTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Nbdinfo_sees_a_server_that_keeps_the_protocol(bool tcp)
    {
        using var fixture = new NbdFixture(new MemoryBackend(8 << 20), tcp: tcp);
        var info = Run("nbdinfo", fixture.Uri);
        Assert.Contains("newstyle-fixed without TLS, using structured packets", info, StringComparison.Ordinal);
        foreach (var line in new[]
        {
            "export-size: 8388608", "base:allocation", "is_read_only: false", "can_cache: false", "can_df: true", "can_fast_zero: true", "can_flush: true",
            "can_fua: true", "can_multi_conn: true", "can_trim: true", "can_zero: true", "block_size_minimum: 512", "block_size_preferred: 4096",
            "block_size_maximum: 33554432",
        })
        {
            Assert.Contains(line, info, StringComparison.Ordinal);
        }

        Assert.Contains("export=\"disk\"", Run("nbdinfo", "--list", fixture.Uri), StringComparison.Ordinal);
        Assert.Equal(0, fixture.Server.BadMessages);
    }

    [Fact]
    public void Nbdcopy_and_qemu_img_bring_back_what_they_brought()
    {
        using var fixture = new NbdFixture(new MemoryBackend(32 << 20));
        var source = fixture.File("source");
        var bytes = new byte[32 << 20];
        new Random(1).NextBytes(bytes.AsSpan(1 << 20, 3 << 20));
        new Random(2).NextBytes(bytes.AsSpan(20 << 20, 5 << 20));
        // Sparse: what is not written is a hole.
        using (var file = File.OpenHandle(source, FileMode.Create, FileAccess.Write))
        {
            RandomAccess.Write(file, bytes.AsSpan(1 << 20, 3 << 20), 1 << 20);
            RandomAccess.Write(file, bytes.AsSpan(20 << 20, 5 << 20), 20 << 20);
            RandomAccess.SetLength(file, bytes.Length);
        }

        Run("nbdcopy", "--flush", source, fixture.Uri);
        Assert.Contains("identical", Run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, fixture.Uri), StringComparison.Ordinal);
        Run("nbdcopy", "--connections=4", "--requests=32", fixture.Uri, fixture.File("back"));
        Assert.True(File.ReadAllBytes(fixture.File("back")).AsSpan().SequenceEqual(bytes), "what came back");
        // The holes are seen: 24 of 32 MiB.
        var map = Run("nbdinfo", "--map", "--totals", fixture.Uri);
        Assert.Matches(@"25165824\s+75\.0%\s+3 hole,zero", map);
        Assert.Matches(@"8388608\s+25\.0%\s+0 data", map);
        Run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", fixture.Uri, fixture.File("back"));
        Assert.True(File.ReadAllBytes(fixture.File("back")).AsSpan().SequenceEqual(bytes), "what qemu-img brought back");
        Assert.Equal(0, fixture.Server.BadMessages);
    }

    [Fact]
    public void Fio_reads_back_what_it_wrote()
    {
        using var fixture = new NbdFixture(new MemoryBackend(32 << 20));
        var output = Run(
            "fio", "--name=verify", "--ioengine=nbd", $"--uri={fixture.Uri}", "--rw=randwrite", "--bsrange=512-256k", "--bs_unaligned=0", "--iodepth=32", "--size=32m",
            "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--end_fsync=1");
        Assert.Contains("err= 0", output, StringComparison.Ordinal);
        Assert.Equal(0, fixture.Server.BadMessages);
    }

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
