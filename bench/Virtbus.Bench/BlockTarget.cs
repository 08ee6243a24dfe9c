using System.Diagnostics;
using System.Globalization;

namespace Virtbus.Bench;

/// <summary>A server of one disk, ours or a peer's, while it runs.</summary>
internal sealed class BlockTarget : IAsyncDisposable
{
    private readonly Process _process;
    private readonly bool _ours;

    private BlockTarget(Process process, bool ours)
    {
        _process = process;
        _ours = ours;
    }

    internal static async Task<BlockTarget> OpenOursAsync(BlockBenchOptions options, params string[] backend)
    {
        File.Delete(options.HostPath);
        var process = Process.Start(new ProcessStartInfo("dotnet", [typeof(BlockBench).Assembly.Location, "serve", options.HostPath, .. backend])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            UseShellExecute = false,
        })!;
        await process.StandardOutput.ReadLineAsync();
        return new BlockTarget(process, ours: true);
    }

    internal static async Task<BlockTarget> OpenQsdAsync(BlockBenchOptions options, string blockdev)
    {
        File.Delete(options.HostPath);
        var process = Process.Start(new ProcessStartInfo(options.Qsd[0],
        [
            .. options.Qsd[1..],
            "--blockdev", blockdev + ",node-name=d0",
            "--export", $"type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path={options.PeerPath},writable=on,num-queues=1",
        ])
        { UseShellExecute = false })!;
        await PeerSocket.AwaitAsync(options.HostPath, process);
        return new BlockTarget(process, ours: false);
    }

    internal async Task<(long Bytes, long Requests)> MeasureAllocationsAsync()
    {
        await _process.StandardInput.WriteLineAsync("allocations");
        await _process.StandardInput.FlushAsync();
        var words = (await _process.StandardOutput.ReadLineAsync() ?? "").Split(' ');
        return (long.Parse(words[0], CultureInfo.InvariantCulture), long.Parse(words[1], CultureInfo.InvariantCulture));
    }

    public async ValueTask DisposeAsync()
    {
        if (_ours)
            _process.StandardInput.Close();
        else
            _process.Kill();
        await _process.WaitForExitAsync();
        _process.Dispose();
    }
}
